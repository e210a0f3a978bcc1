"""Lock the folder of a bank, and create a new one completely or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from hf_lorameta.errors import BankError, UsageError
from hf_lorameta.files import hidden_sibling, writing
from hf_lorameta.locks import holder
from hf_lorameta.paths import resolved


@contextmanager
def new_bank_folder(target: Path) -> Iterator[Path]:
    """Provide a folder for a new bank, which is renamed to its target at the end.

    Its parent is a scratch folder, which may hold files of a killed run.

    Args:
        target: must not exist yet.

    Raises:
        UsageError: the target exists.
        BankError: another command is writing it, the disk is full, or it cannot be written.
    """
    if target.exists():
        raise UsageError(f"{target} exists", code="output.exists", hint="name a new folder")
    scratch = hidden_sibling(resolved(target), ".new")
    with locked_scratch(scratch, target, "name another folder"):
        folder = scratch / "fresh"
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
        (folder / "adapters").mkdir(parents=True)
        yield folder
        folder.rename(target)


@contextmanager
def locked_scratch(scratch: Path, target: Path, otherwise: str) -> Iterator[None]:
    """Create and lock a scratch folder, which is deleted afterwards.

    Args:
        scratch: may hold files of a killed run.
        target: what is written, for messages.
        otherwise: advice if it cannot be written.

    Raises:
        BankError: another command uses it, the disk is full, or it cannot be written.
    """
    with locked(scratch, target, otherwise):
        try:
            yield
        finally:  # kill -9 leaves the folder
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def locked(folder: Path, target: Path, otherwise: str) -> Iterator[None]:
    """Create a folder and lock it while a command writes `target`; see `locked_scratch`."""
    with writing(target, BankError, otherwise):
        folder.mkdir(parents=True, exist_ok=True)
        lock = folder / "lock"
        try:
            with FileLock(lock, timeout=0):
                yield
        except Timeout:
            raise BankError(
                f"another command is writing {target}{holder(lock)}",
                code="output.locked",
                hint="wait for it, or name another folder",
            ) from None
