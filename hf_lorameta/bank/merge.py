"""Merge banks of several contributors into one.

All banks must be for the same base model, with the same tokenizer and the same modules. Adapters of
packs are stored whole again, as the packs have them.
"""

import logging
import shutil
from collections.abc import Collection, Sequence
from itertools import chain, count
from pathlib import Path
from typing import TypeVar

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.build import BankFacts, Outcome, as_outcomes, finish_bank, skip
from hf_lorameta.bank.entry import store_entry
from hf_lorameta.bank.index import (
    GENERAL,
    OUTPUT_PRIOR_FILE,
    TOKENIZER_FILE,
    WORK_FOLDER,
    GeneralEntry,
    IndexEntry,
    MergedBank,
    Skipped,
    adapter_path,
)
from hf_lorameta.bank.new_folder import new_folder
from hf_lorameta.errors import BankError, UsageError
from hf_lorameta.files import sha256
from hf_lorameta.formats.lora_file import write_tensors
from hf_lorameta.types import Progress, no_progress

logger = logging.getLogger(__name__)

_Entry = TypeVar("_Entry", IndexEntry, GeneralEntry)


def merge_banks(banks: Sequence[Bank], target: Path, progress: Progress = no_progress) -> Bank:
    """Write the adapters of several banks as one bank.

    An adapter that several banks hold, by id and revision or with the same weights, is stored once:
    from the first of these banks that is not a pack, else from the first.
    Of the general adapters, the one that was trained on most tasks is kept, with the output prior
    of its bank. Fitted rules are left out, since they depend on the whole bank.

    Args:
        banks: at least two.
        target: folder of the bank, which must not exist; it appears only when complete.
        progress: called after each adapter with (done, total).

    Raises:
        UsageError: fewer than two banks, or `target` exists.
        BankError: the banks do not fit together, or `target` cannot be written.
        IntegrityError: a file of a bank is damaged.
    """
    if len(banks) < 2:
        raise UsageError("expected at least two banks to merge", hint="name another bank")
    _check_same_model(banks)
    with new_folder(target, "written") as folder:
        _write(banks, folder, progress)
    return Bank(target)


def name_of(bank: Bank) -> str:
    """Return what a bank is called in messages: its Hub id, or its folder."""
    return bank.id if bank.revision else str(bank.folder)


def general_of(banks: Sequence[Bank]) -> Bank | None:
    """Return the first of the banks whose general adapter was trained on most tasks."""
    candidates = [bank for bank in banks if bank.index.general]
    return max(candidates, key=_general_tasks, default=None)


def _general_tasks(bank: Bank) -> int:
    return len(bank.index.general.tasks) if bank.index.general else 0


def _check_same_model(banks: Sequence[Bank]) -> None:
    """Raise BankError if base model, tokenizer or layout of a bank differ from the first one's."""
    first = banks[0]
    for bank in banks[1:]:
        pair = f"{name_of(first)} and {name_of(bank)}"
        if bank.index.base_model.lower() != first.index.base_model.lower():
            raise BankError(
                f"{pair} are for different base models: {first.index.base_model} and "
                f"{bank.index.base_model}"
            )
        if bank.index.files[TOKENIZER_FILE] != first.index.files[TOKENIZER_FILE]:
            raise BankError(
                f"{pair} have different tokenizers, so that their profiles cannot be compared",
                hint="build one of them again with the tokenizer.json of the other: "
                "hf-lorameta bank build MANIFEST -o DIR --tokenizer FILE",
            )
        if bank.layout != first.layout:
            raise BankError(f"{pair} adapt different modules or shapes of the base model")
        stated = {b.index.base_revision for b in (first, bank)} - {None}
        if len(stated) > 1:
            logger.warning("%s were built for different commits of the base model", pair)


def _write(banks: Sequence[Bank], folder: Path, progress: Progress) -> None:
    """Write the merged bank into a folder."""
    shutil.copyfile(banks[0].verified_file(TOKENIZER_FILE), folder / TOKENIZER_FILE)
    outcomes = _store_entries(banks, folder, progress)
    source = general_of(banks)
    general = None
    if source is not None and source.index.general:
        general = _store_weights(source, source.index.general, folder, GENERAL)
    with_prior = (bank for bank in banks if bank.index.output_prior)
    prior_of = source if source is not None else next(with_prior, None)
    output_prior = prior_of.index.output_prior if prior_of is not None else None
    if prior_of is not None and output_prior:
        shutil.copyfile(prior_of.verified_file(OUTPUT_PRIOR_FILE), folder / OUTPUT_PRIOR_FILE)
    indices = [bank.index for bank in banks]
    facts = BankFacts(
        base_model=indices[0].base_model,
        base_revision=next(filter(None, (index.base_revision for index in indices)), None),
        base_license=next(filter(None, (index.base_license for index in indices)), None),
        published=all(index.published for index in indices),
        general=general,
        output_prior=output_prior,
        merged=tuple(map(_provenance, banks)),
    )
    finish_bank(folder, outcomes, facts)
    for path in (folder / WORK_FOLDER).glob("*"):
        path.unlink()


def _provenance(bank: Bank) -> MergedBank:
    packing = bank.index.packing
    return MergedBank(
        id=bank.id if bank.revision else None,
        revision=bank.revision,
        sha256=bank.digest,
        retained=packing.retained_whole if packing else None,
    )


def _store_entries(banks: Sequence[Bank], folder: Path, progress: Progress) -> dict[str, Outcome]:
    """Store each adapter once; return entries and skipped ones by name, in the banks' order."""
    listed = [(bank, i, entry) for bank in banks for i, entry in enumerate(bank.index.entries)]
    holders: dict[tuple[str, str], Bank] = {}
    for bank, _, entry in sorted(listed, key=lambda item: item[0].index.packing is not None):
        holders.setdefault(_identity(entry), bank)  # packs last
    outcomes: dict[str, Outcome] = {}
    skipped: list[Skipped] = []
    by_digest: dict[str, IndexEntry] = {}
    names = {GENERAL}
    for done, (bank, position, entry) in enumerate(listed, 1):
        progress(done, len(listed))
        if holders[_identity(entry)] is not bank:
            skipped.append(skip(entry, "several of the merged banks hold it, and one copy is kept"))
            continue
        stored = _store_weights(bank, entry, folder, _free_name(entry, names))
        same = by_digest.setdefault(stored.sha256, stored)
        if same is stored:
            store_entry(folder, stored, bank.stored_profiles[position], {})
            outcomes[stored.name] = stored
            names.add(stored.name.lower())
        else:
            (folder / adapter_path(stored.name)).unlink()
            skipped.append(skip(entry, f"its weights are those of {same.adapter}"))
    skipped.extend(chain.from_iterable(bank.index.skipped for bank in banks))
    return outcomes | as_outcomes(skipped)


def _free_name(entry: IndexEntry, taken: Collection[str]) -> str:
    """Return the entry's file name; with its revision, or a number too, if others have that one.

    Those `taken` are in lower case.
    """
    revised = f"{entry.name}--{entry.adapter_revision.removeprefix('sha256:')[:8]}"
    numbered = (f"{revised}-{number}" for number in count(2))
    return next(n for n in chain([entry.name, revised], numbered) if n.lower() not in taken)


def _identity(entry: IndexEntry) -> tuple[str, str]:
    return entry.adapter.lower(), entry.adapter_revision


def _store_weights(bank: Bank, entry: _Entry, folder: Path, name: str) -> _Entry:
    """Store an adapter whole under a name; return its entry with the new checksum."""
    file, path = bank.adapter(entry), folder / adapter_path(name)
    if bank.index.packing:
        names = (module.name for module in bank.layout)
        pairs = (bank.expand(module, *file.factors(module)) for module in names)
        write_tensors(path, bank.layout, entry.rank, "bfloat16", pairs)
    else:
        shutil.copyfile(file.path, path)
    changes = {"name": name, "size": path.stat().st_size, "sha256": sha256(path)}
    return entry.model_copy(update=changes)
