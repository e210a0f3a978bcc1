"""Routes that hand out files: resolve, its redirect for large files, raw; whole or by range."""

import mimetypes
import re
from urllib.parse import quote

from starlette.responses import Response, StreamingResponse

from hf_lorameta.localhub import blobs, http_errors
from hf_lorameta.localhub.history import Commit, Entry
from hf_lorameta.localhub.routing import Call, Route

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def resolve(call: Call) -> Response:
    """Answers a file's bytes; for a large file, a link to them."""
    commit, path = _located(call)
    entry = commit.tree.get(path)
    if entry is None:
        raise http_errors.entry_missing(path, commit.sha)
    if entry.lfs:
        return _to_storage(call, commit, path, entry)
    return _bytes(call, entry.sha256, entry.size, _headers(path, entry.etag, commit.sha))


def _located(call: Call) -> tuple[Commit, str]:
    repo = call.hub.readable(call.kind, call.params["repo"], call.caller)
    return repo.resolve(call.params["rev"]), call.params["path"]


def _headers(path: str, etag: str, commit: str) -> dict[str, str]:
    name = path.rpartition("/")[2]
    plain = name.encode("ascii", "replace").decode().replace('"', "'").replace("\\", "_")
    return {
        "ETag": f'"{etag}"',
        "X-Repo-Commit": commit,
        "Accept-Ranges": "bytes",
        "Content-Disposition": f"inline; filename*=UTF-8''{quote(name)}; filename=\"{plain}\";",
        "Content-Type": mimetypes.guess_type(name)[0] or "application/octet-stream",
        "Access-Control-Expose-Headers": "X-Repo-Commit,X-Linked-Size,X-Linked-ETag,ETag",
    }


def _to_storage(call: Call, commit: Commit, path: str, entry: Entry) -> Response:
    location = call.links.make("GET", f"/_lfs/{entry.sha256}", commit=commit.sha, name=path)
    headers = {
        "Location": location,
        "X-Repo-Commit": commit.sha,
        "X-Linked-Size": str(entry.size),
        "X-Linked-ETag": f'"{entry.sha256}"',
        "Accept-Ranges": "bytes",
    }
    return Response("Found. Redirecting to storage", 302, headers)


def stored(call: Call) -> Response:
    """Answers the bytes of a large file to whoever has the signed link; no token is looked at."""
    params = call.links.check(call.request)
    sha256 = call.params["sha256"]
    size = call.hub.blobs.size(sha256)
    headers = _headers(params["name"], sha256, params["commit"])
    headers.update({"X-Linked-Size": str(size), "X-Linked-ETag": f'"{sha256}"'})
    return _bytes(call, sha256, size, headers)


def raw(call: Call) -> Response:
    """Answers a file as git holds it: a large file's pointer."""
    commit, path = _located(call)
    entry = commit.tree.get(path)
    if entry is None:
        raise http_errors.entry_missing(path, commit.sha)
    if entry.lfs:
        text = blobs.pointer_text(blobs.Blob(entry.sha256, entry.size))
        return Response(text, headers=_headers(path, entry.oid, commit.sha))
    return _bytes(call, entry.sha256, entry.size, _headers(path, entry.oid, commit.sha))


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Returns (start, stop) of a Range header; None where the whole file is to be sent.

    Raises:
        Refusal: 416, no byte of the file is in the range.

    Example:
        >>> byte_range("bytes=0-3", 10), byte_range("bytes=-4", 10), byte_range("bytes=6-", 10)
        ((0, 4), (6, 10), (6, 10))
    """
    found = _RANGE.fullmatch(header.replace(" ", "")) if header else None
    if found is None or found.groups() == ("", ""):
        return None  # absent, of several parts, or not understood: RFC 9110 lets it be ignored
    first, last = found.groups()
    if first:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < int(first):
            return None
    else:
        start, stop = max(size - int(last), 0), size
    if start >= size or stop <= start:
        words = f"Range not satisfiable: {header} of {size} bytes"
        raise http_errors.Refusal(416, words, headers={"Content-Range": f"bytes */{size}"})
    return start, stop


def _bytes(call: Call, sha256: str, size: int, headers: dict[str, str]) -> Response:
    asked = call.request.headers
    if asked.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    unchanged = asked.get("if-range", headers["ETag"]) == headers["ETag"]
    part = byte_range(asked.get("range"), size) if unchanged else None
    start, stop = part or (0, size)
    headers["Content-Length"] = str(stop - start)
    if part:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    status = 206 if part else 200
    if call.request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    return StreamingResponse(call.hub.blobs.chunks(sha256, start, stop), status, headers)


ROUTES = [
    Route("GET", "{kind}/{repo}/resolve/{rev}/{path*}", resolve),
    Route("GET", "{repo}/resolve/{rev}/{path*}", resolve),
    Route("GET", "api/resolve-cache/{kind}/{repo}/{rev}/{path*}", resolve),
    Route("GET", "{kind}/{repo}/raw/{rev}/{path*}", raw),
    Route("GET", "{repo}/raw/{rev}/{path*}", raw),
    Route("GET", "_lfs/{sha256}", stored),
]
