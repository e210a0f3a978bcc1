"""Moving repos, and the redirects from their former ids."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.support.local_hub.errors import HTTPError, repo_not_found
from tests.support.local_hub.routing import Call, Route
from tests.support.local_hub.state import HubState, Repo, check_repo_id


class Moves:
    """Moves repos and remembers where they were."""

    def __init__(self) -> None:
        self._former: dict[tuple[str, str], Repo] = {}  # by the (type, id) before a move
        self._hub: HubState | None = None  # of the first move
        self.routes = [Route("POST", "api/repos/move", self.move), _FormerId(self)]

    def move(self, call: Call) -> Response:
        """Rename a repo, or move it to another namespace; 409 if the target exists.

        Requests for its former id are redirected, until another repo has that id.
        """
        repo_type, target = str(call.json.get("type") or "model"), str(call.json.get("toRepo", ""))
        call.params |= {"kind": f"{repo_type}s", "repo": str(call.json.get("fromRepo", ""))}
        repo = call.writable_repo()
        _check_target(call, repo.type, target)
        self._hub = call.hub
        self._former[repo.type, repo.id] = call.hub.repos.pop((repo.type, repo.id))
        repo.id = target
        call.hub.repos[repo.type, target] = repo
        return Response("OK", media_type="text/plain")

    def has_left(self, repo_type: str, repo_id: str) -> bool:
        """Return whether a repo had this id, and no repo has it now."""
        was_there = (repo_type, repo_id) in self._former
        return was_there and self._hub is not None and not self._hub.find(repo_type, repo_id)

    def redirect(self, call: Call) -> Response:
        """Redirect a request for a former id."""
        repo = self._former[call.repo_type, call.params["repo"]]
        if not call.can_see(repo):
            raise repo_not_found(anonymous=call.caller is None)
        path = call.request.scope["raw_path"].decode("ascii")
        url = path.replace(call.params["repo"], repo.id, 1)
        query = call.request.scope["query_string"].decode("ascii")
        answer = {"error": f"Temporary Redirect. Redirecting to {url}"}
        return JSONResponse(answer, 307, {"Location": f"{url}?{query}" if query else url})


class _FormerId(Route):
    """Matches every request for a repo by an id that it no longer has."""

    def __init__(self, moves: Moves) -> None:
        super().__init__("GET", "(?:api/)?{kind?}/{repo}(?:[.]git)?(?:/.*)?", moves.redirect)
        self._moves = moves
        self._methods = ("GET", "HEAD", "POST", "PUT", "DELETE")

    def match(self, request: Request) -> dict[str, str] | None:
        """Return the placeholders of a former id that no repo has now."""
        params = super().match(request)
        if params is None:
            return None
        repo_type = (params["kind"] or "models").removesuffix("s")
        return params if self._moves.has_left(repo_type, params["repo"]) else None


def _check_target(call: Call, repo_type: str, repo_id: str) -> None:
    """Refuse to move a repo where the caller may not create one, or where there is one."""
    check_repo_id(repo_id)
    if not call.writer.owns(repo_id.rpartition("/")[0]):
        raise HTTPError(403, f"You don't have the rights to create a {repo_type} {repo_id}")
    if call.hub.find(repo_type, repo_id) is not None:
        raise HTTPError(409, f"A {repo_type} repository called {repo_id} already exists")
