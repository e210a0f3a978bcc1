"""Read a file of a repo in ranges, verified if it is read from front to back."""

import logging
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import httpx2
from huggingface_hub import constants

from hf_lorameta.errors import NotFoundError
from hf_lorameta.hub.errors import damaged_error, unexpected_answer
from hf_lorameta.hub.http_client import HttpClient, api_path, objects
from hf_lorameta.hub.repo import SHA256, Blob, PinnedRepo, read_blob
from hf_lorameta.hub.repo_info import if_served
from hf_lorameta.hub.retry import with_retries

_BLOCK_BYTES = 4 << 20
logger = logging.getLogger(__name__)


@dataclass
class RemoteFile:
    """A file at one commit, read in blocks of 4 MB.

    Attributes:
        size: in bytes.
    """

    client: HttpClient
    repo: PinnedRepo
    path: str
    blob: Blob
    _block: bytes = field(default=b"", init=False)
    _block_start: int = field(default=0, init=False)
    _verified: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._hasher = self.blob.hasher() if self.repo.verify and self.blob.digest else None

    @property
    def size(self) -> int:
        """The size in bytes."""
        return self.blob.size

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes [start, stop).

        Raises:
            ConnectionLostError: fewer bytes arrived, or this read completes the file and its
                digest is wrong.
        """
        if not self._block_start <= start <= stop <= self._block_start + len(self._block):
            end = min(self.size, max(stop, start + _BLOCK_BYTES))
            self._block = read_range(self.client, self.repo, self.path, start, end)
            self._block_start = start
        content = self._block[start - self._block_start : stop - self._block_start]
        if self._hasher and start <= self._verified < stop:
            self._hasher.update(content[self._verified - start :])
            self._verified = stop
            if stop == self.size and self._hasher.hexdigest() != self.blob.digest:
                raise damaged_error(self.repo.repo_id, self.path)
        return content


def read_range(client: HttpClient, repo: PinnedRepo, path: str, start: int, stop: int) -> bytes:
    """Read bytes [start, stop) of a file with a range request; see `Hub.read`."""
    if stop <= start:
        return b""
    url = client.file_url(repo.repo_id, repo.repo_type, path, repo.sha)

    def fetch() -> bytes:
        response = client.send("GET", url, headers=_range(start, stop))
        content: bytes = response.content
        if response.status_code == 200:  # the server ignores Range
            content = content[start:stop]
        if len(content) != stop - start:
            raise httpx2.RemoteProtocolError(
                f"{len(content)} bytes of {path}, expected {stop - start}"
            )
        return content

    return with_retries(repo.repo_id, fetch)


def _range(start: int, stop: int) -> dict[str, str]:
    # no compression: ranges count the bytes of the file itself
    return {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}


def find_blob(client: HttpClient, repo: PinnedRepo, path: str) -> Blob:
    """Return size and digest of a file: from the repo's info, or by a request of its own.

    A server without ``paths-info`` is asked for the file's headers.

    Raises:
        NotFoundError: no such file.
        HubError: the server gives no size.
    """
    known = repo.blobs.get(path)
    if known and (known.digest or not repo.verify):
        return known
    if repo.files and path not in repo.files:
        raise NotFoundError(f"{repo.repo_id} has no file {path}")
    found = with_retries(repo.repo_id, partial(_request_blob, client, repo, path, known))
    if repo.verify and not found.digest:
        _warn_unverified(constants.ENDPOINT)
    return found


def _request_blob(client: HttpClient, repo: PinnedRepo, path: str, known: Blob | None) -> Blob:
    """Ask ``paths-info``, then for the headers of the file, until size and digest are known."""
    url = api_path(repo.repo_id, repo.repo_type, "paths-info", repo.sha)
    answer = if_served(lambda: client.json("POST", url, data={"paths": [path], "expand": False}))
    listed = next((read_blob(i) for i in objects(answer) if i.get("path") == path), None)
    if listed and (listed.digest or not repo.verify):
        return listed
    known = listed or known
    url = client.file_url(repo.repo_id, repo.repo_type, path, repo.sha)
    head: Any = if_served(lambda: client.api.get_hf_file_metadata(url=url))
    size = known.size if known else head.size if head else None
    # the ETag of a large file is its SHA-256; other servers may use any other text
    digest = head.etag if head and SHA256.fullmatch(head.etag or "") else None
    return Blob(_size_by_range(client, url) if size is None else size, digest, large=True)


def _size_by_range(client: HttpClient, url: str) -> int:
    response = client.send("GET", url, headers=_range(0, 1))
    _, _, total = response.headers.get("Content-Range", "").rpartition("/")
    if total.isdecimal():
        return int(total)
    if response.status_code == 206:
        raise unexpected_answer(url, "it does not state the size of the file")
    return len(response.content)


@cache
def _warn_unverified(endpoint: str) -> None:
    """Say once that a server gives no checksums."""
    logger.warning(
        "%s gives no checksums, so damage in transfer is not noticed; what a bank stores is "
        "checked from then on with its own checksums",
        endpoint,
    )
