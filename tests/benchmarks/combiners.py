"""Losses by combiner, coefficients alike: ``python -m tests.benchmarks.combiners FOLDER``.

As in `tests.benchmarks.growth`, the adapters of a task's source are left out of the bank, and the
losses are those of the reference outputs on test rows, beside the base model and a 3-shot prompt.
Every score is saved in FOLDER at once, so the command resumes where it stopped; another number of
rows needs another folder.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from hf_lorameta import COMBINERS, Bank
from hf_lorameta.files import write_atomically
from hf_lorameta.method.coefficients import Coefficients
from hf_lorameta.pipeline.generation import combine_adapters
from tests import shared_data
from tests.benchmarks.growth import EVERYDAY, HEAD, SHOTS, Growth, cells, drawn, read
from tests.benchmarks.tables import markdown_table

NAMES = {name: name for name in COMBINERS} | {"general": "the general adapter alone"}


class Combining(Growth):
    """Losses by task and combiner, saved in a folder."""

    rows = 24

    def _compute(self, task: str, method: str, entries: object) -> float:
        rows, examples = read(task, "test")[: self.rows], read(task, "train")[:SHOTS]
        if method not in NAMES:
            self.runner.clear()
            shots = examples if method == "3-shot" else ()
            return self.runner.loss(self.evaluator.encode(rows, shots))
        started = time.perf_counter()
        planned = drawn(self.planned(task), [] if method == "general" else self.others(task))
        if method != "general":
            planned = replace(planned, recipe=planned.recipe.model_copy(update={"combine": method}))
        if not (method == "general" or COMBINERS[method].linear):  # the output prior needs it
            without = planned.coefficients.shared[:-1]
            planned = replace(planned, coefficients=Coefficients(without), output_counts=None)
        self.runner.update(combine_adapters(planned, lambda done, total: None), len(planned.layout))
        print(f"  {task} {method}: {time.perf_counter() - started:.1f} s", flush=True)
        return self.runner.loss(self.evaluator.encode(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tasks", type=int, help="the first of them; default: all")
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    shared_data.require()
    benchmark = Combining(options.folder, Bank.embedded(), options.dtype)
    benchmark.rows = options.rows
    methods = ("base", "3-shot", *NAMES)
    losses: dict[str, list[float]] = {method: [] for method in methods}
    for task in (EVERYDAY / "report_on.txt").read_text("utf-8").split()[: options.tasks]:
        for method in methods:
            losses[method].append(benchmark.loss(task, method, None))
        print(task, {name: round(values[-1], 3) for name, values in losses.items()}, flush=True)
    table = {name: np.array(values) for name, values in losses.items()}
    rows = [[NAMES.get(name, name), *cells(table, name)] for name in methods]
    text = markdown_table(HEAD, rows, right=range(1, len(HEAD)))
    write_atomically(options.folder / "combiners.md", f"{text}\n".encode())
    print("\n" + text)


if __name__ == "__main__":
    main()
