"""Atomic writes, SHA-256 digests of files, similar names, and checks of folders to write to."""

import errno
import hashlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from io import BufferedWriter
from pathlib import Path

from hf_lorameta.caches import variable_of, writing_to
from hf_lorameta.errors import Advice, LoraMetaError, UsageError
from hf_lorameta.quoting import shell_word

_NAME_BYTES = 255
"""Of the longest name of a file."""
_ALIKE = 0.75
"""How alike names have to be, so that one is likely meant by the other."""


def sha256(path: Path) -> str:
    """Return a file's hex digest."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def similar_name(path: Path, fits: Callable[[Path], bool]) -> list[str]:
    """Return the advice to name what is called similarly in the same folder; empty if nothing is.

    Example:
        >>> similar_name(Path("no/such/folder/rows.jsonl"), Path.is_file)
        []
    """
    names: list[str] = []
    with suppress(OSError):  # no folder, or one that must not be listed
        others = (other for other in path.parent.iterdir() if other.name != path.name)
        names = [other.name for other in others if fits(other)]
    return [f"name {path.parent / name}" for name in get_close_matches(path.name, names, 1, _ALIKE)]


def hidden_sibling(path: Path, suffix: str) -> Path:
    """Return the same path for each run in the folder of a file, for what belongs to the file.

    Example:
        >>> hidden_sibling(Path("a/rows.csv"), ".new").name
        '.rows.csv.new'
    """
    name = f".{path.name}{suffix}"
    if len(os.fsencode(name)) > _NAME_BYTES:
        name = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()}{suffix}"
    return path.with_name(name)


@contextmanager
def atomic_file(path: Path) -> Iterator[BufferedWriter]:
    """Open a file to write under a temporary name in the same folder; rename it at the end.

    If the block raises, the temporary file is removed and an existing file at `path` is untouched.
    """
    partial = path.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        with writing_to(path), partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file as `atomic_file` does."""
    with atomic_file(path) as file:
        file.write(content)


def refuse_other_files(folder: Path, names: Iterable[str]) -> None:
    """Raise `UsageError` if a folder to write to holds files that are not ours, `names`.

    Example:
        >>> refuse_other_files(Path("a"), ["thesis.txt"])
        Traceback (most recent call last):
        hf_lorameta.errors.UsageError: a holds other files (thesis.txt)
    """
    if others := sorted(names):
        raise UsageError(
            f"{folder} holds other files ({', '.join(others[:3])})",
            code="output.holds-files",
            hint="name another folder",
        )


@contextmanager
def writing(path: Path, error: type[LoraMetaError], other: Advice) -> Iterator[None]:
    """Raise `error` if `path` cannot be written in the context; `other` is that of `explain`.

    What failed is read from the `OSError`: a file next to `path` stands for `path` itself, any
    other, such as one in a cache, is named.
    """
    try:
        yield
    except OSError as problem:
        if problem.filename is None:
            problem.filename = str(path)
        failed, wanted = Path(str(problem.filename)).absolute(), path.absolute()
        same = variable_of(failed) == variable_of(wanted)
        if same and (failed.is_relative_to(wanted.parent) or wanted.is_relative_to(failed.parent)):
            problem.filename = str(path)
        message, hint = explain(
            problem, _nearby(path, other) if same else "", "could not be written"
        )
        raise error(message, code="file.not-written", hint=hint) from None


def _nearby(path: Path, other: Advice) -> Advice:
    """Add to the advice to name another path one in the working directory, if that can be made."""
    here = Path(path.name).absolute()
    if not other or here == path.absolute() or here.exists() or not os.access(here.parent, os.W_OK):
        return other
    return f"{other}, such as {shell_word(f'./{path.name}')}"


def explain(
    error: OSError, other: Advice = "", problem: str = "cannot be used"
) -> tuple[str, list[Advice]]:
    """Return the message and the advice for a file or folder that cannot be used.

    Args:
        error: with the path where it happened.
        other: advice to name another path; that for a folder of ours names its variable.
        problem: for the message.

    Example:
        >>> explain(OSError(errno.ENOSPC, "No space left", "a/b"), "name another file")
        ('a/b cannot be used: No space left', ['free some space', 'name another file'])
    """
    if _lost_folder(error):
        return "the working directory was deleted", ["change to a folder that exists"]
    path = Path(str(error.filename or "a file"))
    reason = error.strerror or " ".join(map(str, error.args))
    variable = variable_of(path)
    others: list[Advice] = [other] if other else []
    if variable and not other:
        others = [f"set {variable} to a folder that can be written"]
    # EDQUOT does not exist on Windows
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        advice = "free some space"
    elif error.errno == errno.ENAMETOOLONG:
        advice = "use a shorter name"
    elif not path.parent.exists():
        advice = f"create the folder {path.parent}"
    elif others and error.errno not in (errno.EACCES, errno.EPERM):
        return f"{path} {problem}: {reason}", others  # such as a file system that is read-only
    elif error.errno == errno.ENOENT:
        advice = f"see what removed {path.name}, and run the same command again"
    else:
        advice = f"check the permissions of {path.parent}"
    return f"{path} {problem}: {reason}", [advice, *others]


def is_of_a_name(error: OSError) -> bool:
    """Whether what the user named can be no file: its name is too long, or relative to nothing.

    Example:
        >>> is_of_a_name(OSError(errno.ENAMETOOLONG, "File name too long", "a"))
        True
    """
    return error.errno == errno.ENAMETOOLONG or _lost_folder(error)


def _lost_folder(error: OSError) -> bool:
    """Whether an error says that the working directory was deleted."""
    if error.errno != errno.ENOENT or error.filename is not None:
        return False
    try:
        Path.cwd()
    except FileNotFoundError:
        return True
    return False
