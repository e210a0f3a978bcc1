"""What the Hub says when it says no: status, error code and words, as the real clients expect."""

from typing import Any
from urllib.parse import quote

from starlette.responses import JSONResponse

from hf_lorameta.errors import LoraMetaError


class LocalHubError(LoraMetaError):
    """A :class:`~hf_lorameta.localhub.LocalHub` was asked, from Python, for what it cannot do."""


class Refusal(Exception):  # noqa: N818  (an answer, not a failure of this program)
    """An HTTP answer other than success, raised anywhere below a route.

    Args:
        status: HTTP status.
        message: words for ``X-Error-Message`` and the body's ``error``.
        code: ``X-Error-Code``: ``RepoNotFound``, ``RevisionNotFound``, ``EntryNotFound``, ...
        body: further fields of the JSON body.
        headers: further headers.
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
        self.status = status
        self.message = message
        self.code = code
        self.body = body or {}
        self.headers = headers or {}

    def response(self) -> JSONResponse:
        """Returns the answer to send."""
        headers = {**self.headers, "X-Error-Message": _header_text(self.message)}
        if self.code:
            headers["X-Error-Code"] = self.code
        return JSONResponse({"error": self.message, **self.body}, self.status, headers)


def _header_text(message: str) -> str:
    one_line = " ".join(message.split())
    return one_line if one_line.isascii() else quote(one_line, safe=" ,.:;/'\"()[]{}=<>")


def bad_credentials() -> Refusal:
    """A token nobody knows, or one that was revoked."""
    return Refusal(401, "Invalid credentials in Authorization header")


def login_needed() -> Refusal:
    """An anonymous request for something that needs a user."""
    return Refusal(401, "Invalid username or password.")


def repo_missing(anonymous: bool) -> Refusal:
    """No such repo, or a private one of somebody else: strangers cannot tell which."""
    return Refusal(401 if anonymous else 404, "Repository not found", "RepoNotFound")


def revision_missing(revision: str) -> Refusal:
    """The repo has no such branch, tag or commit."""
    return Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")


def entry_missing(path: str, commit: str) -> Refusal:
    """The commit holds no such file or folder."""
    return Refusal(
        404, "Entry not found", "EntryNotFound", {"path": path}, {"X-Repo-Commit": commit}
    )


def gated(repo_id: str, kind: str, anonymous: bool) -> Refusal:
    """The repo asks for a request of access that was not granted."""
    if anonymous:
        words = (
            f"Access to {kind} {repo_id} is restricted. You must have access to it and be "
            "authenticated to access it. Please log in."
        )
        return Refusal(401, words, "GatedRepo")
    words = (
        f"Access to {kind} {repo_id} is restricted and you are not in the authorized list. "
        f"Visit https://huggingface.co/{repo_id} to ask for access."
    )
    return Refusal(403, words, "GatedRepo")


def read_only_token() -> Refusal:
    """A read token was used to write."""
    return Refusal(403, "Forbidden: you must use a write token to upload to a repository.")


def foreign_repo() -> Refusal:
    """The user may read the repo but not write to it."""
    return Refusal(
        403,
        "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request",
    )


def foreign_namespace(namespace: str, kind: str) -> Refusal:
    """The user may not create repos under this name."""
    return Refusal(
        403, f'You don\'t have the rights to create a {kind} under the namespace "{namespace}"'
    )


def moved_on() -> Refusal:
    """The branch is no longer at the parent commit the client built on."""
    return Refusal(412, "A commit has happened since. Please refresh and try again.")
