"""Build a bank from a manifest, or resume or extend one.

Entries are independent tasks (`hf_lorameta.bank.entry`) that any `concurrent.futures.Executor` can
run. A finished entry is not fetched again, so that a build that was killed can be resumed. The
index is written last, in the manifest's order: the same sources give the same bytes.
"""

import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from huggingface_hub.constants import is_offline_mode

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.entries import EntryTable, IndexEntry, to_lines
from hf_lorameta.bank.entry import BuildJob, build_entry, has_profile, store_entry, stored_profile
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
from hf_lorameta.bank.outliers import outliers
from hf_lorameta.bank.store_profiles import delete_outdated, extend_profiles, store_profiles
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
from hf_lorameta.quoting import shell_word
from hf_lorameta.tables import plural
from hf_lorameta.types import StageProgress, no_progress

logger = logging.getLogger(__name__)

EntryResult = IndexEntry | Skipped

OTHER_MODULES = "adapts other modules or shapes than most of the bank"
_COMPARED = 1000
"""Number of existing entries that new ones are compared with: enough for a median."""


def build_bank(
    manifest: Manifest,
    folder: Path,
    *,
    add: bool = False,
    hub: Hub | None = None,
    executor: Executor | int = 8,
    keep_outliers: bool = False,
    progress: StageProgress = no_progress,
) -> Bank:
    """Build a bank from the Hub; an existing one is resumed, or extended by a longer manifest.

    Args:
        add: keep the entries of the bank in the folder as they are, and append those of the
            manifest that it lacks, by the adapters' ids. Of a large bank, only the last shard of
            profiles, the sketches and the index are written again. A trained neural rule is
            dropped, since it depends on the whole bank.
        executor: runs one task per entry, in processes or on machines that see the folder under the
            same path, or a number of threads. The token of `hub` is not sent to other processes,
            which use their own.
        keep_outliers: do not skip adapters whose updates are unusually large, see
            `hf_lorameta.bank.outliers`.
        progress: called after each entry with (stage, done, total).

    Raises:
        BankError: no entry is usable, there is no tokenizer, the folder holds adapters that are
            not in the manifest, another command is writing it, it cannot be written, or the
            workers of the executor died. To add: the folder holds no bank, or one for another base
            model.
    """
    hub = hub or Hub()
    with locked_folder(folder):
        held = _held_bank(folder, manifest) if add else None
        if held is None:
            names = {entry.name for entry in manifest.entries}
            refuse_to_drop(folder, [name for name in adapters_in(folder) if name not in names])
            start, entries = _new_index(manifest, folder, hub), manifest.entries
        else:
            published = held.index.published and manifest.is_published
            start = held.index.model_copy(update={"published": published})
            held_names = {name.lower() for name in [*start.names(), GENERAL]}
            entries = tuple(e for e in manifest.entries if e.name.lower() not in held_names)
        digest = start.files[TOKENIZER_FILE]
        job = BuildJob(folder, hub, start.base_model, start.vocab_size, digest)
        outcomes = build_entries(entries, job, start.base_revision, executor, progress)
        if not keep_outliers:
            outcomes = without_outliers(outcomes, start.entries[:_COMPARED])
        return finish_bank(folder, outcomes, start, held)


def _held_bank(folder: Path, manifest: Manifest) -> Bank:
    """Open the bank that entries are added to."""
    bank = Bank(folder)
    if manifest.base_model.lower() != bank.index.base_model.lower():
        raise BankError(
            f"the manifest is for {manifest.base_model}, the bank for {bank.index.base_model}",
            hint="build another bank: hf-lorameta bank build MANIFEST -o DIR",
        )
    bank.split_shards()
    if (tokenizer := bank.verified_file(TOKENIZER_FILE)).parent != folder:
        shutil.copyfile(tokenizer, folder / TOKENIZER_FILE)
    return bank


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
            hint=[
                "name another folder",
                f"add to it: hf-lorameta bank add {shell_word(str(folder))} MANIFEST",
            ],
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


def without_outliers(
    outcomes: Mapping[str, EntryResult], held: Iterable[IndexEntry] = ()
) -> dict[str, EntryResult]:
    """Skip the adapters whose updates are unusually large, see `hf_lorameta.bank.outliers`.

    Args:
        outcomes: by entry name.
        held: existing entries of the bank, which are kept whatever their updates are.
    """
    entries = [entry for entry in outcomes.values() if isinstance(entry, IndexEntry)]
    norms = {e.name: e.norm for e in (*held, *entries) if e.norm is not None}
    kept = dict(outcomes)
    for name, reason in outliers(norms).items():
        found = outcomes.get(name)
        if isinstance(found, IndexEntry):
            kept[name] = skip(found, reason)
    return kept


def finish_bank(
    folder: Path, outcomes: Mapping[str, EntryResult], start: Index, held: Bank | None = None
) -> Bank:
    """Write profiles, distances and the index of a bank whose entries are finished.

    Args:
        folder: of the bank; holds ``tokenizer.json`` and the files of the entries.
        outcomes: entries and skipped ones by name, in the order of the index; none if the general
            adapter is the only one.
        start: the index that the entries are added to; the files of its general adapter and its
            output prior are in the folder.
        held: the bank that is extended, whose entries `start` lists; None for a new one.

    Raises:
        BankError: no entry can be used.
    """
    layout, deviating = _layout(folder, outcomes, start)
    found = [
        skip(one, OTHER_MODULES) if isinstance(one, IndexEntry) and one.name in deviating else one
        for one in outcomes.values()
    ]
    new = [one for one in found if isinstance(one, IndexEntry)]
    ids = {entry.adapter for entry in new}
    skipped = [
        *(one for one in start.skipped if one.adapter not in ids),
        *(one for one in found if isinstance(one, Skipped)),
    ]
    changes: dict[str, Any] = {"skipped": tuple(dict.fromkeys(skipped))}
    if held and not new:
        return write_bank(folder, held.index.model_copy(update=changes))
    if not new and (skipped or start.general is None):
        reasons = "; ".join(skip.reason for skip in skipped)[:500]
        raise BankError(
            f"no entry can be used: {reasons}",
            hint="fix the causes above, then run the same command again",
        )
    if held and isinstance(start.entries, EntryTable):
        profiles = [stored_profile(folder, entry.name) for entry in new]
        stored = extend_profiles(folder, held.large_profiles, start, profiles)
        changes["entries"] = EntryTable(start.entries.lines + to_lines(new))
    else:
        if held:
            _keep_profiles(held)
        changes["entries"] = entries = (*start.entries, *new)
        every = (stored_profile(folder, entry.name) for entry in entries)
        stored = store_profiles(folder, every, len(entries), start.vocab_size)
    names = [TOKENIZER_FILE, *([OUTPUT_PRIOR_FILE] if start.output_prior else [])]
    files = {name: start.files.get(name) or sha256(folder / name) for name in names}
    changes |= stored._asdict() | {"files": stored.files | files, "layout": layout}
    return write_bank(folder, start.model_copy(update=changes))


def _keep_profiles(bank: Bank) -> None:
    """Store the profiles of a downloaded bank where a build stores them.

    Adding entries overwrites the one file of all profiles before it writes the index. If the
    command is killed in between, the next run finds the profiles here.
    """
    for number, entry in enumerate(bank.index.entries):
        if not has_profile(bank.folder, entry.name):
            store_entry(bank.folder, entry, bank.profiles[number], {})


def write_bank(folder: Path, index: Index) -> Bank:
    """Write the index of a bank whose other files are written, and delete what it does not list."""
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

    It is the one that the bank has already, or the commonest among the entries, of several the
    first; without entries, that of the general adapter.
    """
    by_layout: dict[Layout, set[str]] = {}
    for name, outcome in outcomes.items():
        if isinstance(outcome, IndexEntry):
            layout = AdapterFile(folder / adapter_path(name)).layout
            by_layout.setdefault(layout, set()).add(name)
    layout = start.layout
    if not layout and by_layout:
        layout = max(by_layout, key=lambda layout: len(by_layout[layout]))
    elif not layout and start.general:
        layout = AdapterFile(folder / adapter_path(start.general.name)).layout
    return layout, set().union(*(by_layout[one] for one in by_layout if one != layout))


def _tokenizer(manifest: Manifest, hub: Hub) -> bytes:
    """Fetch the base model's tokenizer, or read it from the embedded bank of the same model."""
    name = manifest.tokenizer or manifest.base_model
    try:
        repo = hub.resolve(name, "model", blobs=True)
        return hub.download(repo, TOKENIZER_FILE).read_bytes()
    except HubError as error:
        embedded = Bank.embedded()
        if embedded.index.base_model == name:
            return embedded.verified_file(TOKENIZER_FILE).read_bytes()
        raise BankError(
            f"no tokenizer.json in {name}: {error}",
            hint="name another repo in the manifest's `tokenizer`",
        ) from None
