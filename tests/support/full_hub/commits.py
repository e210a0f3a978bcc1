"""Commits with files in Git LFS or deleted ones, pull requests, and the lists of both."""

import json
from itertools import islice
from typing import Any

from starlette.responses import JSONResponse, Response

from hf_lorameta.localhub import errors, routes
from hf_lorameta.localhub.routes import Operation
from hf_lorameta.localhub.routing import Route
from hf_lorameta.localhub.state import Changes
from tests.support.full_hub.calls import FullCall
from tests.support.full_hub.lfs import commit_pointer
from tests.support.full_hub.state import FullRepo


def _delete_file(call: FullCall, repo: FullRepo, path: str, value: dict[str, Any]) -> Changes:
    head = call.commit_of(repo)
    if path not in head.tree:
        message = f"A file with this name doesn't exist: {path}"
        raise errors.entry_not_found(path, head.sha, message)
    return {path: None}


_OPERATIONS: dict[str, Operation] = {
    **routes.OPERATIONS,
    "lfsFile": commit_pointer,
    "deletedFile": _delete_file,
}


def commit(call: FullCall) -> Response:
    """Commit to a branch or pull request, or to a new pull request."""
    repo = call.writable_repo()
    if not call.flag("create_pr"):
        return routes.commit(call, _OPERATIONS)
    ref = call.params["rev"] = _open_pull_request(call, repo)
    try:
        answer = routes.commit(call, _OPERATIONS)
    except Exception:  # a refused commit opens no pull request
        repo.withdraw_pull_request(ref)
        raise
    url = f"{call.hub.page_url(repo)}/discussions/{ref.rpartition('/')[2]}"
    return JSONResponse(json.loads(bytes(answer.body)) | {"pullRequestUrl": url})


def _open_pull_request(call: FullCall, repo: FullRepo) -> str:
    """Open a pull request from the parent that the commit states, or from its branch."""
    branch, header = call.params["rev"], json.loads(call.body.partition(b"\n")[0])["value"]
    if branch not in repo.branches:
        raise errors.revision_not_found(branch)
    return repo.open_pull_request(
        repo.resolve(header.get("parentCommit") or branch), call.writer.name
    )


def log(call: FullCall) -> Response:
    """Return the first commits of a revision, newest first."""
    repo = call.visible_repo()
    listed = islice(repo.log(call.commit_of(repo)), call.query_int("limit", 50))
    return JSONResponse([
        {"id": one.sha, "title": one.title, "message": "", "authors": [], "date": one.date}
        for one in listed
    ])  # fmt: skip


def discussions(call: FullCall) -> Response:
    """Return the pull requests of a repo, newest first."""
    repo = call.visible_repo()
    of = {"name": repo.id, "type": repo.type}
    listed = [
        {"num": int(ref.rpartition("/")[2]), "title": repo.resolve(ref).title, "status": "open",
         "author": {"name": author}, "createdAt": repo.resolve(ref).date, "repo": of,
         "isPullRequest": True}
        for ref, author in reversed(repo.proposers.items())
    ]  # fmt: skip
    return JSONResponse({"discussions": listed, "count": len(listed), "start": 0})


ROUTES = [
    Route("POST", "api/{kind}/{repo}/commit/{rev}", commit),
    Route("GET", "api/{kind}/{repo}/commits/{rev}", log),
    Route("GET", "api/{kind}/{repo}/discussions", discussions),
]
