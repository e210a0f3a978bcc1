"""Routes for the content of files: downloads, and downloads and uploads in Git LFS."""

import hashlib
import mimetypes
import re
from typing import Any
from urllib.parse import quote

from starlette.responses import JSONResponse, RedirectResponse, Response

from hf_lorameta.localhub import http_errors
from hf_lorameta.localhub.history import Commit, Entry, Repo
from hf_lorameta.localhub.http_errors import HTTPError
from hf_lorameta.localhub.routing import Call, Route

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def resolve(call: Call) -> Response:
    """Return a file, or for a file in Git LFS a redirect to storage."""
    commit, path, entry = locate(call)
    if not entry.lfs:
        return serve(call, entry.sha256, headers_of(path, entry.oid, commit.sha))
    link = call.hub.link(f"/_lfs/{entry.sha256}", commit=commit.sha, name=path)
    headers = {
        "X-Repo-Commit": commit.sha,
        "X-Linked-Size": str(entry.size),
        "X-Linked-ETag": f'"{entry.sha256}"',
    }
    return RedirectResponse(link, 302, headers)


def locate(call: Call) -> tuple[Commit, str, Entry]:
    """Return the commit, path and file that a path names."""
    commit, path = call.commit_of(call.readable_repo()), call.params["path"]
    if path not in commit.tree:
        raise http_errors.entry_not_found(path, commit.sha)
    return commit, path, commit.tree[path]


def headers_of(path: str, etag: str, commit: str) -> dict[str, str]:
    """Return the headers of a file."""
    name = path.rpartition("/")[2]
    ascii_name = name.encode("ascii", "replace").decode().replace('"', "'").replace("\\", "_")
    disposition = f"inline; filename*=UTF-8''{quote(name)}; filename=\"{ascii_name}\";"
    return {
        "ETag": f'"{etag}"',
        "X-Repo-Commit": commit,
        "Accept-Ranges": "bytes",
        "Content-Disposition": disposition,
        "Content-Type": mimetypes.guess_type(name)[0] or "application/octet-stream",
    }


def storage(call: Call) -> Response:
    """Return a file in Git LFS, whose digest is known to those who can see its repo."""
    sha256 = call.params["sha256"]
    return serve(call, sha256, headers_of(call.query("name"), sha256, call.query("commit")))


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return (start, stop) of a Range header; None if the complete file is to be sent."""
    match = _RANGE.fullmatch(header.replace(" ", "")) if header else None
    if match is None or match.groups() == ("", ""):
        return None  # missing, several parts, or not understood: RFC 9110 allows to ignore it
    first, last = match.groups()
    if not first:
        start, stop = max(size - int(last), 0), size
    elif last and int(last) < int(first):
        return None
    else:
        start, stop = int(first), min(int(last) + 1, size) if last else size
    if start >= size or stop <= start:
        message = f"Range not satisfiable: {header} of {size} bytes"
        raise HTTPError(416, message, headers={"Content-Range": f"bytes */{size}"})
    return start, stop


def serve(call: Call, sha256: str, headers: dict[str, str]) -> Response:
    """Return a file, or the part that the headers of the request ask for."""
    request, data = call.request, call.hub.blobs[sha256]
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    unchanged = request.headers.get("if-range", headers["ETag"]) == headers["ETag"]
    part = byte_range(request.headers.get("range"), len(data)) if unchanged else None
    start, stop = part or (0, len(data))
    headers["Content-Length"] = str(stop - start)
    if part:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
    body = b"" if request.method == "HEAD" else data[start:stop]
    return Response(body, 206 if part else 200, headers)


# ---- uploads to Git LFS


def batch(call: Call) -> Response:
    """Return for each object where to upload it, unless it is stored already."""
    repo = call.writable_repo()
    objects = [_upload(call, repo, item) for item in call.json.get("objects", [])]
    return JSONResponse({"objects": objects})


def _upload(call: Call, repo: Repo, item: dict[str, Any]) -> dict[str, Any]:
    oid, size = str(item["oid"]), int(item["size"])
    if call.hub.has_object(repo, oid):
        return {"oid": oid, "size": size}

    def link(path: str) -> dict[str, str]:
        params = {"type": repo.type, "id": repo.id, "size": str(size)}
        return {"href": call.hub.link(f"/_lfs/{oid}{path}", **params)}

    actions = {"upload": link(""), "verify": link("/verify")}
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
        raise http_errors.repo_not_found(anonymous=False)
    return repo, call.query_int("size", 0)


ROUTES = [
    Route("GET", "{kind?}/{repo}/resolve/{rev}/{path*}", resolve),
    Route("GET", "_lfs/{sha256}", storage),
    Route("POST", "{kind?}/{repo}[.]git/info/lfs/objects/batch", batch),
    Route("PUT", "_lfs/{sha256}", put_object),
    Route("POST", "_lfs/{sha256}/verify", verify),
]
