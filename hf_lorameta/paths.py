"""Paths as people write them, made absolute."""

import errno
from pathlib import Path

from hf_lorameta.errors import UsageError


def expanded(name: str | Path) -> Path:
    """Return a path with the home folder in place of ``~``; that of an unknown user stays as it is.

    Example:
        >>> expanded("~/a") == Path.home() / "a", str(expanded("~no-such-user/a"))
        (True, '~no-such-user/a')
    """
    path = Path(name)
    try:
        return path.expanduser()
    except RuntimeError:  # no such user
        return path


def resolved(path: Path) -> Path:
    """Return an absolute path without symbolic links.

    Raises:
        UsageError: it leads into a loop of symbolic links.
        OSError: its name is too long, or the working directory was deleted.

    Example:
        >>> resolved(Path("a")).is_absolute()
        True
    """
    try:
        path.stat()
    except OSError as error:  # before Python 3.13, `resolve` raises another error
        if error.errno == errno.ELOOP:
            raise UsageError(
                f"{path} leads into a loop of symbolic links",
                code="path.loop",
                hint="name another path",
            ) from None
    return path.resolve()
