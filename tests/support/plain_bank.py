"""A small bank that is no pack and has no general adapter: some of the embedded bank's adapters."""

import shutil
from pathlib import Path

import numpy as np

from hf_lorameta import Bank
from hf_lorameta.bank.index import INDEX_FILE, TOKENIZER_FILE, WORK_FOLDER, adapter_path
from hf_lorameta.bank.open_bank import embedded_bank
from hf_lorameta.bank.store_profiles import store_profiles
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
    whole = embedded_bank()
    chosen = np.linspace(0, len(whole) - 1, SIZE).round().astype(int).tolist()
    entries = []
    for entry in (whole.index.entries[i] for i in chosen):
        path, file = folder / adapter_path(entry.name), whole.unpacked(entry)
        pairs = []
        for module in whole.layout:
            A, B = file.factors(module.name)
            pairs.append(exact([A], [B], [1.0], [entry.scaling], RANK))
        write_tensors(path, whole.layout, RANK, "bfloat16", pairs)
        changes = {"rank": RANK, "scaling": 1.0, "size": path.stat().st_size,
                   "sha256": sha256(path)}  # fmt: skip
        entries.append(entry.model_copy(update=changes))
    profiles = [whole.profiles[i] for i in chosen]
    stored = store_profiles(folder, profiles, len(profiles), whole.index.vocab_size)
    shutil.copyfile(whole.verified_file(TOKENIZER_FILE), folder / TOKENIZER_FILE)
    index = whole.index.model_copy(
        update={
            "schema_version": 1, "packing": None, "general": None, "output_prior": None,
            "skipped": (), "entries": tuple(entries),
            **stored._asdict(),
            "files": stored.files | {TOKENIZER_FILE: sha256(folder / TOKENIZER_FILE)},
        }
    )  # fmt: skip
    write_atomically(folder / INDEX_FILE, index.to_bytes())
