"""Files that a test run makes once, for all of its worker processes."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

_FOLDER = "LORAMETA_TEST_FILES"


def share_folder() -> None:
    """Create the folder of these files; processes started later use it, too."""
    if _FOLDER not in os.environ:
        os.environ[_FOLDER] = tempfile.mkdtemp(prefix="lorameta-tests-")
        atexit.register(shutil.rmtree, os.environ[_FOLDER], ignore_errors=True)


def once(name: str, make: Callable[[Path], object]) -> Path:
    """Return a file or folder, which `make` writes if no process has done so before.

    Tests must not change it.
    """
    share_folder()
    path = Path(os.environ[_FOLDER], name)
    with FileLock(path.with_name(f"{name}.lock")):
        if not path.exists():
            partial = path.with_name(f"{name}.partial")
            make(partial)
            partial.rename(path)
    return path
