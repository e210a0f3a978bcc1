"""Files of a pinned repo: downloaded, or read in ranges, and compared with the Hub's digests."""

import logging
from functools import cache
from pathlib import Path

import httpx2
import huggingface_hub as hfh
from huggingface_hub import constants

from hf_lorameta.errors import NotFoundError
from hf_lorameta.hub.connection import Connection
from hf_lorameta.hub.errors import DamagedError, unexpected_answer
from hf_lorameta.hub.repo import Blob, PinnedRepo

logger = logging.getLogger(__name__)

# --- whole files --------------------------------------------------------------------------------


def download(connection: Connection, repo: PinnedRepo, path: str) -> Path:
    """Download a file unless it is there already; see `hf_lorameta.hub.client.Hub.download`."""
    blob = _blob(repo, path) if repo.verify else None
    cached = hfh.try_to_load_from_cache(
        repo.repo_id, path, revision=repo.sha, repo_type=repo.repo_type
    )
    if isinstance(cached, str) and (blob is None or not blob.digest or _is(Path(cached), blob)):
        return Path(cached)

    def fetch() -> Path:
        downloaded = _download_once(connection, repo, path)
        if blob and not _is(downloaded, blob):
            blob_file = downloaded.resolve()  # the target of the link in the cache
            downloaded.unlink()
            blob_file.unlink(missing_ok=True)
            raise DamagedError(path)
        return downloaded

    return connection.retries(repo.repo_id, fetch)


def _is(path: Path, blob: Blob) -> bool:
    with path.open("rb") as file:
        return blob.matches(file)


def _download_once(connection: Connection, repo: PinnedRepo, path: str) -> Path:
    try:
        downloaded = connection.api.hf_hub_download(
            repo.repo_id,
            path,
            repo_type=repo.repo_type,
            revision=repo.sha,
            force_download=True,  # otherwise it retries by itself
        )
        return Path(downloaded)
    except ValueError as error:  # with force_download, raised from the failed request
        raise error.__cause__ or error from None
    except OSError as error:
        if "Consistency check failed" not in str(error):
            raise
        raise httpx2.RemoteProtocolError(f"{path} is incomplete") from None


# --- ranges -------------------------------------------------------------------------------------


def read_range(connection: Connection, repo: PinnedRepo, path: str, start: int, stop: int) -> bytes:
    """Read a range of a file; see `hf_lorameta.hub.client.Hub.read_range`."""
    if stop <= start:
        return b""
    url = hfh.hf_hub_url(
        repo.repo_id,
        path,
        repo_type=repo.repo_type,
        revision=repo.sha,
        endpoint=constants.ENDPOINT,
    )
    # no compression: ranges count the bytes of the file itself
    headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}

    def request() -> bytes:
        response = connection.get(url, **headers)
        content: bytes = response.content
        if response.status_code == 200:  # the server ignores Range
            content = content[start:stop]
        if len(content) != stop - start:
            raise httpx2.RemoteProtocolError(
                f"{len(content)} bytes of {path}, expected {stop - start}"
            )
        return content

    return connection.retries(repo.repo_id, request)


# --- digests ------------------------------------------------------------------------------------


def _blob(repo: PinnedRepo, path: str) -> Blob:
    """Return size and digest of a file of a repo that was resolved with ``blobs``.

    Raises:
        NotFoundError: no such file.
        HubError: the server states no size.
    """
    if path not in repo.blobs:
        if path not in repo.files:
            raise NotFoundError(f"{repo.repo_id} has no file {path}")
        raise unexpected_answer(repo.repo_id, f"it states no size of {path}")
    if not repo.blobs[path].digest:
        _warn_unverified(constants.ENDPOINT)
    return repo.blobs[path]


@cache
def _warn_unverified(endpoint: str) -> None:
    """Say once that a server gives no checksums."""
    logger.warning(
        "%s gives no checksums, so damage in transfer goes unnoticed; files in a bank are "
        "checked against the bank's own checksums from then on",
        endpoint,
    )
