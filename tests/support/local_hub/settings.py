"""Routes for new repos, branches and tags, and for access to a repo, its visibility, deletion."""

from starlette.responses import JSONResponse, Response

from tests.support.local_hub.cards import SDKS
from tests.support.local_hub.errors import HTTPError
from tests.support.local_hub.routing import Call, Route
from tests.support.local_hub.state import Repo


def auth_check(call: Call) -> Response:
    """Return 200 if the caller may read the files of the repo."""
    call.readable_repo()
    return JSONResponse({})


def create_repo(call: Call) -> Response:
    """Create a repo; a Space must state its SDK. 409 if it exists, 403 in another namespace."""
    repo_type, repo_id = _repo_in_body(call)
    sdk, hardware = call.json.get("sdk"), call.json.get("hardware")
    if repo_type == "space" and sdk not in SDKS:
        raise HTTPError(400, f'"sdk" must be one of {", ".join(SDKS)}')
    repo = Repo(repo_id, repo_type, _is_private(call), sdk=sdk, hardware=hardware)
    if not call.writer.owns(repo.namespace):
        rights = f'rights to create a {repo.type} under the namespace "{repo.namespace}"'
        raise HTTPError(403, f"You don't have the {rights}")
    call.hub.create(repo)
    return JSONResponse({"url": call.hub.page_url(repo), "name": repo.id, "id": repo.id})


def _repo_in_body(call: Call) -> tuple[str, str]:
    """Return repo type and repo id."""
    namespace = call.json.get("organization") or call.user.name
    return str(call.json.get("type") or "model"), f"{namespace}/{call.json.get('name', '')}"


def _is_private(call: Call) -> bool:
    """Whether the body asks for a private repo."""
    return call.json.get("visibility") == "private" or bool(call.json.get("private"))


def delete_repo(call: Call) -> Response:
    """Delete a repo."""
    repo_type, call.params["repo"] = _repo_in_body(call)
    call.params["kind"] = f"{repo_type}s"
    repo = call.writable_repo()
    del call.hub.repos[repo.type, repo.id]
    return Response("OK", media_type="text/plain")


def update_settings(call: Call) -> Response:
    """Set private and gated."""
    repo = call.writable_repo()
    if "visibility" in call.json or "private" in call.json:
        repo.private = _is_private(call)
    repo.gated = call.json.get("gated", repo.gated)
    return JSONResponse({"private": repo.private, "gated": repo.gated})


def create_branch(call: Call) -> Response:
    """Create a branch; 409 if it exists."""
    repo, name = call.writable_repo(), call.params["name"]
    if name in repo.refs:
        raise HTTPError(409, f"Reference refs/heads/{name} already exists")
    repo.refs[name] = repo.resolve(str(call.json.get("startingPoint") or "main")).sha
    return JSONResponse({})


def create_tag(call: Call) -> Response:
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
