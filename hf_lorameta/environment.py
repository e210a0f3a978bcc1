"""The Hub's address, the cores to use, and the commands that install optional dependencies."""

import importlib.util
import json
import os
import sys
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from hf_lorameta.errors import MissingExtraError
from hf_lorameta.quoting import shell

DISTRIBUTION = "hf-lorameta"
_CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")


def hub_url(path: str = "") -> str:
    """Return the URL of a page of the Hub, without a user and password in ``HF_ENDPOINT``.

    Example:
        >>> hub_url("user/name").endswith("/user/name")
        True
    """
    from huggingface_hub import constants  # here, since it fails if HF_ENDPOINT is no address

    scheme, at, rest = constants.ENDPOINT.partition("://")
    host, slash, root = rest.partition("/")
    url = scheme + at + host.rpartition("@")[2] + slash + root
    return f"{url}/{path}" if path else url


def usable_cores() -> int:
    """Return how many cores this process may use: of the machine, within a container's limit.

    The limit is that of cgroup v2, rounded to whole cores.
    """
    named = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    cores = len(named(0)) if named else os.cpu_count() or 1
    try:
        time_allowed, period = _CPU_LIMIT.read_text().split()
        return min(cores, max(round(int(time_allowed) / int(period)), 1))
    except (OSError, ValueError):  # no container, or one without a limit
        return cores


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
        raise MissingExtraError(message, code="extra.missing", hint=install_hint(extra))


def install_hint(extra: str) -> str:
    """Return the shell command that installs an extra for the running Python.

    It names the source of this installation (Git commit, URL or folder), so that the command keeps
    the installed code; otherwise the project's repository, otherwise the package's name.
    """
    origin, repository = _sources()
    if origin.get("dir_info", {}).get("editable"):
        return pip_install("-e", f"{unquote(urlsplit(origin['url']).path)}[{extra}]")
    url = _pip_url(origin) if origin else repository
    requirement = f"{DISTRIBUTION}[{extra}]"
    return pip_install(f"{requirement} @ {url}" if url else requirement)


def remote_requirement(extra: str) -> str | None:
    """Return the requirement (PEP 508) of this package with an extra, for another machine.

    It names the URL of this installation, or instead of a folder or file the project's repository.
    None if there is neither: by its name alone, the other machine would install whatever package
    PyPI has under it.
    """
    origin, repository = _sources()
    local = not origin or origin["url"].startswith("file:")
    url = repository if local else _pip_url(origin)
    return f"{DISTRIBUTION}[{extra}] @ {url}" if url else None


def _sources() -> tuple[dict[str, Any], str]:
    """Return the ``direct_url.json`` of this installation (PEP 610), and the project's repository.

    The second is pip's URL of the Git repository. What is not stated is empty.
    """
    try:
        installed = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:  # a source tree on PYTHONPATH
        return {}, ""
    stated = installed.metadata.get_all("Project-URL") or ()
    urls = dict(entry.split(", ", 1) for entry in stated)
    repository = f"git+{urls['Repository']}" if "Repository" in urls else ""
    return json.loads(installed.read_text("direct_url.json") or "{}"), repository


def pip_install(*arguments: str) -> str:
    """Return the shell command that installs into the running Python.

    It uses uv where pip is missing, as in an environment that uv created.
    """
    pip = [sys.executable, "-m", "pip", "install"]
    if PathFinder.find_spec("pip") is None:  # `importlib.util` lets setuptools replace distutils
        pip = ["uv", "pip", "install", "--python", sys.executable]
    return shell(*pip, *arguments)


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
