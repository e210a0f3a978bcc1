"""Check whether an adapter that the Hub lists can be an entry of a bank, without its weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Lock

from hf_lorameta.bank.adapter_repo import (
    card_beside,
    check_base_model,
    check_files,
    fetch_config,
    license_of,
)
from hf_lorameta.bank.manifest import is_adapter_id
from hf_lorameta.errors import (
    AuthError,
    ConnectionLostError,
    LoraMetaError,
    NotFoundError,
    sanitize,
)
from hf_lorameta.formats.lora_file import WEIGHTS_FILE
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.errors import ForbiddenError
from hf_lorameta.hub.repo import PinnedRepo, is_repo_id
from hf_lorameta.hub.repo_info import ListedAdapter, stated_names


@dataclass(frozen=True)
class Checked:
    """An adapter that was checked: its entry for a manifest, or why it has none.

    Attributes:
        adapter: Hub id, and the folder if it is in one.
        entry: fields of a manifest's entry; None if the adapter is left out.
        reason: why it is left out, one of a few fixed phrases.
        detail: the reason with names and numbers.
    """

    adapter: str
    entry: dict[str, str] | None = None
    reason: str = ""
    detail: str = ""


class _LeftOutError(Exception):
    """An adapter is left out; its arguments are the reason and the detail."""


@contextmanager
def _because(reason: str) -> Iterator[None]:
    """Leave an adapter out for this reason if its repo or its dataset cannot be used."""
    try:
        yield
    except LoraMetaError as error:
        lost = isinstance(error, ConnectionLostError | AuthError)
        if lost and not isinstance(error, ForbiddenError):
            raise  # it says nothing about this adapter
        raise _LeftOutError(reason, str(error)) from None


def adapters_in(repo: ListedAdapter) -> list[ListedAdapter]:
    """Return the adapters of a repo: the one in its root, or those in its folders if it has none.

    The datasets on the repo's card are those of an adapter in a folder only if there is no other.
    """
    end = f"/{WEIGHTS_FILE}"
    folders = sorted(name.removesuffix(end) for name in repo.files if name.endswith(end))
    if WEIGHTS_FILE in repo.files or not folders:
        return [repo]
    datasets = repo.datasets if len(folders) == 1 else ()
    return [replace(repo, folder=folder, datasets=datasets) for folder in folders]


class Checker:
    """Checks adapters of one base model.

    Args:
        hub: client.
        base_model: Hub id.
    """

    def __init__(self, hub: Hub, base_model: str) -> None:
        self._hub, self.base_model = hub, base_model
        self._repos: dict[str, PinnedRepo | _LeftOutError] = {}
        self._locks: dict[str, Lock] = {}

    def check(self, listed: ListedAdapter) -> Checked:
        """Check what the list says, then the dataset and the config.

        Raises:
            ConnectionLostError: the Hub did not answer.
            AuthError: the token is not valid.
        """
        try:
            return self._check(listed)
        except _LeftOutError as left_out:
            reason, detail = left_out.args
            return Checked(sanitize(listed.adapter), reason=reason, detail=detail)

    def _check(self, listed: ListedAdapter) -> Checked:
        if listed.private:
            raise _LeftOutError("private", "only some accounts see it")
        if not is_adapter_id(listed.adapter):
            raise _LeftOutError("name not possible in a manifest", "its id or folder")
        listed = self._with_own_card(listed) if listed.folder else listed
        name = _only_dataset(listed)
        if not listed.folder:
            with _because("no adapter_model.safetensors"):
                check_files(listed.files)
        dataset = self._once(f"datasets/{name}", lambda: self._resolve_dataset(name))
        self._check_config(listed)
        entry = {
            "adapter": listed.adapter,
            "revision": listed.sha,
            "dataset": dataset.repo_id,
            "dataset_revision": dataset.sha,
        }
        if listed.license:
            entry["license"] = listed.license
        return Checked(listed.adapter, entry)

    def _with_own_card(self, listed: ListedAdapter) -> ListedAdapter:
        """Return an adapter in a folder with what the card beside it states, if it has one."""
        repo = self._repo(listed)
        with _because("gated or removed"):
            card = card_beside(self._hub, repo, listed.inside)
        datasets = stated_names(card.get("datasets")) or listed.datasets
        return replace(listed, datasets=datasets, license=license_of(card, listed.license))

    def _check_config(self, listed: ListedAdapter) -> None:
        """Leave out an adapter whose config is not that of a plain LoRA for the base model."""
        repo = self._repo(listed)
        with _because("not a plain LoRA adapter"):
            config = fetch_config(self._hub, repo, listed.inside)
        with _because("config names another base model"):
            check_base_model(config, self.base_model)

    def _repo(self, listed: ListedAdapter) -> PinnedRepo:
        """Resolve an adapter's repo."""

        def resolve() -> PinnedRepo:
            with _because("gated or removed"):
                repo = self._hub.resolve(listed.repo_id, "model", listed.sha, blobs=True)
                self._hub.check_access(repo)
            return repo

        return self._once(listed.repo_id, resolve)

    def _once(self, name: str, resolve: Callable[[], PinnedRepo]) -> PinnedRepo:
        """Resolve a repo once, in whichever thread asks first; leave out what cannot be used."""
        with self._locks.setdefault(name, Lock()):
            if name not in self._repos:
                try:
                    self._repos[name] = resolve()
                except _LeftOutError as left_out:
                    self._repos[name] = left_out
            found = self._repos[name]
        if isinstance(found, _LeftOutError):
            raise found
        return found

    def _resolve_dataset(self, name: str) -> PinnedRepo:
        """Resolve a public dataset."""
        with _because("dataset missing or private"):
            repo = self._hub.resolve(name, "dataset")
            if repo.private:
                raise NotFoundError(f"{name} is private")
            if not is_repo_id(repo.repo_id):
                raise NotFoundError(f"{name} has no namespace, expected namespace/name")
        with _because("dataset gated"):
            self._hub.check_access(repo)
        return repo


def _only_dataset(listed: ListedAdapter) -> str:
    """Return the one dataset that the card names."""
    if not listed.datasets:
        which = "the card in its folder" if listed.folder else "its card"
        raise _LeftOutError("card names no dataset", f"{which} has no `datasets`")
    if len(listed.datasets) > 1:
        names = sanitize(", ".join(listed.datasets))
        raise _LeftOutError("card names several datasets", f"its card names {names}")
    return listed.datasets[0]
