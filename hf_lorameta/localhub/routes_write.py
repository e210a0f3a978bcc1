"""Routes that change repos: create, delete, settings, commits, branches and tags."""

import base64
import re

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from hf_lorameta.localhub import cards, http_errors, uploads
from hf_lorameta.localhub.blobs import Blob
from hf_lorameta.localhub.commit_body import Operation, read_operations
from hf_lorameta.localhub.history import Commit, Entry, Repo
from hf_lorameta.localhub.http_errors import HTTPError
from hf_lorameta.localhub.routing import Call, Route

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
    repo = Repo(repo_id, repo_type, private=_is_private(call), sdk=sdk)
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
    call.hub.delete(call.writable_repo())
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
    return call.saved(repo, private=repo.private, gated=repo.gated)


def grant_access(call: Call) -> Response:
    """Give a user access to a gated repo."""
    repo = call.writable_repo()
    user = str(call.json.get("user") or "")
    if user not in call.hub.accounts.users:
        raise HTTPError(404, f"User {user} not found")
    repo.granted.add(user)
    return call.saved(repo)


def validate_yaml(call: Call) -> Response:
    """Validate the metadata of a README."""
    repo_type = str(call.json.get("repoType") or "model")
    return JSONResponse(cards.validate(str(call.json.get("content", "")), repo_type))


def preupload(call: Call) -> Response:
    """Return for each file how to upload it, and its current id in the repo."""
    commit = call.commit_of(_writable_repo(call))
    rules = call.json.get("gitIgnore", call.hub.text(commit.tree, ".gitignore")) or ""
    attributes = call.hub.text(commit.tree, ".gitattributes") or ""
    allow_lfs = _allows_lfs(call)
    files = []
    for file in call.json.get("files", []):
        path, sample = str(file["path"]), base64.b64decode(file.get("sample", ""))
        lfs = allow_lfs and uploads.is_lfs(path, int(file["size"]), sample, attributes)
        item = {
            "path": path,
            "uploadMode": "lfs" if lfs else "regular",
            "shouldIgnore": uploads.is_ignored(path, rules),
        }
        entry = commit.tree.get(path)
        if entry is not None:  # the git id is that of the file, even if the tree has a pointer
            item["oid"] = entry.sha256 if lfs else call.hub.blobs.git_oid(entry.blob)
        files.append(item)
    return JSONResponse({"files": files, "commitOid": commit.sha})


def _writable_repo(call: Call) -> Repo:
    by_pr = call.flag("create_pr") or call.params["rev"].startswith("refs/pr/")
    return call.writable_repo(by_pr)


def _allows_lfs(call: Call) -> bool:
    """Return whether clients may be asked to upload to Git LFS instead of inside the commit.

    A client with hf_xet would upload to Xet storage, without a fallback to Git LFS. It can be
    recognized only by its environment (see ``LocalHub.env``).
    """
    if call.server.uploads != "auto":
        return call.server.uploads == "lfs"
    return LFS_CLIENT in call.request.headers.get("user-agent", "")


async def commit(call: Call) -> Response:
    """Create a commit, or with ``create_pr`` a pull request, from an NDJSON body."""
    repo = _writable_repo(call)
    call.commit_of(repo)  # report a missing branch before reading the body
    operations = await read_operations(call.request.stream(), call.hub.blobs)
    return await run_in_threadpool(_commit, call, repo, operations)


def _commit(call: Call, repo: Repo, operations: list[Operation]) -> Response:
    header = next((value for key, value in operations if key == "header"), None)
    if header is None:
        raise HTTPError(400, "The commit body has no header")
    title, text = str(header.get("summary", "")), str(header.get("description", ""))
    if not title.strip():
        raise HTTPError(400, "The commit header has no summary")
    author = call.writer.user.name
    revision, parent = call.params["rev"], header.get("parentCommit")
    page_url, answer = call.hub.page_url(repo), {"success": True, "hookOutput": ""}
    with call.hub.lock:
        changes, pr = _changes(call, repo, operations), None
        if call.flag("create_pr"):
            if revision not in repo.branches:
                raise http_errors.revision_not_found(revision)
            pr = repo.open_discussion(title, text, author, is_pr=True)
            if parent is not None:
                pr.base = repo.refs[pr.ref] = repo.resolve(parent).sha
            revision, parent = pr.ref, None
            answer["pullRequestUrl"] = f"{page_url}/discussions/{pr.num}"
        discussion = next((d for d in repo.discussions if d.is_pr and d.ref == revision), None)
        if discussion is None or discussion.author != author:
            call.writable_repo()
        try:
            new = call.hub.commit(
                repo, revision, changes, title=title, message=text, author=author, parent=parent
            )
        except HTTPError:
            if pr is not None:  # a refused commit opens no pull request
                repo.discussions.remove(pr)
                del repo.refs[pr.ref]
            raise
        if discussion is not None:
            discussion.add_event(author, "commit", subject=title, oid=new.sha)
            call.hub.save(repo)
    answer |= {"commitOid": new.sha, "commitUrl": f"{page_url}/commit/{new.sha}"}
    return JSONResponse(answer)


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
            changes[path] = uploads.entry_for(call.hub.blobs, path, value["blob"])
        elif key == "lfsFile":
            sha256 = str(value.get("oid", ""))
            if not call.hub.has_object(repo, sha256):
                message = "LFS pointer pointed to a file that does not exist"
                raise HTTPError(400, f"{message}: {path} ({sha256})")
            changes[path] = uploads.lfs_entry(Blob(sha256, call.hub.blobs.size(sha256)))
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
    return call.saved(repo)


def delete_branch(call: Call) -> Response:
    """Delete a branch other than ``main``."""
    repo, name = call.writable_repo(), call.params["name"]
    if name == "main":
        raise HTTPError(403, "Cannot delete refs/heads/main")
    if name not in repo.branches:
        raise http_errors.revision_not_found(name)
    del repo.refs[name]
    return call.saved(repo)


def create_tag(call: Call) -> Response:
    """Create a tag at a revision; 409 if it exists."""
    repo, tag = call.writable_repo(), str(call.json.get("tag") or "")
    sha = call.commit_of(repo).sha
    if not _TAG.fullmatch(tag):
        raise HTTPError(400, f"Invalid tag name: {tag!r}")
    if tag in repo.tags:
        raise HTTPError(409, f"Tag reference exists already: refs/tags/{tag}")
    repo.tags[tag] = (sha, call.json.get("message"))
    return call.saved(repo)


def delete_tag(call: Call) -> Response:
    """Delete a tag."""
    repo, tag = call.writable_repo(), call.params["rev"]
    if repo.tags.pop(tag, None) is None:
        raise http_errors.revision_not_found(tag)
    return call.saved(repo)


ROUTES = [
    Route("POST", "api/repos/create", create_repo),
    Route("DELETE", "api/repos/delete", delete_repo),
    Route("PUT", "api/{kind}/{repo}/settings", update_settings),
    Route("POST", "api/{kind}/{repo}/user-access-request/grant", grant_access),
    Route("POST", "api/validate-yaml", validate_yaml),
    Route("POST", "api/{kind}/{repo}/preupload/{rev}", preupload),
    Route("POST", "api/{kind}/{repo}/commit/{rev}", commit),
    Route("POST", "api/{kind}/{repo}/branch/{name}", create_branch),
    Route("DELETE", "api/{kind}/{repo}/branch/{name}", delete_branch),
    Route("POST", "api/{kind}/{repo}/tag/{rev}", create_tag),
    Route("DELETE", "api/{kind}/{repo}/tag/{rev}", delete_tag),
]
