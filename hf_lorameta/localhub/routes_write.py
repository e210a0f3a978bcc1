"""Routes that change repos: create, delete, settings, commits, branches and tags."""

import base64
import binascii
import json
import re
from typing import Any

from starlette.responses import JSONResponse, Response

from hf_lorameta.localhub import cards, http_errors, uploads
from hf_lorameta.localhub.history import Commit, Entry, Repo
from hf_lorameta.localhub.http_errors import HTTPError
from hf_lorameta.localhub.routing import Call, Route

Operation = tuple[str, dict[str, Any]]
_TAG = re.compile(r"(?![./-])(?!.*(?:\.\.|//|@\{|\.lock$|[./]$))[^\s~^:?*\[\\\x00-\x1f\x7f]+")
LFS_CLIENT = "origin/localhub-classic"  # User-Agent that LocalHub.env() sets: client without Xet


def create_repo(call: Call) -> Response:
    """Create a repo; 409 if it exists, 403 in the namespace of another user."""
    writer = call.writer
    repo_type, namespace, repo_id = _repo_in_body(call)
    if not writer.owns(namespace):
        rights = f'rights to create a {repo_type} under the namespace "{namespace}"'
        raise HTTPError(403, f"You don't have the {rights}")
    sdk = call.json.get("sdk")
    if repo_type == "space" and sdk not in cards.SDKS:
        raise HTTPError(400, f'"sdk" must be one of {", ".join(cards.SDKS)}')
    hardware = call.json.get("hardware")
    repo = Repo(repo_id, repo_type, private=_is_private(call), sdk=sdk, hardware=hardware)
    call.hub.create(repo, writer.user.name)
    return JSONResponse({"url": call.hub.page_url(repo), "name": repo.id, "id": repo.id})


def _repo_in_body(call: Call) -> tuple[str, str, str]:
    """Return (repo type, namespace, repo id)."""
    repo_type = str(call.json.get("type") or "model")
    namespace = str(call.json.get("organization") or call.writer.user.name)
    return repo_type, namespace, f"{namespace}/{call.json.get('name', '')}"


def _is_private(call: Call) -> bool:
    return call.json.get("visibility") == "private" or bool(call.json.get("private"))


def delete_repo(call: Call) -> Response:
    """Delete a repo."""
    repo_type, _, call.params["repo"] = _repo_in_body(call)
    call.params["kind"] = f"{repo_type}s"
    repo = call.writable_repo()
    del call.hub.repos[repo.type, repo.id]
    return Response("OK", media_type="text/plain")


def update_settings(call: Call) -> Response:
    """Set private and gated."""
    repo = call.writable_repo()
    if "visibility" in call.json or "private" in call.json:
        repo.private = _is_private(call)
    gated = call.json.get("gated", repo.gated)
    if gated not in ("auto", "manual", False):
        raise HTTPError(400, '"gated" must be one of [auto, manual, false]')
    repo.gated = gated
    return JSONResponse({"private": repo.private, "gated": repo.gated})


def validate_yaml(call: Call) -> Response:
    """Validate the metadata of a README."""
    repo_type = str(call.json.get("repoType") or "model")
    return JSONResponse(cards.validate(str(call.json.get("content", "")), repo_type))


def preupload(call: Call) -> Response:
    """Return for each file how to upload it, and its current id in the repo."""
    commit = call.commit_of(_writable_repo(call))
    attributes = call.hub.text(commit.tree, ".gitattributes") or ""
    allow_lfs = _allows_lfs(call)
    files = []
    for file in call.json.get("files", []):
        path, sample = str(file["path"]), base64.b64decode(file.get("sample", ""))
        lfs = allow_lfs and uploads.is_lfs(path, int(file["size"]), sample, attributes)
        mode = "lfs" if lfs else "regular"
        item = {"path": path, "uploadMode": mode, "shouldIgnore": False}
        entry = commit.tree.get(path)
        if entry is not None:  # the git id is that of the file, even if the tree has a pointer
            item["oid"] = entry.sha256 if lfs else uploads.git_oid(call.hub.blobs[entry.sha256])
        files.append(item)
    return JSONResponse({"files": files, "commitOid": commit.sha})


def _writable_repo(call: Call) -> Repo:
    return call.writable_repo(by_pr=call.flag("create_pr"))


def _allows_lfs(call: Call) -> bool:
    """Return whether clients may be asked to upload to Git LFS instead of inside the commit.

    A client with hf_xet would upload to Xet storage, without a fallback to Git LFS. It can be
    recognized only by its environment (see ``LocalHub.env``).
    """
    return call.hub.always_lfs or LFS_CLIENT in call.request.headers.get("user-agent", "")


def commit(call: Call) -> Response:
    """Create a commit, or with ``create_pr`` a pull request, from an NDJSON body."""
    repo, operations = _writable_repo(call), _operations(call.body)
    header = next((value for key, value in operations if key == "header"), None)
    if header is None:
        raise HTTPError(400, "The commit body has no header")
    title, text = str(header.get("summary", "")), str(header.get("description", ""))
    if not title.strip():
        raise HTTPError(400, "The commit header has no summary")
    revision, parent = call.params["rev"], header.get("parentCommit")
    changes = _changes(call, repo, operations)
    page_url, answer = call.hub.page_url(repo), {"success": True, "hookOutput": ""}
    author = call.writer.user.name
    if call.flag("create_pr"):
        if revision not in repo.branches:
            raise http_errors.revision_not_found(revision)
        call.hub.check_card(repo, changes)  # a refused commit opens no pull request
        revision, parent = repo.open_pull_request(repo.resolve(parent or revision), author), None
        answer["pullRequestUrl"] = f"{page_url}/discussions/{revision.rpartition('/')[2]}"
    new = call.hub.commit(
        repo, revision, changes, title=title, message=text, author=author, parent=parent
    )
    answer |= {"commitOid": new.sha, "commitUrl": f"{page_url}/commit/{new.sha}"}
    return JSONResponse(answer)


def _operations(body: bytes) -> list[Operation]:
    """Return the (key, value) of each line of a commit body."""
    operations = []
    for line in filter(bytes.strip, body.split(b"\n")):
        try:
            item = json.loads(line)
            key, value = item["key"], item["value"]
        except (ValueError, KeyError, TypeError) as error:
            raise HTTPError(400, "A line of the commit body is not {key, value} JSON") from error
        if not isinstance(value, dict):
            raise HTTPError(400, f"The value of {key!r} is not an object")
        operations.append((key, value))
    return operations


def _content(value: dict[str, Any]) -> bytes:
    """Return the contents of a file that is sent inside the commit."""
    content = value.get("content")
    if value.get("encoding") != "base64" or not isinstance(content, str):
        raise HTTPError(400, "File content must be sent with encoding base64")
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error as error:
        raise HTTPError(400, f"File content is not valid base64: {error}") from error


def _changes(call: Call, repo: Repo, operations: list[Operation]) -> dict[str, Entry | None]:
    head = call.commit_of(repo)
    changes: dict[str, Entry | None] = {}
    for key, value in operations:
        if key == "header":
            continue
        path = str(value.get("path", ""))
        parts = path.rstrip("/").split("/")
        if path.startswith("..\\") or any(part in ("", ".", "..", ".git") for part in parts):
            raise HTTPError(422, f"Invalid path in repo: {path!r}")
        if key == "file":
            changes[path] = call.hub.store(path, _content(value))
        elif key == "lfsFile":
            sha256 = str(value.get("oid", ""))
            if not call.hub.has_object(repo, sha256):
                message = "LFS pointer pointed to a file that does not exist"
                raise HTTPError(400, f"{message}: {path} ({sha256})")
            changes[path] = uploads.lfs_entry(sha256, len(call.hub.blobs[sha256]))
        elif key == "copyFile":
            source = repo.resolve(str(value.get("srcRevision") or head.sha))
            source_path = str(value.get("srcPath", ""))
            if source_path not in source.tree:
                raise http_errors.entry_not_found(source_path, source.sha)
            changes[path] = source.tree[source_path]
        elif key in ("deletedFile", "deletedFolder"):
            changes |= dict.fromkeys(_paths_to_delete(head, path, key == "deletedFolder"))
        else:
            raise HTTPError(400, f"Unknown commit operation {key!r}")
    return changes


def _paths_to_delete(head: Commit, path: str, folder: bool) -> list[str]:
    prefix = f"{path.rstrip('/')}/"
    inside = [p for p in head.tree if p.startswith(prefix)]
    # the Hub deletes a folder although it is named like a file
    paths = inside if folder or path not in head.tree else [path]
    if not paths:
        kind = "folder" if folder else "file"
        message = f"A {kind} with this name doesn't exist: {path}"
        raise http_errors.entry_not_found(path, head.sha, message)
    return paths


def create_branch(call: Call) -> Response:
    """Create a branch; 409 if it exists."""
    repo, name = call.writable_repo(), call.params["name"]
    if name in repo.refs:
        raise HTTPError(409, f"Reference refs/heads/{name} already exists")
    repo.refs[name] = repo.resolve(str(call.json.get("startingPoint") or "main")).sha
    return JSONResponse({})


def delete_branch(call: Call) -> Response:
    """Delete a branch other than ``main``."""
    repo, name = call.writable_repo(), call.params["name"]
    if name == "main":
        raise HTTPError(403, "Cannot delete refs/heads/main")
    if name not in repo.branches:
        raise http_errors.revision_not_found(name)
    del repo.refs[name]
    return JSONResponse({})


def create_tag(call: Call) -> Response:
    """Create a tag at a revision; 409 if it exists."""
    repo, tag = call.writable_repo(), str(call.json.get("tag") or "")
    sha = call.commit_of(repo).sha
    if not _TAG.fullmatch(tag):
        raise HTTPError(400, f"Invalid tag name: {tag!r}")
    if tag in repo.tags:
        raise HTTPError(409, f"Tag reference exists already: refs/tags/{tag}")
    repo.tags[tag] = sha
    return JSONResponse({})


def delete_tag(call: Call) -> Response:
    """Delete a tag."""
    repo, tag = call.writable_repo(), call.params["rev"]
    if repo.tags.pop(tag, None) is None:
        raise http_errors.revision_not_found(tag)
    return JSONResponse({})


ROUTES = [
    Route("POST", "api/repos/create", create_repo),
    Route("DELETE", "api/repos/delete", delete_repo),
    Route("PUT", "api/{kind}/{repo}/settings", update_settings),
    Route("POST", "api/validate-yaml", validate_yaml),
    Route("POST", "api/{kind}/{repo}/preupload/{rev}", preupload),
    Route("POST", "api/{kind}/{repo}/commit/{rev}", commit),
    Route("POST", "api/{kind}/{repo}/branch/{name}", create_branch),
    Route("DELETE", "api/{kind}/{repo}/branch/{name}", delete_branch),
    Route("POST", "api/{kind}/{repo}/tag/{rev}", create_tag),
    Route("DELETE", "api/{kind}/{repo}/tag/{rev}", delete_tag),
]
