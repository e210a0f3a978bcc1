"""Client of the Hugging Face Hub.

Every repo is resolved to a commit and read at that commit. Exceptions of `huggingface_hub` become
`hf_lorameta.errors`; all requests are retried, see `hf_lorameta.hub.retry`.
``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HOME`` and ``HF_HUB_OFFLINE`` have the same effect as for
`huggingface_hub`.
"""

import os
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import httpx2
import huggingface_hub as hfh
from huggingface_hub import constants
from huggingface_hub.constants import is_offline_mode

from hf_lorameta.environment import hub_url
from hf_lorameta.errors import AuthError, NotFoundError, UsageError
from hf_lorameta.files import sha256
from hf_lorameta.hub.cache import cached_repo, caching
from hf_lorameta.hub.connection import Connection
from hf_lorameta.hub.errors import damaged, translated, unexpected_answer
from hf_lorameta.hub.publish import Upload, commit, create_repo, require_private
from hf_lorameta.hub.repo import PinnedRepo, is_repo_id
from hf_lorameta.hub.repo_info import fetch_repo

_SEARCH_RESULTS = 8
_DOWNLOADS = 3
"""Of a file that is damaged in each."""


def _removed(downloaded: Path) -> str:
    """Remove a damaged file from the cache, and return its digest."""
    digest, stored = sha256(downloaded), downloaded.resolve()  # the target of the link in the cache
    downloaded.unlink()
    stored.unlink(missing_ok=True)
    return digest


def _url(repo: PinnedRepo, path: str) -> str:
    return hfh.hf_hub_url(
        repo.repo_id,
        path,
        repo_type=repo.repo_type,
        revision=repo.sha,
        endpoint=constants.ENDPOINT,
    )


class Hub(Connection):
    """The Hub, with one token.

    Every method raises `HubError` if the Hub refuses the request or does not answer.

    Args:
        token: None uses the saved or environment token, if any; False sends none.
    """

    def __repr__(self) -> str:
        return f"Hub({hub_url()})"

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
        with translated(repo_id, revision):
            if is_offline_mode():
                return cached_repo(repo_id, repo_type, revision)
            return fetch_repo(self, repo_id, repo_type, revision, blobs=blobs)

    def existing(
        self, repo_id: str, repo_type: str = "model", *, blobs: bool = False
    ) -> PinnedRepo | None:
        """Pin the head of a repo; None if the repo does not exist or is not visible.

        `blobs` is that of `resolve`.

        Raises:
            UsageError: not of the form ``user/name``.
        """
        if not is_repo_id(repo_id):
            raise UsageError(
                f"{repo_id[:80]!r} is not a valid repo id of the form user/name, "
                "with letters, digits, and - . _ between them",
                code="repo.invalid-id",
                hint="name a repo: user/name",
            )
        try:
            return self.resolve(repo_id, repo_type, blobs=blobs)
        except NotFoundError:
            return None

    def check_access(self, repo: PinnedRepo) -> None:
        """Check that this account can read a repo's files, which a gated repo's info does not show.

        Raises:
            GatedError: access was not granted.
        """
        if repo.gated:
            with translated(repo.repo_id):
                self.api.auth_check(repo.repo_id, repo_type=repo.repo_type)

    @property
    def has_token(self) -> bool:
        """Whether requests are sent with a token.

        Raises:
            AuthError: this is a CI job that is to have one by its identity, and it gets none.
        """
        with translated("this job's token"):
            return self.token is not False and bool(self.token or hfh.get_token())

    def check_token(self) -> None:
        """Check that there is a valid token, before work is done that needs one.

        The Hub does not document whether the token of a CI job, which is for one repo, has an
        account: it is not asked for, as the Hub has just made the token.

        Raises:
            AuthError: there is no token, or it is not valid.
        """
        of_job = self.token is None and os.environ.get("HF_OIDC_RESOURCE")
        if not (of_job and self.has_token):
            self.account()

    def user(self) -> str:
        """Return the name of the account that the token belongs to.

        Raises:
            AuthError: there is no token, or it is not valid.
        """
        return str(self.account()["name"])

    def space_hardware(self, namespace: str) -> tuple[str, str]:
        """Return the hardware that a new Space of an account may use at no cost, and why.

        Creating one on a CPU takes a paid plan; a free account can have two on ZeroGPU.

        Raises:
            AuthError: there is no token, or it is not valid.
        """
        account = self.account()
        if namespace == account.get("name"):
            if account.get("isPro"):
                return "cpu-basic", f"{namespace} is a PRO account"
            return "zero-a10g", "a free account cannot create Spaces on a CPU"
        orgs = {org.get("name"): org for org in account.get("orgs") or ()}
        plan = orgs.get(namespace, {}).get("plan")
        return "cpu-basic", f"the plan of {namespace} is {plan or 'not known'}"

    def account(self) -> dict[str, Any]:
        """Return the Hub's information on the token's account, requested once.

        Raises:
            AuthError: there is no token, or it is not valid.
        """
        return self._account

    @cached_property
    def _account(self) -> dict[str, Any]:
        if not self.has_token:
            raise AuthError("no Hub token is saved", code="token.none", hint="hf auth login")
        with translated("your account"):
            account = self.api.whoami()
        if not (isinstance(account, dict) and isinstance(account.get("name"), str)):
            raise unexpected_answer("your account", "the answer names no account")
        return account

    # --- datasets -------------------------------------------------------------------------------

    def search_datasets(self, text: str) -> list[str]:
        """Search datasets by name; return the ids of 8 at most, the most downloaded first.

        A text of fewer than two characters has no results.
        """
        if len(text.strip()) < 2:
            return []
        with translated("dataset search"):
            found = self.api.list_datasets(
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
        blob = repo.blobs.get(path)
        if repo.blobs and not blob:
            raise NotFoundError(f"{repo.repo_id} has no file {path}", code="repo.no-file")
        cached = self._cached(repo, path)
        if cached and (blob is None or blob.matches(cached)):
            return cached

        digests: set[str] = set()
        for _ in range(_DOWNLOADS):
            with translated(repo.repo_id):
                downloaded = caching(partial(self._download_once, repo, path))
            if downloaded and (blob is None or blob.matches(downloaded)):
                return downloaded
            digest = _removed(downloaded) if downloaded else "incomplete"
            if digest in digests:
                raise damaged(f"{repo.repo_id}: {path}", always=True)
            digests.add(digest)
        raise damaged(f"{repo.repo_id}: {path}", always=False)

    def size(self, repo: PinnedRepo, path: str) -> int:
        """Return the size of a file in bytes, without fetching it.

        Raises:
            NotFoundError: no such file.
            ConnectionLostError: the Hub did not answer.
        """
        if cached := self._cached(repo, path):
            return cached.stat().st_size
        with translated(repo.repo_id):
            url = _url(repo, path)
            return self.api.get_hf_file_metadata(url=url, timeout=self.timeout).size or 0

    def _cached(self, repo: PinnedRepo, path: str) -> Path | None:
        """Return the path of a file in the client's cache; None if it is not there."""
        cached = hfh.try_to_load_from_cache(
            repo.repo_id, path, revision=repo.sha, repo_type=repo.repo_type
        )
        return Path(cached) if isinstance(cached, str) else None

    def _download_once(self, repo: PinnedRepo, path: str) -> Path | None:
        """Download a file anew; None if it has another size than the server states."""
        try:
            downloaded = self.api.hf_hub_download(
                repo.repo_id,
                path,
                repo_type=repo.repo_type,
                revision=repo.sha,
                force_download=True,  # one in the cache is damaged
            )
            return Path(downloaded)
        except ValueError as error:  # with force_download, raised from the failed request
            raise error.__cause__ or error from None
        except OSError as error:
            if "Consistency check failed" not in str(error):
                raise
            return None

    def read_range(self, repo: PinnedRepo, path: str, start: int, stop: int) -> bytes:
        """Return exactly bytes [start, stop) of a file from one request; they are not verified.

        Raises:
            NotFoundError: no such file.
            ConnectionLostError: the Hub did not answer, or sent fewer bytes in each attempt.
        """
        if stop <= start:
            return b""
        # no compression: ranges count the bytes of the file itself
        headers = self.headers(
            {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        )

        with translated(repo.repo_id):
            response = hfh.get_session().get(
                _url(repo, path), headers=headers, timeout=self.timeouts
            )
            hfh.hf_raise_for_status(response)
            content: bytes = response.content
            if response.status_code == 200:  # the server ignores Range
                content = content[start:stop]
            if len(content) != stop - start:
                raise httpx2.RemoteProtocolError(
                    f"{len(content)} bytes of {path}, expected {stop - start}"
                )
            return content

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
            upload: what to commit, or several, each committed on top of the one before. An iterator
                is advanced only when its previous item has been committed.
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
        if parent is None:
            parent = create_repo(self, repo_id, repo_type, private, hardware)
        elif private:  # it may have been made public since it was seen
            require_private(self.resolve(repo_id, repo_type), "is now public")
        pr_url = None
        for part in [upload] if isinstance(upload, Upload) else upload:
            oid, pr_url = commit(self, parent, part, message=message, create_pr=create_pr)
            parent = replace(parent, sha=oid)
        prefix = "" if repo_type == "model" else f"{repo_type}s/"
        return pr_url or hub_url(f"{prefix}{repo_id}")
