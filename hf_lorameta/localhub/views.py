"""JSON of users, repos and files, in the format of the Hub's API."""

import hashlib
from pathlib import PurePosixPath
from typing import Any

from hf_lorameta.localhub import cards
from hf_lorameta.localhub.accounts import Caller
from hf_lorameta.localhub.history import Commit, Entry, Repo
from hf_lorameta.localhub.state import HubState
from hf_lorameta.localhub.uploads import lfs_pointer


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
        "isPro": user.pro,
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
        "tags": cards.tags(card, repo.type, commit.tree.keys()),
        "siblings": [_sibling(path, entry, blobs) for path, entry in sorted(commit.tree.items())],
        "cardData": card,
        "usedStorage": sum(entry.size for entry in commit.tree.values()),
    }
    if repo.type == "model":
        library, task = cards.library_name(card, commit.tree.keys()), card.get("pipeline_tag")
        fields = {"modelId": repo.id, "library_name": library, "pipeline_tag": task}
        info |= {name: value for name, value in fields.items() if value is not None}
    elif repo.type == "space":
        info["sdk"] = card.get("sdk", repo.sdk)
    return info


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
    pointer_size = len(lfs_pointer(entry.sha256, entry.size))
    fields = {digest_name: entry.sha256, "size": entry.size, "pointerSize": pointer_size}
    return {"lfs": fields}


def tree_item(path: str, entry: Entry | None) -> dict[str, Any]:
    """Return a file, or a folder if `entry` is None."""
    if entry is None:
        oid = hashlib.sha1(path.encode(), usedforsecurity=False).hexdigest()
        return {"type": "directory", "oid": oid, "size": 0, "path": path}
    item = {"type": "file", "oid": entry.oid, "size": entry.size, "path": path}
    return item | _lfs(entry, "oid")


def folders(commit: Commit) -> set[str]:
    """Return the paths of all folders of a commit."""
    parents = (PurePosixPath(path).parents for path in commit.tree)
    return {str(parent) for chain in parents for parent in chain} - {"."}
