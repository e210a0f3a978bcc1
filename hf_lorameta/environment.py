"""The cache folder, the optional dependencies with the commands that install them, and a timer."""

import importlib.util
import json
import shlex
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from os import environ
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from huggingface_hub import constants

from hf_lorameta.errors import MissingExtraError

DISTRIBUTION = "hf-lorameta"


def cache_dir() -> Path:
    """Return the folder for files that can be recreated: $HF_LORAMETA_CACHE or $HF_HOME/lorameta.

    Example:
        >>> cache_dir().is_absolute()
        True
    """
    chosen = environ.get("HF_LORAMETA_CACHE")
    return Path(chosen or Path(constants.HF_HOME, "lorameta")).expanduser().absolute()


def require_extra(*modules: str, extra: str = "eval") -> None:
    """Check that the modules of an extra are installed, without importing them.

    Example:
        >>> require_extra("json", "no_such_module")
        Traceback (most recent call last):
        hf_lorameta.errors.MissingExtraError: no_such_module is not installed
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        message = f"{', '.join(missing)} {verb} not installed"
        raise MissingExtraError(message, hint=install_hint(extra))


def install_hint(extra: str) -> str:
    """Return the shell command that installs an extra for the running Python.

    It names the source of this installation (Git commit, URL or folder), so that the command keeps
    the installed code; otherwise the project's repository, otherwise the package's name.
    """
    origin = _origin()
    if origin.get("dir_info", {}).get("editable"):
        return pip_install("-e", f"{unquote(urlsplit(origin['url']).path)}[{extra}]")
    url = _pip_url(origin) if origin else _repository()
    requirement = f"{DISTRIBUTION}[{extra}]"
    return pip_install(f"{requirement} @ {url}" if url else requirement)


def remote_requirement(extra: str) -> str | None:
    """Return the requirement (PEP 508) of this package with an extra, for another machine.

    It names the URL of this installation, or instead of a folder or file the project's repository.
    None if there is neither: by its name alone, the other machine would install whatever package
    PyPI has under it.
    """
    origin = _origin()
    local = not origin or origin["url"].startswith("file:")
    url = _repository() if local else _pip_url(origin)
    return f"{DISTRIBUTION}[{extra}] @ {url}" if url else None


def _origin() -> dict[str, Any]:
    """Return the ``direct_url.json`` of this installation (PEP 610), empty if it has none."""
    try:
        text = metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return {}
    origin: dict[str, Any] = json.loads(text or "{}")
    return origin


def pip_install(*arguments: str) -> str:
    """Return the shell command that installs into the running Python.

    It uses uv where pip is missing, as in an environment that uv created.
    """
    pip = [sys.executable, "-m", "pip", "install"]
    if importlib.util.find_spec("pip") is None:
        pip = ["uv", "pip", "install", "--python", sys.executable]
    return shlex.join([*pip, *arguments])


def _pip_url(origin: dict[str, Any]) -> str:
    """Return a ``direct_url.json`` (PEP 610) as pip's URL, without credentials."""
    parts = urlsplit(origin["url"])
    user, _, host = parts.netloc.rpartition("@")
    netloc = parts.netloc if user == "git" else host
    url = parts._replace(netloc=netloc, query="", fragment="").geturl()
    if vcs := origin.get("vcs_info"):
        url = f"{vcs['vcs']}+{url}@{vcs['commit_id']}"
    subdirectory = origin.get("subdirectory")
    return f"{url}#subdirectory={subdirectory}" if subdirectory else url


def _repository() -> str:
    """Return pip's URL of the project's Git repository, empty if the metadata states none yet."""
    try:
        stated = metadata.distribution(DISTRIBUTION).metadata
    except metadata.PackageNotFoundError:  # a source tree on PYTHONPATH
        return ""
    for entry in stated.get_all("Project-URL") or ():
        label, _, url = entry.partition(", ")
        if label == "Repository" and "/OWNER/" not in url:
            return f"git+{url}"
    return ""


@contextmanager
def each_second(call: Callable[[], object]) -> Iterator[None]:
    """Call a function from a thread, each second that the ``with`` block takes."""
    finished = threading.Event()

    def repeat() -> None:
        while not finished.wait(1.0):
            call()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
