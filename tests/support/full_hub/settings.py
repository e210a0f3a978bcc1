"""Routes for new repos, branches and tags, and for access to a repo, its visibility, deletion."""

from starlette.responses import JSONResponse, Response

from hf_lorameta.localhub.errors import HTTPError
from hf_lorameta.localhub.routes import created, is_private, repo_in_body
from hf_lorameta.localhub.routing import Route
from tests.support.full_hub.calls import FullCall
from tests.support.full_hub.cards import SDKS
from tests.support.full_hub.state import FullRepo


def auth_check(call: FullCall) -> Response:
    """Return 200 if the caller may read the files of the repo."""
    call.readable_repo()
    return JSONResponse({})


def create_repo(call: FullCall) -> Response:
    """Create a repo; a Space must state its SDK."""
    repo_type, repo_id = repo_in_body(call)
    sdk, hardware = call.json.get("sdk"), call.json.get("hardware")
    if repo_type == "space" and sdk not in SDKS:
        raise HTTPError(400, f'"sdk" must be one of {", ".join(SDKS)}')
    assert call.writer
    repo = FullRepo(repo_id, repo_type, is_private(call), sdk=sdk, hardware=hardware)
    return created(call, repo)


def delete_repo(call: FullCall) -> Response:
    """Delete a repo."""
    repo_type, call.params["repo"] = repo_in_body(call)
    call.params["kind"] = f"{repo_type}s"
    repo = call.writable_repo()
    del call.hub.repos[repo.type, repo.id]
    return Response("OK", media_type="text/plain")


def update_settings(call: FullCall) -> Response:
    """Set private and gated."""
    repo = call.writable_repo()
    if "visibility" in call.json or "private" in call.json:
        repo.private = is_private(call)
    repo.gated = call.json.get("gated", repo.gated)
    return JSONResponse({"private": repo.private, "gated": repo.gated})


def create_branch(call: FullCall) -> Response:
    """Create a branch; 409 if it exists."""
    repo, name = call.writable_repo(), call.params["name"]
    if name in repo.refs:
        raise HTTPError(409, f"Reference refs/heads/{name} already exists")
    repo.refs[name] = repo.resolve(str(call.json.get("startingPoint") or "main")).sha
    return JSONResponse({})


def create_tag(call: FullCall) -> Response:
    """Create a tag at a revision; 409 if it exists."""
    repo, tag = call.writable_repo(), str(call.json.get("tag") or "")
    sha = call.commit_of(repo).sha
    if tag in repo.tags:
        raise HTTPError(409, f"Tag reference exists already: refs/tags/{tag}")
    repo.tags[tag] = sha
    return JSONResponse({})


ROUTES = [
    Route("POST", "api/repos/create", create_repo),
    Route("GET", "api/{kind}/{repo}/auth-check", auth_check),
    Route("DELETE", "api/repos/delete", delete_repo),
    Route("PUT", "api/{kind}/{repo}/settings", update_settings),
    Route("POST", "api/{kind}/{repo}/branch/{name}", create_branch),
    Route("POST", "api/{kind}/{repo}/tag/{rev}", create_tag),
]
