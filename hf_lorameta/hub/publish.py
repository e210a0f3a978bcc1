"""Create a repo and commit to it.

The Hub refuses a commit whose parent is not the head. If an answer is lost, the repo or the commit
may have been made: it is looked for before the request is repeated, see `until_made`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import huggingface_hub as hfh
from huggingface_hub import errors as hf

from hf_lorameta.errors import ConflictError, HubError
from hf_lorameta.hub.connection import Connection
from hf_lorameta.hub.errors import misread, translated
from hf_lorameta.hub.repo import PinnedRepo
from hf_lorameta.hub.repo_info import fetch_repo
from hf_lorameta.hub.retry import until_made

_OF_NEW_REPOS = frozenset({".gitattributes", "README.md"})
"""Files that the Hub commits to a new repo, the second to a Space."""
_SMALL = 1 << 20
"""Smaller files are read once; the Hub compares the digests of others, which are read again."""


@dataclass(frozen=True)
class Upload:
    """What to commit.

    Attributes:
        folder: of the files.
        only: paths in the folder to commit; None commits all.
        others: files from elsewhere to commit, by their paths in the repo.
        delete: paths in the repo to delete in the same commit.
        card: content of ``README.md``; None takes the folder's.
        digests: SHA-256 digests of files in the folder as they were checked. If one differs when it
            is committed, nothing is.
    """

    folder: Path
    only: Sequence[str] | None = None
    others: Mapping[str, Path] = field(default_factory=dict)
    delete: Sequence[str] = ()
    card: str | None = None
    digests: Mapping[str, str] = field(default_factory=dict)


# --- repos --------------------------------------------------------------------------------------


def create_repo(
    connection: Connection,
    repo_id: str,
    repo_type: str,
    private: bool | None,
    hardware: str | None = None,
) -> PinnedRepo:
    """Create a repo and return it; see `hf_lorameta.hub.client.Hub.publish`."""

    def created() -> PinnedRepo:
        return fetch_repo(connection, repo_id, repo_type, None, blobs=False)

    def create() -> PinnedRepo:
        try:
            connection.api.create_repo(
                repo_id,
                repo_type=repo_type,
                private=private,
                space_sdk="gradio" if repo_type == "space" else None,
                space_hardware=hfh.SpaceHardware(hardware) if hardware else None,
            )
        except Exception as error:
            # a server may give itself another name than HF_ENDPOINT, or say nothing of the repo
            if not misread(error):
                raise
        return created()

    def made() -> PinnedRepo | None:
        try:
            found = created()
        except hf.RepositoryNotFoundError:
            return None
        return found if _OF_NEW_REPOS.issuperset(found.files) else None

    with translated(repo_id):
        repo = until_made(create, made)
    if private:
        require_private(repo, "was created public")  # a server may ignore `private`
    return repo


def require_private(repo: PinnedRepo, state: str) -> None:
    """Raise `ConflictError` if a repo is public although private was requested."""
    if not repo.private:
        raise ConflictError(
            f"{repo.repo_id} {state}, although private was requested; nothing was uploaded",
            code="repo.is-public",
            hint="make the repo private or delete it, then run the command again",
        )


# --- commits ------------------------------------------------------------------------------------


Made: TypeAlias = tuple[str, str | None]
"""A commit, and the URL of its pull request if it opened one."""


def commit(
    connection: Connection, parent: PinnedRepo, upload: Upload, *, message: str, create_pr: bool
) -> Made:
    """Commit on top of `parent`; where no file differs from the repo's, no commit is made.

    Raises:
        ConflictError: the repo, or a file to commit, changed meanwhile.
        ConnectionLostError: there was no answer; the commit may have been made.
        HubError: the server refused.
    """
    contents = _contents(upload)
    with translated(parent.repo_id):
        operations: list[Any] = _additions(parent, contents, upload.digests)
        operations += [hfh.CommitOperationDelete(path) for path in upload.delete]

        def send() -> Made:
            try:
                sent = connection.api.create_commit(
                    parent.repo_id,
                    operations,
                    commit_message=message,
                    repo_type=parent.repo_type,
                    parent_commit=parent.sha,
                    create_pr=create_pr,
                )
            except Exception as error:  # the commit may have been made, as in `create_repo`
                if not misread(error):
                    raise
                found = _opened(connection, parent, message) if create_pr else made()
                if found is None:
                    raise
                return found
            return sent.oid, sent.pr_url

        def made() -> Made | None:
            """Return the head if it follows `parent` and holds what was to be committed."""
            commits = connection.api.list_repo_commits(parent.repo_id, repo_type=parent.repo_type)
            if [one.commit_id for one in commits[1:2]] != [parent.sha]:
                return None
            head = fetch_repo(
                connection, parent.repo_id, parent.repo_type, commits[0].commit_id, blobs=True
            )
            added = all(
                name in head.blobs and head.blobs[name].matches(content)
                for name, content in contents.items()
            )
            return (
                (head.sha, None) if added and head.blobs.keys().isdisjoint(upload.delete) else None
            )

        try:  # of two pull requests, their reader takes one
            return send() if create_pr else until_made(send, made)
        except (OSError, RuntimeError):
            _additions(parent, contents, upload.digests)  # names the file
            raise
        except ValueError as error:
            if type(error) is not ValueError:
                raise
            # such as of the card
            reason = " ".join(str(error).split())[:500]
            raise HubError(f"{parent.repo_id}: {reason}", code="publish.invalid") from None


def _additions(
    parent: PinnedRepo, contents: Mapping[str, Any], digests: Mapping[str, str]
) -> list[Any]:
    """Return what adds files to a repo.

    Raises:
        ConflictError: a file is gone, or has another digest than it had.
    """
    operations = list[Any]()
    for name, content in contents.items():
        state = "is gone"
        try:
            small = isinstance(content, Path) and content.stat().st_size < _SMALL
            whole = content.read_bytes() if small else content
            operations.append(hfh.CommitOperationAdd(name, whole))
            added = operations[-1].upload_info.sha256.hex()
            state = "has changed" if digests.get(name, added) != added else ""
        except (OSError, ValueError):
            if not isinstance(content, Path) or content.exists():
                raise
        if state:
            raise ConflictError(
                f"{content} {state} since it was read; nothing was committed to {parent.repo_id}",
                code="publish.changed-meanwhile",
                hint="run the same command again",
            )
    return operations


def _opened(connection: Connection, repo: PinnedRepo, title: str) -> Made | None:
    """Return the head and the URL of the last pull request, if it has a title."""
    found = connection.api.get_repo_discussions(
        repo.repo_id, repo_type=repo.repo_type, discussion_type="pull_request"
    )
    last = max(found, key=lambda request: request.num, default=None)
    if last is None or last.title != title:
        return None
    head = fetch_repo(connection, repo.repo_id, repo.repo_type, last.git_reference, blobs=False)
    return head.sha, last.url


def _contents(upload: Upload) -> dict[str, Any]:
    """Return the files to commit by their paths in the repo."""
    only = upload.only
    if only is None:
        inside = (path for path in upload.folder.rglob("*") if path.is_file())
        only = [path.relative_to(upload.folder).as_posix() for path in inside]
    paths = {name: upload.folder / name for name in only} | dict(upload.others)
    if upload.card is not None:
        paths.pop("README.md", None)
    files: dict[str, Any] = dict(paths)
    if upload.card is not None:
        files["README.md"] = upload.card.encode()
    return dict(sorted(files.items()))
