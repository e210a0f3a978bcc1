"""Routes that duplicate, squash and list whole repos, and their likes, which are none."""

import copy

from starlette.responses import JSONResponse, Response

from hf_lorameta.localhub.http_errors import HTTPError
from hf_lorameta.localhub.routing import Route
from tests.support.full_hub.calls import FullCall
from tests.support.full_hub.state import FullRepo, check_repo_id


def check_target(call: FullCall, repo_type: str, repo_id: str) -> None:
    """Refuse to create a repo where the caller may not, or where there is one."""
    check_repo_id(repo_id)
    if not call.writer.owns(repo_id.rpartition("/")[0]):
        raise HTTPError(403, f"You don't have the rights to create a {repo_type} {repo_id}")
    if call.hub.find(repo_type, repo_id) is not None:
        raise HTTPError(409, f"A {repo_type} repository called {repo_id} already exists")


def duplicate(call: FullCall) -> Response:
    """Copy the files of a repo to a new one."""
    source, target = call.readable_repo(), str(call.json.get("repository", ""))
    check_target(call, source.type, target)
    private = source.private
    if visibility := call.json.get("visibility"):
        private = visibility == "private"
    repo = FullRepo(target, source.type, private, sdk=source.sdk)
    repo.objects = copy.copy(source.objects)
    call.hub.create(repo, call.writer.name)
    tree = source.resolve("main").tree
    author, title = call.writer.name, f"Duplicate from {source.id}"
    call.hub.commit(repo, "main", tree, title=title, author=author)
    return JSONResponse({"url": call.hub.page_url(repo), "filesCopyPending": False})


def super_squash(call: FullCall) -> Response:
    """Replace the history of a branch by one commit with the same files."""
    repo, ref = call.writable_repo(), call.params["rev"]
    tree = call.commit_of(repo).tree
    if ref not in repo.refs:
        raise HTTPError(400, f"{ref} is not a branch")
    del repo.refs[ref]
    repo.add_commit(ref, tree, str(call.json.get("message", "")), "", call.writer.name)
    return JSONResponse({})


def list_own(call: FullCall) -> Response:
    """List the repos of the caller, or of an organization, with the storage that they use."""
    namespace = call.params.get("namespace") or call.user.name
    if not call.user.owns(namespace):
        raise HTTPError(403, f"You are no member of {namespace}")
    repos = [repo for repo in call.hub.repos.values() if repo.namespace == namespace]
    return JSONResponse([_storage_item(repo) for repo in repos])


def _storage_item(repo: FullRepo) -> dict[str, object]:
    head = repo.resolve("main")
    return {
        "id": repo.id,
        "type": repo.type,
        "updatedAt": head.date,
        "visibility": "private" if repo.private else "public",
        "storage": sum(entry.size for entry in head.tree.values()),
    }


def likers(call: FullCall) -> Response:
    """List the users who like a repo: nobody."""
    call.visible_repo()
    return JSONResponse([])


def liked_repos(call: FullCall) -> Response:
    """List the repos that a user likes: none."""
    return JSONResponse([])


def unlike(call: FullCall) -> Response:
    """Accept that a user no longer likes a repo."""
    call.visible_repo()
    return JSONResponse({})


def grant_access(call: FullCall) -> Response:
    """Give a user access to a gated repo."""
    repo = call.writable_repo()
    user = str(call.json.get("user") or "")
    if not call.hub.has_user(user):
        raise HTTPError(404, f"User {user} not found")
    repo.granted.add(user)
    return JSONResponse({})


ROUTES = [
    Route("POST", "api/{kind}/{repo}/duplicate", duplicate),
    Route("POST", "api/{kind}/{repo}/super-squash/{rev}", super_squash),
    Route("GET", "api/settings/repositories", list_own),
    Route("GET", "api/organizations/{namespace}/settings/repositories", list_own),
    Route("GET", "api/{kind}/{repo}/likers", likers),
    Route("DELETE", "api/{kind}/{repo}/like", unlike),
    Route("GET", "api/users/{user}/likes", liked_repos),
    Route("POST", "api/{kind}/{repo}/user-access-request/grant", grant_access),
]
