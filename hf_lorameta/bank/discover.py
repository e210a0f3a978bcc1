"""Find the adapters of a base model on the Hub that can be entries of a bank.

Finished checks are kept in a file beside the manifest until it is written, so that an interrupted
command does not repeat them.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Lock

import yaml

from hf_lorameta.bank import manifest
from hf_lorameta.bank.adapter_repo import (
    card_beside,
    check_base_model,
    check_files,
    fetch_config,
    license_of,
)
from hf_lorameta.errors import (
    AuthError,
    ConnectionLostError,
    LoraMetaError,
    NotFoundError,
    UsageError,
    sanitize,
)
from hf_lorameta.files import hidden_sibling, write_atomically, writing
from hf_lorameta.formats.lora_file import WEIGHTS_FILE
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.errors import ForbiddenError
from hf_lorameta.hub.repo import PinnedRepo, is_repo_id
from hf_lorameta.hub.repo_info import ListedAdapter, list_adapters, stated_names
from hf_lorameta.types import StageProgress, no_progress

_MAX_UNANSWERED = 3
"""Adapters for which the Hub may fail to answer before the command ends."""


@dataclass(frozen=True)
class CheckedAdapter:
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


@dataclass(frozen=True)
class Discovery:
    """The adapters of a base model that were checked.

    Attributes:
        base_model: Hub id.
        checked: all of them, the most downloaded first.
        more: whether the Hub lists more.
    """

    base_model: str
    checked: tuple[CheckedAdapter, ...]
    more: bool

    @property
    def entries(self) -> list[dict[str, str]]:
        """The entries of the manifest."""
        return [checked.entry for checked in self.checked if checked.entry]

    @property
    def left_out(self) -> list[CheckedAdapter]:
        """The adapters without an entry."""
        return [checked for checked in self.checked if not checked.entry]

    def reasons(self) -> list[tuple[str, int, str]]:
        """Return (reason, number of adapters, the first of them), the most frequent first."""
        first = {checked.reason: checked.adapter for checked in reversed(self.left_out)}
        counts = Counter(checked.reason for checked in self.left_out)
        return [(reason, count, first[reason]) for reason, count in counts.most_common()]


def discover(
    base_model: str,
    output: Path,
    *,
    hub: Hub | None = None,
    limit: int = 1000,
    workers: int = 8,
    progress: StageProgress = no_progress,
) -> Discovery:
    """Write a manifest of the Hub's adapters for a base model whose cards name one dataset.

    No manifest is written if no adapter can be used.

    Args:
        base_model: Hub id.
        output: the manifest, which must not exist.
        hub: client.
        limit: number of adapters to check, the most downloaded first.
        workers: requests at a time.
        progress: called after each step.

    Raises:
        UsageError: `output` exists or cannot be written.
        NotFoundError: there is no such base model.
        ConnectionLostError: the Hub does not answer; run again, finished checks are kept.
    """
    if output.exists():
        raise UsageError(f"{output} exists", code="output.exists", hint="name a new file")
    hub = hub or Hub()
    base_model = hub.resolve(base_model, "model").repo_id
    listed: list[ListedAdapter] = []
    for repo in list_adapters(hub, base_model, limit + 1):
        listed += adapters_of_repo(repo)
        progress("listing", min(len(listed), limit), limit)
        if len(listed) > limit:
            break
    more, listed = len(listed) > limit, listed[:limit]
    checks = hidden_sibling(output, ".checks.jsonl")
    with writing(output, UsageError, "name another file"):
        checked = _check_all(listed, AdapterChecker(hub, base_model), checks, workers, progress)
        discovery = Discovery(base_model, tuple(checked), more)
        if discovery.entries:
            write_atomically(output, _manifest_text(discovery).encode())
        checks.unlink(missing_ok=True)
    return discovery


def _check_all(
    listed: Sequence[ListedAdapter],
    checker: "AdapterChecker",
    checks: Path,
    workers: int,
    progress: StageProgress,
) -> list[CheckedAdapter]:
    """Return the checks of adapters, in their order; finished ones are kept in a file."""
    done = _finished(checks, checker.base_model)
    unanswered = 0
    with checks.open("a", encoding="utf-8") as file, ThreadPoolExecutor(workers) as pool:
        file.write("\n")  # ends a line that a killed command left incomplete
        waiting = [adapter for adapter in listed if (adapter.adapter, adapter.sha) not in done]
        futures = {pool.submit(checker.check, adapter): adapter for adapter in waiting}
        try:
            for future in as_completed(futures):
                adapter = futures[future]
                try:
                    checked = future.result()
                    file.write(_record(checked, adapter.sha, checker.base_model))
                    file.flush()
                except ConnectionLostError as error:
                    unanswered += 1
                    if unanswered > _MAX_UNANSWERED:
                        raise
                    reason = "the Hub did not answer"
                    checked = CheckedAdapter(adapter.adapter, reason=reason, detail=str(error))
                done[adapter.adapter, adapter.sha] = checked
                progress("checking", len(done), len(listed))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return [done[adapter.adapter, adapter.sha] for adapter in listed]


def _record(checked: CheckedAdapter, sha: str, base_model: str) -> str:
    """Return a line that `_finished` reads."""
    return json.dumps({"sha": sha, "base_model": base_model, "checked": asdict(checked)}) + "\n"


def _finished(checks: Path, base_model: str) -> dict[tuple[str, str], CheckedAdapter]:
    """Return the checks that an interrupted command has finished, by adapter and commit."""
    done = {}
    with suppress(FileNotFoundError):
        for line in checks.read_text("utf-8", errors="replace").splitlines():
            with suppress(ValueError, TypeError, KeyError):  # empty or incomplete
                record = json.loads(line)
                if record["base_model"] == base_model:
                    checked = CheckedAdapter(**record["checked"])
                    done[checked.adapter, record["sha"]] = checked
    return done


def _manifest_text(discovery: Discovery) -> str:
    """Return the manifest, after parsing it as ``bank build`` will."""
    content = {"version": 1, "base_model": discovery.base_model, "entries": discovery.entries}
    text = (
        f"# Adapters of {discovery.base_model} on the Hub, each with the dataset that its card\n"
        f"# names, written by: hf-lorameta bank discover {discovery.base_model}\n"
        + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=200)
    )
    manifest.parse(text)
    return text


# --- one adapter ----------------------------------------------------------------------------------


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


def adapters_of_repo(repo: ListedAdapter) -> list[ListedAdapter]:
    """Return the adapters of a repo: the one in its root, or those in its folders if it has none.

    An adapter in a folder has the datasets on the repo's card only if it is the repo's only one.
    """
    end = f"/{WEIGHTS_FILE}"
    folders = sorted(name.removesuffix(end) for name in repo.files if name.endswith(end))
    if WEIGHTS_FILE in repo.files or not folders:
        return [repo]
    datasets = repo.datasets if len(folders) == 1 else ()
    return [replace(repo, folder=folder, datasets=datasets) for folder in folders]


class AdapterChecker:
    """Checks adapters of one base model.

    Args:
        hub: client.
        base_model: Hub id.
    """

    def __init__(self, hub: Hub, base_model: str) -> None:
        self._hub, self.base_model = hub, base_model
        self._repos: dict[str, PinnedRepo | _LeftOutError] = {}
        self._locks: dict[str, Lock] = {}

    def check(self, listed: ListedAdapter) -> CheckedAdapter:
        """Return the check of an adapter: of its listing, its dataset and its config.

        Raises:
            ConnectionLostError: the Hub did not answer.
            AuthError: the token is not valid.
        """
        try:
            return self._check(listed)
        except _LeftOutError as left_out:
            reason, detail = left_out.args
            return CheckedAdapter(sanitize(listed.adapter), reason=reason, detail=detail)

    def _check(self, listed: ListedAdapter) -> CheckedAdapter:
        if listed.private:
            raise _LeftOutError("private", "only some accounts see it")
        if not manifest.is_adapter_id(listed.adapter):
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
        return CheckedAdapter(listed.adapter, entry)

    def _with_own_card(self, listed: ListedAdapter) -> ListedAdapter:
        """Return an adapter in a folder with the datasets and license on the card there."""
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
        """Resolve a repo once for all threads; raise `_LeftOutError` if it cannot be used."""
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
                raise NotFoundError(f"{name} is private", code="dataset.private")
            if not is_repo_id(repo.repo_id):
                raise NotFoundError(
                    f"{name} has no namespace, expected namespace/name", code="dataset.no-namespace"
                )
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
