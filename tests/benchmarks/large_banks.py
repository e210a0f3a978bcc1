"""Time and memory of banks by their size: ``python -m tests.benchmarks.large_banks FOLDER``.

Synthetic banks of 1,000 to 100,000 adapters of rank 16 in the shape of SmolLM2-135M (q, k and v).
Their profiles are all different: the inputs of one of 499 synthetic datasets and the outputs of one
of 503, of about 5,000 distinct tokens together. Files of weights are hard links to 200 different
ones. Each command runs in its own process, on one thread; memory is that process's peak. Banks are
kept in FOLDER (5 GB for 100,000). ``--build`` also times the step of a build after the entries.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.build import finish_bank
from hf_lorameta.bank.entries import IndexEntry
from hf_lorameta.bank.entry import store_entry
from hf_lorameta.bank.index import TOKENIZER_FILE, WORK_FOLDER, Index, adapter_path, write_index
from hf_lorameta.data.counts.profile import Profile
from hf_lorameta.demo import TRAIN_FILE
from hf_lorameta.embedded import EMBEDDED
from hf_lorameta.hub.packaged_model import SMOLLM2
from tests.benchmarks.synthetic_bank import VOCAB, Shape, profiles, write_bank
from tests.benchmarks.tables import markdown_table
from tests.support import shared_data
from tests.support.bank_index import index_of

SHAPE = Shape(layers=30, hidden=576, narrow=192, adapters=200, shared=32)
INPUTS, OUTPUTS = 499, 503
ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")
MEASURE = """
import atexit, pathlib, sys, time
from tests.benchmarks.measurements import peak_memory

report = pathlib.Path(sys.argv[1])
atexit.register(lambda: report.write_text(f"{time.process_time()} {peak_memory()}"))
from hf_lorameta.cli import main

main(sys.argv[2:])
"""
"""Runs a command, then writes its CPU seconds and peak memory, without that of its parent."""
FAST = ("--budget", "0", "-q")
HEAD = ("adapters", "what", "seconds", "CPU s", "peak MB")


def write_large(folder: Path, number: int, weights: Bank, build: bool = False) -> Bank:
    """Write a bank of links to some weights, by the last step of a build or without it."""
    for name in ("adapters", WORK_FOLDER):
        (folder / name).mkdir(parents=True, exist_ok=True)
    entries = [_entry(folder, weights, i) for i in range(number)]
    (folder / TOKENIZER_FILE).write_bytes((EMBEDDED[SMOLLM2] / TOKENIZER_FILE).read_bytes())
    if build:
        for entry, profile in zip(entries, mixed(number), strict=True):
            store_entry(folder, entry, profile, {})
        started, cpu = time.perf_counter(), time.process_time()
        start = Index.empty(shared_data.BASE_MODEL, None, None, VOCAB)
        finish_bank(folder, {entry.name: entry for entry in entries}, start)
        print(number, "built", time.perf_counter() - started, time.process_time() - cpu)
    else:
        base, layout = shared_data.BASE_MODEL, SHAPE.layout
        write_index(folder, index_of(folder, base, layout, entries, mixed(number), VOCAB))
    return Bank(folder)


def _entry(folder: Path, weights: Bank, number: int) -> IndexEntry:
    of = weights.index.entries[number % len(weights)]
    name = f"org--adapter-{number:06}"
    os.link(weights.folder / adapter_path(of.name), folder / adapter_path(name))
    ids = {"name": name, "adapter": f"org/adapter-{number:06}", "dataset": f"org/data-{number:06}"}
    return of.model_copy(update=ids)


def mixed(number: int) -> Iterator[Profile]:
    """Return different profiles, fewer than INPUTS · OUTPUTS."""
    pool = list(profiles(OUTPUTS, VOCAB))
    for i in range(number):
        one, other = pool[i % INPUTS], pool[i % OUTPUTS]
        yield replace(one, output=other.output, lengths=other.lengths)


def measured(*command: object) -> tuple[float, float, float]:
    """Run a command of hf-lorameta; return seconds, CPU seconds and peak memory in MB."""
    with tempfile.NamedTemporaryFile("r") as report:
        words = [sys.executable, "-c", MEASURE, report.name, *map(str, command)]
        started = time.perf_counter()
        subprocess.run(words, env=os.environ | ONE_THREAD, stdout=subprocess.DEVNULL, check=True)
        seconds = time.perf_counter() - started
        cpu, peak = map(float, report.read().split())
    return seconds, cpu, peak


def measure(folder: Path, bank: Path) -> Iterator[tuple[str, tuple[float, float, float]]]:
    """Yield what was measured of a bank: a plan, an adapter, and the list of its entries."""
    data = ("-d", TRAIN_FILE, "--bank", bank)
    shutil.rmtree(folder / "adapter", ignore_errors=True)
    yield "`plan`", measured("plan", *data, "-q")
    yield "`generate`", measured("generate", *data, "-o", folder / "adapter", *FAST)
    yield "`bank list --json`", measured("bank", "list", bank, "--json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--build", action="store_true")
    options = parser.parse_args()
    weights_folder = options.folder / "weights"
    written = (weights_folder / "bank.json").exists()
    weights = Bank(weights_folder) if written else write_bank(weights_folder, SHAPE)
    rows = []
    for size in options.sizes:
        bank = options.folder / str(size)
        if not (bank / "bank.json").exists():
            shutil.rmtree(bank, ignore_errors=True)
            write_large(bank, size, weights, options.build)
        for what, (seconds, cpu, peak) in measure(options.folder, bank):
            rows.append([f"{size:,}", what, f"{seconds:.1f}", f"{cpu:.1f}", f"{peak:.0f}"])
            print(*rows[-1], flush=True)
    print(markdown_table(HEAD, rows, right=(0, 2, 3, 4)))


if __name__ == "__main__":
    main()
