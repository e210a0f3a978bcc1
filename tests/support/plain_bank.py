"""A small bank that is no pack and has no general adapter: some of the embedded bank's adapters."""

import shutil
from pathlib import Path

import numpy as np

from hf_lorameta import Bank
from hf_lorameta.bank.arrays import save_arrays
from hf_lorameta.bank.geometry import bank_distances, typical_distances
from hf_lorameta.bank.index import (
    DISTANCES_FILE,
    INDEX_FILE,
    PROFILES_FILE,
    TOKENIZER_FILE,
    WORK_FOLDER,
    adapter_path,
)
from hf_lorameta.data.counts.profile import ProfileTable
from hf_lorameta.files import sha256, write_atomically
from hf_lorameta.formats.lora_file import write_tensors
from hf_lorameta.method.merging import exact
from tests.support.once_per_run import once

SIZE, RANK = 26, 4


def plain_bank() -> Bank:
    """Open the bank, which is written once per test run."""
    return Bank(once("plain-bank", _write))


def _write(folder: Path) -> None:
    for part in ("adapters", WORK_FOLDER):
        (folder / part).mkdir(parents=True)
    whole = Bank.embedded()
    chosen = np.linspace(0, len(whole) - 1, SIZE).round().astype(int).tolist()
    entries = []
    for entry in (whole.index.entries[i] for i in chosen):
        path, file = folder / adapter_path(entry.name), whole.adapter(entry)
        pairs = []
        for module in whole.layout:
            A, B = whole.expand(module.name, *file.factors(module.name))
            pairs.append(exact([A], [B], [1.0], [entry.scaling], RANK))
        write_tensors(path, whole.layout, RANK, "bfloat16", pairs)
        changes = {"rank": RANK, "scaling": 1.0, "size": path.stat().st_size,
                   "sha256": sha256(path)}  # fmt: skip
        entries.append(entry.model_copy(update=changes))
    profiles = ProfileTable.from_profiles([whole.profiles[i] for i in chosen])
    save_arrays(folder / PROFILES_FILE, profiles.arrays)
    distances = bank_distances(profiles, whole.index.vocab_size)
    save_arrays(folder / DISTANCES_FILE, {k: D.astype(np.float32) for k, D in distances.items()})
    shutil.copyfile(whole.verified_file(TOKENIZER_FILE), folder / TOKENIZER_FILE)
    files = (PROFILES_FILE, DISTANCES_FILE, TOKENIZER_FILE)
    index = whole.index.model_copy(
        update={
            "schema_version": 1, "packing": None, "general": None, "output_prior": None,
            "gains": (), "skipped": (), "entries": tuple(entries),
            "files": {name: sha256(folder / name) for name in files},
            "typical_distances": typical_distances(profiles, whole.index.vocab_size, distances),
        }
    )  # fmt: skip
    write_atomically(folder / INDEX_FILE, index.to_bytes())
