"""Routes: whoami, repo info, folders and downloads; creating repos and committing to them."""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

import yaml
from starlette.responses import JSONResponse, Response

from hf_lorameta.localhub.errors import HTTPError, entry_not_found
from hf_lorameta.localhub.routing import Call, Route
from hf_lorameta.localhub.state import Changes, Commit, Entry, Repo

# ---- accounts and repos


def whoami(call: Call) -> Response:
    """Return the user that the token belongs to."""
    return JSONResponse({"type": "user", "name": call.user.name})


def repo_info(call: Call) -> Response:
    """Return the info of a repo at a revision."""
    repo = call.visible_repo()
    return JSONResponse(info_of(call, repo, call.commit_of(repo)))


def info_of(call: Call, repo: Repo, commit: Commit) -> dict[str, Any]:
    """Return a repo's info at a commit; with the flag ``blobs``, sizes and digests of files."""
    blobs = call.flag("blobs")
    return {
        "_id": object_id(f"{repo.type} {repo.id}"),
        "id": repo.id,
        "author": repo.namespace,
        "sha": commit.sha,
        "lastModified": commit.date,
        "createdAt": repo.created,
        "private": repo.private,
        "siblings": [_sibling(path, entry, blobs) for path, entry in sorted(commit.tree.items())],
        "cardData": card_metadata(call.hub.text(commit.tree, "README.md") or ""),
    }


def object_id(text: str) -> str:
    """Return 24 hex digits derived from `text`, in the format of the Hub's database ids."""
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _sibling(path: str, entry: Entry, blobs: bool) -> dict[str, Any]:
    if not blobs:
        return {"rfilename": path}
    return {"rfilename": path, "size": entry.size, "blobId": entry.oid}


def parse_card(text: str) -> Any:
    """Return the YAML metadata of a README as JSON values; None if there are none."""
    block = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", text, re.DOTALL)
    return json.loads(json.dumps(yaml.safe_load(block[1]), default=str)) if block else None


def card_metadata(text: str) -> dict[str, Any]:
    """Return the metadata of a README; empty if they are missing or not valid."""
    try:
        data = parse_card(text)
    except yaml.YAMLError:
        return {}
    return data if isinstance(data, dict) else {}


def create_repo(call: Call) -> Response:
    """Create a repo; 409 if it exists, 403 in the namespace of another user."""
    repo_type, repo_id = repo_in_body(call)
    return created(call, Repo(repo_id, repo_type, is_private(call)))


def repo_in_body(call: Call) -> tuple[str, str]:
    """Return repo type and repo id."""
    namespace = call.json.get("organization") or call.user.name
    return str(call.json.get("type") or "model"), f"{namespace}/{call.json.get('name', '')}"


def is_private(call: Call) -> bool:
    """Whether the body asks for a private repo."""
    return call.json.get("visibility") == "private" or bool(call.json.get("private"))


def created(call: Call, repo: Repo) -> Response:
    """Add a repo to the hub, and return its URL."""
    if not call.user.owns(repo.namespace):
        rights = f'rights to create a {repo.type} under the namespace "{repo.namespace}"'
        raise HTTPError(403, f"You don't have the {rights}")
    call.hub.create(repo)
    return JSONResponse({"url": call.hub.page_url(repo), "name": repo.id, "id": repo.id})


# ---- files


def tree(call: Call) -> Response:
    """Return the files and folders in a folder."""
    commit, folder = call.commit_of(call.visible_repo()), call.params["path"].strip("/")
    if folder and folder not in folders(commit):
        raise entry_not_found(folder, commit.sha)
    prefix = f"{folder}/" if folder else ""
    paths = sorted(p for p in (*folders(commit), *commit.tree) if p.startswith(prefix))
    if not call.flag("recursive"):
        paths = [path for path in paths if "/" not in path.removeprefix(prefix)]
    items = [tree_item(path, commit.tree.get(path)) for path in paths]
    return JSONResponse(items, headers={"X-Repo-Commit": commit.sha})


def folders(commit: Commit) -> set[str]:
    """Return the paths of all folders of a commit."""
    parents = (PurePosixPath(path).parents for path in commit.tree)
    return {str(parent) for chain in parents for parent in chain} - {"."}


def tree_item(path: str, entry: Entry | None) -> dict[str, Any]:
    """Return a file, or a folder if `entry` is None."""
    if entry is None:
        oid = hashlib.sha1(path.encode(), usedforsecurity=False).hexdigest()
        return {"type": "directory", "oid": oid, "size": 0, "path": path}
    return {"type": "file", "oid": entry.oid, "size": entry.size, "path": path}


def resolve(call: Call) -> Response:
    """Return a file."""
    commit, path = call.commit_of(call.visible_repo()), call.params["path"]
    if path not in commit.tree:
        raise entry_not_found(path, commit.sha)
    entry = commit.tree[path]
    return serve(call, entry.sha256, entry.oid, commit.sha)


def serve(call: Call, sha256: str, etag: str, commit: str) -> Response:
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


# ---- commits

Operation = Callable[[Any, Any, str, dict[str, Any]], Changes]
"""Returns changes, from a `Call`, its `Repo`, and the path and the values in a line of a commit."""


def validate_yaml(call: Call) -> Response:
    """Accept the metadata of any README, which clients have validated before a commit."""
    return JSONResponse({"errors": [], "warnings": []})


def preupload(call: Call) -> Response:
    """Return for each file how to upload it, and its current id in the repo."""
    commit = call.commit_of(call.writable_repo())
    files = []
    for file in call.json.get("files", []):
        item = {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
        if entry := commit.tree.get(file["path"]):
            item["oid"] = entry.oid
        files.append(item)
    return JSONResponse({"files": files, "commitOid": commit.sha})


def _file(call: Call, repo: Repo, path: str, value: dict[str, Any]) -> Changes:
    return {path: call.hub.store(path, base64.b64decode(value["content"], validate=True))}


OPERATIONS: Mapping[str, Operation] = {"file": _file}


def commit(call: Call, operations: Mapping[str, Operation] = OPERATIONS) -> Response:
    """Create a commit from an NDJSON body, whose lines name operations."""
    repo = call.writable_repo()
    lines = [json.loads(line) for line in call.body.split(b"\n") if line.strip()]
    values = [(line["key"], line["value"]) for line in lines]
    header = dict(values)["header"]
    changes: Changes = {}
    for key, value in values:
        if key != "header":
            change = operations[key](call, repo, str(value.get("path", "")), value)
            changes = {**changes, **change}
    title, parent = str(header["summary"]), header.get("parentCommit")
    new = call.hub.commit(repo, call.params["rev"], changes, title, parent)
    url = f"{call.hub.page_url(repo)}/commit/{new.sha}"
    return JSONResponse({"success": True, "hookOutput": "", "commitOid": new.sha, "commitUrl": url})


ROUTES = (
    Route("GET", "api/whoami-v2", whoami),
    Route("GET", "api/{kind}/{repo}", repo_info),
    Route("GET", "api/{kind}/{repo}/revision/{rev}", repo_info),
    Route("GET", "api/{kind}/{repo}/tree/{rev}/{path*}", tree),
    Route("POST", "api/repos/create", create_repo),
    Route("POST", "api/validate-yaml", validate_yaml),
    Route("POST", "api/{kind}/{repo}/preupload/{rev}", preupload),
    Route("POST", "api/{kind}/{repo}/commit/{rev}", commit),
    Route("GET", "{kind?}/{repo}/resolve/{rev}/{path*}", resolve),
)
