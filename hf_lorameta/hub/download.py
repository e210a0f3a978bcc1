"""Download one file of a repo into the cache of `huggingface_hub`, or into a folder."""

from pathlib import Path

import httpx2
import huggingface_hub as hfh
from huggingface_hub import constants
from huggingface_hub import errors as hf
from huggingface_hub.file_download import http_get, repo_folder_name

from hf_lorameta.files import atomic_file
from hf_lorameta.hub.errors import DamagedError, not_served
from hf_lorameta.hub.http_client import HttpClient
from hf_lorameta.hub.remote_file import find_blob
from hf_lorameta.hub.repo import Blob, PinnedRepo
from hf_lorameta.hub.retry import with_retries


def download(client: HttpClient, repo: PinnedRepo, path: str, local_dir: Path | None) -> Path:
    """Download a file unless it is there already; see `hf_lorameta.hub.client.Hub.download`."""
    blob = find_blob(client, repo, path) if repo.verify else None
    local = _local_copy(repo, path, local_dir)
    if local and (_is(local, blob) if blob and blob.digest else local_dir is None):
        return local

    def fetch() -> Path:
        downloaded = _download_once(client, repo, path, local_dir)
        if blob and not _is(downloaded, blob):
            cached = downloaded.resolve()  # the target of the link in the cache
            downloaded.unlink()
            cached.unlink(missing_ok=True)
            raise DamagedError(path)
        return downloaded

    return with_retries(repo.repo_id, fetch)


def _is(path: Path, blob: Blob) -> bool:
    with path.open("rb") as file:
        return blob.matches(file)


def _local_copy(repo: PinnedRepo, path: str, local_dir: Path | None) -> Path | None:
    if local_dir is not None:
        return local_dir / path if (local_dir / path).is_file() else None
    cached = hfh.try_to_load_from_cache(
        repo.repo_id, path, revision=repo.sha, repo_type=repo.repo_type
    )
    return Path(cached) if isinstance(cached, str) else None


def _download_once(client: HttpClient, repo: PinnedRepo, path: str, local_dir: Path | None) -> Path:
    try:
        downloaded = client.api.hf_hub_download(
            repo.repo_id,
            path,
            repo_type=repo.repo_type,
            revision=repo.sha,
            local_dir=local_dir,
            force_download=True,  # otherwise it retries by itself
        )
        return Path(downloaded)
    except ValueError as error:  # with force_download, raised from the failed request
        cause = error.__cause__
        if isinstance(cause, hf.FileMetadataError) or (cause and not_served(cause)):
            return _download_plainly(client, repo, path, local_dir)
        if cause:
            raise cause from None
        raise
    except OSError as error:
        if "Consistency check failed" not in str(error):
            raise
        raise httpx2.RemoteProtocolError(f"{path} is incomplete") from None


def _download_plainly(
    client: HttpClient, repo: PinnedRepo, path: str, local_dir: Path | None
) -> Path:
    """Download without the headers that `huggingface_hub` needs: commit and ETag.

    In the cache, the file is where the client looks for it, but without a link to a blob.
    """
    folder = local_dir
    if folder is None:
        name = repo_folder_name(repo_id=repo.repo_id, repo_type=repo.repo_type)
        folder = Path(constants.HF_HUB_CACHE) / name / "snapshots" / repo.sha
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    url = client.file_url(repo.repo_id, repo.repo_type, path, repo.sha)
    with atomic_file(target) as file:
        http_get(url, file, headers=client.headers(), displayed_filename=path)
    return target
