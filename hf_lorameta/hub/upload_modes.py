"""Ask the Hub how each file is to be uploaded, and use Git LFS where there is no Xet storage.

`huggingface_hub` asks by itself, but needs every field of the answer, and uploads large files to
Xet storage without asking whether there is one. It takes over what is set here.
"""

import base64
from collections.abc import Sequence
from functools import partial
from typing import Any

import huggingface_hub as hfh
from huggingface_hub import constants

from hf_lorameta.hub.http_client import HttpClient, api_path, objects
from hf_lorameta.hub.repo import PinnedRepo
from hf_lorameta.hub.repo_info import if_served
from hf_lorameta.hub.retry import with_retries

_BATCH = 256
_REGULAR_BYTES = 10 << 20  # larger files go to Git LFS if the server does not say


def choose_upload_modes(
    client: HttpClient,
    repo: PinnedRepo,
    additions: Sequence[hfh.CommitOperationAdd],
    *,
    create_pr: bool,
) -> None:
    """Set on each file how it is uploaded: inside the commit, or to Git LFS or Xet storage."""
    for start in range(0, len(additions), _BATCH):
        batch = additions[start : start + _BATCH]
        told = _ask(client, repo, batch, create_pr)
        for addition in batch:
            item, size = told.get(addition.path_in_repo, {}), addition.upload_info.size
            large = item.get("uploadMode", "lfs" if size > _REGULAR_BYTES else "") == "lfs"
            addition._upload_mode = "lfs" if large and size else "regular"
            addition._should_ignore = item.get("shouldIgnore") is True
            addition._remote_oid = item.get("oid")
    if any(addition._upload_mode == "lfs" for addition in additions):
        _disable_missing_xet(client, repo, create_pr)


def _ask(
    client: HttpClient,
    repo: PinnedRepo,
    batch: Sequence[hfh.CommitOperationAdd],
    create_pr: bool,
) -> dict[str, dict[str, Any]]:
    files = [
        {
            "path": addition.path_in_repo,
            "sample": base64.b64encode(addition.upload_info.sample).decode("ascii"),
            "size": addition.upload_info.size,
        }
        for addition in batch
    ]
    ask = partial(
        client.json,
        "POST",
        api_path(repo.repo_id, repo.repo_type, "preupload", "main"),
        json={"files": files},
        params={"create_pr": "1"} if create_pr else {},
    )
    answer = with_retries(repo.repo_id, partial(if_served, ask))
    told = objects(answer.get("files")) if isinstance(answer, dict) else []
    return {str(item.get("path")): item for item in told}


def _disable_missing_xet(client: HttpClient, repo: PinnedRepo, create_pr: bool) -> None:
    """Make `huggingface_hub` upload to Git LFS if the server has no Xet storage."""
    if constants.HF_HUB_DISABLE_XET:
        return
    revision, params = ("None", {"create_pr": "1"}) if create_pr else ("main", {})
    url = api_path(repo.repo_id, repo.repo_type, "xet-write-token", revision)
    ask = partial(client.json, "GET", url, params=params)
    if with_retries(repo.repo_id, partial(if_served, ask)) is None:
        constants.HF_HUB_DISABLE_XET = True
