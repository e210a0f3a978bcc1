"""Routes for folders of several pages, for clients that upload, and for what clients report."""

import base64
import json
from urllib.parse import parse_qs

from starlette.responses import JSONResponse, Response

from hf_lorameta.localhub import routes
from hf_lorameta.localhub.routing import Route
from hf_lorameta.localhub.state import git_oid
from tests.support.full_hub.calls import FullCall
from tests.support.full_hub.lfs_rules import add_lfs, is_lfs
from tests.support.full_hub.listing import page_of

LFS_ORIGIN = "localhub-classic"
"""In the User-Agent of clients without Xet, which `FullHub.env` sets."""


def tree(call: FullCall) -> Response:
    """Return a page of a folder."""
    answer = routes.tree(call)
    items, headers = page_of(call, json.loads(bytes(answer.body)), call.hub.page_size)
    headers["X-Repo-Commit"] = answer.headers["X-Repo-Commit"]
    add_lfs(items, call.commit_of(call.visible_repo()).tree, "oid")
    return JSONResponse(items, headers=headers)


def paths_info(call: FullCall) -> Response:
    """Return the files and folders named in the body, except those that do not exist."""
    commit = call.commit_of(call.visible_repo())
    form = parse_qs(call.body.decode("utf-8", "replace"))
    paths = [path.strip("/") for path in form.get("paths", [])]
    known = routes.folders(commit) | commit.tree.keys()
    items = [routes.tree_item(path, commit.tree.get(path)) for path in paths if path in known]
    add_lfs(items, commit.tree, "oid")
    return JSONResponse(items)


def preupload(call: FullCall) -> Response:
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


def telemetry(call: FullCall) -> Response:
    """Accept telemetry and discard it."""
    return Response(status_code=204)


def agent_harnesses(call: FullCall) -> Response:
    """Return an empty registry of agent harnesses."""
    return JSONResponse({"standardEnvVars": [], "harnesses": {}})


ROUTES = [
    Route("GET", "api/{kind}/{repo}/tree/{rev}/{path*}", tree),
    Route("POST", "api/{kind}/{repo}/paths-info/{rev}", paths_info),
    Route("POST", "api/{kind}/{repo}/preupload/{rev}", preupload),
    Route("GET", "api/telemetry/{path*}", telemetry),
    Route("GET", "api/agent-harnesses", agent_harnesses),
]
