"""Routes that change repos: create and commit."""

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

from starlette.responses import JSONResponse, Response

from hf_lorameta.localhub.history import Changes, Repo
from hf_lorameta.localhub.http_errors import HTTPError
from hf_lorameta.localhub.routing import Call, Route

Operation = Callable[[Any, Any, str, dict[str, Any]], Changes]
"""Returns changes, from a `Call`, its `Repo`, and the path and the values in a line of a commit."""


def create_repo(call: Call) -> Response:
    """Create a repo; 409 if it exists, 403 in the namespace of another user."""
    repo_type, namespace, repo_id = repo_in_body(call)
    if not call.user.owns(namespace):
        rights = f'rights to create a {repo_type} under the namespace "{namespace}"'
        raise HTTPError(403, f"You don't have the {rights}")
    repo = call.new_repo(repo_type, repo_id, is_private(call))
    call.hub.create(repo, call.user.name)
    return JSONResponse({"url": call.hub.page_url(repo), "name": repo.id, "id": repo.id})


def repo_in_body(call: Call) -> tuple[str, str, str]:
    """Return (repo type, namespace, repo id)."""
    repo_type = str(call.json.get("type") or "model")
    namespace = str(call.json.get("organization") or call.user.name)
    return repo_type, namespace, f"{namespace}/{call.json.get('name', '')}"


def is_private(call: Call) -> bool:
    """Whether the body asks for a private repo."""
    return call.json.get("visibility") == "private" or bool(call.json.get("private"))


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


def commit(call: Call, operations: Mapping[str, Operation] | None = None) -> Response:
    """Create a commit from an NDJSON body; `operations` by name, by default ``OPERATIONS``."""
    repo = call.writable_repo()
    lines = [json.loads(line) for line in call.body.split(b"\n") if line.strip()]
    values = [(line["key"], line["value"]) for line in lines]
    header = dict(values)["header"]
    changes: Changes = {}
    for key, value in values:
        if key != "header":
            operation = (operations or OPERATIONS)[key]
            changes = {**changes, **operation(call, repo, str(value.get("path", "")), value)}
    new = call.hub.commit(
        repo,
        call.params["rev"],
        changes,
        title=str(header["summary"]),
        message=str(header.get("description", "")),
        author=call.user.name,
        parent=header.get("parentCommit"),
    )
    url = f"{call.hub.page_url(repo)}/commit/{new.sha}"
    return JSONResponse({"success": True, "hookOutput": "", "commitOid": new.sha, "commitUrl": url})


def _file(call: Call, repo: Repo, path: str, value: dict[str, Any]) -> Changes:
    return {path: call.hub.store(path, base64.b64decode(value["content"], validate=True))}


OPERATIONS: dict[str, Operation] = {"file": _file}

ROUTES = [
    Route("POST", "api/repos/create", create_repo),
    Route("POST", "api/validate-yaml", validate_yaml),
    Route("POST", "api/{kind}/{repo}/preupload/{rev}", preupload),
    Route("POST", "api/{kind}/{repo}/commit/{rev}", commit),
]
