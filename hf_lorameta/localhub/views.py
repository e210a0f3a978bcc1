"""Repos, files, commits and discussions as the Hub's API shows them in JSON."""

import hashlib
import json
from typing import Any

from hf_lorameta.localhub import cards
from hf_lorameta.localhub.history import Commit, Discussion, Entry, Repo
from hf_lorameta.localhub.state import HubState

POINTER_SIZE = 134
_WIDTHS = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1}


def object_id(text: str) -> str:
    """Returns 24 hex digits that stand for `text`, as the Hub's database ids look."""
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def repo_info(
    hub: HubState, repo: Repo, commit: Commit, *, blobs: bool = False, card: bool = True
) -> dict[str, Any]:
    """Returns everything the API tells about a repo at a commit."""
    data = cards.metadata(hub.text(commit, "README.md") or "")
    info: dict[str, Any] = {
        "_id": object_id(f"{repo.type} {repo.id}"),
        "id": repo.id,
        "author": repo.namespace or None,
        "sha": commit.sha,
        "lastModified": commit.date,
        "createdAt": repo.created,
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "trendingScore": 0,
        "usedStorage": sum(entry.size for entry in commit.tree.values()),
        "tags": cards.tags(data, repo.type, commit.tree),
        "siblings": [sibling(path, entry, blobs) for path, entry in sorted(commit.tree.items())],
    }
    if card:
        info["cardData"] = data
    return {**info, **_own_fields(hub, repo, commit, data)}


def _own_fields(hub: HubState, repo: Repo, commit: Commit, card: dict[str, Any]) -> dict[str, Any]:
    if repo.type == "dataset":
        return {"description": "", "citation": None, "paperswithcode_id": None}
    if repo.type == "space":
        stage = "RUNNING" if "app.py" in commit.tree else "NO_APP_FILE"
        runtime = {"stage": stage, "hardware": {"current": "cpu-basic", "requested": None}}
        return {"sdk": card.get("sdk", repo.sdk), "runtime": runtime, "subdomain": ""}
    library = cards.library_name(card, commit.tree)
    relation, bases = cards.base_models(card, library)
    fields: dict[str, Any] = {
        "modelId": repo.id,
        "spaces": [],
        "config": _model_config(hub, commit),
        "library_name": library,
        "pipeline_tag": card.get("pipeline_tag"),
    }
    if bases:
        models = [{"_id": object_id(base), "id": base} for base in bases]
        fields["baseModels"] = {"relation": relation, "models": models}
    counted = _safetensors(hub, commit)
    if counted:
        fields["safetensors"] = counted
    return {name: value for name, value in fields.items() if value is not None}


def _model_config(hub: HubState, commit: Commit) -> dict[str, Any] | None:
    config = _json_object(hub.text(commit, "config.json"))
    kept: dict[str, Any] = {k: config[k] for k in ("architectures", "model_type") if k in config}
    adapter = _json_object(hub.text(commit, "adapter_config.json"))
    names = ("base_model_name_or_path", "task_type", "peft_type")
    if adapter:
        kept["peft"] = {name: adapter[name] for name in names if name in adapter}
    return kept or None


def _json_object(text: str | None) -> dict[str, Any]:
    try:
        data = json.loads(text or "{}")
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _safetensors(hub: HubState, commit: Commit) -> dict[str, Any] | None:
    names = ("model.safetensors", "adapter_model.safetensors")
    entry = next((commit.tree[name] for name in names if name in commit.tree), None)
    if entry is None or entry.size < 8:
        return None
    length = int.from_bytes(b"".join(hub.blobs.chunks(entry.sha256, 0, 8)), "little")
    if length > min(entry.size - 8, cards.LONGEST):
        return None
    header = b"".join(hub.blobs.chunks(entry.sha256, 8, 8 + length)).decode("utf-8", "replace")
    counts: dict[str, int] = {}
    for tensor in _json_object(header).values():
        if not isinstance(tensor, dict):
            return None
        dtype, offsets = tensor.get("dtype"), tensor.get("data_offsets")
        if dtype in _WIDTHS and offsets:
            count = (offsets[1] - offsets[0]) // _WIDTHS[dtype]
            counts[dtype] = counts.get(dtype, 0) + count
    return {"parameters": counts, "total": sum(counts.values())} if counts else None


def pick(info: dict[str, Any], expand: list[str]) -> dict[str, Any]:
    """Returns only the fields a client asked for with ``expand``, and the ids."""
    return {k: info[k] for k in ("_id", "id", "modelId", *expand) if k in info}


def sibling(path: str, entry: Entry, blobs: bool) -> dict[str, Any]:
    """Returns a file as listed in a repo's info."""
    if not blobs:
        return {"rfilename": path}
    return {"rfilename": path, "size": entry.size, "blobId": entry.oid, **_lfs(entry, "sha256")}


def _lfs(entry: Entry, digest_name: str) -> dict[str, Any]:
    if not entry.lfs:
        return {}
    fields = {digest_name: entry.sha256, "size": entry.size, "pointerSize": POINTER_SIZE}
    return {"lfs": fields}


def tree_item(path: str, entry: Entry | None, last: Commit | None) -> dict[str, Any]:
    """Returns a file, or (no entry) a folder, as listed in a tree."""
    if entry is None:
        oid = hashlib.sha1(path.encode(), usedforsecurity=False).hexdigest()
        item: dict[str, Any] = {"type": "directory", "oid": oid, "size": 0, "path": path}
    else:
        item = {"type": "file", "oid": entry.oid, "size": entry.size, "path": path}
        item.update(_lfs(entry, "oid"))
    if last is not None:
        item["lastCommit"] = {"id": last.sha, "title": last.title, "date": last.date}
    return item


def folders(commit: Commit) -> set[str]:
    """Returns the paths of all folders of a commit."""
    found: set[str] = set()
    for path in commit.tree:
        while "/" in path:
            path = path.rpartition("/")[0]
            found.add(path)
    return found


def commit_item(commit: Commit, formatted: bool) -> dict[str, Any]:
    """Returns a commit as listed in a history."""
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


def discussion_item(repo: Repo, talk: Discussion) -> dict[str, Any]:
    """Returns a discussion as listed."""
    return {
        "num": talk.num,
        "title": talk.title,
        "author": {"name": talk.author, "type": "user"},
        "createdAt": talk.created,
        "status": talk.status,
        "isPullRequest": talk.is_pr,
        "pinned": False,
        "numComments": len(talk.events),
        "repo": {"name": repo.id, "type": repo.type},
    }
