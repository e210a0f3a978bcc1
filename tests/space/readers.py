"""Functions for reader processes that fail; readers import this module, so it imports little."""

import os
import time
from collections.abc import Iterator


def allocate() -> Iterator[bytes]:
    """Ask for more memory than a reader may take."""
    import reader_process

    yield bytes(reader_process.MEMORY_BYTES)


def abort() -> Iterator[int]:
    """End as a library without memory left does."""
    os.abort()
    yield 1


def send_too_much() -> Iterator[bytes]:
    """Yield an item that is too large to be sent."""
    import reader_process

    yield bytes(reader_process.MESSAGE_BYTES)


def hang() -> Iterator[int]:
    """Never yield."""
    time.sleep(600)
    yield 1


def die() -> Iterator[int]:
    """End the process without a word."""
    os._exit(1)
    yield 1
