"""File systems of their own, which tests fill or make read-only."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(folder: Path, *options: object) -> Iterator[None]:
    """Mount something at a folder; skip the test if that is not permitted."""
    words = ["mount", *map(str, options), str(folder)]
    if subprocess.run(words, check=False, capture_output=True).returncode:
        pytest.skip("needs permission to mount")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)
