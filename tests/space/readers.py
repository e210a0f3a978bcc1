"""Functions for reader processes that fail; readers import this module, so it imports little."""

import os
import tempfile
import time


def allocate() -> bytes:
    """Ask for more memory than a reader may take."""
    from work import reader_process

    return bytes(reader_process.MEMORY_BYTES)


def abort() -> int:
    """End as a library without memory left does."""
    os.abort()
    return 1


def send_too_much() -> bytes:
    """Return what is too large to be sent."""
    from work import reader_process

    return bytes(reader_process.MESSAGE_BYTES)


def send_emoji() -> list[tuple[str, str]]:
    """Return a row with as many characters as are read of a dataset, each of four bytes."""
    from work.planning import LIMITS

    return [("😀" * LIMITS.characters, "")]


def hang() -> int:
    """Never return."""
    time.sleep(600)
    return 1


def keep_file() -> str:
    """Write a temporary file and leave it."""
    with tempfile.NamedTemporaryFile(delete=False) as file:
        return file.name


def die() -> int:
    """End the process without a word."""
    os._exit(1)
    return 1
