"""Routes for commits and pull requests, the lists of both, and the check of a card before them."""

import base64
import json
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

from starlette.responses import JSONResponse, Response

from tests.support.local_hub import card_rules, errors
from tests.support.local_hub.lfs import commit_pointer
from tests.support.local_hub.lfs_rules import Changes
from tests.support.local_hub.routing import Call, Route
from tests.support.local_hub.state import Repo


def _file(call: Call, repo: Repo, path: str, value: dict[str, Any]) -> Changes:
    return {path: call.hub.store(path, base64.b64decode(value["content"], validate=True))}


def _delete_file(call: Call, repo: Repo, path: str, value: dict[str, Any]) -> Changes:
    head = call.commit_of(repo)
    if path not in head.tree:
        message = f"A file with this name doesn't exist: {path}"
        raise errors.entry_not_found(path, head.sha, message)
    return {path: None}


_OPERATIONS: Mapping[str, Callable[[Call, Repo, str, dict[str, Any]], Changes]] = {
    "file": _file,
    "lfsFile": commit_pointer,
    "deletedFile": _delete_file,
}


def commit(call: Call) -> Response:
    """Commit to a branch or pull request, or to a new pull request."""
    repo = call.writable_repo()
    if not call.flag("create_pr"):
        return JSONResponse(_commit(call, repo))
    ref = call.params["rev"] = _open_pull_request(call, repo)
    try:
        answer = _commit(call, repo)
    except Exception:  # a refused commit opens no pull request
        repo.withdraw_pull_request(ref)
        raise
    url = f"{call.hub.page_url(repo)}/discussions/{ref.rpartition('/')[2]}"
    return JSONResponse(answer | {"pullRequestUrl": url})


def _commit(call: Call, repo: Repo) -> dict[str, Any]:
    """Create a commit from an NDJSON body, whose lines name operations."""
    lines = [json.loads(line) for line in call.body.split(b"\n") if line.strip()]
    values = [(line["key"], line["value"]) for line in lines]
    header = dict(values)["header"]
    changes: Changes = {}
    for key, value in values:
        if key != "header":
            change = _OPERATIONS[key](call, repo, str(value.get("path", "")), value)
            changes = {**changes, **change}
    title, parent = str(header["summary"]), header.get("parentCommit")
    new = call.hub.commit(repo, call.params["rev"], changes, title, parent)
    url = f"{call.hub.page_url(repo)}/commit/{new.sha}"
    return {"success": True, "hookOutput": "", "commitOid": new.sha, "commitUrl": url}


def _open_pull_request(call: Call, repo: Repo) -> str:
    """Open a pull request from the parent that the commit states, or from its branch."""
    branch, header = call.params["rev"], json.loads(call.body.partition(b"\n")[0])["value"]
    if branch not in repo.branches:
        raise errors.revision_not_found(branch)
    return repo.open_pull_request(
        repo.resolve(header.get("parentCommit") or branch), call.writer.name
    )


def log(call: Call) -> Response:
    """Return the first commits of a revision, newest first."""
    repo = call.visible_repo()
    listed = islice(repo.log(call.commit_of(repo)), call.query_int("limit", 50))
    return JSONResponse([
        {"id": one.sha, "title": one.title, "message": "", "authors": [], "date": one.date}
        for one in listed
    ])  # fmt: skip


def discussions(call: Call) -> Response:
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


def validate_yaml(call: Call) -> Response:
    """Validate the metadata of a README."""
    repo_type = str(call.json.get("repoType") or "model")
    return JSONResponse(card_rules.validate(str(call.json.get("content", "")), repo_type))


ROUTES = [
    Route("POST", "api/validate-yaml", validate_yaml),
    Route("POST", "api/{kind}/{repo}/commit/{rev}", commit),
    Route("GET", "api/{kind}/{repo}/commits/{rev}", log),
    Route("GET", "api/{kind}/{repo}/discussions", discussions),
]
