"""Git LFS routes: the batch API, uploads in one request or in parts, and their verification."""

from math import ceil
from typing import Any

from starlette.responses import JSONResponse, Response

from hf_lorameta.localhub import http_errors
from hf_lorameta.localhub.blobs import Blob, BlobWriter
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
    oid, size, part_size = str(item["oid"]), int(item["size"]), call.server.lfs_part_size
    if call.hub.has_object(repo, oid):
        return {"oid": oid, "size": size}

    def link(method: str, path: str) -> str:
        params = {"kind": repo.type, "repo": repo.id, "size": str(size)}
        return call.server.link(method, f"/_lfs/{oid}{path}", **params)

    upload: dict[str, Any] = {"href": link("PUT", "")}
    if "multipart" in call.json.get("transfers", []) and size > part_size:
        numbers = range(1, ceil(size / part_size) + 1)
        parts = {f"{number:05d}": link("PUT", f"/parts/{number}") for number in numbers}
        header = {"chunk_size": str(part_size), **parts}
        upload = {"href": link("POST", "/complete"), "header": header}
    actions = {"upload": upload, "verify": {"href": link("POST", "/verify")}}
    return {"oid": oid, "size": size, "actions": actions}


def _target(call: Call) -> tuple[Repo, Blob]:
    """Return the repo and the object that a signed upload link was created for."""
    params = call.server.check_link(call.request)
    repo = call.hub.repos.get((params["kind"], params["repo"]))
    if repo is None:
        raise http_errors.repo_not_found(anonymous=False)
    return repo, Blob(call.params["sha256"], int(params["size"]))


async def put_object(call: Call) -> Response:
    """Receive an object; 400 unless it has the announced size and SHA-256."""
    repo, blob = _target(call)
    with call.hub.blobs.writer() as writer:
        async for chunk in call.request.stream():
            writer.write(chunk)
        _finish(call, repo, writer, blob)
    return Response()


async def put_part(call: Call) -> Response:
    """Receive one part of an object and return its ETag."""
    _, blob = _target(call)
    with call.hub.blobs.writer() as writer:
        async for chunk in call.request.stream():
            writer.write(chunk)
        part = writer.finish()
    call.server.lfs_parts[blob.sha256, int(call.params["num"])] = part.sha256
    return Response(headers={"ETag": f'"{part.sha256}"'})


def complete(call: Call) -> Response:
    """Join the parts of an object; 400 unless they make up the announced object."""
    repo, blob = _target(call)
    with call.hub.blobs.writer() as writer:
        for number in sorted(int(part["partNumber"]) for part in call.json["parts"]):
            part = call.server.lfs_parts.pop((blob.sha256, number))
            for chunk in call.hub.blobs.chunks(part):
                writer.write(chunk)
        _finish(call, repo, writer, blob)
    return JSONResponse({"success": True})


def _finish(call: Call, repo: Repo, writer: BlobWriter, announced: Blob) -> None:
    if writer.blob != announced:
        message = "The uploaded object is not the one announced"
        raise HTTPError(400, f"{message}: got {writer.blob}, expected {announced}")
    writer.finish()
    with call.hub.lock:
        repo.objects.add(announced.sha256)
        call.hub.save(repo)


def verify(call: Call) -> Response:
    """Return 200 if the object was uploaded."""
    repo, blob = _target(call)
    if not call.hub.has_object(repo, blob.sha256):
        raise HTTPError(404, f"Object {blob.sha256} was not uploaded")
    return JSONResponse({})


ROUTES = [
    Route("POST", "{kind?}/{repo}[.]git/info/lfs/objects/batch", batch),
    Route("PUT", "_lfs/{sha256}", put_object),
    Route("PUT", "_lfs/{sha256}/parts/{num}", put_part),
    Route("POST", "_lfs/{sha256}/complete", complete),
    Route("POST", "_lfs/{sha256}/verify", verify),
]
