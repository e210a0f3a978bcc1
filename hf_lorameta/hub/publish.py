"""Create a repo and commit to it, and find out what happened where a server does not say.

The Hub refuses a commit whose parent is not the head, and answers with the new commit. Other
servers may ignore the parent or the request for a pull request, or fail after they have committed.
So the head is read back, and the error or the result follows from it.
"""

import logging
import re
from collections.abc import Sequence

import httpx2
import huggingface_hub as hfh
from huggingface_hub import errors as hf

from hf_lorameta.errors import ConflictError, HubError, LoraMetaError
from hf_lorameta.hub.errors import (
    TRANSIENT_STATUSES,
    ForbiddenError,
    translate,
    translated,
    unexpected_answer,
)
from hf_lorameta.hub.http_client import HttpClient, api_path, objects
from hf_lorameta.hub.repo import PinnedRepo
from hf_lorameta.hub.repo_info import fetch_repo, if_served
from hf_lorameta.hub.retry import when_allowed, with_retries
from hf_lorameta.hub.upload_modes import choose_upload_modes

Operation = hfh.CommitOperationAdd | hfh.CommitOperationDelete
logger = logging.getLogger(__name__)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MALFORMED = (KeyError, TypeError, ValueError)  # the client read an answer that lacks fields


def create_repo(
    client: HttpClient, repo_id: str, repo_type: str, private: bool | None
) -> PinnedRepo:
    """Create a repo and return it; see `hf_lorameta.hub.client.Hub.publish`."""
    try:
        with translated(repo_id):
            when_allowed(
                repo_id,
                lambda: client.api.create_repo(
                    repo_id,
                    repo_type=repo_type,
                    private=private,
                    space_sdk="gradio" if repo_type == "space" else None,
                ),
            )
    except ForbiddenError as error:
        error.hint = _writable_hint(client, repo_id) or error.hint
        raise
    except _MALFORMED:
        pass  # whether it was created is read back
    created = with_retries(
        repo_id, lambda: fetch_repo(client, repo_id, repo_type, None, blobs=False)
    )
    if private:
        require_private(created, "was created public")  # a server may ignore `private`
    return created


def require_private(repo: PinnedRepo, state: str) -> None:
    """Raise `ConflictError` if a repo is public although private was requested."""
    if not repo.private:
        raise ConflictError(
            f"{repo.repo_id} {state}, although private was requested; nothing was uploaded",
            hint="make the repo private or delete it, then run the command again",
        )


def _writable_hint(client: HttpClient, repo_id: str) -> str:
    """Name a repo that the account can write to; empty if it is `repo_id` or not known."""
    answer = with_retries(
        "your account", lambda: if_served(lambda: client.json("GET", "whoami-v2"))
    )
    user = answer.get("name") if isinstance(answer, dict) else None
    namespace, _, name = repo_id.rpartition("/")
    if not user or user == namespace:
        return ""
    return f"name a repo of your own, such as {user}/{name}, or use a token that may write there"


def commit(
    client: HttpClient,
    parent: PinnedRepo,
    operations: Sequence[Operation],
    *,
    message: str,
    create_pr: bool,
) -> str | None:
    """Commit on top of `parent`; return the URL of the pull request, if one was opened.

    Raises:
        ConflictError: the repo changed meanwhile, or the server ignored `create_pr`.
        HubError: the server refused or does not answer like the Hub.
    """
    additions = [item for item in operations if isinstance(item, hfh.CommitOperationAdd)]
    choose_upload_modes(client, parent, additions, create_pr=create_pr)
    try:
        info = when_allowed(
            parent.repo_id,
            lambda: client.api.create_commit(
                parent.repo_id,
                operations,
                commit_message=message,
                repo_type=parent.repo_type,
                parent_commit=parent.sha if _COMMIT.fullmatch(parent.sha) else None,
                create_pr=create_pr,
            ),
        )
        url, oid = info.pr_url, info.oid
    except (httpx2.HTTPError, RuntimeError, *_MALFORMED) as error:
        cause: Exception = error
        if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
            cause = error.__cause__  # of the failed upload of one file
        url, oid = None, _commit_after(client, parent, additions, cause)
    if create_pr and not url:
        _check_nothing_committed(client, parent)
    if not create_pr:
        _check_parent(client, parent, operations, oid)
    return url


def _commit_after(
    client: HttpClient,
    parent: PinnedRepo,
    additions: Sequence[hfh.CommitOperationAdd],
    error: Exception,
) -> str:
    """Return the commit that was made although the answer to it was an error, or raise the error.

    Raises:
        ConflictError: another commit was made.
        HubError: no commit was made.
    """
    ours = _as_ours(parent.repo_id, error)
    status = error.response.status_code if isinstance(error, hf.HfHubHTTPError) else 500
    if status not in TRANSIENT_STATUSES:
        raise ours from None
    try:
        head = _head(client, parent)
    except HubError:
        raise ours from None
    if head.sha == parent.sha:
        raise ours from None
    if all(_holds(head, addition) for addition in additions):
        return head.sha
    raise ConflictError(
        f"{parent.repo_id} changed in the meantime: it is at {head.sha[:8]}, which is not the "
        f"commit that was sent ({ours})",
        hint="run the same command again to start from its current state",
    ) from None


def _as_ours(repo_id: str, error: Exception) -> LoraMetaError:
    if isinstance(error, LoraMetaError):
        return error
    if ours := translate(repo_id, error):
        return ours
    return unexpected_answer(repo_id, f"{type(error).__name__} in the answer to a commit")


def _head(client: HttpClient, repo: PinnedRepo) -> PinnedRepo:
    return with_retries(
        repo.repo_id, lambda: fetch_repo(client, repo.repo_id, repo.repo_type, None, blobs=True)
    )


def _holds(repo: PinnedRepo, addition: hfh.CommitOperationAdd) -> bool:
    """Return whether a repo holds a file that was sent, as far as its digests and sizes tell."""
    blob = repo.blobs.get(addition.path_in_repo)
    if blob is None:
        return addition.path_in_repo in repo.files
    with addition.as_file() as file:
        return blob.matches(file)


def _check_nothing_committed(client: HttpClient, parent: PinnedRepo) -> None:
    """Raise `ConflictError` if a server committed instead of opening a pull request.

    The client opens none if no file differs from the repo.
    """
    head = _head(client, parent)
    if head.sha != parent.sha:
        raise ConflictError(
            f"this server has no pull requests: it ignored --create-pr and committed to "
            f"{parent.repo_id} ({head.sha[:8]})",
            hint="check the repo, and leave out --create-pr with this server",
        )


def _check_parent(
    client: HttpClient, parent: PinnedRepo, operations: Sequence[Operation], oid: str
) -> None:
    """Raise `ConflictError` if a server committed on top of a commit other than `parent`."""
    try:
        what = _changes_below(client, parent, operations, oid)
    except HubError as error:
        logger.warning("%s: committed, but its history cannot be read: %s", parent.repo_id, error)
        return
    if what:
        raise ConflictError(
            f"{parent.repo_id} changed in the meantime ({what}), and the server committed on top "
            f"of the change instead of refusing (commit {oid[:8]})",
            hint="check that the files in the repo belong together",
        )


def _changes_below(
    client: HttpClient, parent: PinnedRepo, operations: Sequence[Operation], oid: str
) -> str:
    """Name what changed between `parent` and our commit; empty if nothing did."""
    url = api_path(parent.repo_id, parent.repo_type, "commits", "main")
    history = with_retries(parent.repo_id, lambda: if_served(lambda: client.json("GET", url)))
    commits = [str(item.get("id")) for item in objects(history)]
    if oid not in commits or parent.sha not in commits:
        return _unexpected_files(_head(client, parent), parent, operations, oid)
    between = commits[commits.index(oid) + 1 : commits.index(parent.sha)]
    return f"commit {between[-1][:8]}" if between else ""


def _unexpected_files(
    head: PinnedRepo, parent: PinnedRepo, operations: Sequence[Operation], oid: str
) -> str:
    """Name files that a commit on top of `parent` cannot have added or deleted."""
    if head.sha != oid:  # another commit on top of ours
        return ""
    added = {op.path_in_repo for op in operations if isinstance(op, hfh.CommitOperationAdd)}
    deleted = {op.path_in_repo for op in operations} - added
    expected = (set(parent.files) - deleted) | added
    return ", ".join(sorted((expected ^ set(head.files)) - {".gitattributes"})[:3])
