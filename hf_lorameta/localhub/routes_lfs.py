"""Git LFS routes: the batch API, uploads, and their verification."""

import hashlib
from typing import Any

from starlette.responses import JSONResponse, Response

from hf_lorameta.localhub import http_errors
from hf_lorameta.localhub.history import Repo
from hf_lorameta.localhub.http_errors import HTTPError
from hf_lorameta.localhub.routing import Call, Route


def batch(call: Call) -> Response:
    """Return for each object where to upload it, unless it is stored already."""
    # without a ref, the upload may be for a pull request, which any user may open
    repo = call.writable_repo(by_pr="ref" not in call.json)
    objects = [_upload(call, repo, item) for item in call.json.get("objects", [])]
    return JSONResponse({"objects": objects})


def _upload(call: Call, repo: Repo, item: dict[str, Any]) -> dict[str, Any]:
    oid, size = str(item["oid"]), int(item["size"])
    if call.hub.has_object(repo, oid):
        return {"oid": oid, "size": size}

    def link(method: str, path: str) -> dict[str, str]:
        params = {"kind": repo.type, "repo": repo.id, "size": str(size)}
        return {"href": call.hub.link(method, f"/_lfs/{oid}{path}", **params)}

    actions = {"upload": link("PUT", ""), "verify": link("POST", "/verify")}
    return {"oid": oid, "size": size, "actions": actions}


def put_object(call: Call) -> Response:
    """Receive an object; 400 unless it has the announced size and SHA-256."""
    repo, size = _target(call)
    sha256 = call.params["sha256"]
    received = hashlib.sha256(call.body).hexdigest()
    if (received, len(call.body)) != (sha256, size):
        message = "The uploaded object is not the one announced"
        detail = f"got {len(call.body)} bytes {received}, expected {size} bytes {sha256}"
        raise HTTPError(400, f"{message}: {detail}")
    call.hub.blobs[sha256] = call.body
    repo.objects.add(sha256)
    return Response()


def verify(call: Call) -> Response:
    """Return 200 if the object was uploaded."""
    repo, _ = _target(call)
    sha256 = call.params["sha256"]
    if not call.hub.has_object(repo, sha256):
        raise HTTPError(404, f"Object {sha256} was not uploaded")
    return JSONResponse({})


def _target(call: Call) -> tuple[Repo, int]:
    """Return the repo and the size of the object that a signed link was created for."""
    params = call.hub.check_link(call.request)
    repo = call.hub.repos.get((params["kind"], params["repo"]))
    if repo is None:
        raise http_errors.repo_not_found(anonymous=False)
    return repo, int(params["size"])


ROUTES = [
    Route("POST", "{kind?}/{repo}[.]git/info/lfs/objects/batch", batch),
    Route("PUT", "_lfs/{sha256}", put_object),
    Route("POST", "_lfs/{sha256}/verify", verify),
]
