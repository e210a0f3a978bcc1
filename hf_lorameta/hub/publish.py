"""Create a repo and commit to it, and find out what happened where a server does not say.

The Hub refuses a commit whose parent is not the head, and answers with the new commit. A server may
also fail after it has committed, or its answer may be lost; other servers may ignore the request
for a pull request. Then the head is read back, and the error or the result follows from it. A
commit of which nothing tells that it is ours counts as failed.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import httpx2
import huggingface_hub as hfh
from huggingface_hub import constants
from huggingface_hub import errors as hf

from hf_lorameta.errors import ConflictError, HubError, LoraMetaError, Option
from hf_lorameta.hub.connection import Connection
from hf_lorameta.hub.errors import (
    TRANSIENT_STATUSES,
    ForbiddenError,
    translate,
    translated,
    unexpected_answer,
)
from hf_lorameta.hub.repo import PinnedRepo
from hf_lorameta.hub.repo_info import fetch_repo

_NO_PULL_REQUESTS = 501
_THREADS = 5
"""Files that are uploaded at once; the default of the client."""
_FAILURES = (
    httpx2.HTTPError,
    RuntimeError,
    hf.OfflineModeIsEnabled,
    KeyError,
    TypeError,
    ValueError,
)
"""What `huggingface_hub` raises, the last three at answers that lack fields or state an error."""


@dataclass(frozen=True)
class Upload:
    """What to commit.

    Attributes:
        folder: of the files.
        only: paths in the folder to commit; None commits all.
        others: files from elsewhere to commit, by their paths in the repo.
        delete: paths in the repo to delete in the same commit.
        card: content of ``README.md``; None takes the folder's.
    """

    folder: Path
    only: Sequence[str] | None = None
    others: Mapping[str, Path] = field(default_factory=dict)
    delete: Sequence[str] = ()
    card: str | None = None


# --- repos --------------------------------------------------------------------------------------


def create_repo(
    connection: Connection,
    repo_id: str,
    repo_type: str,
    private: bool | None,
    hardware: str | None = None,
) -> PinnedRepo:
    """Create a repo and return it; see `hf_lorameta.hub.client.Hub.publish`."""
    try:
        with translated(repo_id):
            connection.retries.when_allowed(
                repo_id,
                lambda: connection.api.create_repo(
                    repo_id,
                    repo_type=repo_type,
                    private=private,
                    space_sdk="gradio" if repo_type == "space" else None,
                    space_hardware=hfh.SpaceHardware(hardware) if hardware else None,
                ),
            )
    except ForbiddenError as error:
        error.hint = _writable_hint(connection, repo_id) or error.hint
        raise
    created = connection.retries(
        repo_id, lambda: fetch_repo(connection, repo_id, repo_type, None, blobs=False)
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


def _writable_hint(connection: Connection, repo_id: str) -> str:
    """Name a repo that the account can write to; empty if it is `repo_id` or not known."""
    try:
        user = connection.retries("your account", connection.api.whoami).get("name")
    except HubError:
        return ""
    namespace, _, name = repo_id.rpartition("/")
    if not user or user == namespace:
        return ""
    return f"name a repo of your own, such as {user}/{name}, or use a token that may write there"


# --- commits ------------------------------------------------------------------------------------


class Committed(NamedTuple):
    """What became of an upload: the commit, and the URL of the pull request if one was opened."""

    sha: str
    pr_url: str | None


def commit(
    connection: Connection, parent: PinnedRepo, upload: Upload, *, message: str, create_pr: bool
) -> Committed:
    """Commit on top of `parent`.

    Raises:
        ConflictError: the repo changed meanwhile, or the server ignored `create_pr`.
        HubError: the server refused, or it is unclear whether it committed.
    """
    with ExitStack() as opened:
        additions = _additions(upload, connection.is_hub, opened)
        deletions = [hfh.CommitOperationDelete(path) for path in upload.delete]
        different = len({addition.upload_info.sha256 for addition in additions}) == len(additions)
        # of equal files the client reads only one, open, as often as there are: not at once
        threads = _THREADS if connection.is_hub or different else 1
        try:
            info = connection.retries.when_allowed(
                parent.repo_id,
                lambda: connection.api.create_commit(
                    parent.repo_id,
                    [*additions, *deletions],
                    commit_message=message,
                    repo_type=parent.repo_type,
                    parent_commit=parent.sha,
                    create_pr=create_pr,
                    num_threads=threads,
                ),
            )
            made = Committed(info.oid, info.pr_url)
        except _FAILURES as error:
            failure = _failure(parent.repo_id, error, create_pr)
            if _is_refusal(error):
                raise failure from None
            head = _landed(connection, parent, (additions, upload.delete), message, failure)
            made = Committed(head.sha, None)
    if create_pr and not made.pr_url:
        _check_nothing_committed(connection, parent)
    return made


def _additions(upload: Upload, to_hub: bool, opened: ExitStack) -> list[hfh.CommitOperationAdd]:
    """Return the files to upload.

    The client uploads the large ones of paths to Xet storage, which other servers than the Hub may
    lack, and those of open files to Git LFS.
    """
    only = upload.only
    if only is None:
        paths = (path for path in upload.folder.rglob("*") if path.is_file())
        only = [path.relative_to(upload.folder).as_posix() for path in paths]
    names = {name: upload.folder / name for name in only} | dict(upload.others)
    if upload.card is not None:
        names.pop("README.md", None)
    additions = [
        hfh.CommitOperationAdd(name, path if to_hub else opened.enter_context(path.open("rb")))
        for name, path in sorted(names.items())
    ]
    if upload.card is not None:
        additions.append(hfh.CommitOperationAdd("README.md", upload.card.encode()))
    return additions


def _failure(repo_id: str, error: Exception, create_pr: bool) -> LoraMetaError:
    """Return the error of ours for an exception of the client."""
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # of the failed upload of one file
    if create_pr and _status(error) == _NO_PULL_REQUESTS:
        return HubError(
            f"{constants.ENDPOINT} has no pull requests",
            hint=Option("create_pr", change="leave out"),
        )
    if isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError):
        return HubError(f"{repo_id}: {' '.join(str(error).split())[:500]}")  # such as of the card
    ours = translate(repo_id, error)
    return ours or unexpected_answer(repo_id, f"{type(error).__name__} in the answer to a commit")


def _status(error: Exception) -> int | None:
    return error.response.status_code if isinstance(error, hf.HfHubHTTPError) else None


def _is_refusal(error: Exception) -> bool:
    """Return whether an exception says that nothing was committed."""
    status = _status(error)
    return status is not None and status not in TRANSIENT_STATUSES


_Changes = tuple[Sequence[hfh.CommitOperationAdd], Sequence[str]]
"""The files that a commit adds, and the paths that it deletes."""


def _landed(
    connection: Connection,
    parent: PinnedRepo,
    changes: _Changes,
    message: str,
    failure: LoraMetaError,
) -> PinnedRepo:
    """Return the repo after a commit that was made although the answer to it was none.

    Raises:
        ConflictError: another commit was made.
        HubError: no commit was made, or nothing tells whose commit was made.
    """
    try:
        head = _head(connection, parent)
    except HubError:
        raise failure from None
    if head.sha == parent.sha:
        raise failure from None
    ours = _is_ours(connection, parent, head, changes, message)
    if ours:
        return head
    if ours is None:
        raise HubError(
            f"{failure}; {parent.repo_id} is now at {head.sha[:8]}, and the server gives "
            "no checksums or history to tell whether that is the commit that was sent",
            hint="look at the repo before you run the command again",
        )
    raise ConflictError(
        f"{parent.repo_id} changed in the meantime: it is at {head.sha[:8]}, which is not the "
        f"commit that was sent ({failure})",
        hint="run the same command again to start from its current state",
    )


def _is_ours(
    connection: Connection,
    parent: PinnedRepo,
    head: PinnedRepo,
    changes: _Changes,
    message: str,
) -> bool | None:
    """Return whether the head is the commit that was sent; None if nothing tells.

    It is if all files have the digests of those that were sent, and those to delete are gone, or
    else if its title and its parent are ours, and no file contradicts.
    """
    additions, deletions = changes
    matches = [_matches(head, addition) for addition in additions]
    matches += [path not in head.files for path in deletions]
    if False in matches:
        return False
    if matches and None not in matches:
        return True
    history = _history(connection, parent)
    if len(history) < 2:
        return None
    return history[0] == (head.sha, message.splitlines()[0]) and history[1][0] == parent.sha


def _matches(repo: PinnedRepo, addition: hfh.CommitOperationAdd) -> bool | None:
    """Return whether a repo holds a file that was sent; None if its digest is not known."""
    blob = repo.blobs.get(addition.path_in_repo)
    if blob is None:
        return None if addition.path_in_repo in repo.files else False
    if blob.digest is None and blob.size == addition.upload_info.size:
        return None
    with addition.as_file() as file:
        return blob.matches(file)


def _head(connection: Connection, repo: PinnedRepo) -> PinnedRepo:
    return connection.retries(
        repo.repo_id,
        lambda: fetch_repo(connection, repo.repo_id, repo.repo_type, None, blobs=True),
    )


def _history(connection: Connection, repo: PinnedRepo) -> list[tuple[str, str]]:
    """Return the newest commits of a repo, each with its title; none if they cannot be read.

    The client's list of commits needs the authors, which KohakuHub leaves out.
    """
    url = f"{constants.ENDPOINT}/api/{repo.repo_type}s/{repo.repo_id}/commits/main"

    def read() -> list[tuple[str, str]]:
        return [(item["id"][:40], item["title"]) for item in connection.get(url).json()]

    try:
        return connection.retries(repo.repo_id, read)
    except HubError:
        return []


def _check_nothing_committed(connection: Connection, parent: PinnedRepo) -> None:
    """Raise `ConflictError` if a server committed instead of opening a pull request.

    The client opens none if no file differs from the repo.
    """
    head = _head(connection, parent)
    if head.sha != parent.sha:
        raise ConflictError(
            f"this server has no pull requests: it committed to {parent.repo_id} "
            f"({head.sha[:8]}) instead; check the repo",
            hint=Option("create_pr", change="leave out"),
        )
