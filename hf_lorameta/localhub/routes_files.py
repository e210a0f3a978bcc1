"""The route for downloads."""

import mimetypes
import re
from urllib.parse import quote

from starlette.responses import Response

from hf_lorameta.localhub import http_errors
from hf_lorameta.localhub.history import Commit, Entry
from hf_lorameta.localhub.http_errors import HTTPError
from hf_lorameta.localhub.routing import Call, Route

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def resolve(call: Call) -> Response:
    """Return a file."""
    commit, path, entry = locate(call)
    return serve(call, entry.sha256, headers_of(path, entry.oid, commit.sha))


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


ROUTES = [
    Route("GET", "{kind?}/{repo}/resolve/{rev}/{path*}", resolve),
]
