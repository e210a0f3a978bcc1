"""Build a bank from a manifest; run again, resume it, and with a longer manifest, extend it.

Entries are independent tasks (`hf_lorameta.bank.entry`) that any `concurrent.futures.Executor` can
run. A finished entry is not fetched again, so that a build that was killed can be resumed. The
index is written last, in the manifest's order: the same sources give the same bytes.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from huggingface_hub.constants import is_offline_mode

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.entries import IndexEntry
from hf_lorameta.bank.entry import BuildJob, build_entry, stored_profile
from hf_lorameta.bank.executors import reporting_dead_workers
from hf_lorameta.bank.index import (
    BASIS_FILE,
    GENERAL,
    OUTPUT_PRIOR_FILE,
    TOKENIZER_FILE,
    WORK_FOLDER,
    Index,
    Skipped,
    adapter_path,
    write_index,
)
from hf_lorameta.bank.locked import locked
from hf_lorameta.bank.manifest import BankEntry, Manifest
from hf_lorameta.bank.open_bank import embedded_bank
from hf_lorameta.bank.outliers import outliers, stated_norms
from hf_lorameta.bank.store_profiles import delete_outdated, store_profiles
from hf_lorameta.data.chat_form import CHAT
from hf_lorameta.data.chat_template import find_chat_form, require_chat_form
from hf_lorameta.data.counts.tokenizer import vocab_size
from hf_lorameta.errors import (
    BankError,
    ConnectionLostError,
    HubError,
    LoraMetaError,
    NotFoundError,
)
from hf_lorameta.files import sha256, write_atomically
from hf_lorameta.formats.lora_file import AdapterFile
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.hub.client import Hub
from hf_lorameta.tables import plural
from hf_lorameta.types import StageProgress, no_progress

logger = logging.getLogger(__name__)

EntryResult = IndexEntry | Skipped

OTHER_MODULES = "adapts other modules or shapes than most of the bank"


def build_bank(
    manifest: Manifest,
    folder: Path,
    *,
    hub: Hub | None = None,
    executor: Executor | int = 8,
    keep_outliers: bool = False,
    progress: StageProgress = no_progress,
) -> Bank:
    """Build a bank from the Hub; an existing one is resumed, or extended by a longer manifest.

    Args:
        executor: runs one task per entry, in processes or on machines that see the folder under the
            same path, or a number of threads. The token of `hub` is not sent to other processes,
            which use their own.
        keep_outliers: do not skip adapters whose updates are unusually large, see
            `hf_lorameta.bank.outliers`.
        progress: called after each entry with (stage, done, total).

    Raises:
        BankError: no entry is usable, there is no tokenizer, the folder holds adapters that are
            not in the manifest, another command is writing it, it cannot be written, or the
            workers of the executor died.
    """
    hub = hub or Hub()
    with locked_folder(folder):
        names = {entry.name for entry in manifest.entries}
        refuse_to_drop(folder, [name for name in adapters_in(folder) if name not in names])
        start = _new_index(manifest, folder, hub)
        digest = start.files[TOKENIZER_FILE]
        job = BuildJob(folder, hub, start.base_model, start.vocab_size, digest)
        outcomes = build_entries(manifest.entries, job, start.base_revision, executor, progress)
        if not keep_outliers:
            outcomes = without_outliers(outcomes)
        return finish_bank(folder, outcomes, start)


def _new_index(manifest: Manifest, folder: Path, hub: Hub) -> Index:
    """Write the tokenizer of a new bank, and return its index without entries."""
    base = None
    with suppress(NotFoundError, *([ConnectionLostError] if is_offline_mode() else [])):
        base = hub.resolve(manifest.base_model, "model")
    path = folder / TOKENIZER_FILE
    write_atomically(path, _tokenizer(manifest, hub))
    return Index.empty(
        manifest.base_model, base.sha if base else None, base.license if base else None,
        vocab_size(path), files={TOKENIZER_FILE: sha256(path)}, published=manifest.is_published,
    )  # fmt: skip


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Create the folder of a bank and lock it for one build.

    Raises:
        BankError: it holds a pack, cannot be written, or another command is writing it.
    """
    if (folder / BASIS_FILE).exists():
        raise BankError(
            f"{folder} holds a pack, which cannot be extended",
            code="bank.is-a-pack",
            hint="extend the bank it was packed from, then run: hf-lorameta bank pack",
        )
    again = "run the same command again; finished entries are kept"
    with locked(folder / WORK_FOLDER, folder, again):
        (folder / "adapters").mkdir(exist_ok=True)
        yield


def adapters_in(folder: Path) -> list[str]:
    """Return the names of the adapters of a bank in a folder; none if it holds no readable bank."""
    try:
        index = Bank(folder).index
        return [*index.names(), *([GENERAL] if index.general else [])]
    except BankError:
        return []


def refuse_to_drop(folder: Path, names: Sequence[str]) -> None:
    """Raise `BankError` if there are adapters in a folder that its new index would not list."""
    if names:
        raise BankError(
            f"{folder} holds a bank that would lose {plural(len(names), 'adapter')}, such as "
            f"{names[0]}",
            code="bank.would-lose-adapters",
            hint=["name another folder", "list what it holds as well"],
        )


def build_entries(
    entries: Sequence[BankEntry],
    job: BuildJob,
    revision: str | None,
    executor: Executor | int,
    progress: StageProgress,
) -> dict[str, EntryResult]:
    """Build every entry and return the outcomes by entry name, in the manifest's order.

    Entries whose template is ``chat`` get the base model's chat template at a `revision`.
    """
    if any(entry.template == CHAT for entry in entries):
        tokenizer = job.folder / TOKENIZER_FILE
        form = find_chat_form(job.base_model, tokenizer, revision, job.hub.token)
        template = require_chat_form(form, job.base_model).template
        entries = [entry.with_chat_template(template) for entry in entries]
    runs = ThreadPoolExecutor(executor) if isinstance(executor, int) else nullcontext(executor)
    with runs as pool:
        return _outcomes(entries, job, pool, progress)


def _outcomes(
    entries: Sequence[BankEntry],
    job: BuildJob,
    executor: Executor,
    progress: StageProgress,
) -> dict[str, EntryResult]:
    futures = {executor.submit(build_entry, entry, job): entry for entry in entries}
    outcomes: dict[str, EntryResult] = {}
    try:
        with reporting_dead_workers():
            for done, future in enumerate(as_completed(futures), 1):
                entry = futures[future]
                try:
                    outcomes[entry.name] = future.result()
                except (OSError, MemoryError, BrokenExecutor):
                    raise  # a fault of this machine, not of the entry
                except Exception as problem:  # noqa: BLE001 - none ends the build
                    shown = {entry.adapter: entry.adapter_id, entry.dataset: entry.dataset_id}
                    outcomes[entry.name] = skip(entry, why_skipped(problem, shown))
                progress("Reading entries", done, len(futures))
    finally:
        for future in futures:
            future.cancel()
    return {entry.name: outcomes[entry.name] for entry in entries}


def why_skipped(error: Exception, shown: Mapping[str, str]) -> str:
    """Return why an entry is skipped, with paths replaced by the names in `shown`."""
    if not isinstance(error, LoraMetaError):
        logger.warning("an entry failed with an unexpected error", exc_info=error)
        return f"unexpected {type(error).__name__}"
    reason = str(error)
    for path, name in shown.items():
        reason = reason.replace(path, name)
    logger.info("skipped: %s", reason)
    lost = isinstance(error, ConnectionLostError)
    return f"{reason} (run the same command again to retry)" if lost else reason


def skip(entry: BankEntry | IndexEntry, reason: str) -> Skipped:
    """Return the record of an entry that is left out, with the reason."""
    if isinstance(entry, BankEntry):
        return Skipped(adapter=entry.adapter_id, dataset=entry.dataset_id, reason=reason)
    return Skipped(adapter=entry.adapter, dataset=entry.dataset, reason=reason)


def without_outliers(outcomes: Mapping[str, EntryResult]) -> dict[str, EntryResult]:
    """Skip the adapters whose updates are unusually large, see `hf_lorameta.bank.outliers`.

    Args:
        outcomes: by entry name.
    """
    entries = {name: one for name, one in outcomes.items() if isinstance(one, IndexEntry)}
    odd = outliers(stated_norms(entries.values()))
    skipped = {
        name: skip(entries[name], f"{reason}; --keep-outliers keeps it")
        for name, reason in odd.items()
    }
    return {**outcomes, **skipped}


def finish_bank(folder: Path, outcomes: Mapping[str, EntryResult], start: Index) -> Bank:
    """Write profiles, distances and the index of a bank whose entries are finished.

    Args:
        folder: of the bank; holds ``tokenizer.json`` and the files of the entries.
        outcomes: entries and skipped ones by name, in the order of the index; none if the general
            adapter is the only one.
        start: the index without entries; the files of its general adapter and its output prior
            are in the folder.

    Raises:
        BankError: no entry can be used.
    """
    layout, deviating = _layout(folder, outcomes, start)
    found = [
        skip(one, OTHER_MODULES) if isinstance(one, IndexEntry) and one.name in deviating else one
        for one in outcomes.values()
    ]
    entries = tuple(one for one in found if isinstance(one, IndexEntry))
    skipped = tuple(dict.fromkeys(one for one in found if isinstance(one, Skipped)))
    if not entries and (skipped or start.general is None):
        reasons = "; ".join(skip.reason for skip in skipped)[:500]
        raise BankError(
            f"no entry can be used: {reasons}",
            code="bank.no-usable-entry",
            hint="fix the causes above, then run the same command again",
        )
    profiles = (stored_profile(folder, entry.name) for entry in entries)
    stored = store_profiles(folder, profiles, len(entries), start.vocab_size)
    names = [TOKENIZER_FILE, *([OUTPUT_PRIOR_FILE] if start.output_prior else [])]
    files = {name: start.files.get(name) or sha256(folder / name) for name in names}
    changes: dict[str, Any] = stored._asdict() | {"files": stored.files | files, "layout": layout}
    changes |= {"entries": entries, "skipped": skipped}
    index = start.model_copy(update=changes)
    clean_up(folder, write_index(folder, index))
    return Bank(folder)


def clean_up(folder: Path, index: Index) -> None:
    """Delete what the index of a bank no longer lists, and partial files of killed builds."""
    delete_outdated(folder, index.files)
    for part in (folder, folder / "adapters", folder / WORK_FOLDER):
        for path in part.glob(".*.partial"):
            path.unlink()


def _layout(
    folder: Path, outcomes: Mapping[str, EntryResult], start: Index
) -> tuple[Layout, set[str]]:
    """Return the layout of a bank, and the names of the entries that have another one.

    It is the commonest among the entries, of several the first; without entries, that of the
    general adapter.
    """
    by_layout: dict[Layout, set[str]] = {}
    for name, outcome in outcomes.items():
        if isinstance(outcome, IndexEntry):
            own = AdapterFile(folder / adapter_path(name)).layout
            by_layout.setdefault(own, set()).add(name)
    layout: Layout = ()
    if by_layout:
        layout = max(by_layout, key=lambda one: len(by_layout[one]))
    elif start.general:
        layout = AdapterFile(folder / adapter_path(start.general.name)).layout
    return layout, set().union(*(by_layout[one] for one in by_layout if one != layout))


def _tokenizer(manifest: Manifest, hub: Hub) -> bytes:
    """Fetch the base model's tokenizer, or read it from the embedded bank of the same model."""
    name = manifest.tokenizer or manifest.base_model
    try:
        repo = hub.resolve(name, "model", blobs=True)
        return hub.download(repo, TOKENIZER_FILE).read_bytes()
    except HubError as error:
        embedded = embedded_bank()
        if embedded.index.base_model == name:
            return embedded.verified_file(TOKENIZER_FILE).read_bytes()
        raise BankError(
            f"no tokenizer.json in {name}: {error}",
            code="bank.no-tokenizer",
            hint="name another repo in the manifest's `tokenizer`",
        ) from None
