"""Loss of adapters generated from packed banks: ``python -m tests.benchmarks.pack_quality DIR``.

For tasks of ``../shared``, each left out of the bank: the loss of the adapter generated from the
whole bank and from packs of it at several R, on the task's own test rows (24 each). Every (task,
bank) is saved in DIR at once, so the command resumes where it stopped. Prints Markdown and writes
``packs.md`` and ``packs.json`` into DIR.
"""

import argparse
import json
import shutil
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hf_lorameta import Bank, Recipe, generate
from hf_lorameta.bank.pack import pack
from hf_lorameta.data.dataset import open_dataset
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.hub.base_model import locate
from tests.benchmarks.leave_one_out_banks import bank_without
from tests.benchmarks.tables import markdown_table
from tests.support import shared_data

ROWS = 24
SIZES = (8, 16, 32, 64, 128)
DTYPES: tuple[Literal["bf16", "int8"], ...] = ("bf16", "int8")
PACKS = {f"R = {size}, {dtype}": (size, dtype) for size in SIZES for dtype in DTYPES}
BANKS = ("base model", "whole", *PACKS)
HEAD = ("bank", "size", "energy kept", "mean loss", "against whole")
Score = dict[str, Any]


class Benchmark:
    """Scores of (task, bank), saved in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "scores").mkdir(parents=True, exist_ok=True)

    @cached_property
    def evaluator(self) -> TorchEvaluator:
        return TorchEvaluator(locate(shared_data.BASE_MODEL), dtype="float32")

    def score(self, task: str, bank: str) -> Score:
        path = self.folder / "scores" / f"{task} {bank}.json"
        if not path.exists():
            score = self._compute(task, bank)
            path.write_text(json.dumps(score), encoding="utf-8")
            print(task, bank, score, flush=True)
        return dict(json.loads(path.read_bytes()))

    def _compute(self, task: str, bank: str) -> Score:
        if bank == "base model":
            return {"loss": self._loss(task, None)}
        whole = bank_without((task,), self.folder / f"near-{task}")
        if bank == "whole":
            return {"loss": self._loss(task, whole), "size": whole.size}
        size, dtype = PACKS[bank]
        target = self.folder / "pack"
        shutil.rmtree(target, ignore_errors=True)
        packed = pack(whole, target, basis=size, dtype=dtype)
        assert packed.index.packing
        kept = packed.index.packing.retained_whole
        return {"loss": self._loss(task, packed), "size": packed.size, "kept": kept}

    def _loss(self, task: str, bank: Bank | None) -> float:
        rows = shared_data.rows(task, "test")[:ROWS]
        dataset = open_dataset(shared_data.SUITE / f"{task}.train.jsonl")
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "adapter"
            adapter = generate(dataset, bank, Recipe()).save_pretrained(folder) if bank else None
            return float(self.evaluator.evaluate(rows, adapter, generate=False)[0].loss)


def table(scores: dict[str, list[Score]]) -> str:
    """Return the means over the tasks as Markdown."""
    rows = []
    loss = {bank: np.array([score["loss"] for score in found]) for bank, found in scores.items()}
    for bank, found in scores.items():
        size = f"{np.mean([s['size'] for s in found]) / 1e6:.1f} MB" if "size" in found[0] else "–"
        kept = f"{np.mean([s['kept'] for s in found]):.2%}" if "kept" in found[0] else "–"
        change = f"{(loss[bank] - loss['whole']).mean():+.4f}" if bank in PACKS else "–"
        rows.append((bank, size, kept, f"{loss[bank].mean():.4f}", change))
    return markdown_table(HEAD, rows, right=range(1, len(HEAD)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("tasks", nargs="*", help="8 of different kinds if left out")
    options = parser.parse_args()
    shared_data.require()
    benchmark = Benchmark(options.folder)
    tasks = options.tasks or shared_data.tasks()[::6]
    scores: dict[str, list[Score]] = {bank: [] for bank in BANKS}
    for task in tasks:
        for bank in BANKS:
            scores[bank].append(benchmark.score(task, bank))
    text = f"{len(tasks)} tasks, {ROWS} test rows each:\n\n{table(scores)}"
    (options.folder / "packs.md").write_text(text + "\n", encoding="utf-8")
    result = {"tasks": tasks, "scores": scores}
    (options.folder / "packs.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    print("\n" + text)


if __name__ == "__main__":
    main()
