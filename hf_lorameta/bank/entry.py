"""Build one entry of a bank: copy the adapter's weights, count the dataset's tokens.

An entry is an independent task. It leaves a record in the bank's work folder when it is finished,
so that a later build does not read it again.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hf_lorameta.bank.adapter_repo import adapter_in_folder, adapter_on_hub
from hf_lorameta.bank.arrays import load_arrays, to_record
from hf_lorameta.bank.entries import IndexEntry
from hf_lorameta.bank.index import TOKENIZER_FILE, WORK_FOLDER, adapter_path
from hf_lorameta.bank.manifest import BankEntry, is_path
from hf_lorameta.bank.outliers import Norms
from hf_lorameta.data.counts.profile import PROFILE_FORMAT, Profile, ProfileTable, profile_rows
from hf_lorameta.data.counts.tokenizer import load_encode
from hf_lorameta.data.sources.folders import digest_of
from hf_lorameta.errors import AdapterError
from hf_lorameta.files import sha256, write_atomically
from hf_lorameta.formats.lora_file import WEIGHTS_FILE, AdapterFile, write_tensors
from hf_lorameta.hub.client import Hub
from hf_lorameta.types import Encode


@dataclass(frozen=True)
class BuildJob:
    """Settings shared by all entries of a build. Pickled without the token of `hub`."""

    folder: Path  # of the bank
    hub: Hub
    base_model: str
    vocab_size: int
    tokenizer: str  # SHA-256 of its tokenizer.json


def build_entry(entry: BankEntry, job: BuildJob) -> IndexEntry:
    """Fetch, check and store one entry, unless an earlier build finished it.

    Raises:
        LoraMetaError: the entry cannot be used.
    """
    key = {
        "entry": entry.model_dump(),
        "base_model": job.base_model,
        "tokenizer": job.tokenizer,
        "profile": PROFILE_FORMAT,
        **_digests(entry),
    }
    finished = finished_entry(job.folder, entry.name, key)
    if finished:
        return finished
    if is_path(entry.adapter):
        source = adapter_in_folder(Path(entry.adapter), job.base_model)
    else:
        source = adapter_on_hub(job.hub, entry.adapter, entry.revision, job.base_model)
    weights, config, file = job.folder / adapter_path(entry.name), source.config, source.weights
    dataset = entry.open_dataset(entry.dataset, entry.dataset_revision, job.hub)
    profile = profile_rows(
        dataset.rows(), _encode(job.folder / TOKENIZER_FILE, job.tokenizer), job.vocab_size
    )
    pairs = (file.factors(module.name) for module in file.layout)
    write_tensors(weights, file.layout, file.rank, "bfloat16", pairs)
    norms = Norms.of(AdapterFile(weights), config.scaling, config.base_model)
    result = IndexEntry(
        name=entry.name,
        adapter=entry.adapter_id,
        adapter_revision=source.revision,
        dataset=entry.dataset_id,
        dataset_revision=dataset.revision,
        config=dataset.config,
        split=dataset.split,
        columns=dataset.columns,
        license=entry.license or source.license,
        rank=config.rank,
        scaling=config.scaling,
        rows=profile.rows,
        private=source.private
        or (dataset.private and dataset.id is not None)
        or _may_be_private(entry),
        norm=norms.whole,
        largest=norms.largest,
        size=weights.stat().st_size,
        sha256=sha256(weights),
    )
    store_entry(job.folder, result, profile, key)
    return result


def _digests(entry: BankEntry) -> dict[str, str]:
    """Return the digests of a local adapter and dataset; nothing of those on the Hub."""
    paths = {"adapter": Path(entry.adapter, WEIGHTS_FILE), "dataset": Path(entry.dataset)}
    local = {name: path for name, path in paths.items() if is_path(getattr(entry, name))}
    try:
        return {f"{name}_digest": digest_of(path) for name, path in local.items()}
    except OSError as error:
        raise AdapterError(
            f"{error.filename}: {error.strerror}", code="adapter.unreadable"
        ) from None


def _may_be_private(entry: BankEntry) -> bool:
    """Whether a local adapter or dataset has no license in the manifest, and so may be private."""
    return entry.license is None and (is_path(entry.adapter) or is_path(entry.dataset))


def store_entry(
    folder: Path,
    entry: IndexEntry,
    profile: Profile,
    key: Mapping[str, object],
    log: Mapping[str, object] | None = None,
) -> None:
    """Record an entry whose weights are stored as finished.

    Args:
        folder: of the bank.
        entry: the finished entry.
        profile: of its dataset.
        key: what the entry depends on.
        log: of its training; None if it was not trained here.
    """
    path = _profile_path(folder, entry.name)
    write_atomically(path, to_record(profile))
    store_record(path.with_suffix(".json"), key, entry.model_dump(), log)


def read_log(folder: Path, name: str) -> dict[str, Any] | None:
    """Return the log of an entry that was trained in a folder; None if it has none."""
    try:
        stored = json.loads(_profile_path(folder, name).with_suffix(".json").read_bytes())
        return dict(stored["log"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # missing, or of another version


def stored_profile(folder: Path, name: str) -> Profile:
    """Return the profile of a finished entry."""
    return ProfileTable(load_arrays(_profile_path(folder, name)))[0]


def _profile_path(folder: Path, name: str) -> Path:
    return folder / WORK_FOLDER / f"{name}.safetensors"


def finished_entry(folder: Path, name: str, key: Mapping[str, object]) -> IndexEntry | None:
    """Return an entry that was finished with the same key, if its files are still intact."""
    profile = _profile_path(folder, name)
    found = read_record(profile.with_suffix(".json"), key, folder / adapter_path(name))
    try:
        return IndexEntry.model_validate(found) if found and profile.exists() else None
    except ValueError:
        return None  # of another version


def store_record(
    path: Path,
    key: Mapping[str, object],
    result: Mapping[str, object],
    log: Mapping[str, object] | None = None,
) -> None:
    """Record the result of a step, what it depends on, and a log."""
    write_atomically(path, json.dumps({"key": key, "result": result, "log": log}).encode())


def read_record(path: Path, key: Mapping[str, object], weights: Path) -> dict[str, Any] | None:
    """Return what was recorded with the same key, if the weights are still intact."""
    try:
        stored = json.loads(path.read_bytes())
        result: dict[str, Any] = stored["result"]
        same = stored["key"] == json.loads(json.dumps(key))
        return result if same and sha256(weights) == result["sha256"] else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None  # missing, or of another version


@lru_cache(maxsize=1)
def _encode(path: Path, digest: str) -> Encode:
    """Load the tokenizer once per process, and again if its SHA-256 is another."""
    return load_encode(path)
