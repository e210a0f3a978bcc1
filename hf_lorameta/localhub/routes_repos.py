"""Routes that move, duplicate, squash and list whole repos, and their likes, which are none."""

import copy

from starlette.responses import JSONResponse, Response

from hf_lorameta.localhub.history import Repo
from hf_lorameta.localhub.http_errors import HTTPError
from hf_lorameta.localhub.routing import Call, Route
from hf_lorameta.localhub.state import check_repo_id


def move(call: Call) -> Response:
    """Rename a repo, or move it to another namespace; 409 if the target exists.

    Requests for its former id are redirected, until another repo has that id.
    """
    repo_type, target = str(call.json.get("type") or "model"), str(call.json.get("toRepo", ""))
    call.params |= {"kind": f"{repo_type}s", "repo": str(call.json.get("fromRepo", ""))}
    repo = call.writable_repo()
    _check_target(call, repo.type, target)
    call.hub.delete(repo)
    repo.former_ids.append(repo.id)
    repo.id = target
    call.hub.add(repo)
    return Response("OK", media_type="text/plain")


def _check_target(call: Call, repo_type: str, repo_id: str) -> None:
    check_repo_id(repo_id)
    if not call.writer.owns(repo_id.rpartition("/")[0]):
        raise HTTPError(403, f"You don't have the rights to create a {repo_type} {repo_id}")
    if call.hub.find(repo_type, repo_id) is not None:
        raise HTTPError(409, f"A {repo_type} repository called {repo_id} already exists")


def duplicate(call: Call) -> Response:
    """Copy the files of a repo to a new one."""
    source, target = call.readable_repo(), str(call.json.get("repository", ""))
    _check_target(call, source.type, target)
    private = source.private
    if visibility := call.json.get("visibility"):
        private = visibility == "private"
    repo = Repo(target, source.type, private, sdk=source.sdk)
    repo.objects = copy.copy(source.objects)
    call.hub.create(repo, call.writer.user.name)
    tree = source.resolve("main").tree
    author, title = call.writer.user.name, f"Duplicate from {source.id}"
    call.hub.commit(repo, "main", tree, title=title, author=author)
    return JSONResponse({"url": call.hub.page_url(repo), "filesCopyPending": False})


def super_squash(call: Call) -> Response:
    """Replace the history of a branch by one commit with the same files."""
    repo, ref = call.writable_repo(), call.params["rev"]
    tree = call.commit_of(repo).tree
    if ref not in repo.refs:
        raise HTTPError(400, f"{ref} is not a branch")
    del repo.refs[ref]
    repo.add_commit(ref, tree, str(call.json.get("message", "")), "", call.writer.user.name)
    return call.saved(repo)


def list_own(call: Call) -> Response:
    """List the repos of the caller, or of an organization, with the storage that they use."""
    namespace = call.params.get("namespace") or call.user.user.name
    if not call.user.owns(namespace):
        raise HTTPError(403, f"You are no member of {namespace}")
    repos = [repo for repo in call.hub.repos.values() if repo.namespace == namespace]
    return JSONResponse([_storage_item(repo) for repo in repos])


def _storage_item(repo: Repo) -> dict[str, object]:
    head = repo.resolve("main")
    return {
        "id": repo.id,
        "type": repo.type,
        "updatedAt": head.date,
        "visibility": "private" if repo.private else "public",
        "storage": sum(entry.size for entry in head.tree.values()),
    }


def likers(call: Call) -> Response:
    """List the users who like a repo: nobody."""
    call.visible_repo()
    return JSONResponse([])


def liked_repos(call: Call) -> Response:
    """List the repos that a user likes: none."""
    return JSONResponse([])


def unlike(call: Call) -> Response:
    """Accept that a user no longer likes a repo."""
    call.visible_repo()
    return JSONResponse({})


ROUTES = [
    Route("POST", "api/repos/move", move),
    Route("POST", "api/{kind}/{repo}/duplicate", duplicate),
    Route("POST", "api/{kind}/{repo}/super-squash/{rev}", super_squash),
    Route("GET", "api/settings/repositories", list_own),
    Route("GET", "api/organizations/{namespace}/settings/repositories", list_own),
    Route("GET", "api/{kind}/{repo}/likers", likers),
    Route("DELETE", "api/{kind}/{repo}/like", unlike),
    Route("GET", "api/users/{user}/likes", liked_repos),
]
