"""One folder for all temporary files of a server; the next one removes what was left."""

import atexit
import multiprocessing
import os
import shutil
import signal
import tempfile
from contextlib import suppress
from pathlib import Path

_PREFIX = "lm-space-"


def use_scratch() -> Path:
    """Return a new folder, in which this process and those that it starts make temporary files.

    Folders of servers that have ended are removed. This one is removed when the process exits, or
    is ended by SIGTERM, at once: threads that train cannot be ended in an orderly way.
    """
    parent = Path(tempfile.gettempdir())
    for left in parent.glob(f"{_PREFIX}*"):
        number = left.name.removeprefix(_PREFIX)
        if number.isdecimal() and (int(number) == os.getpid() or not _runs(int(number))):
            shutil.rmtree(left, ignore_errors=True)
    folder = parent / f"{_PREFIX}{os.getpid()}"
    folder.mkdir(mode=0o700)
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    signal.signal(signal.SIGTERM, lambda *_: _end(folder))
    return folder


def _runs(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def _end(folder: Path) -> None:
    for child in multiprocessing.active_children():
        with suppress(OSError, ValueError):
            child.kill()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)
