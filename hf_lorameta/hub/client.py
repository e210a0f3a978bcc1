"""Client of the Hugging Face Hub.

Every repo is resolved to a commit and read at that commit. Exceptions of `huggingface_hub` become
`hf_lorameta.errors`; rate limits and server errors are retried, see `hf_lorameta.hub.retry`.
``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HOME`` and ``HF_HUB_OFFLINE`` have the same effect as for
`huggingface_hub`.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import huggingface_hub as hfh
from huggingface_hub.constants import is_offline_mode

from hf_lorameta.errors import (
    AuthError,
    ConnectionLostError,
    EmptyDatasetError,
    GatedError,
    LoraMetaError,
    NotFoundError,
    UsageError,
)
from hf_lorameta.hub.adapter_list import ListedAdapter, list_adapters
from hf_lorameta.hub.cached_repo import cached_repo, no_data_error, snapshot_folder
from hf_lorameta.hub.dataset_mirror import can_stream, mirror
from hf_lorameta.hub.dataset_repo import RawDataset, list_choices, open_split
from hf_lorameta.hub.download import download
from hf_lorameta.hub.errors import translated, unexpected_answer
from hf_lorameta.hub.http_client import HttpClient, objects
from hf_lorameta.hub.publish import Operation, commit, create_repo, require_private
from hf_lorameta.hub.reading_limits import DEFAULT_LIMITS, ReadingLimits
from hf_lorameta.hub.remote_file import RemoteFile, find_blob, read_range
from hf_lorameta.hub.repo import PinnedRepo, Token, is_repo_id
from hf_lorameta.hub.repo_info import fetch_repo, if_served
from hf_lorameta.hub.retry import with_retries

T = TypeVar("T")
_SEARCH_RESULTS = 8


class Hub:
    """A connection to the Hub with one token.

    Every method raises `HubError` if the Hub refuses the request or does not answer.

    Args:
        token: None uses the saved or environment token, if any; False sends none.
    """

    def __init__(self, token: Token = None) -> None:
        self._token = token
        self._client = HttpClient(token)

    @property
    def token(self) -> Token:
        """The token as given: None stands for the saved one, False for none."""
        return self._token

    def __repr__(self) -> str:
        return f"Hub({self._client.api.endpoint})"

    def __reduce__(self) -> tuple[type["Hub"], tuple[()]]:
        # a pickled Hub holds no token: where it is unpickled, the token saved there is used
        return Hub, ()

    # --- repos ----------------------------------------------------------------------------------

    def resolve(
        self, repo_id: str, repo_type: str, revision: str | None = None, *, blobs: bool = False
    ) -> PinnedRepo:
        """Pin a repo to a commit; with ``HF_HUB_OFFLINE``, to the one in the client's cache.

        Args:
            repo_id: ``namespace/name``.
            repo_type: ``model``, ``dataset`` or ``space``.
            revision: branch, tag or commit; None is the default branch.
            blobs: also request sizes and digests of the files, to verify downloads.

        Raises:
            UsageError: the repo id is not valid.
            NotFoundError: no such repo or revision, or the repo is private.
            GatedError: access was not granted.
            AuthError: the token is not valid.
            ConnectionLostError: the Hub did not answer.
        """
        if is_offline_mode():
            with translated(repo_id, revision):
                return cached_repo(repo_id, repo_type, revision)
        return with_retries(
            repo_id,
            lambda: fetch_repo(self._client, repo_id, repo_type, revision, blobs=blobs),
            revision=revision,
        )

    def existing(self, repo_id: str, repo_type: str = "model") -> PinnedRepo | None:
        """Pin the head of a repo; None if the repo does not exist or is not visible.

        Raises:
            UsageError: not of the form ``user/name``.
        """
        if not is_repo_id(repo_id):
            raise UsageError(f"{repo_id} is not a valid repo id of the form user/name")
        try:
            return self.resolve(repo_id, repo_type)
        except NotFoundError:
            return None

    def adapters_of(self, base_model: str) -> Iterator[ListedAdapter]:
        """List adapters of a base model; see `hf_lorameta.hub.adapter_list.list_adapters`."""
        return list_adapters(self._client, base_model)

    def check_access(self, repo: PinnedRepo) -> None:
        """Check that the files of a repo can be read, which a gated one's info does not tell.

        Raises:
            GatedError: access was not granted.
        """
        if repo.gated:
            with_retries(
                repo.repo_id,
                lambda: self._client.api.auth_check(repo.repo_id, repo_type=repo.repo_type),
            )

    def user(self) -> str:
        """Return the name of the account that the token belongs to.

        Raises:
            AuthError: there is no token, or it is not valid.
            HubError: the server does not say whose token it is.
        """
        name = self._whoami().get("name")
        if not name:
            raise unexpected_answer("your account", "it does not state whose token this is")
        return str(name)

    def check_token(self) -> None:
        """Check that a token is there and that the server accepts it, if it can be asked.

        Raises:
            AuthError: there is no token, or it is not valid.
        """
        self._whoami()

    def _whoami(self) -> dict[str, Any]:
        if self._token is False or not (self._token or hfh.get_token()):
            raise AuthError("no Hub token is saved", hint="hf auth login")
        answer = with_retries(
            "your account", lambda: if_served(lambda: self._client.json("GET", "whoami-v2"))
        )
        return answer if isinstance(answer, dict) else {}

    # --- datasets -------------------------------------------------------------------------------

    def search_datasets(self, text: str) -> list[str]:
        """Search datasets by name; return the ids of 8 at most, the most downloaded first.

        A text of fewer than two characters has no results.
        """
        if len(text.strip()) < 2:
            return []
        params = {"search": text.strip(), "sort": "downloads", "limit": _SEARCH_RESULTS}
        answer = with_retries(
            "dataset search", lambda: self._client.json("GET", "datasets", params=params)
        )
        return [str(item["id"]) for item in objects(answer)[:_SEARCH_RESULTS] if "id" in item]

    def choices(self, repo: PinnedRepo, config: str | None = None) -> tuple[list[str], list[str]]:
        """List configurations and splits; see `hf_lorameta.hub.dataset_repo.list_choices`."""
        return self._read_dataset(repo, lambda copy: list_choices(repo, config, self._token, copy))

    def rows(
        self,
        repo: PinnedRepo,
        config: str | None = None,
        split: str | None = None,
        limits: ReadingLimits = DEFAULT_LIMITS,
    ) -> RawDataset:
        """Open a stream of rows; see `hf_lorameta.hub.dataset_repo.open_split`."""
        return self._read_dataset(
            repo, lambda copy: open_split(repo, config, split, self._token, limits, copy)
        )

    def _read_dataset(self, repo: PinnedRepo, read: Callable[[Path | None], T]) -> T:
        """Read from the repo, or from a copy of its files if the server cannot be streamed from.

        With ``HF_HUB_OFFLINE``, the copy is what is in the client's cache.
        """
        if is_offline_mode():
            try:
                return read(snapshot_folder(repo))
            except EmptyDatasetError:
                raise no_data_error(repo) from None
        try:
            return read(None)
        except (AuthError, GatedError, ConnectionLostError, UsageError):
            raise
        except LoraMetaError:
            if can_stream(self._client, repo):
                raise
        return read(mirror(self._client, repo))

    # --- files ----------------------------------------------------------------------------------

    def read(self, repo: PinnedRepo, path: str, start: int, stop: int) -> bytes:
        """Read bytes [start, stop) of a file with an HTTP range request.

        Raises:
            NotFoundError: no such file.
            ConnectionLostError: fewer bytes arrived, after retries.
        """
        return read_range(self._client, repo, path, start, stop)

    def open(self, repo: PinnedRepo, path: str) -> RemoteFile:
        """Open a file to read it front to back, as `hf_lorameta.hub.remote_file` does.

        If the repo was resolved with ``blobs``, the content is verified: the read that completes
        the file raises `ConnectionLostError` if the digest is wrong.

        Raises:
            NotFoundError: no such file.
        """
        return RemoteFile(self._client, repo, path, find_blob(self._client, repo, path))

    def download(self, repo: PinnedRepo, path: str, local_dir: Path | None = None) -> Path:
        """Download a file unless it is there already; verify it if the repo has its digest.

        Without `local_dir`, the file is in the cache of `huggingface_hub`.

        Raises:
            NotFoundError: no such file.
            ConnectionLostError: the Hub did not answer, or the file was damaged in each transfer.
        """
        return download(self._client, repo, path, local_dir)

    # --- publishing -----------------------------------------------------------------------------

    def publish(
        self,
        folder: Path,
        repo_id: str,
        *,
        message: str,
        private: bool | None,
        parent: PinnedRepo | None,
        create_pr: bool = False,
        repo_type: str = "model",
        only: Sequence[str] | None = None,
        delete: Sequence[str] = (),
        card: str | None = None,
    ) -> str:
        """Publish a folder in one commit; return the URL of the repo or of the pull request.

        Args:
            folder: the files to commit.
            repo_id: target; created if `parent` is None.
            message: commit message.
            private: visibility of a repo that is created; if true, it is read back before the
                commit, of an existing repo too.
            parent: the repo as last seen, None if it did not exist. The commit is refused if the
                repo has changed since.
            create_pr: open a pull request instead of committing to the default branch.
            repo_type: ``model``, ``dataset`` or ``space``.
            only: paths in the folder to commit; None commits all.
            delete: paths in the repo to delete in the same commit.
            card: content of ``README.md``; None takes the folder's.

        Raises:
            ConflictError: the repo was created or changed in the meantime, or is public although
                private was requested; nothing is uploaded then. Or the server ignored `create_pr`
                or `parent`, which is noticed only afterwards.
            AuthError: the token lacks write access.
            ConnectionLostError: the connection was lost; the folder is unchanged.
        """
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        names = {path.relative_to(folder).as_posix(): path for path in paths}
        operations: list[Operation] = [
            hfh.CommitOperationAdd(name, str(path))
            for name, path in names.items()
            if only is None or name in only
        ]
        operations += [hfh.CommitOperationDelete(path) for path in delete]
        if card is not None:
            operations.append(hfh.CommitOperationAdd("README.md", card.encode()))
        if parent is None:
            parent = create_repo(self._client, repo_id, repo_type, private)
        elif private:  # it may have been made public since it was seen
            require_private(self.resolve(repo_id, repo_type), "is public by now")
        with translated(repo_id):
            pr_url = commit(self._client, parent, operations, message=message, create_pr=create_pr)
        prefix = "" if repo_type == "model" else f"{repo_type}s/"
        return pr_url or f"{self._client.api.endpoint}/{prefix}{repo_id}"
