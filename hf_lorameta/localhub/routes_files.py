"""Routes that serve files: resolve, its redirect for files in Git LFS, and raw."""

import mimetypes
import re
from urllib.parse import quote

from starlette.responses import RedirectResponse, Response, StreamingResponse

from hf_lorameta.localhub import http_errors
from hf_lorameta.localhub.history import Commit, Entry
from hf_lorameta.localhub.routing import Call, Route

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def resolve(call: Call) -> Response:
    """Return a file, or for a file in Git LFS a redirect to storage."""
    commit, path, entry = _locate(call)
    if not entry.lfs:
        return _serve(call, entry.sha256, _headers(path, entry.oid, commit.sha))
    link = call.server.link("GET", f"/_lfs/{entry.sha256}", commit=commit.sha, name=path)
    headers = {
        "X-Repo-Commit": commit.sha,
        "X-Linked-Size": str(entry.size),
        "X-Linked-ETag": f'"{entry.sha256}"',
    }
    return RedirectResponse(link, 302, headers)


def _locate(call: Call) -> tuple[Commit, str, Entry]:
    commit, path = call.commit_of(call.readable_repo()), call.params["path"]
    if path not in commit.tree:
        raise http_errors.entry_not_found(path, commit.sha)
    return commit, path, commit.tree[path]


def _headers(path: str, etag: str, commit: str) -> dict[str, str]:
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
    """Return a file in Git LFS. Requires the signed link, but no token."""
    link, sha256 = call.server.check_link(call.request), call.params["sha256"]
    return _serve(call, sha256, _headers(link["name"], sha256, link["commit"]))


def raw(call: Call) -> Response:
    """Return a file as stored in git: for a file in Git LFS, its pointer file."""
    commit, path, entry = _locate(call)
    headers = _headers(path, entry.oid, commit.sha)
    if entry.lfs:
        return Response(entry.blob.lfs_pointer, headers=headers)
    return _serve(call, entry.sha256, headers)


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
        raise http_errors.HTTPError(416, message, headers={"Content-Range": f"bytes */{size}"})
    return start, stop


def _serve(call: Call, sha256: str, headers: dict[str, str]) -> Response:
    request, size = call.request, call.hub.blobs.size(sha256)
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    unchanged = request.headers.get("if-range", headers["ETag"]) == headers["ETag"]
    part = byte_range(request.headers.get("range"), size) if unchanged else None
    start, stop = part or (0, size)
    headers["Content-Length"] = str(stop - start)
    if part:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    status = 206 if part else 200
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    return StreamingResponse(call.hub.blobs.chunks(sha256, start, stop), status, headers)


ROUTES = [
    Route("GET", "{kind?}/{repo}/resolve/{rev}/{path*}", resolve),
    Route("GET", "{kind?}/{repo}/raw/{rev}/{path*}", raw),
    Route("GET", "_lfs/{sha256}", storage),
]
