"""Routes for folders of several pages, for clients that upload, and for what clients report."""

import base64
import hashlib
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs

from starlette.responses import JSONResponse, Response

from tests.support.local_hub.errors import entry_not_found
from tests.support.local_hub.lfs_rules import Entry, add_lfs, git_oid, is_lfs
from tests.support.local_hub.listing import page_of
from tests.support.local_hub.routing import Call, Route
from tests.support.local_hub.state import Commit

LFS_ORIGIN = "localhub-classic"
"""In the User-Agent of clients without Xet, which `LocalHub.env` sets."""


def tree(call: Call) -> Response:
    """Return a page of the files and folders in a folder."""
    commit, folder = call.commit_of(call.visible_repo()), call.params["path"].strip("/")
    if folder and folder not in _folders(commit):
        raise entry_not_found(folder, commit.sha)
    prefix = f"{folder}/" if folder else ""
    paths = sorted(p for p in (*_folders(commit), *commit.tree) if p.startswith(prefix))
    if not call.flag("recursive"):
        paths = [path for path in paths if "/" not in path.removeprefix(prefix)]
    every = [_tree_item(path, commit.tree.get(path)) for path in paths]
    items, headers = page_of(call, every, call.hub.page_size)
    add_lfs(items, commit.tree, "oid")
    return JSONResponse(items, headers=headers | {"X-Repo-Commit": commit.sha})


def _folders(commit: Commit) -> set[str]:
    """Return the paths of all folders of a commit."""
    parents = (PurePosixPath(path).parents for path in commit.tree)
    return {str(parent) for chain in parents for parent in chain} - {"."}


def _tree_item(path: str, entry: Entry | None) -> dict[str, Any]:
    """Return a file, or a folder if `entry` is None."""
    if entry is None:
        oid = hashlib.sha1(path.encode(), usedforsecurity=False).hexdigest()
        return {"type": "directory", "oid": oid, "size": 0, "path": path}
    return {"type": "file", "oid": entry.oid, "size": entry.size, "path": path}


def paths_info(call: Call) -> Response:
    """Return the files and folders named in the body, except those that do not exist."""
    commit = call.commit_of(call.visible_repo())
    form = parse_qs(call.body.decode("utf-8", "replace"))
    paths = [path.strip("/") for path in form.get("paths", [])]
    known = _folders(commit) | commit.tree.keys()
    items = [_tree_item(path, commit.tree.get(path)) for path in paths if path in known]
    add_lfs(items, commit.tree, "oid")
    return JSONResponse(items)


def preupload(call: Call) -> Response:
    """Return for each file how to upload it, and its current id."""
    head = call.commit_of(call.writable_repo())
    attributes = call.hub.text(head.tree, ".gitattributes") or ""
    # a client with hf_xet would upload to Xet storage, without a fallback to Git LFS
    allow_lfs = call.hub.always_lfs or LFS_ORIGIN in call.request.headers.get("user-agent", "")
    files = []
    for file in call.json.get("files", []):
        path, sample = str(file["path"]), base64.b64decode(file.get("sample", ""))
        lfs = allow_lfs and is_lfs(path, int(file["size"]), sample, attributes)
        item = {"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
        if entry := head.tree.get(path):  # the git id of the file, even if the tree has a pointer
            item["oid"] = entry.sha256 if lfs else git_oid(call.hub.blobs[entry.sha256])
        files.append(item)
    return JSONResponse({"files": files, "commitOid": head.sha})


def telemetry(call: Call) -> Response:
    """Accept telemetry and discard it."""
    return Response(status_code=204)


def agent_harnesses(call: Call) -> Response:
    """Return an empty registry of agent harnesses."""
    return JSONResponse({"standardEnvVars": [], "harnesses": {}})


ROUTES = [
    Route("GET", "api/{kind}/{repo}/tree/{rev}/{path*}", tree),
    Route("POST", "api/{kind}/{repo}/paths-info/{rev}", paths_info),
    Route("POST", "api/{kind}/{repo}/preupload/{rev}", preupload),
    Route("GET", "api/telemetry/{path*}", telemetry),
    Route("GET", "api/agent-harnesses", agent_harnesses),
]
