"""Routes of git-LFS: the batch API, the upload of an object, whole or in parts, and its check."""

from math import ceil
from typing import Any

from starlette.responses import JSONResponse, Response

from hf_lorameta.localhub import blobs, http_errors
from hf_lorameta.localhub.history import Repo
from hf_lorameta.localhub.routing import Call, Route

_MIME = "application/vnd.git-lfs+json"


def batch(call: Call) -> Response:
    """Answers, for each object, where to upload or download it."""
    repo_id = call.params["git"].removesuffix(".git")
    download = call.json.get("operation") == "download"
    if download:
        repo = call.hub.readable(call.kind, repo_id, call.caller)
    else:
        # whoever may open a pull request may upload for it
        repo = call.hub.writable(call.kind, repo_id, call.caller, by_pr="ref" not in call.json)
    parts = "multipart" in call.json.get("transfers", [])
    objects = []
    multipart = False
    for asked in call.json.get("objects", []):
        oid, size = str(asked["oid"]), int(asked["size"])
        answer: dict[str, Any] = {"oid": oid, "size": size, "authenticated": True}
        if download:
            answer.update(_download(call, repo, oid))
        elif not (oid in repo.objects and call.hub.blobs.has(oid)):
            several = parts and size > call.settings.lfs_part_size
            multipart = multipart or several
            answer["actions"] = _upload(call, repo, oid, size, several)
        objects.append(answer)
    transfer = "multipart" if multipart else "basic"
    return JSONResponse({"transfer": transfer, "objects": objects}, media_type=_MIME)


def _download(call: Call, repo: Repo, oid: str) -> dict[str, Any]:
    if oid not in repo.objects or not call.hub.blobs.has(oid):
        return {"error": {"code": 404, "message": "Object does not exist"}}
    href = call.links.make("GET", f"/_lfs/{oid}", commit=repo.head.sha, name=oid)
    return {"actions": {"download": {"href": href}}}


def _upload(call: Call, repo: Repo, oid: str, size: int, several: bool) -> dict[str, Any]:
    where = {"kind": repo.type, "repo": repo.id, "size": str(size)}
    verify = {"href": call.links.make("POST", f"/_lfs/{oid}/verify", **where)}
    if not several:
        return {
            "upload": {"href": call.links.make("PUT", f"/_lfs/{oid}", **where)},
            "verify": verify,
        }
    step = call.settings.lfs_part_size
    header = {"chunk_size": str(step)}
    for number in range(1, ceil(size / step) + 1):
        path = f"/_lfs/{oid}/parts/{number}"
        header[f"{number:05d}"] = call.links.make("PUT", path, **where)
    complete = call.links.make("POST", f"/_lfs/{oid}/complete", **where)
    return {"upload": {"href": complete, "header": header}, "verify": verify}


def _target(call: Call) -> tuple[Repo, str, int]:
    """The repo, oid and size a signed upload link was made for."""
    params = call.links.check(call.request)
    repo = call.hub.repos.get((params["kind"], params["repo"]))
    if repo is None:
        raise http_errors.repo_missing(anonymous=False)
    return repo, call.params["sha256"], int(params["size"])


async def put_object(call: Call) -> Response:
    """Takes a whole object; 400 unless its size and sha256 are those announced."""
    repo, oid, size = _target(call)
    writer = await _received(call)
    _keep(call, repo, writer, oid, size)
    return Response(headers={"ETag": f'"{oid}"'})


async def put_part(call: Call) -> Response:
    """Takes one part of an object and answers its ETag."""
    _target(call)
    writer = await _received(call)
    part = writer.finish()
    call.links.parts[_part_key(call.params["sha256"], call.params["num"])] = part.sha256
    return Response(headers={"ETag": f'"{part.sha256}"'})


async def _received(call: Call) -> blobs.BlobWriter:
    writer = call.hub.blobs.writer()
    try:
        async for chunk in call.request.stream():
            writer.write(chunk)
    except BaseException:
        writer.discard()
        raise
    return writer


def _part_key(oid: str, number: str) -> str:
    return f"{oid}/{int(number)}"


def complete(call: Call) -> Response:
    """Joins the parts of an object; 400 unless they make up the object announced."""
    repo, oid, size = _target(call)
    writer = call.hub.blobs.writer()
    known = call.links.parts
    asked = sorted(call.json.get("parts", []), key=lambda part: int(part["partNumber"]))
    keys = [_part_key(oid, str(part["partNumber"])) for part in asked]
    if any(known.get(k) != str(p["etag"]).strip('"') for k, p in zip(keys, asked, strict=True)):
        writer.discard()
        raise http_errors.Refusal(400, "A part is missing or has another ETag")
    for key in keys:
        for chunk in call.hub.blobs.chunks(known.pop(key)):
            writer.write(chunk)
    _keep(call, repo, writer, oid, size)
    return JSONResponse({"success": True})


def _keep(call: Call, repo: Repo, writer: blobs.BlobWriter, oid: str, size: int) -> None:
    if (writer.sha256, writer.size) != (oid, size):
        got = f"{writer.sha256} of {writer.size} bytes"
        writer.discard()
        words = f"The uploaded object is not the one announced: got {got}, expected {oid} of {size}"
        raise http_errors.Refusal(400, words)
    writer.finish()
    with call.hub.lock:
        repo.objects.add(oid)
        call.hub.save(repo)


def verify(call: Call) -> Response:
    """Answers 200 if the object is here with the size the client says."""
    repo, oid, _ = _target(call)
    asked = (str(call.json.get("oid", "")), call.json.get("size"))
    if oid not in repo.objects or asked != (oid, call.hub.blobs.size(oid)):
        raise http_errors.Refusal(404, f"Object {asked[0]} of {asked[1]} bytes was not uploaded")
    return JSONResponse({})


ROUTES = [
    Route("POST", "{kind}/{git}/info/lfs/objects/batch", batch),
    Route("POST", "{git}/info/lfs/objects/batch", batch),
    Route("PUT", "_lfs/{sha256}", put_object, streams=True),
    Route("PUT", "_lfs/{sha256}/parts/{num}", put_part, streams=True),
    Route("POST", "_lfs/{sha256}/complete", complete),
    Route("POST", "_lfs/{sha256}/verify", verify),
]
