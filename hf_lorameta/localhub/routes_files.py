"""The route for downloads."""

import re

from starlette.responses import Response

from hf_lorameta.localhub import http_errors
from hf_lorameta.localhub.history import Commit, Entry
from hf_lorameta.localhub.http_errors import HTTPError
from hf_lorameta.localhub.routing import Call, Route

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


def resolve(call: Call) -> Response:
    """Return a file."""
    commit, entry = locate(call)
    return serve(call, entry.sha256, headers_of(entry.oid, commit.sha))


def locate(call: Call) -> tuple[Commit, Entry]:
    """Return the commit and the file that a path names."""
    commit, path = call.commit_of(call.readable_repo()), call.params["path"]
    if path not in commit.tree:
        raise http_errors.entry_not_found(path, commit.sha)
    return commit, commit.tree[path]


def headers_of(etag: str, commit: str) -> dict[str, str]:
    """Return the headers of a file."""
    return {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return (start, stop) of a Range header; None if the complete file is to be sent."""
    match = _RANGE.fullmatch(header or "")
    if match is None:
        return None  # missing, several parts, or not understood: RFC 9110 allows to ignore it
    start, last = int(match[1]), int(match[2] or size)
    if last < start:
        return None
    if start >= size:
        message = f"Range not satisfiable: {header} of {size} bytes"
        raise HTTPError(416, message, headers={"Content-Range": f"bytes */{size}"})
    return start, min(last + 1, size)


def serve(call: Call, sha256: str, headers: dict[str, str]) -> Response:
    """Return a file, or the part that the headers of the request ask for."""
    request, data = call.request, call.hub.blobs[sha256]
    part = byte_range(request.headers.get("range"), len(data))
    start, stop = part or (0, len(data))
    headers["Content-Length"] = str(stop - start)
    if part:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
    body = b"" if request.method == "HEAD" else data[start:stop]
    return Response(body, 206 if part else 200, headers)


ROUTES = [
    Route("GET", "{kind?}/{repo}/resolve/{rev}/{path*}", resolve),
]
