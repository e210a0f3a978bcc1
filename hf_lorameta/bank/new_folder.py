"""Write the folder of a bank completely or not at all."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from hf_lorameta.errors import BankError
from hf_lorameta.files import write_hint


def write_new_folder(target: Path, done: str, write: Callable[[Path], Path]) -> None:
    """Write a folder beside its target, then rename it; only one command at a time can.

    Args:
        target: does not exist yet.
        done: what happens to the folder, such as ``packed``, for messages.
        write: is given a scratch folder, writes a folder in it and returns that folder. The scratch
            folder may hold files of a run that was killed.

    Raises:
        BankError: another command is writing it, the disk is full, or it cannot be written.
    """
    scratch = target.resolve().with_name(f".{target.name}.{done}")
    with locked_scratch(scratch, target, done, target, "name another folder"):
        write(scratch).rename(target)


@contextmanager
def locked_scratch(
    scratch: Path, of: Path, done: str, written: Path, otherwise: str
) -> Iterator[None]:
    """Create a scratch folder that one command uses at a time; it is deleted afterwards.

    Args:
        scratch: may hold files of a run that was killed.
        of: the folder that something is done to, for messages.
        done: what that is, such as ``packed``.
        written: what cannot be written if the disk is full.
        otherwise: what to do then.

    Raises:
        BankError: another command uses it, the disk is full, or it cannot be written.
    """
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        with FileLock(scratch / "lock", timeout=0):
            try:
                yield
            finally:  # kill -9 leaves the folder
                shutil.rmtree(scratch, ignore_errors=True)
    except Timeout:
        raise BankError(f"{of} is being {done} by another command") from None
    except OSError as error:
        raise BankError(
            f"{written} could not be written: {error.strerror or error}",
            hint=write_hint(error, written, otherwise),
        ) from None
