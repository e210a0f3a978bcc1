"""The only room that touches the network.

Every repo is resolved to a commit first and read at that commit; the client's exceptions become
`hf_lorameta.errors`; rate limits and server errors are waited out. ``HF_ENDPOINT``, ``HF_TOKEN``,
``HF_HOME`` and ``HF_HUB_OFFLINE`` mean what they mean to `huggingface_hub`.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx2
import huggingface_hub as hfh
from huggingface_hub import constants
from huggingface_hub import errors as hf
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # re-exported lazily
    build_hf_headers,
    hf_raise_for_status,
    http_backoff,
)

from hf_lorameta._version import __version__
from hf_lorameta.errors import AuthError, NotFoundError, UsageError
from hf_lorameta.hub.dataset_streams import RawDataset, check_not_shadowed, pick_split, raw_dataset
from hf_lorameta.hub.errors import (
    TRANSIENT,
    DamagedError,
    damaged_error,
    opening,
    reading,
    translated,
)

logger = logging.getLogger(__name__)
T = TypeVar("T")

_TRIES = 6
_CHUNK = 1 << 20
_BLOCK = 4 << 20


@dataclass(frozen=True)
class Blob:
    """A file's content as the Hub knows it.

    Attributes:
        size: in bytes.
        digest: hex; SHA-256 of a large file, else git's id, SHA-1 with the size before the bytes.
        large: which of the two.
    """

    size: int
    digest: str
    large: bool

    def hasher(self) -> Any:
        """A `hashlib` object that gives the digest once it was fed the content."""
        if self.large:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)

    def is_in(self, path: Path) -> bool:
        """Whether a local file has this content."""
        found = self.hasher()
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                found.update(chunk)
        return bool(found.hexdigest() == self.digest)


@dataclass(frozen=True)
class Resolved:
    """A repo at one commit.

    Attributes:
        repo_id: ``namespace/name``.
        repo_type: model, dataset or space.
        sha: full commit hash everything else is read at.
        private: whether strangers can see it.
        license: what the repo's card says, None if it says nothing.
        files: paths in the repo at that commit.
        blobs: what is known of their content; all that is fetched is compared with it.
    """

    repo_id: str
    repo_type: str
    sha: str
    private: bool = False
    license: str | None = None
    files: tuple[str, ...] = ()
    blobs: Mapping[str, Blob] = field(default_factory=dict, repr=False)


class Hub:
    """A connection with one token; also the source that `hf_lorameta.bank.bank.build` reads from.

    Args:
        token: None uses the saved or environment token, if any; False sends none at all, which is
            what a server does for a visitor who is not signed in.
    """

    def __init__(self, token: str | Literal[False] | None = None) -> None:
        self._token = token
        self._api = hfh.HfApi(token=token, library_name="hf_lorameta", library_version=__version__)

    def __repr__(self) -> str:
        return f"Hub({self._api.endpoint})"

    def __reduce__(self) -> tuple[type["Hub"], tuple[()]]:
        # what goes to another process or machine takes that one's own token along, never ours
        return Hub, ()

    # --- reading --------------------------------------------------------------------------------

    def resolve(
        self, repo_id: str, repo_type: str, revision: str | None = None, *, blobs: bool = False
    ) -> Resolved:
        """Pin a repo to a commit.

        Args:
            repo_id: ``namespace/name``.
            repo_type: model, dataset or space.
            revision: branch, tag or commit; None is the newest.
            blobs: ask for sizes and digests of the files, too.

        Raises:
            NotFoundError: no such repo or revision, or it is private.
            GatedError: access was not granted.
            AuthError: the token is not valid.
            ConnectionLostError: the Hub did not answer.
        """
        info: Any = self._call(
            repo_id,
            lambda: self._api.repo_info(
                repo_id, repo_type=repo_type, revision=revision, files_metadata=blobs
            ),
        )
        card = info.card_data.to_dict() if info.card_data else {}
        license_ = card.get("license")
        return Resolved(
            info.id,
            repo_type,
            info.sha,
            private=bool(info.private),
            license=license_ if isinstance(license_, str) else None,
            files=tuple(sibling.rfilename for sibling in info.siblings or ()),
            blobs={s.rfilename: b for s in info.siblings or () if (b := _blob(s))},
        )

    def search_datasets(self, words: str, limit: int = 8) -> list[str]:
        """Ids of datasets whose names match, the most downloaded first.

        Args:
            words: as one types; nothing is asked for fewer than two characters.
            limit: at most so many.

        Raises:
            HubError: the Hub refused or did not answer.
        """
        if len(words.strip()) < 2:
            return []
        found = self._call(
            "the search",
            lambda: list(
                self._api.list_datasets(search=words.strip(), sort="downloads", limit=limit)
            ),
        )
        return [info.id for info in found]

    def choices(self, repo: Resolved, config: str | None = None) -> tuple[list[str], list[str]]:
        """What can be chosen in a dataset repo.

        Args:
            repo: as `resolve` gives it.
            config: None takes the one that `rows` would take; without such a one there are no
                splits to list.

        Returns:
            Names of the configurations, and of the chosen one's splits.

        Raises:
            DatasetError: the repo cannot be read as a dataset.
            HubError: it is gated, scripted or out of reach.
        """
        import datasets

        check_not_shadowed(repo.repo_id)
        options = {"revision": repo.sha, "token": self._token}
        with opening(repo.repo_id):
            configs = self._call(
                repo.repo_id, lambda: datasets.get_dataset_config_names(repo.repo_id, **options)
            )
            chosen = config or ("default" if "default" in configs else configs[0])
            if config is None and chosen != "default" and len(configs) > 1:
                return list(configs), []
            splits = self._call(
                repo.repo_id,
                lambda: datasets.get_dataset_split_names(repo.repo_id, chosen, **options),
            )
        return list(configs), list(splits)

    def size(self, repo: Resolved, path: str) -> int:
        """Size in bytes of one file.

        Raises:
            NotFoundError: no such file.
        """
        if path in repo.blobs:
            return repo.blobs[path].size
        found: list[Any] = self._call(
            repo.repo_id,
            lambda: self._api.get_paths_info(
                repo.repo_id, [path], repo_type=repo.repo_type, revision=repo.sha
            ),
        )
        if not found or not hasattr(found[0], "size"):
            raise NotFoundError(f"{repo.repo_id} holds no {path}")
        return int(found[0].size)

    def read(self, repo: Resolved, path: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of one file, by HTTP Range.

        Raises:
            ConnectionLostError: fewer bytes came, after retries.
            NotFoundError: no such file.
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
            headers = build_hf_headers(token=self._token, library_name="hf_lorameta")
            headers["Range"] = f"bytes={start}-{stop - 1}"
            headers["Accept-Encoding"] = "identity"  # ranges count the file's own bytes
            response = http_backoff("GET", url, headers=headers, timeout=30)
            hf_raise_for_status(response)
            content: bytes = response.content
            if response.status_code == 200:  # a server that ignores Range
                content = content[start:stop]
            if len(content) != stop - start:
                raise httpx2.RemoteProtocolError(
                    f"{len(content)} bytes of {path}, expected {stop - start}"
                )
            return content

        return self._call(repo.repo_id, fetch)

    def reader(self, repo: Resolved, path: str, size: int) -> Callable[[int, int], bytes]:
        """A reader of byte ranges that fetches in blocks, for reading a file front to back.

        Whoever reads it to its end that way gets the Hub's own bytes, or a `ConnectionLostError`
        with the last of them, if the repo was resolved with ``blobs``.
        """
        block, origin, checked = b"", 0, 0
        blob = repo.blobs.get(path)
        digest = blob.hasher() if blob else None

        def read(start: int, stop: int) -> bytes:
            nonlocal block, origin, checked
            if not origin <= start <= stop <= origin + len(block):
                origin = start
                block = self.read(repo, path, start, min(size, max(stop, start + _BLOCK)))
            content = block[start - origin : stop - origin]
            if blob and digest and start <= checked < stop:
                digest.update(content[checked - start :])
                checked = stop
                if stop == size and digest.hexdigest() != blob.digest:
                    raise damaged_error(repo.repo_id, path)
            return content

        return read

    def download(self, repo: Resolved, path: str, local_dir: Path | None = None) -> Path:
        """One file through the client's cache, or into a folder of its own.

        Raises:
            NotFoundError: no such file.
            ConnectionLostError: the Hub did not answer and the file is not cached, or it came
                damaged again and again (if the repo was resolved with ``blobs``).
        """

        def fetch() -> Path:
            try:
                found = self._api.hf_hub_download(
                    repo.repo_id,
                    path,
                    repo_type=repo.repo_type,
                    revision=repo.sha,
                    local_dir=local_dir,
                )
            except OSError as error:
                if "Consistency check failed" not in str(error):
                    raise
                # how the client says that fewer bytes came than were promised
                raise httpx2.RemoteProtocolError(f"{path} came short") from None
            here, blob = Path(found), repo.blobs.get(path)
            if blob and not blob.is_in(here):
                target = here.resolve()  # of the link in the client's cache
                here.unlink()
                target.unlink(missing_ok=True)
                raise DamagedError(path)
            return here

        return self._call(repo.repo_id, fetch)

    def rows(
        self, repo: Resolved, config: str | None = None, split: str | None = None
    ) -> RawDataset:
        """Open a dataset repo as a stream; nothing is downloaded whole.

        Args:
            repo: as `resolve` gives it.
            config: None takes the only one, or the one called default.
            split: None takes train, or the only one.

        Raises:
            ScriptDatasetError: it needs a loading script.
            EmptyDatasetError: it holds no data files.
            DatasetError: no such config or split, or several and none named.
            GatedError: access was not granted.
        """
        import datasets

        check_not_shadowed(repo.repo_id)
        datasets.disable_progress_bars()
        with opening(repo.repo_id):
            streams = self._call(
                repo.repo_id,
                lambda: datasets.load_dataset(
                    repo.repo_id, config, streaming=True, revision=repo.sha, token=self._token
                ),
            )
        split = pick_split(repo.repo_id, list(streams), split)
        return raw_dataset(streams[split], split, partial(reading, repo.repo_id))

    # --- writing --------------------------------------------------------------------------------

    def user(self) -> str:
        """Name of the account the token belongs to.

        Raises:
            AuthError: there is no token, or it is not valid.
        """
        if self._token is False or not (self._token or hfh.get_token()):
            raise AuthError("no Hub token was found", hint="hf auth login")
        return str(self._call("whoami", self._api.whoami)["name"])

    def existing(self, repo_id: str, repo_type: str = "model") -> Resolved | None:
        """The repo as it stands, or None when there is none to be seen.

        Raises:
            UsageError: not of the form ``user/name``; the Hub would add a name of its own.
        """
        if repo_id.count("/") != 1:
            raise UsageError(f"{repo_id} is not a repo id of the form user/name")
        try:
            return self.resolve(repo_id, repo_type)
        except NotFoundError:
            return None

    def publish(
        self,
        folder: Path,
        repo_id: str,
        *,
        message: str,
        private: bool | None,
        parent: Resolved | None,
        create_pr: bool = False,
        repo_type: str = "model",
        only: Sequence[str] | None = None,
        delete: Sequence[str] = (),
    ) -> str:
        """Publish a finished folder in one commit.

        Args:
            folder: every file below it, or those in `only`, is committed under its own name.
            repo_id: target.
            message: of the commit.
            private: visibility of a repo that has to be created.
            parent: the repo as it was looked at, None if it did not exist; the commit is refused
                when it has changed since.
            create_pr: open a pull request instead of committing.
            repo_type: model, dataset or space.
            only: paths below the folder; None is all.
            delete: paths in the repo that go in the same commit.

        Returns:
            URL of the repo, or of the pull request.

        Raises:
            ConflictError: the repo was created or changed meanwhile.
            AuthError: no right to write there.
            ConnectionLostError: the connection was lost; the folder is untouched.
        """
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        if only is not None:
            paths = [path for path in paths if path.relative_to(folder).as_posix() in only]
        operations: list[hfh.CommitOperationAdd | hfh.CommitOperationDelete] = [
            hfh.CommitOperationAdd(path.relative_to(folder).as_posix(), str(path)) for path in paths
        ]
        operations += [hfh.CommitOperationDelete(path) for path in delete]
        if parent is None:
            self._create(repo_id, repo_type, private)
            parent = self.resolve(repo_id, repo_type)
        head = parent.sha

        def commit() -> Any:
            try:
                return self._api.create_commit(
                    repo_id,
                    operations,
                    commit_message=message,
                    repo_type=repo_type,
                    parent_commit=head,
                    create_pr=create_pr,
                )
            except RuntimeError as error:  # around what went wrong with the upload of one file
                if isinstance(error.__cause__, Exception):
                    raise error.__cause__ from None
                raise

        info = self._call(repo_id, commit, retry=False)
        prefix = "" if repo_type == "model" else f"{repo_type}s/"
        url = f"{self._api.endpoint}/{prefix}{repo_id}"
        return str(info.pr_url or url) if create_pr else url  # no pull request of no change

    def _create(self, repo_id: str, repo_type: str, private: bool | None) -> None:
        self._call(
            repo_id,
            lambda: self._api.create_repo(
                repo_id,
                repo_type=repo_type,
                private=private,
                space_sdk="gradio" if repo_type == "space" else None,
            ),
            retry=False,
        )

    # --- errors ---------------------------------------------------------------------------------

    def _call(self, what: str, run: Callable[[], T], *, retry: bool = True) -> T:
        """Run a client call; wait out rate limits and server errors; translate the rest."""
        for attempt in range(1, _TRIES + 1):
            wait = min(0.5 * 2**attempt, 30.0)
            with translated(what):
                try:
                    return run()
                except hf.HfHubHTTPError as error:
                    status = error.response.status_code
                    if not retry or status not in TRANSIENT or attempt == _TRIES:
                        raise
                    wait = _retry_after(error.response) or wait
                    logger.warning("%s answered %s, trying again in %.0f s", what, status, wait)
                except (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError):
                    if not retry or attempt == _TRIES or constants.HF_HUB_OFFLINE:
                        raise
                    logger.warning("connection to %s lost, trying again in %.0f s", what, wait)
            time.sleep(wait)
        raise AssertionError("unreachable")


def _blob(sibling: Any) -> Blob | None:
    if sibling.size is None or not sibling.blob_id:
        return None
    if sibling.lfs:
        return Blob(int(sibling.lfs.size), str(sibling.lfs.sha256), large=True)
    return Blob(int(sibling.size), str(sibling.blob_id), large=False)


def _retry_after(response: httpx2.Response) -> float | None:
    value = response.headers.get("Retry-After", "")
    return min(float(value), 310.0) + 0.5 if value.isdecimal() else None
