"""Git LFS routes: the batch API, uploads in one request or in parts, and their verification."""

from math import ceil
from typing import Any

from starlette.responses import JSONResponse, Response

from hf_lorameta.localhub import http_errors
from hf_lorameta.localhub.blobs import Blob, BlobWriter
from hf_lorameta.localhub.history import Repo
from hf_lorameta.localhub.http_errors import HTTPError
from hf_lorameta.localhub.routing import Call, Route

_MEDIA_TYPE = "application/vnd.git-lfs+json"


def batch(call: Call) -> Response:
    """Return for each object where to upload or download it."""
    call.params["repo"] = call.params["git"].removesuffix(".git")
    if call.json.get("operation") == "download":
        repo = call.readable_repo()
        objects = [_download(call, repo, item) for item in call.json.get("objects", [])]
    else:
        # without a ref, the upload may be for a pull request, which any user may open
        repo = call.writable_repo(by_pr="ref" not in call.json)
        objects = [_upload(call, repo, item) for item in call.json.get("objects", [])]
    multipart = any("header" in o.get("actions", {}).get("upload", {}) for o in objects)
    transfer = "multipart" if multipart else "basic"
    return JSONResponse({"transfer": transfer, "objects": objects}, media_type=_MEDIA_TYPE)


def _object(item: dict[str, Any]) -> dict[str, Any]:
    return {"oid": str(item["oid"]), "size": int(item["size"]), "authenticated": True}


def _is_uploaded(call: Call, repo: Repo, oid: str) -> bool:
    return oid in repo.objects and oid in call.hub.blobs


def _download(call: Call, repo: Repo, item: dict[str, Any]) -> dict[str, Any]:
    oid = str(item["oid"])
    if not _is_uploaded(call, repo, oid):
        return _object(item) | {"error": {"code": 404, "message": "Object does not exist"}}
    href = call.server.links.make("GET", f"/_lfs/{oid}", commit=repo.head.sha, name=oid)
    return _object(item) | {"actions": {"download": {"href": href}}}


def _upload(call: Call, repo: Repo, item: dict[str, Any]) -> dict[str, Any]:
    answer = _object(item)
    oid, size = answer["oid"], answer["size"]
    if _is_uploaded(call, repo, oid):
        return answer
    part_size = call.server.lfs_part_size

    def link(method: str, path: str) -> str:
        params = {"kind": repo.type, "repo": repo.id, "size": str(size)}
        return call.server.links.make(method, f"/_lfs/{oid}{path}", **params)

    upload: dict[str, Any] = {"href": link("PUT", "")}
    if "multipart" in call.json.get("transfers", []) and size > part_size:
        numbers = range(1, ceil(size / part_size) + 1)
        parts = {f"{number:05d}": link("PUT", f"/parts/{number}") for number in numbers}
        header = {"chunk_size": str(part_size), **parts}
        upload = {"href": link("POST", "/complete"), "header": header}
    return answer | {"actions": {"upload": upload, "verify": {"href": link("POST", "/verify")}}}


def _target(call: Call) -> tuple[Repo, Blob]:
    """Return the repo and the object that a signed upload link was created for."""
    params = call.server.links.check(call.request)
    repo = call.hub.repos.get((params["kind"], params["repo"]))
    if repo is None:
        raise http_errors.repo_not_found(anonymous=False)
    return repo, Blob(call.params["sha256"], int(params["size"]))


async def put_object(call: Call) -> Response:
    """Receive an object; 400 unless it has the announced size and SHA-256."""
    repo, blob = _target(call)
    _store(call, repo, await _receive(call), blob)
    return Response(headers={"ETag": f'"{blob.sha256}"'})


async def put_part(call: Call) -> Response:
    """Receive one part of an object and return its ETag."""
    _, blob = _target(call)
    part = (await _receive(call)).finish()
    call.server.lfs_parts[f"{blob.sha256}/{int(call.params['num'])}"] = part.sha256
    return Response(headers={"ETag": f'"{part.sha256}"'})


async def _receive(call: Call) -> BlobWriter:
    writer = call.hub.blobs.writer()
    try:
        async for chunk in call.request.stream():
            writer.write(chunk)
    except BaseException:
        writer.discard()
        raise
    return writer


def complete(call: Call) -> Response:
    """Join the parts of an object; 400 unless they make up the announced object."""
    repo, blob = _target(call)
    received = call.server.lfs_parts
    parts = {
        f"{blob.sha256}/{number}": etag
        for number, etag in sorted(
            (int(part["partNumber"]), str(part["etag"]).strip('"'))
            for part in call.json.get("parts", [])
        )
    }
    if any(received.get(key) != etag for key, etag in parts.items()):
        raise HTTPError(400, "A part is missing or has another ETag")
    writer = call.hub.blobs.writer()
    for key in parts:
        for chunk in call.hub.blobs.chunks(received.pop(key)):
            writer.write(chunk)
    _store(call, repo, writer, blob)
    return JSONResponse({"success": True})


def _store(call: Call, repo: Repo, writer: BlobWriter, announced: Blob) -> None:
    if writer.blob != announced:
        writer.discard()
        message = "The uploaded object is not the one announced"
        raise HTTPError(400, f"{message}: got {writer.blob}, expected {announced}")
    writer.finish()
    with call.hub.lock:
        repo.objects.add(announced.sha256)
        call.hub.save(repo)


def verify(call: Call) -> Response:
    """Return 200 if the object was uploaded with the size that the client states."""
    repo, blob = _target(call)
    oid, size = call.json.get("oid"), call.json.get("size")
    uploaded = _is_uploaded(call, repo, blob.sha256)
    if not uploaded or (oid, size) != (blob.sha256, call.hub.blobs.size(blob.sha256)):
        raise HTTPError(404, f"Object {oid} of {size} bytes was not uploaded")
    return JSONResponse({})


ROUTES = [
    Route("POST", "{kind}/{git}/info/lfs/objects/batch", batch),
    Route("POST", "{git}/info/lfs/objects/batch", batch),
    Route("PUT", "_lfs/{sha256}", put_object, streams=True),
    Route("PUT", "_lfs/{sha256}/parts/{num}", put_part, streams=True),
    Route("POST", "_lfs/{sha256}/complete", complete),
    Route("POST", "_lfs/{sha256}/verify", verify),
]
