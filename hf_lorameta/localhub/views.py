"""JSON of users, repos, files, commits and discussions, in the format of the Hub's API."""

import hashlib
import json
from pathlib import PurePosixPath
from typing import Any

from hf_lorameta.localhub import cards
from hf_lorameta.localhub.accounts import Caller
from hf_lorameta.localhub.history import Commit, Discussion, Entry, Repo
from hf_lorameta.localhub.state import HubState

_DTYPE_SIZES = {
    **{"F64": 8, "I64": 8, "F32": 4, "I32": 4},
    **{"F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1},
}


def object_id(text: str) -> str:
    """Return 24 hex digits derived from `text`, in the format of the Hub's database ids."""
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def whoami(caller: Caller) -> dict[str, Any]:
    """Return the body of ``/api/whoami-v2``."""
    user = caller.user
    token = {"displayName": "localhub", "role": caller.role, "createdAt": user.created}
    return {
        **_account(user.name, "user", user.email),
        "emailVerified": True,
        "isPro": False,
        "orgs": [_account(name, "org", None) | {"roleInOrg": "write"} for name in user.orgs],
        "auth": {"type": "access_token", "accessToken": token},
    }


def _account(name: str, kind: str, email: str | None) -> dict[str, Any]:
    return {
        "type": kind,
        "id": object_id(name),
        "name": name,
        "fullname": name,
        "email": email,
        "avatarUrl": "",
    }


def repo_info(hub: HubState, repo: Repo, commit: Commit, *, blobs: bool = False) -> dict[str, Any]:
    """Return all fields of a repo's info at a commit; with `blobs`, sizes and digests of files."""
    card = cards.metadata(hub.text(commit.tree, "README.md") or "")
    info: dict[str, Any] = {
        "_id": object_id(f"{repo.type} {repo.id}"),
        "id": repo.id,
        "author": repo.namespace or None,
        "sha": commit.sha,
        "lastModified": commit.date,
        "createdAt": repo.created,
        "private": repo.private,
        "gated": repo.gated,
        "downloads": 0,
        "likes": 0,
        "usedStorage": sum(entry.size for entry in commit.tree.values()),
        "tags": cards.tags(card, repo.type, commit.tree.keys()),
        "siblings": [_sibling(path, entry, blobs) for path, entry in sorted(commit.tree.items())],
        "cardData": card,
    }
    if repo.type == "model":
        info |= _model_fields(hub, repo, commit, card)
    elif repo.type == "space":
        info["sdk"] = card.get("sdk", repo.sdk)
    return info


def _model_fields(
    hub: HubState, repo: Repo, commit: Commit, card: dict[str, Any]
) -> dict[str, Any]:
    library = cards.library_name(card, commit.tree.keys())
    relation, bases = cards.base_models(card, library)
    models = [{"_id": object_id(base), "id": base} for base in bases]
    fields: dict[str, Any] = {
        "modelId": repo.id,
        "spaces": [],
        "library_name": library,
        "pipeline_tag": card.get("pipeline_tag"),
        "baseModels": {"relation": relation, "models": models} if bases else None,
        "safetensors": _safetensors(hub, commit),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _json_object(text: str | None) -> dict[str, Any]:
    try:
        data = json.loads(text or "{}")
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _safetensors(hub: HubState, commit: Commit) -> dict[str, Any] | None:
    """Count the parameters in a safetensors header; None if there is no valid header."""
    names = ("model.safetensors", "adapter_model.safetensors")
    entry = next((commit.tree[name] for name in names if name in commit.tree), None)
    if entry is None:
        return None
    with hub.blobs.open(entry.sha256) as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(entry.size - 8, cards.SIZE_LIMIT):
            return None
        header = _json_object(file.read(length).decode("utf-8", "replace"))
    counts: dict[str, int] = {}
    for tensor in header.values():
        match tensor:
            case {"dtype": str(dtype), "data_offsets": [int(start), int(stop)]}:
                if size := _DTYPE_SIZES.get(dtype):
                    counts[dtype] = counts.get(dtype, 0) + (stop - start) // size
    return {"parameters": counts, "total": sum(counts.values())} if counts else None


def expand(info: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Return the ids and the fields requested with ``expand``."""
    return {k: info[k] for k in ("_id", "id", "modelId", *names) if k in info}


def _sibling(path: str, entry: Entry, blobs: bool) -> dict[str, Any]:
    if not blobs:
        return {"rfilename": path}
    return {"rfilename": path, "size": entry.size, "blobId": entry.oid, **_lfs(entry, "sha256")}


def _lfs(entry: Entry, digest_name: str) -> dict[str, Any]:
    if not entry.lfs:
        return {}
    pointer_size = len(entry.blob.lfs_pointer)
    fields = {digest_name: entry.sha256, "size": entry.size, "pointerSize": pointer_size}
    return {"lfs": fields}


def tree_item(path: str, entry: Entry | None, last: Commit | None) -> dict[str, Any]:
    """Return a file, or a folder if `entry` is None; with the `last` commit that changed it."""
    if entry is None:
        oid = hashlib.sha1(path.encode(), usedforsecurity=False).hexdigest()
        item: dict[str, Any] = {"type": "directory", "oid": oid, "size": 0, "path": path}
    else:
        item = {"type": "file", "oid": entry.oid, "size": entry.size, "path": path}
        item |= _lfs(entry, "oid")
    if last is not None:
        item["lastCommit"] = {"id": last.sha, "title": last.title, "date": last.date}
    return item


def folders(commit: Commit) -> set[str]:
    """Return the paths of all folders of a commit."""
    parents = (PurePosixPath(path).parents for path in commit.tree)
    return {str(parent) for chain in parents for parent in chain} - {"."}


def commit_item(commit: Commit, formatted: bool) -> dict[str, Any]:
    """Return a commit as listed in a history."""
    item: dict[str, Any] = {
        "id": commit.sha,
        "title": commit.title,
        "message": commit.message,
        "authors": [{"user": commit.author, "avatar": ""}],
        "date": commit.date,
    }
    if formatted:
        item["formatted"] = {"title": commit.title, "message": commit.message}
    return item


def discussion_item(repo: Repo, discussion: Discussion) -> dict[str, Any]:
    """Return a discussion as listed."""
    return {
        "num": discussion.num,
        "title": discussion.title,
        "author": {"name": discussion.author, "type": "user"},
        "createdAt": discussion.created,
        "status": discussion.status,
        "isPullRequest": discussion.is_pr,
        "pinned": False,
        "numComments": len(discussion.events),
        "repo": {"name": repo.id, "type": repo.type},
    }
