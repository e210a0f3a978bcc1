"""The cache of this package, and which folders are ours rather than the user's.

An `OSError` states its path from where it happens. Whether a cache failed, or what the user named,
is decided by that path alone.
"""

import atexit
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from hf_lorameta.errors import UsageError
from hf_lorameta.paths import expanded

_DAY = 86400.0
_VARIABLES = ("HF_LORAMETA_CACHE", "HF_HOME", "HF_HUB_CACHE")
_HOMES = ("HF_HOME", "XDG_CACHE_HOME")
"""Where `huggingface_hub` has its folder, if not in the user's home."""

logger = logging.getLogger(__name__)


def check_caches() -> None:
    """Check that each variable that names a cache folder names one that can exist.

    `huggingface_hub` fails with a file, or with the home of an unknown user, and others would make
    a folder that is called ``~user``.

    Raises:
        UsageError: one does not; or none is set, and this user has no home folder.

    Example:
        >>> check_caches()
    """
    if not any(map(os.environ.get, _HOMES)) and str(expanded("~")) == "~":
        raise UsageError(
            "there is no folder for downloads: HOME is not set, and this user has no home folder",
            code="cache.no-home",
            hint=[f"set {name} to a folder that can be written" for name in ("HOME", "HF_HOME")],
        )
    for variable in _VARIABLES:
        folder = expanded(os.environ.get(variable, ""))
        wrong = ""
        if str(folder).startswith("~"):
            wrong = f"there is no home folder {folder.parts[0]}"
        for path in (folder, *folder.parents):
            if os.path.exists(path) and not os.path.isdir(path):  # noqa: PTH110, PTH112 - no errors
                wrong = f"{path} is no folder"
        if wrong:
            raise UsageError(
                f"{variable} is {folder}, and {wrong}",
                code="cache.unusable",
                hint="set it to a folder that can be written, or unset it",
            )


def cache_dir() -> Path:
    """Return the folder for files that can be recreated: $HF_LORAMETA_CACHE or $HF_HOME/lorameta.

    Example:
        >>> cache_dir().is_absolute()
        True
    """
    from huggingface_hub import constants  # reads variables that options set

    chosen = os.environ.get("HF_LORAMETA_CACHE")
    return expanded(chosen or Path(constants.HF_HOME, "lorameta")).absolute()


def writable_cache() -> Path:
    """Return `cache_dir`, or a temporary folder if that cannot be written, which is said once.

    Raises:
        UsageError: it is that of an unknown user.
    """
    check_caches()
    return _writable(cache_dir())


@cache
def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as problem:
        return temporary_cache(folder, problem, deleted="base_models")
    return folder


def temporary_cache(folder: Path, problem: OSError, deleted: str = "") -> Path:
    """Return a new temporary folder in place of a cache that cannot be written, and say so.

    Args:
        folder: the cache.
        problem: why it cannot be written.
        deleted: what is deleted of the temporary folder when this process ends; default: all.
    """
    temporary = _temporary_folder(deleted)
    logger.warning(
        "%s cannot be written (%s): %s is used instead; set %s to a folder that can be written",
        folder,
        problem.strerror,
        temporary,
        variable_of(folder),
    )
    return temporary


@cache
def unpacking_folder() -> Path:
    """Return a temporary folder of this process, which is deleted when it ends."""
    return _temporary_folder("")


def _temporary_folder(deleted: str) -> Path:
    """Return a new temporary folder; at the end, a part of it and what is empty are deleted."""
    folder = Path(tempfile.mkdtemp(prefix="hf-lorameta-"))

    def delete() -> None:
        shutil.rmtree(folder / deleted, ignore_errors=True)
        for path, *_ in os.walk(folder, topdown=False):
            with suppress(OSError):  # it is not empty
                Path(path).rmdir()

    atexit.register(delete)
    return folder


def delete_outdated(folder: Path) -> int:
    """Delete the folders in a folder that were last changed a day ago; return their number."""
    deleted, day_ago = 0, time.time() - _DAY
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another command deletes it
            if path.is_dir() and not path.is_symlink() and path.stat().st_mtime < day_ago:
                shutil.rmtree(path, ignore_errors=True)
                deleted += 1
    return deleted


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Add a path to the `OSError` of a context that writes it, if the error states none."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def variable_of(path: Path) -> str | None:
    """Return the environment variable that sets the cache which a path is in; None for other paths.

    Example:
        >>> from huggingface_hub.constants import HF_HOME
        >>> variable_of(Path(HF_HOME) / "hub"), variable_of(Path("/data/rows.jsonl"))
        ('HF_HOME', None)
        >>> folder = Path(tempfile.gettempdir())
        >>> variable_of(folder / "hf-lorameta-x"), variable_of(folder / "tmp_rows.csv")
        ('TMPDIR', None)
    """
    from huggingface_hub import constants

    folders = {
        "HF_HOME": constants.HF_HOME,
        "HF_HUB_CACHE": constants.HF_HUB_CACHE,
        "HF_LORAMETA_CACHE": str(cache_dir()),
    }
    temporary = tempfile.gettempdir()
    if path == Path(temporary) or str(path).startswith(f"{temporary}/hf-lorameta-"):
        return "TMPDIR"
    for variable, folder in folders.items():
        # a parent that is missing is where the creation of the folder failed
        missing = Path(folder).is_relative_to(path) and not path.exists()
        if path.is_relative_to(folder) or missing:
            return variable
    return None
