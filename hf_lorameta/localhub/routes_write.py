"""Routes that change repos: create and commit."""

import base64
import json
from typing import Any

from starlette.responses import JSONResponse, Response

from hf_lorameta.localhub import cards, http_errors, uploads
from hf_lorameta.localhub.history import Commit, Entry, Repo
from hf_lorameta.localhub.http_errors import HTTPError
from hf_lorameta.localhub.routing import Call, Route

Operation = tuple[str, dict[str, Any]]
LFS_CLIENT = "origin/localhub-classic"  # User-Agent that LocalHub.env() sets: client without Xet


def create_repo(call: Call) -> Response:
    """Create a repo; 409 if it exists, 403 in the namespace of another user."""
    writer = call.writer
    repo_type, namespace, repo_id = repo_in_body(call)
    if not writer.owns(namespace):
        rights = f'rights to create a {repo_type} under the namespace "{namespace}"'
        raise HTTPError(403, f"You don't have the {rights}")
    sdk = call.json.get("sdk")
    if repo_type == "space" and sdk not in cards.SDKS:
        raise HTTPError(400, f'"sdk" must be one of {", ".join(cards.SDKS)}')
    hardware = call.json.get("hardware")
    repo = Repo(repo_id, repo_type, private=is_private(call), sdk=sdk, hardware=hardware)
    call.hub.create(repo, writer.user.name)
    return JSONResponse({"url": call.hub.page_url(repo), "name": repo.id, "id": repo.id})


def repo_in_body(call: Call) -> tuple[str, str, str]:
    """Return (repo type, namespace, repo id)."""
    repo_type = str(call.json.get("type") or "model")
    namespace = str(call.json.get("organization") or call.writer.user.name)
    return repo_type, namespace, f"{namespace}/{call.json.get('name', '')}"


def is_private(call: Call) -> bool:
    """Whether the body asks for a private repo."""
    return call.json.get("visibility") == "private" or bool(call.json.get("private"))


def validate_yaml(call: Call) -> Response:
    """Accept the metadata of any README, which clients have validated before a commit."""
    return JSONResponse({"errors": [], "warnings": []})


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
    header = dict(operations)["header"]
    title, text = str(header["summary"]), str(header.get("description", ""))
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
    lines = map(json.loads, filter(bytes.strip, body.split(b"\n")))
    return [(line["key"], line["value"]) for line in lines]


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
            changes[path] = call.hub.store(path, base64.b64decode(value["content"], validate=True))
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


ROUTES = [
    Route("POST", "api/repos/create", create_repo),
    Route("POST", "api/validate-yaml", validate_yaml),
    Route("POST", "api/{kind}/{repo}/preupload/{rev}", preupload),
    Route("POST", "api/{kind}/{repo}/commit/{rev}", commit),
]
