"""Banks that leave one task out: ``python -m tests.benchmarks.leave_one_out_banks DIR [TASK …]``.

Each is built by `bank build` from repos served by the loopback Hub.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import numpy as np
import safetensors.numpy
from filelock import FileLock

from hf_lorameta.bank.bank import EMBEDDED_FOLDER, Bank
from hf_lorameta.bank.index import (
    DISTANCES_FILE,
    INDEX_FILE,
    PROFILES_FILE,
    TOKENIZER_FILE,
    adapter_path,
)
from hf_lorameta.data.profile import ProfileTable
from hf_lorameta.files import sha256, write_atomically
from hf_lorameta.localhub import LocalHub
from tests import shared_data

SOURCES = ("mctaco", "qasc", "winogrande", "cosmosqa", "multirc", "ropes", "essential_terms")


def siblings(task: str) -> tuple[str, ...]:
    """The task and all others of its source."""
    source = next((s for s in SOURCES if s in task), task)
    return tuple(name for name in shared_data.tasks() if source in name)


def without(left_out: Collection[str], folder: Path) -> Bank:
    """The shared bank without some tasks: DIR/whole, built once, with entries taken out.

    Where several processes ask, one builds and the others wait.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / "building.lock"):
        return _without(left_out, folder)


def _without(left_out: Collection[str], folder: Path) -> Bank:
    if not (folder.parent / "whole" / INDEX_FILE).exists():
        with LocalHub() as hub:
            shared_data.seed(hub, shared_data.tasks())
            build(hub, folder.parent, "")
            (folder.parent / "_").rename(folder.parent / "whole")
    whole = Bank(folder.parent / "whole")
    if not left_out or (folder / INDEX_FILE).exists():
        return Bank(folder)
    names = {f"suite/{task}" for task in left_out}
    kept = [i for i, entry in enumerate(whole.index.entries) if entry.dataset not in names]
    table = ProfileTable.from_profiles([whole.profiles[i] for i in kept])
    (folder / "adapters").mkdir(parents=True, exist_ok=True)
    for i in kept:
        name = adapter_path(whole.index.entries[i].name)
        if not (folder / name).exists():
            (folder / name).hardlink_to(whole.folder / name)
    shutil.copy(whole.folder / TOKENIZER_FILE, folder)
    apart = {metric: d[np.ix_(kept, kept)] for metric, d in whole.distances.items()}
    write_atomically(folder / PROFILES_FILE, safetensors.numpy.save(table.arrays))
    write_atomically(folder / DISTANCES_FILE, safetensors.numpy.save(apart))
    files = (PROFILES_FILE, TOKENIZER_FILE, DISTANCES_FILE)
    index = whole.index.model_copy(
        update={
            "entries": tuple(whole.index.entries[i] for i in kept),
            "files": {name: sha256(folder / name) for name in files},
        }
    )
    write_atomically(folder / INDEX_FILE, index.to_bytes())
    return Bank(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("tasks", nargs="*", help="a spread of 6 if left out")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    with LocalHub() as hub:
        shared_data.seed(hub, shared_data.tasks())
        for name in chosen.tasks or shared_data.tasks()[::8]:
            build(hub, chosen.folder, name)


def build(hub: LocalHub, folder: Path, left_out: str) -> Path:
    """Build the bank without one task, or whole, by the command line."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / f"{left_out}.yaml"
    listed = shared_data.manifest([n for n in shared_data.tasks() if n != left_out])
    manifest.write_text(shared_data.as_yaml(listed), encoding="utf-8")
    command = ["bank", "build", str(manifest), "-o", str(folder / (left_out or "_")), "--quiet"]
    command += ["--tokenizer", str(EMBEDDED_FOLDER / "tokenizer.json")]
    env = {**os.environ, **hub.env(home=folder / "home")}
    subprocess.run([sys.executable, "-m", "hf_lorameta", *command], env=env, check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    return folder / (left_out or "_")


if __name__ == "__main__":
    main()
