"""Routes that change repos: create, delete, settings, commits, branches and tags."""

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from hf_lorameta.localhub import blobs, cards, http_errors, ndjson, state, uploads
from hf_lorameta.localhub.history import Discussion, Entry, Gated, Repo
from hf_lorameta.localhub.routing import Call, Route

CLASSIC_CLIENT = "origin/localhub-classic"  # set by LocalHub.env(): a client without Xet
_GATES: dict[Any, Gated] = {"auto": "auto", "manual": "manual", False: False, True: "auto"}


def create_repo(call: Call) -> Response:
    """Makes a repo; 409 if it is there, 403 in somebody else's namespace."""
    caller = state.require_writer(call.caller)
    kind = state.check_repo_type(str(call.json.get("type") or "model"))
    namespace = str(call.json.get("organization") or caller.user.name)
    repo_id = f"{namespace}/{call.json.get('name', '')}"
    if not caller.owns(namespace):
        raise http_errors.foreign_namespace(namespace, kind)
    if (kind, repo_id) in call.hub.repos:
        words = f"You already created this {kind} repo: {repo_id}"
        body = {"url": _page(call, call.hub.repos[kind, repo_id])}
        raise http_errors.Refusal(409, words, body=body)
    private = call.json.get("visibility") == "private" or bool(call.json.get("private"))
    sdk = call.json.get("sdk")
    if kind == "space" and sdk not in cards.SDKS:
        raise http_errors.Refusal(400, f'"sdk" must be one of {", ".join(cards.SDKS)}')
    repo = Repo(repo_id, kind, private=private, sdk=sdk)
    call.hub.create(repo, caller.user.name)
    return JSONResponse({"url": _page(call, repo), "name": repo.id, "id": repo.id})


def _page(call: Call, repo: Repo) -> str:
    return f"{call.links.base}/{state.page_path(repo)}"


def delete_repo(call: Call) -> Response:
    """Removes a repo."""
    caller = state.require_writer(call.caller)
    kind = state.check_repo_type(str(call.json.get("type") or "model"))
    namespace = call.json.get("organization") or caller.user.name
    repo = call.hub.writable(kind, f"{namespace}/{call.json.get('name', '')}", caller)
    call.hub.delete(repo)
    return Response("OK", media_type="text/plain")


def update_settings(call: Call) -> Response:
    """Sets private and gated."""
    repo = call.hub.writable(call.kind, call.params["repo"], call.caller)
    data = call.json
    with call.hub.lock:
        if "visibility" in data or "private" in data:
            repo.private = data.get("visibility", "") == "private" or bool(data.get("private"))
        if "gated" in data:
            if data["gated"] not in _GATES:
                raise http_errors.Refusal(400, '"gated" must be one of [auto, manual, false]')
            repo.gated = _GATES[data["gated"]]
        call.hub.save(repo)
    return JSONResponse({"private": repo.private, "gated": repo.gated})


def grant_access(call: Call) -> Response:
    """Lets a user read a gated repo."""
    repo = call.hub.writable(call.kind, call.params["repo"], call.caller)
    user = str(call.json.get("user") or "")
    if user not in call.hub.accounts.users:
        raise http_errors.Refusal(404, f"User {user} not found")
    with call.hub.lock:
        repo.granted.add(user)
        call.hub.save(repo)
    return JSONResponse({})


def validate_yaml(call: Call) -> Response:
    """Says what is wrong with a README's YAML block."""
    kind = str(call.json.get("repoType") or "model")
    errors, warnings = cards.check(str(call.json.get("content", "")), kind)
    body = {"errors": cards.as_items(errors), "warnings": cards.as_items(warnings)}
    if errors:
        raise http_errors.Refusal(400, f"Invalid metadata in README.md. {errors[0]}", body=body)
    return JSONResponse(body)


def preupload(call: Call) -> Response:
    """Says for each file how to upload it, and what the repo holds under its name."""
    to_pr = call.flag("create_pr") or call.params["rev"].startswith("refs/pr/")
    repo = call.hub.writable(call.kind, call.params["repo"], call.caller, to_pr)
    commit = repo.resolve(call.params["rev"])
    given = call.json.get("gitIgnore")
    rules = (call.hub.text(commit, ".gitignore") if given is None else str(given)) or ""
    inline = _wants_inline(call)
    files = []
    for file in call.json.get("files", []):
        path, size = str(file["path"]), int(file["size"])
        sample = ndjson.decoded(str(file.get("sample", "")))
        large = not inline and uploads.is_large(path, size, sample)
        item = {
            "path": path,
            "uploadMode": "lfs" if large else "regular",
            "shouldIgnore": uploads.ignored(path, rules),
        }
        entry = commit.tree.get(path)
        if entry is not None:
            item["oid"] = entry.sha256 if large else _plain_oid(call, entry)
        files.append(item)
    return JSONResponse({"files": files, "commitOid": commit.sha})


def _wants_inline(call: Call) -> bool:
    """Whether all files are to come inside the commit.

    A client with hf_xet sends large files to Xet storage and never falls back to LFS; it cannot be
    told from one without, unless its environment is ours (see ``LocalHub.env``).
    """
    if call.settings.uploads != "auto":
        return call.settings.uploads == "inline"
    return CLASSIC_CLIENT not in call.request.headers.get("user-agent", "")


def _plain_oid(call: Call, entry: Entry) -> str:
    """The git id of the bytes themselves, also where git holds a pointer."""
    if not entry.lfs:
        return entry.oid
    return blobs.git_oid(call.hub.blobs, blobs.Blob(entry.sha256, entry.size))


async def commit(call: Call) -> Response:
    """Makes a commit from ndjson, directly or as a pull request."""
    by_pr = call.flag("create_pr")
    to_pr = by_pr or call.params["rev"].startswith("refs/pr/")
    repo = call.hub.writable(call.kind, call.params["repo"], call.caller, to_pr)
    repo.resolve(call.params["rev"])
    body = ndjson.CommitBody(call.hub.blobs.writer)
    try:
        async for chunk in call.request.stream():
            body.feed(chunk)
        items = body.finish()
    finally:
        body.abandon()
    return await run_in_threadpool(_commit, call, repo, items, by_pr)


def _commit(
    call: Call, repo: Repo, items: list[tuple[str, dict[str, Any]]], by_pr: bool
) -> Response:
    header = next((value for key, value in items if key == "header"), None)
    if header is None:
        raise http_errors.Refusal(400, "The commit body has no header")
    author = state.require_writer(call.caller).user.name
    title, text = str(header.get("summary", "")), str(header.get("description", ""))
    if not title.strip():
        raise http_errors.Refusal(400, "The commit header has no summary")
    revision, parent = call.params["rev"], header.get("parentCommit")
    with call.hub.lock:
        changes = _changes(call, repo, items)
        pr: Discussion | None = None
        if by_pr:
            pr = _new_pr(call, repo, parent, title, text, author)
            revision, parent = pr.ref, None
        _check_may_push(repo, revision, call)
        made = call.hub.commit(
            repo, revision, changes, title=title, message=text, author=author, parent=parent
        )
        talk = pr or _pr_of(repo, revision)
        if talk is not None:
            data: dict[str, object] = {"subject": title, "oid": made.sha}
            talk.events.append(state.event(talk, author, "commit", data))
            call.hub.save(repo)
    answer = {
        "success": True,
        "commitOid": made.sha,
        "commitUrl": f"{_page(call, repo)}/commit/{made.sha}",
        "hookOutput": "",
    }
    if pr is not None:
        answer["pullRequestUrl"] = f"{_page(call, repo)}/discussions/{pr.num}"
    return JSONResponse(answer)


def _new_pr(
    call: Call, repo: Repo, parent: str | None, title: str, text: str, author: str
) -> Discussion:
    pr = call.hub.open_pr(repo, title, text, author, "open")
    if parent is not None:
        pr.base = repo.refs[pr.ref] = repo.resolve(parent).sha
    return pr


def _pr_of(repo: Repo, revision: str) -> Discussion | None:
    return next((talk for talk in repo.discussions if talk.is_pr and talk.ref == revision), None)


def _check_may_push(repo: Repo, revision: str, call: Call) -> None:
    """The owner may push anywhere, the author of a pull request to it."""
    caller = state.require_writer(call.caller)
    pr = _pr_of(repo, revision)
    if not caller.owns(repo.namespace) and (pr is None or pr.author != caller.user.name):
        raise http_errors.foreign_repo()


def _changes(
    call: Call, repo: Repo, items: list[tuple[str, dict[str, Any]]]
) -> dict[str, Entry | None]:
    head = repo.resolve(call.params["rev"])
    changes: dict[str, Entry | None] = {}
    for key, value in items:
        path = "" if key == "header" else _checked_path(value)
        if key == "file":
            changes[path] = uploads.entry_for(call.hub.blobs, path, value["blob"])
        elif key == "lfsFile":
            changes[path] = _uploaded(call, repo, path, str(value.get("oid", "")))
        elif key == "copyFile":
            source = repo.resolve(str(value.get("srcRevision") or head.sha))
            origin = str(value.get("srcPath", ""))
            if origin not in source.tree:
                raise http_errors.entry_missing(origin, source.sha)
            changes[path] = source.tree[origin]
        elif key == "deletedFile":
            if path not in head.tree:
                raise _nothing_to_delete(path, head.sha, "file")
            changes[path] = None
        elif key == "deletedFolder":
            inside = [p for p in head.tree if p.startswith(f"{path.rstrip('/')}/")]
            if not inside:
                raise _nothing_to_delete(path, head.sha, "folder")
            changes.update(dict.fromkeys(inside))
        elif key != "header":
            raise http_errors.Refusal(400, f"Unknown commit operation {key!r}")
    return changes


def _nothing_to_delete(path: str, sha: str, what: str) -> http_errors.Refusal:
    words = f"A {what} with this name doesn't exist: {path}"
    return http_errors.Refusal(404, words, "EntryNotFound", headers={"X-Repo-Commit": sha})


def _checked_path(value: dict[str, Any]) -> str:
    path = str(value.get("path", ""))
    parts = path.rstrip("/").split("/")
    if not path or any(part in ("", ".", "..", ".git") for part in parts):
        raise http_errors.Refusal(400, f"Invalid path in repo: {path!r}")
    return path


def _uploaded(call: Call, repo: Repo, path: str, sha256: str) -> Entry:
    if sha256 not in repo.objects or not call.hub.blobs.has(sha256):
        words = f"LFS pointer pointed to a file that does not exist: {path} ({sha256})"
        raise http_errors.Refusal(400, words)
    return uploads.large_entry(blobs.Blob(sha256, call.hub.blobs.size(sha256)))


def create_branch(call: Call) -> Response:
    """Makes a branch at a starting point; 409 if it is there."""
    repo = call.hub.writable(call.kind, call.params["repo"], call.caller)
    name = call.params["name"]
    with call.hub.lock:
        if name in repo.refs:
            raise http_errors.Refusal(409, f"Reference already exists: refs/heads/{name}")
        start = repo.resolve(str(call.json.get("startingPoint") or "main"))
        repo.refs[name] = start.sha
        call.hub.save(repo)
    return JSONResponse({})


def delete_branch(call: Call) -> Response:
    """Removes a branch, but not ``main``."""
    repo = call.hub.writable(call.kind, call.params["repo"], call.caller)
    name = call.params["name"]
    with call.hub.lock:
        if name == "main":
            raise http_errors.Refusal(403, "The main branch cannot be deleted")
        if name not in repo.branches:
            raise http_errors.revision_missing(name)
        del repo.refs[name]
        call.hub.save(repo)
    return JSONResponse({})


def create_tag(call: Call) -> Response:
    """Tags a revision; 409 if the tag is there."""
    repo = call.hub.writable(call.kind, call.params["repo"], call.caller)
    tag = str(call.json.get("tag") or "")
    with call.hub.lock:
        if tag in repo.tags:
            raise http_errors.Refusal(409, f"Tag reference exists already: refs/tags/{tag}")
        repo.tags[tag] = (repo.resolve(call.params["rev"]).sha, call.json.get("message"))
        call.hub.save(repo)
    return JSONResponse({})


def delete_tag(call: Call) -> Response:
    """Removes a tag."""
    repo = call.hub.writable(call.kind, call.params["repo"], call.caller)
    with call.hub.lock:
        if repo.tags.pop(call.params["rev"], None) is None:
            raise http_errors.revision_missing(call.params["rev"])
        call.hub.save(repo)
    return JSONResponse({})


ROUTES = [
    Route("POST", "api/repos/create", create_repo),
    Route("DELETE", "api/repos/delete", delete_repo),
    Route("PUT", "api/{kind}/{repo}/settings", update_settings),
    Route("POST", "api/{kind}/{repo}/user-access-request/grant", grant_access),
    Route("POST", "api/validate-yaml", validate_yaml),
    Route("POST", "api/{kind}/{repo}/preupload/{rev}", preupload),
    Route("POST", "api/{kind}/{repo}/commit/{rev}", commit, streams=True),
    Route("POST", "api/{kind}/{repo}/branch/{name}", create_branch),
    Route("DELETE", "api/{kind}/{repo}/branch/{name}", delete_branch),
    Route("POST", "api/{kind}/{repo}/tag/{rev}", create_tag),
    Route("DELETE", "api/{kind}/{repo}/tag/{rev}", delete_tag),
]
