"""Add entries to a bank that is finished: only they are built, and little is written again."""

from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Any

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.build import (
    OTHER_MODULES,
    Outcome,
    build_entries,
    locked_folder,
    skip,
    without_outliers,
    write_bank,
)
from hf_lorameta.bank.entry import BuildJob, has_profile, store_entry, stored_profile
from hf_lorameta.bank.index import (
    GENERAL,
    OUTPUT_PRIOR_FILE,
    TOKENIZER_FILE,
    EntryTable,
    Index,
    IndexEntry,
    Skipped,
    adapter_path,
    to_lines,
)
from hf_lorameta.bank.manifest import Manifest
from hf_lorameta.bank.store_profiles import extend_profiles, store_profiles
from hf_lorameta.errors import BankError
from hf_lorameta.formats.lora_file import AdapterFile
from hf_lorameta.hub.client import Hub
from hf_lorameta.types import StageProgress, no_progress

_COMPARED = 1000
"""Entries of a bank whose updates are compared with those of new ones: enough for a median."""


def add_entries(
    manifest: Manifest,
    bank: Bank,
    *,
    hub: Hub | None = None,
    executor: Executor | int = 8,
    keep_outliers: bool = False,
    progress: StageProgress = no_progress,
) -> Bank:
    """Add the entries of a manifest to a local bank, and return it with them.

    An entry that the bank holds, by the adapter's id, stays as it is. Fitted rules are dropped,
    since they depend on the whole bank. Of a large bank, the last shard of profiles, the sketches
    and the index are written again, the index last: until then, the bank is what it was. The
    distances of a smaller bank are computed again.

    Args:
        manifest: of the new entries, for the bank's base model.
        bank: no pack, and not fetched from the Hub; not to be used afterwards.
        hub: client; None makes one.
        executor: as for `hf_lorameta.bank.build.build_bank`.
        keep_outliers: as for `hf_lorameta.bank.build.build_bank`.
        progress: called after each new entry with (stage, done, total).

    Raises:
        BankError: the bank is for another base model, a pack, fetched from the Hub or being built.
    """
    bank.require_local()
    index, folder = bank.index, bank.folder
    if manifest.base_model.lower() != index.base_model.lower():
        raise BankError(
            f"the manifest is for {manifest.base_model}, the bank for {index.base_model}",
            hint="build another bank: hf-lorameta bank build MANIFEST -o DIR",
        )
    held = {name.lower() for name in [*index.names(), GENERAL]}
    new = [entry for entry in manifest.entries if entry.name.lower() not in held]
    hub = hub or Hub()
    with locked_folder(folder):
        bank.verified_file(TOKENIZER_FILE)
        digest = index.files[TOKENIZER_FILE]
        job = BuildJob(folder, hub, index.base_model, index.vocab_size, digest)
        outcomes = build_entries(new, job, index.base_revision, executor, progress)
        if not keep_outliers:
            outcomes = without_outliers(outcomes, index.entries[:_COMPARED])
        outcomes = {name: _if_alike(bank, outcome) for name, outcome in outcomes.items()}
        return _extend(bank, outcomes, index.published and manifest.is_published)


def _entries(outcomes: Mapping[str, Outcome]) -> list[IndexEntry]:
    return [outcome for outcome in outcomes.values() if isinstance(outcome, IndexEntry)]


def _skipped(index: Index, outcomes: Mapping[str, Outcome]) -> list[Skipped]:
    """Return what an index lists as skipped, without adapters that are entries now, and more."""
    added = {entry.adapter for entry in _entries(outcomes)}
    earlier = [skipped for skipped in index.skipped if skipped.adapter not in added]
    new = [outcome for outcome in outcomes.values() if isinstance(outcome, Skipped)]
    return list(dict.fromkeys([*earlier, *new]))


def _if_alike(bank: Bank, outcome: Outcome) -> Outcome:
    """Return an entry if it adapts the modules of the bank; otherwise, why it is skipped."""
    if isinstance(outcome, Skipped):
        return outcome
    layout = AdapterFile(bank.folder / adapter_path(outcome.name)).layout
    return outcome if layout == bank.layout else skip(outcome, OTHER_MODULES)


def _extend(bank: Bank, outcomes: Mapping[str, Outcome], published: bool) -> Bank:
    """Append entries to a bank."""
    index, folder, entries = bank.index, bank.folder, _entries(outcomes)
    changes: dict[str, Any] = {"skipped": tuple(_skipped(index, outcomes))}
    if entries:
        if isinstance(index.entries, EntryTable):
            profiles = [stored_profile(folder, entry.name) for entry in entries]
            stored = extend_profiles(folder, bank.large_profiles, index, profiles)
            changes["entries"] = EntryTable(index.entries.lines + to_lines(entries))
        else:
            _keep_profiles(bank)
            changes["entries"] = all_entries = (*index.entries, *entries)
            all_profiles = (stored_profile(folder, entry.name) for entry in all_entries)
            stored = store_profiles(folder, all_profiles, len(all_entries), index.vocab_size)
        kept = (TOKENIZER_FILE, OUTPUT_PRIOR_FILE)
        others = {name: index.files[name] for name in kept if name in index.files}
        changes |= stored._asdict() | {"files": stored.files | others, "published": published}
    return write_bank(folder, index.model_copy(update=changes))


def _keep_profiles(bank: Bank) -> None:
    """Store the profiles of a downloaded bank where a build stores them.

    An addition overwrites the one file that they are in before it writes the index. If it is killed
    in between, the next one finds them here.
    """
    for number, entry in enumerate(bank.index.entries):
        if not has_profile(bank.folder, entry.name):
            store_entry(bank.folder, entry, bank.profiles[number], {})
