"""Client of the Hugging Face Hub.

Every repo is resolved to a commit and read at that commit. Exceptions of `huggingface_hub` become
`hf_lorameta.errors`; rate limits and server errors are retried, see `hf_lorameta.hub.retry`.
``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HOME`` and ``HF_HUB_OFFLINE`` have the same effect as for
`huggingface_hub`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import huggingface_hub as hfh
from huggingface_hub import constants
from huggingface_hub.constants import is_offline_mode

from hf_lorameta.errors import (
    AuthError,
    NotFoundError,
    UsageError,
)
from hf_lorameta.hub.connection import Connection
from hf_lorameta.hub.errors import translated, unexpected_answer
from hf_lorameta.hub.files import download, read_range
from hf_lorameta.hub.publish import Upload, commit, create_repo, require_private
from hf_lorameta.hub.repo import PinnedRepo, Token, is_repo_id
from hf_lorameta.hub.repo_info import (
    ListedAdapter,
    ListedBank,
    cached_repo,
    fetch_repo,
    list_adapters,
    list_banks,
)

T = TypeVar("T")
_SEARCH_RESULTS = 8


class Hub:
    """A connection to the Hub with one token.

    Every method raises `HubError` if the Hub refuses the request or does not answer.

    Args:
        token: None uses the saved or environment token, if any; False sends none.
    """

    def __init__(self, token: Token = None) -> None:
        self._connection = Connection(token)

    @property
    def token(self) -> Token:
        """The token as given: None stands for the saved one, False for none."""
        return self._connection.token

    @property
    def is_official(self) -> bool:
        """Whether the server is huggingface.co, and not one with the same API."""
        return self._connection.is_hub

    def __repr__(self) -> str:
        return f"Hub({constants.ENDPOINT})"

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
        return self._connection.retries(
            repo_id,
            lambda: fetch_repo(self._connection, repo_id, repo_type, revision, blobs=blobs),
            revision=revision,
        )

    def existing(
        self, repo_id: str, repo_type: str = "model", *, blobs: bool = False
    ) -> PinnedRepo | None:
        """Pin the head of a repo; None if the repo does not exist or is not visible.

        `blobs` is that of `resolve`.

        Raises:
            UsageError: not of the form ``user/name``.
        """
        if not is_repo_id(repo_id):
            raise UsageError(f"{repo_id} is not a valid repo id of the form user/name")
        try:
            return self.resolve(repo_id, repo_type, blobs=blobs)
        except NotFoundError:
            return None

    def adapters_of(self, base_model: str, limit: int) -> Iterator[ListedAdapter]:
        """List adapters of a base model; see `hf_lorameta.hub.repo_info.list_adapters`."""
        return list_adapters(self._connection, base_model, limit)

    def banks_for(self, base_model: str) -> Iterator[ListedBank]:
        """List the published banks for a base model; see `hf_lorameta.hub.repo_info.list_banks`."""
        return list_banks(self._connection, base_model)

    def check_access(self, repo: PinnedRepo) -> None:
        """Check that the files of a repo can be read, which a gated one's info does not tell.

        Raises:
            GatedError: access was not granted.
        """
        if repo.gated:
            self._connection.retries(
                repo.repo_id,
                lambda: self._connection.api.auth_check(repo.repo_id, repo_type=repo.repo_type),
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
        """Check that a token is there and that the server accepts it.

        Raises:
            AuthError: there is no token, or it is not valid.
        """
        self._whoami()

    def space_hardware(self, namespace: str) -> tuple[str, str]:
        """Return the hardware that a new Space of an account may use at no cost, and why.

        Creating one on a CPU takes a paid plan; a free account can have two on ZeroGPU.

        Raises:
            AuthError: there is no token, or it is not valid.
        """
        account = self._whoami()
        if namespace == account.get("name"):
            if account.get("isPro"):
                return "cpu-basic", f"{namespace} is a PRO account"
            return "zero-a10g", "a free account cannot create Spaces on a CPU"
        orgs = {org.get("name"): org for org in account.get("orgs") or ()}
        plan = orgs.get(namespace, {}).get("plan")
        return "cpu-basic", f"the plan of {namespace} is {plan or 'not known'}"

    def _whoami(self) -> dict[str, Any]:
        if self.token is False or not (self.token or hfh.get_token()):
            raise AuthError("no Hub token is saved", hint="hf auth login")
        return self._connection.retries("your account", self._connection.api.whoami)

    # --- datasets -------------------------------------------------------------------------------

    def search_datasets(self, text: str) -> list[str]:
        """Search datasets by name; return the ids of 8 at most, the most downloaded first.

        A text of fewer than two characters has no results.
        """
        if len(text.strip()) < 2:
            return []
        with translated("dataset search"):
            found = self._connection.api.list_datasets(
                search=text.strip(), sort="downloads", limit=_SEARCH_RESULTS
            )
            return [dataset.id for dataset in found]

    # --- files ----------------------------------------------------------------------------------

    def download(self, repo: PinnedRepo, path: str) -> Path:
        """Download a file to the client's cache, unless it is there; verify it by its digest.

        Raises:
            NotFoundError: no such file.
            ConnectionLostError: the Hub did not answer, or the file was damaged in each transfer.
        """
        return download(self._connection, repo, path)

    def read_range(self, repo: PinnedRepo, path: str, start: int, stop: int) -> bytes:
        """Return exactly bytes [start, stop) of a file, with one request and unverified.

        Raises:
            NotFoundError: no such file.
            ConnectionLostError: the Hub did not answer, or with fewer bytes each time.
        """
        return read_range(self._connection, repo, path, start, stop)

    # --- publishing -----------------------------------------------------------------------------

    def publish(
        self,
        upload: Upload | Iterable[Upload],
        repo_id: str,
        *,
        message: str,
        private: bool | None,
        parent: PinnedRepo | None,
        create_pr: bool = False,
        repo_type: str = "model",
        hardware: str | None = None,
    ) -> str:
        """Publish files in one commit; return the URL of the repo or of the pull request.

        Args:
            upload: what to commit, or several of which each is a commit on top of the one before.
                Nothing is asked of an iterator before the commit of what it gave.
            repo_id: target; created if `parent` is None.
            message: commit message.
            private: visibility of a repo that is created; if true, it is read back before the
                commit, of an existing repo too.
            parent: the repo as last seen, None if it did not exist. The commit is refused if the
                repo has changed since.
            create_pr: open a pull request instead of committing to the default branch.
            repo_type: ``model``, ``dataset`` or ``space``.
            hardware: of a Space that is created.

        Raises:
            ConflictError: the repo was created or changed in the meantime, or is public although
                private was requested; nothing is uploaded then.
            AuthError: the token lacks write access.
            ConnectionLostError: the connection was lost; the commit may have been made.
        """
        connection = self._connection
        if parent is None:
            parent = create_repo(connection, repo_id, repo_type, private, hardware)
        elif private:  # it may have been made public since it was seen
            require_private(self.resolve(repo_id, repo_type), "is now public")
        pr_url = None
        for part in [upload] if isinstance(upload, Upload) else upload:
            made = commit(connection, parent, part, message=message, create_pr=create_pr)
            parent, pr_url = replace(parent, sha=made.oid), made.pr_url
        prefix = "" if repo_type == "model" else f"{repo_type}s/"
        return pr_url or f"{constants.ENDPOINT}/{prefix}{repo_id}"
