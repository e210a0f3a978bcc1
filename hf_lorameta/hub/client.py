"""Client of the Hugging Face Hub.

Every repo is resolved to a commit and read at that commit. Exceptions of `huggingface_hub` become
`hf_lorameta.errors`; rate limits and server errors are retried, see `hf_lorameta.hub.retry`.
``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HOME`` and ``HF_HUB_OFFLINE`` have the same effect as for
`huggingface_hub`.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import huggingface_hub as hfh
from huggingface_hub.constants import is_offline_mode
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # lazy re-export

from hf_lorameta._version import __version__
from hf_lorameta.errors import AuthError, ConflictError, NotFoundError, UsageError
from hf_lorameta.hub.adapter_list import ListedAdapter, list_adapters
from hf_lorameta.hub.cached_repo import cached_repo
from hf_lorameta.hub.dataset_repo import RawDataset, Token, list_choices, open_split
from hf_lorameta.hub.errors import DamagedError, damaged_error, translated
from hf_lorameta.hub.reading_limits import DEFAULT_LIMITS, ReadingLimits
from hf_lorameta.hub.repo import Blob, PinnedRepo, is_repo_id
from hf_lorameta.hub.retry import with_retries

_BLOCK_BYTES = 4 << 20
_TIMEOUT_SECONDS = 30
_LIBRARY: dict[str, Any] = {"library_name": "hf_lorameta", "library_version": __version__}


class Hub:
    """A connection to the Hub with one token.

    Every method raises `HubError` if the Hub refuses the request or does not answer.

    Args:
        token: None uses the saved or environment token, if any; False sends none.
    """

    def __init__(self, token: Token = None) -> None:
        self._token = token
        self._api = hfh.HfApi(token=token, **_LIBRARY)

    @property
    def token(self) -> Token:
        """The token as given: None stands for the saved one, False for none."""
        return self._token

    def __repr__(self) -> str:
        return f"Hub({self._api.endpoint})"

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
            return cached_repo(repo_id, repo_type, revision)
        info: Any = with_retries(
            repo_id,
            lambda: self._api.repo_info(
                repo_id, repo_type=repo_type, revision=revision, files_metadata=blobs
            ),
            revision=revision,
        )
        license_ = info.card_data.to_dict().get("license") if info.card_data else None
        siblings = info.siblings or ()
        return PinnedRepo(
            info.id,
            repo_type,
            info.sha,
            private=bool(info.private),
            gated=bool(getattr(info, "gated", False)),
            license=license_ if isinstance(license_, str) else None,
            files=tuple(sibling.rfilename for sibling in siblings),
            blobs={s.rfilename: blob for s in siblings if (blob := Blob.from_sibling(s))},
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
        return list_adapters(self._get, self._api.endpoint, base_model)

    def check_access(self, repo: PinnedRepo) -> None:
        """Check that the files of a repo can be read, which a gated one's info does not tell.

        Raises:
            GatedError: access was not granted.
        """
        if repo.gated:
            with_retries(
                repo.repo_id,
                lambda: self._api.auth_check(repo.repo_id, repo_type=repo.repo_type),
            )

    def user(self) -> str:
        """Return the name of the account that the token belongs to.

        Raises:
            AuthError: there is no token, or it is not valid.
        """
        if self._token is False or not (self._token or hfh.get_token()):
            raise AuthError("no Hub token is saved", hint="hf auth login")
        return str(with_retries("your account", self._api.whoami)["name"])

    # --- datasets -------------------------------------------------------------------------------

    def search_datasets(self, text: str, limit: int = 8) -> list[str]:
        """Search datasets by name; return their ids, the most downloaded first.

        A text of fewer than two characters has no results.
        """
        if len(text.strip()) < 2:
            return []
        url = f"{self._api.endpoint}/api/datasets"
        params = {"search": text.strip(), "sort": "downloads", "limit": limit}
        answer = with_retries("dataset search", lambda: self._get(url, params=params).json())
        return [str(item["id"]) for item in answer[:limit]]

    def choices(self, repo: PinnedRepo, config: str | None = None) -> tuple[list[str], list[str]]:
        """List configurations and splits; see `hf_lorameta.hub.dataset_repo.list_choices`."""
        return list_choices(repo, config, self._token)

    def rows(
        self,
        repo: PinnedRepo,
        config: str | None = None,
        split: str | None = None,
        limits: ReadingLimits = DEFAULT_LIMITS,
    ) -> RawDataset:
        """Open a stream of rows; see `hf_lorameta.hub.dataset_repo.open_split`."""
        return open_split(repo, config, split, self._token, limits)

    # --- files ----------------------------------------------------------------------------------

    def size(self, repo: PinnedRepo, path: str) -> int:
        """Return the size of a file in bytes.

        Raises:
            NotFoundError: no such file.
        """
        if path in repo.blobs:
            return repo.blobs[path].size
        infos: list[Any] = with_retries(
            repo.repo_id,
            lambda: self._api.get_paths_info(
                repo.repo_id, [path], repo_type=repo.repo_type, revision=repo.sha
            ),
        )
        if not infos or not hasattr(infos[0], "size"):
            raise NotFoundError(f"{repo.repo_id} has no file {path}")
        return int(infos[0].size)

    def read(self, repo: PinnedRepo, path: str, start: int, stop: int) -> bytes:
        """Read bytes [start, stop) of a file with an HTTP range request.

        Raises:
            NotFoundError: no such file.
            ConnectionLostError: fewer bytes arrived, after retries.
        """
        if stop <= start:
            return b""
        url = hfh.hf_hub_url(
            repo.repo_id,
            path,
            repo_type=repo.repo_type,
            revision=repo.sha,
            endpoint=self._api.endpoint,
        )

        def fetch() -> bytes:
            # no compression: ranges count the bytes of the file itself
            response = self._get(
                url, {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
            )
            content: bytes = response.content
            if response.status_code == 200:  # the server ignores Range
                content = content[start:stop]
            if len(content) != stop - start:
                raise httpx2.RemoteProtocolError(
                    f"{len(content)} bytes of {path}, expected {stop - start}"
                )
            return content

        return with_retries(repo.repo_id, fetch)

    def reader(self, repo: PinnedRepo, path: str, size: int) -> Callable[[int, int], bytes]:
        """Return a function (start, stop) → bytes, for reading a file front to back.

        It fetches blocks of 4 MB. If the repo was resolved with ``blobs`` and the file is read in
        order to its end, the content is verified: the last read raises `ConnectionLostError` if
        the digest is wrong.
        """
        block, block_start, verified = b"", 0, 0
        blob = repo.blobs.get(path)
        hasher = blob.hasher() if blob else None

        def read(start: int, stop: int) -> bytes:
            nonlocal block, block_start, verified
            if not block_start <= start <= stop <= block_start + len(block):
                block_start = start
                block = self.read(repo, path, start, min(size, max(stop, start + _BLOCK_BYTES)))
            content = block[start - block_start : stop - block_start]
            if blob and hasher and start <= verified < stop:
                hasher.update(content[verified - start :])
                verified = stop
                if stop == size and hasher.hexdigest() != blob.digest:
                    raise damaged_error(repo.repo_id, path)
            return content

        return read

    def download(self, repo: PinnedRepo, path: str, local_dir: Path | None = None) -> Path:
        """Download a file unless it is there already; verify it if the repo has its digest.

        Without `local_dir`, the file is in the cache of `huggingface_hub`.

        Raises:
            NotFoundError: no such file.
            ConnectionLostError: the Hub did not answer, or the file was damaged in each transfer.
        """
        blob = repo.blobs.get(path)
        local = self._local_copy(repo, path, local_dir)
        if local and (blob.matches(local) if blob else local_dir is None):
            return local

        def fetch() -> Path:
            downloaded = self._download_once(repo, path, local_dir)
            if blob and not blob.matches(downloaded):
                cached = downloaded.resolve()  # the target of the link in the cache
                downloaded.unlink()
                cached.unlink(missing_ok=True)
                raise DamagedError(path)
            return downloaded

        return with_retries(repo.repo_id, fetch)

    @staticmethod
    def _local_copy(repo: PinnedRepo, path: str, local_dir: Path | None) -> Path | None:
        if local_dir is not None:
            return local_dir / path if (local_dir / path).is_file() else None
        cached = hfh.try_to_load_from_cache(
            repo.repo_id, path, revision=repo.sha, repo_type=repo.repo_type
        )
        return Path(cached) if isinstance(cached, str) else None

    def _download_once(self, repo: PinnedRepo, path: str, local_dir: Path | None) -> Path:
        try:
            downloaded = self._api.hf_hub_download(
                repo.repo_id,
                path,
                repo_type=repo.repo_type,
                revision=repo.sha,
                local_dir=local_dir,
                force_download=True,  # otherwise it retries by itself
            )
            return Path(downloaded)
        except ValueError as error:  # with force_download, raised from the failed request
            if isinstance(error.__cause__, Exception):
                raise error.__cause__ from None
            raise
        except OSError as error:
            if "Consistency check failed" not in str(error):
                raise
            raise httpx2.RemoteProtocolError(f"{path} is incomplete") from None

    def _get(self, url: str, headers: dict[str, str] | None = None, **options: Any) -> Any:
        """Make one GET request, without retries."""
        response = hfh.get_session().get(
            url,
            headers=build_hf_headers(token=self._token, headers=headers, **_LIBRARY),
            timeout=_TIMEOUT_SECONDS,
            **options,
        )
        hfh.hf_raise_for_status(response)
        return response

    # --- publishing -----------------------------------------------------------------------------

    @staticmethod
    def _require_private(repo: PinnedRepo, private: bool | None, state: str) -> None:
        """Refuse a public repo if a private one was requested, which a server may ignore."""
        if private and not repo.private:
            raise ConflictError(
                f"{repo.repo_id} {state}, although private was requested; nothing was uploaded",
                hint="make the repo private or delete it, then run the command again",
            )

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
                private was requested; nothing is uploaded then.
            AuthError: the token lacks write access.
            ConnectionLostError: the connection was lost; the folder is unchanged.
        """
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        names = {path.relative_to(folder).as_posix(): path for path in paths}
        operations: list[hfh.CommitOperationAdd | hfh.CommitOperationDelete] = [
            hfh.CommitOperationAdd(name, str(path))
            for name, path in names.items()
            if only is None or name in only
        ]
        operations += [hfh.CommitOperationDelete(path) for path in delete]
        if card is not None:
            operations.append(hfh.CommitOperationAdd("README.md", card.encode()))
        if parent is None:
            with translated(repo_id):
                self._api.create_repo(
                    repo_id,
                    repo_type=repo_type,
                    private=private,
                    space_sdk="gradio" if repo_type == "space" else None,
                )
            parent = self.resolve(repo_id, repo_type)
            self._require_private(parent, private, "was created public")
        elif private:  # it may have been made public since it was seen
            self._require_private(self.resolve(repo_id, repo_type), private, "is public by now")
        with translated(repo_id):
            try:
                info = self._api.create_commit(
                    repo_id,
                    operations,
                    commit_message=message,
                    repo_type=repo_type,
                    parent_commit=parent.sha,
                    create_pr=create_pr,
                )
            except RuntimeError as error:  # raised from the failed upload of one file
                if isinstance(error.__cause__, Exception):
                    raise error.__cause__ from None
                raise
        prefix = "" if repo_type == "model" else f"{repo_type}s/"
        url = f"{self._api.endpoint}/{prefix}{repo_id}"
        return str(info.pr_url or url) if create_pr else url  # a commit without changes has no PR
