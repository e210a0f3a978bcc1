"""The exception of `LocalHub`'s Python methods, and error responses of the loopback Hub.

Status codes, ``X-Error-Code`` and wording follow the Hub, because its clients match on them.
"""

from typing import Any

from starlette.responses import JSONResponse


class LocalHubError(Exception):
    """A method of the loopback Hub was called with invalid arguments."""


class HTTPError(Exception):
    """An HTTP error response. Handlers and everything below them raise it.

    `code` is sent as ``X-Error-Code``; `body` and `headers` are added to the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        one_line = " ".join(message.encode("ascii", "replace").decode().split())
        headers = {**(headers or {}), "X-Error-Message": one_line}
        if code:
            headers["X-Error-Code"] = code
        self.response = JSONResponse({"error": message, **(body or {})}, status, headers)


def repo_not_found(anonymous: bool) -> HTTPError:
    """Return the response for a missing repo, or for a private repo of another user."""
    return HTTPError(401 if anonymous else 404, "Repository not found", "RepoNotFound")


def revision_not_found(revision: str) -> HTTPError:
    """Return the response for a revision that is no branch or commit of the repo."""
    return HTTPError(404, f"Invalid rev id: {revision}", "RevisionNotFound")


def entry_not_found(path: str, commit: str, message: str = "Entry not found") -> HTTPError:
    """Return the response for a path that the commit does not contain."""
    return HTTPError(404, message, "EntryNotFound", {"path": path}, {"X-Repo-Commit": commit})


def gated_repo(repo_id: str, repo_type: str, anonymous: bool) -> HTTPError:
    """Return the response for a gated repo to which the caller has no access."""
    message = f"Access to {repo_type} {repo_id} is restricted"
    if anonymous:
        message += ". You must have access to it and be authenticated to access it. Please log in."
    else:
        message += " and you are not in the authorized list."
        message += f" Visit https://huggingface.co/{repo_id} to ask for access."
    return HTTPError(401 if anonymous else 403, message, "GatedRepo")
