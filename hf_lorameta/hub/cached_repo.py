"""Repos in the client's cache, for ``HF_HUB_OFFLINE=1``."""

from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub import errors as hf
from huggingface_hub.file_download import repo_folder_name

from hf_lorameta.errors import ConnectionLostError
from hf_lorameta.hub.repo import PinnedRepo


def cached_repo(repo_id: str, repo_type: str, revision: str | None) -> PinnedRepo:
    """Pin a repo to its commit in the cache, as ``from_pretrained`` does without the Hub.

    Only the files in the cache are listed. Whether the repo is private is not known: it is taken
    to be.

    Raises:
        ConnectionLostError: the cache has no file of this repo and revision.
    """
    try:
        snapshot = snapshot_download(
            repo_id, repo_type=repo_type, revision=revision, local_files_only=True
        )
        folder: Path | None = Path(snapshot)
    except hf.LocalEntryNotFoundError:
        # files that were fetched by their commit, as this package does, leave no branch there, and
        # some of a repo's files are no complete snapshot
        folder = _newest_snapshot(repo_id, repo_type, "" if revision == "main" else revision or "")
    if folder is None:
        at = f" at {revision}" if revision else ""
        raise ConnectionLostError(
            f"{repo_id}{at} is not in the cache, and HF_HUB_OFFLINE is set",
            hint="unset HF_HUB_OFFLINE",
        )
    paths = (path for path in folder.rglob("*") if path.is_file())
    files = tuple(sorted(path.relative_to(folder).as_posix() for path in paths))
    return PinnedRepo(repo_id, repo_type, folder.name, private=True, gated=True, files=files)


def snapshot_folder(repo: PinnedRepo) -> Path:
    """Return the folder in the cache that holds the files of a repo at its commit."""
    name = repo_folder_name(repo_id=repo.repo_id, repo_type=repo.repo_type)
    return Path(constants.HF_HUB_CACHE, name, "snapshots", repo.sha)


def no_data_error(repo: PinnedRepo) -> ConnectionLostError:
    """Return the error for a dataset of which the cache has no data files."""
    return ConnectionLostError(
        f"no data files of {repo.repo_id} are in the cache, and HF_HUB_OFFLINE is set",
        hint=f"unset HF_HUB_OFFLINE, or: hf download --repo-type dataset {repo.repo_id}",
    )


def _newest_snapshot(repo_id: str, repo_type: str, commit: str) -> Path | None:
    """Return the newest folder with files of a commit whose id begins so."""
    name = repo_folder_name(repo_id=repo_id, repo_type=repo_type)
    snapshots = Path(constants.HF_HUB_CACHE, name, "snapshots").glob("*")
    found = [folder for folder in snapshots if folder.name.startswith(commit)]
    return max(found, key=lambda folder: folder.stat().st_mtime, default=None)
