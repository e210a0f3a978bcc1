"""Routes that only read: whoami, repo info and trees."""

import hashlib
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs

from starlette.responses import JSONResponse, Response

from hf_lorameta.localhub import cards, http_errors
from hf_lorameta.localhub.history import Commit, Entry, Repo
from hf_lorameta.localhub.routing import Call, Route


def whoami(call: Call) -> Response:
    """Return the user that the token belongs to."""
    return JSONResponse({"type": "user", "name": call.user.name})


def repo_info(call: Call) -> Response:
    """Return the info of a repo at a revision."""
    return JSONResponse(info_of(call, *locate(call)))


def tree(call: Call) -> Response:
    """Return the files and folders in a folder."""
    _, commit = locate(call)
    folder = call.params["path"].strip("/")
    if folder and folder not in _folders(commit):
        raise http_errors.entry_not_found(folder, commit.sha)
    prefix = f"{folder}/" if folder else ""
    paths = sorted(p for p in (*_folders(commit), *commit.tree) if p.startswith(prefix))
    if not call.flag("recursive"):
        paths = [path for path in paths if "/" not in path.removeprefix(prefix)]
    items = [_tree_item(path, commit.tree.get(path)) for path in paths]
    return JSONResponse(items, headers={"X-Repo-Commit": commit.sha})


def paths_info(call: Call) -> Response:
    """Return the files and folders named in the body, except those that do not exist."""
    _, commit = locate(call)
    known = _folders(commit) | commit.tree.keys()
    form = parse_qs(call.body.decode("utf-8", "replace"))
    paths = [path.strip("/") for path in form.get("paths", [])]
    items = [_tree_item(path, commit.tree.get(path)) for path in paths if path in known]
    return JSONResponse(items)


def locate(call: Call) -> tuple[Repo, Commit]:
    """Return the repo and the commit that a path names."""
    repo = call.visible_repo()
    return repo, call.commit_of(repo)


# ---- JSON in the format of the Hub's API


def object_id(text: str) -> str:
    """Return 24 hex digits derived from `text`, in the format of the Hub's database ids."""
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def info_of(call: Call, repo: Repo, commit: Commit) -> dict[str, Any]:
    """Return a repo's info at a commit; with the flag ``blobs``, sizes and digests of files."""
    card = cards.metadata(call.hub.text(commit.tree, "README.md") or "")
    blobs = call.flag("blobs")
    return {
        "_id": object_id(f"{repo.type} {repo.id}"),
        "id": repo.id,
        "author": repo.namespace,
        "sha": commit.sha,
        "lastModified": commit.date,
        "createdAt": repo.created,
        "private": repo.private,
        "siblings": [_sibling(path, entry, blobs) for path, entry in sorted(commit.tree.items())],
        "cardData": card,
    }


def _sibling(path: str, entry: Entry, blobs: bool) -> dict[str, Any]:
    if not blobs:
        return {"rfilename": path}
    return {"rfilename": path, "size": entry.size, "blobId": entry.oid}


def _tree_item(path: str, entry: Entry | None) -> dict[str, Any]:
    """Return a file, or a folder if `entry` is None."""
    if entry is None:
        oid = hashlib.sha1(path.encode(), usedforsecurity=False).hexdigest()
        return {"type": "directory", "oid": oid, "size": 0, "path": path}
    return {"type": "file", "oid": entry.oid, "size": entry.size, "path": path}


def _folders(commit: Commit) -> set[str]:
    """Return the paths of all folders of a commit."""
    parents = (PurePosixPath(path).parents for path in commit.tree)
    return {str(parent) for chain in parents for parent in chain} - {"."}


ROUTES = [
    Route("GET", "api/whoami-v2", whoami),
    Route("GET", "api/{kind}/{repo}", repo_info),
    Route("GET", "api/{kind}/{repo}/revision/{rev}", repo_info),
    Route("GET", "api/{kind}/{repo}/tree/{rev}/{path*}", tree),
    Route("POST", "api/{kind}/{repo}/paths-info/{rev}", paths_info),
]
