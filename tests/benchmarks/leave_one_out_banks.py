"""Banks of ``../shared`` without some tasks, for leave-one-out evaluation."""

import os
import shutil
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import numpy as np
import safetensors.numpy
from filelock import FileLock

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.index import (
    DISTANCES_FILE,
    INDEX_FILE,
    PROFILES_FILE,
    TOKENIZER_FILE,
    adapter_path,
)
from hf_lorameta.data.counts.profile import ProfileTable
from hf_lorameta.files import sha256, write_atomically
from tests.support import shared_data
from tests.support.local_hub import LocalHub

SOURCES = ("mctaco", "qasc", "winogrande", "cosmosqa", "multirc", "ropes", "essential_terms")


def siblings(task: str) -> tuple[str, ...]:
    """The task and all others made from the same source."""
    source = next((s for s in SOURCES if s in task), task)
    return tuple(name for name in shared_data.tasks() if source in name)


def bank_without(left_out: Collection[str], folder: Path, tasks: list[str] | None = None) -> Bank:
    """Return the shared bank without some tasks.

    The bank of all tasks, or of the given ones, is built once, in the folder ``whole`` next to this
    one; entries are then removed from it. If several processes call this, one builds and the
    others wait.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / "building.lock"):
        whole = folder.parent / "whole"
        if not (whole / INDEX_FILE).exists():
            _build(whole, tasks or shared_data.tasks())
        if not (folder / INDEX_FILE).exists():
            _remove_entries(Bank(whole), {f"suite/{task}" for task in left_out}, folder)
        return Bank(folder)


def _build(folder: Path, tasks: list[str]) -> None:
    """Build a bank of tasks with `hf-lorameta bank build` from a loopback Hub."""
    manifest = folder.parent / "whole.yaml"
    with LocalHub() as hub:
        entries = shared_data.seed(hub, tasks)
        manifest.write_text(shared_data.as_yaml(entries), encoding="utf-8")
        command = ["bank", "build", str(manifest), "-o", str(folder), "--quiet"]
        env = {**os.environ, **hub.env(home=folder.parent / "home")}
        subprocess.run([sys.executable, "-m", "hf_lorameta", *command], env=env, check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip


def _remove_entries(whole: Bank, datasets: Collection[str], folder: Path) -> None:
    """Write a bank without the entries of some datasets, its adapters as hard links."""
    kept = [i for i, entry in enumerate(whole.index.entries) if entry.dataset not in datasets]
    (folder / "adapters").mkdir(parents=True, exist_ok=True)
    for i in kept:
        name = adapter_path(whole.index.entries[i].name)
        if not (folder / name).exists():
            (folder / name).hardlink_to(whole.folder / name)
    shutil.copy(whole.folder / TOKENIZER_FILE, folder)
    table = ProfileTable.from_profiles([whole.profiles[i] for i in kept])
    distances = {metric: d[np.ix_(kept, kept)] for metric, d in whole.distances.items()}
    write_atomically(folder / PROFILES_FILE, safetensors.numpy.save(table.arrays))
    write_atomically(folder / DISTANCES_FILE, safetensors.numpy.save(distances))
    files = (PROFILES_FILE, TOKENIZER_FILE, DISTANCES_FILE)
    index = whole.index.model_copy(
        update={
            "entries": tuple(whole.index.entries[i] for i in kept),
            "files": {name: sha256(folder / name) for name in files},
        }
    )
    write_atomically(folder / INDEX_FILE, index.to_bytes())
