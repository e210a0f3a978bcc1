"""Routes for the visibility, access, deletion, branches and tags of a repo."""

import re
from typing import Any

from starlette.responses import JSONResponse, Response

from hf_lorameta.localhub import http_errors
from hf_lorameta.localhub.http_errors import HTTPError
from hf_lorameta.localhub.routes_write import is_private, repo_in_body
from hf_lorameta.localhub.routing import Route
from tests.support.full_hub.calls import FullCall

_TAG = re.compile(r"(?![./-])(?!.*(?:\.\.|//|@\{|\.lock$|[./]$))[^\s~^:?*\[\\\x00-\x1f\x7f]+")


def auth_check(call: FullCall) -> Response:
    """Return 200 if the caller may read the files of the repo, or with ``/write`` change them."""
    if call.params["write"]:
        call.writable_repo()
    else:
        call.readable_repo()
    return JSONResponse({})


def refs(call: FullCall) -> Response:
    """Return branches and tags, and pull requests if the query includes them."""
    repo = call.visible_repo()

    def item(name: str, ref: str, sha: str) -> dict[str, str]:
        return {"name": name, "ref": ref, "targetCommit": sha}

    answer: dict[str, Any] = {
        "branches": [item(n, f"refs/heads/{n}", sha) for n, sha in repo.branches.items()],
        "converts": [],
        "tags": [item(n, f"refs/tags/{n}", sha) for n, sha in repo.tags.items()],
    }
    if call.flag("include_prs"):
        pulls = ((ref, sha) for ref, sha in repo.refs.items() if ref.startswith("refs/pr/"))
        answer["pullRequests"] = [item(ref.rpartition("/")[2], ref, sha) for ref, sha in pulls]
    return JSONResponse(answer)


def delete_repo(call: FullCall) -> Response:
    """Delete a repo."""
    repo_type, _, call.params["repo"] = repo_in_body(call)
    call.params["kind"] = f"{repo_type}s"
    repo = call.writable_repo()
    del call.hub.repos[repo.type, repo.id]
    return Response("OK", media_type="text/plain")


def update_settings(call: FullCall) -> Response:
    """Set private and gated."""
    repo = call.writable_repo()
    if "visibility" in call.json or "private" in call.json:
        repo.private = is_private(call)
    gated = call.json.get("gated", repo.gated)
    if gated not in ("auto", "manual", False):
        raise HTTPError(400, '"gated" must be one of [auto, manual, false]')
    repo.gated = gated
    return JSONResponse({"private": repo.private, "gated": repo.gated})


def create_branch(call: FullCall) -> Response:
    """Create a branch; 409 if it exists."""
    repo, name = call.writable_repo(), call.params["name"]
    if name in repo.refs:
        raise HTTPError(409, f"Reference refs/heads/{name} already exists")
    repo.refs[name] = repo.resolve(str(call.json.get("startingPoint") or "main")).sha
    return JSONResponse({})


def delete_branch(call: FullCall) -> Response:
    """Delete a branch other than ``main``."""
    repo, name = call.writable_repo(), call.params["name"]
    if name == "main":
        raise HTTPError(403, "Cannot delete refs/heads/main")
    if name not in repo.branches:
        raise http_errors.revision_not_found(name)
    del repo.refs[name]
    return JSONResponse({})


def create_tag(call: FullCall) -> Response:
    """Create a tag at a revision; 409 if it exists."""
    repo, tag = call.writable_repo(), str(call.json.get("tag") or "")
    sha = call.commit_of(repo).sha
    if not _TAG.fullmatch(tag):
        raise HTTPError(400, f"Invalid tag name: {tag!r}")
    if tag in repo.tags:
        raise HTTPError(409, f"Tag reference exists already: refs/tags/{tag}")
    repo.tags[tag] = sha
    return JSONResponse({})


def delete_tag(call: FullCall) -> Response:
    """Delete a tag."""
    repo, tag = call.writable_repo(), call.params["rev"]
    if repo.tags.pop(tag, None) is None:
        raise http_errors.revision_not_found(tag)
    return JSONResponse({})


ROUTES = [
    Route("GET", "api/{kind}/{repo}/auth-check(?P<write>/write)?", auth_check),
    Route("GET", "api/{kind}/{repo}/refs", refs),
    Route("DELETE", "api/repos/delete", delete_repo),
    Route("PUT", "api/{kind}/{repo}/settings", update_settings),
    Route("POST", "api/{kind}/{repo}/branch/{name}", create_branch),
    Route("DELETE", "api/{kind}/{repo}/branch/{name}", delete_branch),
    Route("POST", "api/{kind}/{repo}/tag/{rev}", create_tag),
    Route("DELETE", "api/{kind}/{repo}/tag/{rev}", delete_tag),
]
