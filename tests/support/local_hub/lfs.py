"""Routes for files: downloads, and for those in Git LFS redirects to storage and uploads."""

import hashlib
import re
from typing import Any

from starlette.responses import JSONResponse, RedirectResponse, Response

from tests.support.local_hub.errors import HTTPError, entry_not_found, repo_not_found
from tests.support.local_hub.lfs_rules import Changes, LfsEntry, lfs_entry
from tests.support.local_hub.routing import Call, Route
from tests.support.local_hub.state import Repo


def resolve(call: Call) -> Response:
    """Return a file, or for a file in Git LFS a redirect to storage."""
    commit, path = call.commit_of(call.readable_repo()), call.params["path"]
    if path not in commit.tree:
        raise entry_not_found(path, commit.sha)
    entry = commit.tree[path]
    if not isinstance(entry, LfsEntry):
        return _serve(call, entry.sha256, entry.oid, commit.sha)
    # the path is for the faults of tests
    link = call.hub.link(f"/_lfs/{entry.sha256}", commit=commit.sha, name=path)
    headers = {
        "X-Repo-Commit": commit.sha,
        "X-Linked-Size": str(entry.size),
        "X-Linked-ETag": f'"{entry.sha256}"',
    }
    return RedirectResponse(link, 302, headers)


def storage(call: Call) -> Response:
    """Return a file in Git LFS, whose digest is known to those who can see its repo."""
    sha256 = call.params["sha256"]
    return _serve(call, sha256, sha256, call.query("commit"))


def _serve(call: Call, sha256: str, etag: str, commit: str) -> Response:
    """Return a file, or the part that the headers of the request ask for."""
    request, data = call.request, call.hub.blobs[sha256]
    headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
    part = byte_range(request.headers.get("range"), len(data))
    start, stop = part or (0, len(data))
    headers["Content-Length"] = str(stop - start)
    if part:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
    body = b"" if request.method == "HEAD" else data[start:stop]
    return Response(body, 206 if part else 200, headers)


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return (start, stop) of a Range header; None if the complete file is to be sent."""
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", header or "")
    if match is None:
        return None  # missing, several parts, or not understood: RFC 9110 allows to ignore it
    start, last = int(match[1]), int(match[2] or size)
    if last < start:
        return None
    if start >= size:
        message = f"Range not satisfiable: {header} of {size} bytes"
        raise HTTPError(416, message, headers={"Content-Range": f"bytes */{size}"})
    return start, min(last + 1, size)


def xet_token(call: Call) -> Response:
    """Refuse a token for Xet storage."""
    raise HTTPError(404, "This hub has no Xet storage; set HF_HUB_DISABLE_XET=1 for this upload")


def batch(call: Call) -> Response:
    """Return for each object where to upload it, unless it is stored already."""
    repo = call.writable_repo()
    objects = [_upload(call, repo, item) for item in call.json.get("objects", [])]
    return JSONResponse({"objects": objects})


def _upload(call: Call, repo: Repo, item: dict[str, Any]) -> dict[str, Any]:
    oid, size = str(item["oid"]), int(item["size"])
    if call.hub.has_object(repo, oid):
        return {"oid": oid, "size": size}

    link = call.hub.link(f"/_lfs/{oid}", type=repo.type, id=repo.id, size=str(size))
    verify = call.hub.url + link[link.index("/_lfs") :].replace("?", "/verify?")
    actions = {"upload": {"href": link}, "verify": {"href": verify}}
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
    """Return the repo and the size of the object that a link was created for."""
    repo = call.hub.repos.get((call.query("type"), call.query("id")))
    if repo is None:
        raise repo_not_found(anonymous=False)
    return repo, call.query_int("size", 0)


def commit_pointer(call: Call, repo: Repo, path: str, value: dict[str, Any]) -> Changes:
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
