"""The cache of the Hub's client: repos in it, and what is done if it cannot be written."""

import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from hf_lorameta.caches import temporary_cache, variable_of, writing_to
from hf_lorameta.errors import ConnectionLostError
from hf_lorameta.hub.repo import PinnedRepo

_NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR)
_changing = threading.Lock()
T = TypeVar("T")


def caching(run: Callable[[], T]) -> T:
    """Call a function that writes to the client's cache.

    If the cache cannot be written, a temporary one is used from then on, which also has the files
    of the other.
    """
    cache = Path(constants.HF_HUB_CACHE)
    try:
        with writing_to(cache):
            return run()
    except OSError as problem:
        failed = problem.errno in _NOT_WRITABLE and Path(problem.filename)
        if not failed or variable_of(failed) != variable_of(cache):
            raise
        with _changing:
            if cache == Path(constants.HF_HUB_CACHE):  # else another thread changed it
                _use_temporary_cache(cache, problem)
    return run()


def use_cache(folder: Path) -> None:
    """Store what this process fetches in a folder; with ``HF_HUB_OFFLINE``, nothing is fetched."""
    if not constants.is_offline_mode():
        constants.HF_HUB_CACHE = str(folder)


def _use_temporary_cache(cache: Path, problem: OSError) -> None:
    temporary = temporary_cache(cache, problem)
    for kind in ("snapshots", "refs"):
        for path in filter(Path.is_file, cache.glob(f"*--*/{kind}/**/*")):
            link = temporary / path.relative_to(cache)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
    constants.HF_HUB_CACHE = str(temporary)


def cached_repo(repo_id: str, repo_type: str, revision: str | None) -> PinnedRepo:
    """Pin a repo to its commit in the cache, as ``from_pretrained`` does without the Hub.

    Only the files in the cache are listed. Whether the repo is private is unknown, so it is assumed
    to be.

    Raises:
        ConnectionLostError: the cache has no file of this repo and revision.
    """
    snapshots = _snapshots(repo_id, repo_type)
    branch = snapshots.with_name("refs") / (revision or "main")
    commit = branch.read_text().strip() if branch.is_file() else ""
    # files that were fetched by their commit, as this package does, leave no branch there, and an
    # interrupted download leaves one without files
    if not commit or not (snapshots / commit).is_dir():
        commit = "" if revision in (None, "main") else revision
    found = (folder for folder in snapshots.glob("*") if folder.name.startswith(commit))
    folder = max(found, key=lambda folder: folder.stat().st_mtime, default=None)
    if folder is None:
        at = f" at {revision}" if revision else ""
        raise ConnectionLostError(
            f"{repo_id}{at} is not in the cache, and HF_HUB_OFFLINE is set",
            code="hub.offline",
            hint="unset HF_HUB_OFFLINE",
        )
    paths = (path for path in folder.rglob("*") if path.is_file())
    files = tuple(sorted(path.relative_to(folder).as_posix() for path in paths))
    return PinnedRepo(repo_id, repo_type, folder.name, private=True, gated=True, files=files)


def snapshot_folder(repo: PinnedRepo) -> Path:
    """Return the folder in the cache that holds the files of a repo at its commit."""
    return _snapshots(repo.repo_id, repo.repo_type) / repo.sha


def _snapshots(repo_id: str, repo_type: str) -> Path:
    name = repo_folder_name(repo_id=repo_id, repo_type=repo_type)
    return Path(constants.HF_HUB_CACHE, name, "snapshots")
