"""Resolve a repo to a commit, from the Hub's answer about it or from what a server has instead.

The Hub's answer has all fields. Other servers may leave some out; each is then found by another
request that the API also documents.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from huggingface_hub import errors as hf
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # lazy re-export

from hf_lorameta.hub.errors import NotJsonError, not_served, unexpected_answer
from hf_lorameta.hub.http_client import HttpClient, api_path, objects
from hf_lorameta.hub.repo import PinnedRepo, card_license, read_blob

T = TypeVar("T")


def fetch_repo(
    client: HttpClient, repo_id: str, repo_type: str, revision: str | None, *, blobs: bool
) -> PinnedRepo:
    """Ask for a repo at a revision; see `hf_lorameta.hub.client.Hub.resolve`."""
    validate_repo_id(repo_id)
    info = _info(client, repo_id, repo_type, revision, {"blobs": True} if blobs else {})
    name = str(info.get("id") or info.get("modelId") or repo_id)
    branch = revision or "main"
    items = objects(info.get("siblings")) or _tree(client, name, repo_type, branch)
    files = {str(item.get("rfilename") or item.get("path")): item for item in items}
    sha = info.get("sha")
    if not sha:
        sha = _commit(client, name, repo_type, branch, next(iter(files), None))
    private = info.get("private")
    if not isinstance(private, bool):
        private = not _is_visible_to_all(client, name, repo_type)
    found = {path: read_blob(item) for path, item in files.items()} if blobs else {}
    return PinnedRepo(
        name,
        repo_type,
        str(sha),
        private=private,
        gated=bool(info.get("gated")),
        license=card_license(info.get("cardData")),
        files=tuple(files),
        blobs={path: blob for path, blob in found.items() if blob},
        verify=blobs,
    )


def _info(
    client: HttpClient, repo_id: str, repo_type: str, revision: str | None, params: dict[str, bool]
) -> dict[str, Any]:
    """Ask about a repo at a revision, or at its head if the server knows no revisions."""
    head = api_path(repo_id, repo_type)
    if revision is None:
        info = client.json("GET", head, params=params)
    else:
        try:
            url = api_path(repo_id, repo_type, "revision", revision)
            info = client.json("GET", url, params=params)
        except (hf.HfHubHTTPError, NotJsonError) as error:
            if isinstance(error, hf.RevisionNotFoundError) or not not_served(error):
                raise
            info = client.json("GET", head, params=params)
            if not isinstance(info, dict) or revision not in ("main", info.get("sha")):
                raise
    if not isinstance(info, dict):
        raise unexpected_answer(repo_id, "the answer about it is not an object")
    return info


def _tree(client: HttpClient, repo_id: str, repo_type: str, revision: str) -> list[dict[str, Any]]:
    """List the files where the answer about the repo has none."""
    url = api_path(repo_id, repo_type, "tree", revision)
    items = if_served(lambda: list(client.pages(url, recursive=True))) or []
    return [item for item in items if item.get("path") and item.get("type") != "directory"]


def _commit(
    client: HttpClient, repo_id: str, repo_type: str, revision: str, file: str | None
) -> str:
    """Find the commit that a revision names, where the answer about the repo does not state it."""
    if file is not None:
        url = client.file_url(repo_id, repo_type, file, revision)
        head = if_served(lambda: client.api.get_hf_file_metadata(url=url))
        if head and head.commit_hash:
            return str(head.commit_hash)
    history = if_served(
        lambda: client.json("GET", api_path(repo_id, repo_type, "commits", revision))
    )
    commits = [str(item["id"]) for item in objects(history) if item.get("id")]
    if not commits:
        raise unexpected_answer(repo_id, f"it states no commit of {revision}")
    return commits[0]


def _is_visible_to_all(client: HttpClient, repo_id: str, repo_type: str) -> bool:
    """Return whether the repo is public, where the answer about it does not say so."""
    try:
        client.send("GET", api_path(repo_id, repo_type), anonymous=True)
    except hf.HfHubHTTPError as error:
        if error.response.status_code in (401, 403, 404):
            return False
        raise
    return True


def if_served(request: Callable[[], T]) -> T | None:
    """Return the result of a request; None if the server lacks that part of the API."""
    try:
        return request()
    except (hf.HfHubHTTPError, NotJsonError) as error:
        if not not_served(error):
            raise
        return None
