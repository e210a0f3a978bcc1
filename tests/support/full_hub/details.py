"""Routes for folders of several pages, for clients that upload, and for what clients report."""

import json

from starlette.responses import JSONResponse, Response

from hf_lorameta.localhub import routes_read, routes_write
from hf_lorameta.localhub.routing import Route
from hf_lorameta.localhub.uploads import git_oid
from tests.support.full_hub.calls import FullCall
from tests.support.full_hub.listing import page_of

LFS_ORIGIN = "localhub-classic"
"""In the User-Agent of clients without Xet, which `FullHub.env` sets."""


def tree(call: FullCall) -> Response:
    """Return a page of a folder."""
    answer = routes_read.tree(call)
    items, headers = page_of(call, json.loads(bytes(answer.body)), call.hub.page_size)
    headers["X-Repo-Commit"] = answer.headers["X-Repo-Commit"]
    return JSONResponse(items, headers=headers)


def preupload(call: FullCall) -> Response:
    """Return for each file how to upload it."""
    answer = json.loads(bytes(routes_write.preupload(call).body))
    held = call.commit_of(call.visible_repo()).tree
    # a client with hf_xet would upload to Xet storage, without a fallback to Git LFS
    allow_lfs = call.hub.always_lfs or LFS_ORIGIN in call.request.headers.get("user-agent", "")
    for file in answer["files"]:
        if not allow_lfs and file["uploadMode"] == "lfs":
            file["uploadMode"] = "regular"
            if "oid" in file:
                file["oid"] = git_oid(call.hub.blobs[held[file["path"]].sha256])
    return JSONResponse(answer)


def telemetry(call: FullCall) -> Response:
    """Accept telemetry and discard it."""
    return Response(status_code=204)


def agent_harnesses(call: FullCall) -> Response:
    """Return an empty registry of agent harnesses."""
    return JSONResponse({"standardEnvVars": [], "harnesses": {}})


ROUTES = [
    Route("GET", "api/{kind}/{repo}/tree/{rev}/{path*}", tree),
    Route("POST", "api/{kind}/{repo}/preupload/{rev}", preupload),
    Route("GET", "api/telemetry/{path*}", telemetry),
    Route("GET", "api/agent-harnesses", agent_harnesses),
]
