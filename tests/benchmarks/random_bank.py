"""A bank like another one, with random adapters: the control for what the adapters bring."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.index import BASIS_FILE, INDEX_FILE, GeneralEntry, IndexEntry, adapter_path
from hf_lorameta.files import sha256, write_atomically
from hf_lorameta.formats.lora_file import write_tensors
from hf_lorameta.method.low_rank import LowRankSum
from hf_lorameta.types import FactorPair


def random_bank(bank: Bank, folder: Path) -> Bank:
    """Return the bank in a folder, written if it is not there.

    Everything but the adapters is the given bank's: datasets, profiles, distances, output prior.
    """
    if not (folder / INDEX_FILE).exists():
        (folder / "adapters").mkdir(parents=True, exist_ok=True)
        files = {name: sha for name, sha in bank.index.files.items() if name != BASIS_FILE}
        for name in files:
            shutil.copy(bank.folder / name, folder)
        *entries, general = (_write(bank, entry, folder) for entry in bank.index.adapters)
        unpacked = {"schema_version": 1, "packing": None, "files": files}
        adapters = {"entries": tuple(entries), "general": general}
        index = bank.index.model_copy(update=unpacked | adapters)
        write_atomically(folder / INDEX_FILE, index.to_bytes())
    return Bank(folder)


def _write(bank: Bank, entry: IndexEntry | GeneralEntry, folder: Path) -> IndexEntry | GeneralEntry:
    path = folder / adapter_path(entry.name)
    write_tensors(path, bank.layout, entry.rank, "bfloat16", _pairs(bank, entry))
    return entry.model_copy(update={"size": path.stat().st_size, "sha256": sha256(path)})


def _pairs(bank: Bank, entry: IndexEntry | GeneralEntry) -> Iterator[FactorPair]:
    """Yield factors of normal values; B·A has the norm of the entry's in every module."""
    rng = np.random.default_rng(list(entry.name.encode()))
    file = bank.adapter(entry)
    for module in bank.layout:
        own = bank.expand(module.name, *file.factors(module.name))
        A = rng.standard_normal(module.shape("A", entry.rank), np.float32)
        B = rng.standard_normal(module.shape("B", entry.rank), np.float32)
        squared = [LowRankSum(*pair, np.ones(entry.rank)).squared_norm() for pair in (own, (A, B))]
        yield A, B * np.float32(np.sqrt(squared[0] / squared[1]))
