"""Routes for files in Git LFS: redirects to storage, uploads, and pointers in commits."""

import hashlib
from typing import Any

from starlette.responses import JSONResponse, RedirectResponse, Response

from hf_lorameta.localhub import routes
from hf_lorameta.localhub.errors import HTTPError, repo_not_found
from hf_lorameta.localhub.routing import Route
from hf_lorameta.localhub.state import Changes
from tests.support.full_hub.calls import FullCall
from tests.support.full_hub.lfs_rules import LfsEntry, lfs_entry
from tests.support.full_hub.state import FullRepo


def resolve(call: FullCall) -> Response:
    """Return a file, or for a file in Git LFS a redirect to storage."""
    commit, path = call.commit_of(call.readable_repo()), call.params["path"]
    entry = commit.tree.get(path)
    if not isinstance(entry, LfsEntry):
        return routes.resolve(call)
    # the path is for the faults of tests
    link = call.hub.link(f"/_lfs/{entry.sha256}", commit=commit.sha, name=path)
    headers = {
        "X-Repo-Commit": commit.sha,
        "X-Linked-Size": str(entry.size),
        "X-Linked-ETag": f'"{entry.sha256}"',
    }
    return RedirectResponse(link, 302, headers)


def storage(call: FullCall) -> Response:
    """Return a file in Git LFS, whose digest is known to those who can see its repo."""
    sha256 = call.params["sha256"]
    return routes.serve(call, sha256, sha256, call.query("commit"))


def xet_token(call: FullCall) -> Response:
    """Refuse a token for Xet storage."""
    raise HTTPError(404, "This hub has no Xet storage; set HF_HUB_DISABLE_XET=1 for this upload")


def batch(call: FullCall) -> Response:
    """Return for each object where to upload it, unless it is stored already."""
    repo = call.writable_repo()
    objects = [_upload(call, repo, item) for item in call.json.get("objects", [])]
    return JSONResponse({"objects": objects})


def _upload(call: FullCall, repo: FullRepo, item: dict[str, Any]) -> dict[str, Any]:
    oid, size = str(item["oid"]), int(item["size"])
    if call.hub.has_object(repo, oid):
        return {"oid": oid, "size": size}

    link = call.hub.link(f"/_lfs/{oid}", type=repo.type, id=repo.id, size=str(size))
    verify = call.hub.url + link[link.index("/_lfs") :].replace("?", "/verify?")
    actions = {"upload": {"href": link}, "verify": {"href": verify}}
    return {"oid": oid, "size": size, "actions": actions}


def put_object(call: FullCall) -> Response:
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


def verify(call: FullCall) -> Response:
    """Return 200 if the object was uploaded."""
    repo, _ = _target(call)
    sha256 = call.params["sha256"]
    if not call.hub.has_object(repo, sha256):
        raise HTTPError(404, f"Object {sha256} was not uploaded")
    return JSONResponse({})


def _target(call: FullCall) -> tuple[FullRepo, int]:
    """Return the repo and the size of the object that a link was created for."""
    repo = call.hub.repos.get((call.query("type"), call.query("id")))
    if repo is None:
        raise repo_not_found(anonymous=False)
    return repo, call.query_int("size", 0)


def commit_pointer(call: FullCall, repo: FullRepo, path: str, value: dict[str, Any]) -> Changes:
    """Return the change of a file whose object was uploaded."""
    sha256 = str(value.get("oid", ""))
    if not call.hub.has_object(repo, sha256):
        message = "LFS pointer pointed to a file that does not exist"
        raise HTTPError(400, f"{message}: {path} ({sha256})")
    return {path: lfs_entry(sha256, len(call.hub.blobs[sha256]))}


ROUTES = [
    Route("GET", "{kind?}/{repo}/resolve/{rev}/{path*}", resolve),
    Route("GET", "_lfs/{sha256}", storage),
    Route("GET", "api/{kind}/{repo}/xet-(?:read|write)-token/{rev}", xet_token),
    Route("POST", "{kind?}/{repo}[.]git/info/lfs/objects/batch", batch),
    Route("PUT", "_lfs/{sha256}", put_object),
    Route("POST", "_lfs/{sha256}/verify", verify),
]
