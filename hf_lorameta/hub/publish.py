"""Create a repo and commit to it.

The Hub refuses a commit whose parent is not the head. If its answer is lost, the commit may have
been made; the same command, run again, then finds all files in the repo.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub as hfh

from hf_lorameta.errors import ConflictError, HubError
from hf_lorameta.hub.connection import Connection
from hf_lorameta.hub.errors import lost, translated
from hf_lorameta.hub.repo import PinnedRepo
from hf_lorameta.hub.repo_info import fetch_repo


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


# --- commits ------------------------------------------------------------------------------------


def commit(
    connection: Connection, parent: PinnedRepo, upload: Upload, *, message: str, create_pr: bool
) -> hfh.CommitInfo:
    """Commit on top of `parent`; where no file differs from the repo's, no commit is made.

    Raises:
        ConflictError: the repo changed meanwhile.
        ConnectionLostError: there was no answer; the commit may have been made.
        HubError: the server refused.
    """
    with translated(parent.repo_id):
        operations: list[Any] = _additions(upload)
        operations += [hfh.CommitOperationDelete(path) for path in upload.delete]
        try:
            return connection.retries.when_allowed(
                parent.repo_id,
                lambda: connection.api.create_commit(
                    parent.repo_id,
                    operations,
                    commit_message=message,
                    repo_type=parent.repo_type,
                    parent_commit=parent.sha,
                    create_pr=create_pr,
                ),
            )
        except RuntimeError as error:  # the upload of a file failed
            cause = error.__cause__
            raise cause or lost(parent.repo_id, "an upload failed") from None
        except ValueError as error:
            if type(error) is not ValueError:
                raise
            # such as of the card
            reason = " ".join(str(error).split())[:500]
            raise HubError(f"{parent.repo_id}: {reason}") from None


def _additions(upload: Upload) -> list[hfh.CommitOperationAdd]:
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
    return [hfh.CommitOperationAdd(name, content) for name, content in sorted(files.items())]
