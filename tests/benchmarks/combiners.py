"""Losses by combiner and by rank: ``python -m tests.benchmarks.combiners FOLDER``.

All methods have the default's coefficients.

As in `tests.benchmarks.growth`, the adapters of a task's source are left out of the bank, and the
losses are those of the reference outputs on test rows, also of the base model and a 3-shot prompt.
Every score is saved in FOLDER at once, so the command resumes where it stopped; another number of
rows needs another folder.
"""

import time
from dataclasses import replace
from typing import Any

import numpy as np

from hf_lorameta import Bank
from hf_lorameta.files import write_atomically
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.method.coefficients import Coefficients
from hf_lorameta.method.merging import COMBINERS
from hf_lorameta.pipeline.make import combine_adapters
from hf_lorameta.types import FactorPair, no_progress
from tests.benchmarks.growth import (
    HEAD,
    SHOTS,
    Growth,
    cells,
    drawn,
    options_of,
    read,
    report_tasks,
)
from tests.benchmarks.tables import markdown_table
from tests.support import shared_data

SMALLER = (8, 4, 2)
ADAPTED = ("general", *COMBINERS, *(f"rank {r}" for r in SMALLER))
NAMES = {"general": "the general adapter alone"}
NAMES |= {f"rank {r}": f"exact, rank {r}" for r in SMALLER}


class Combining(Growth):
    """Losses by task and method, saved in a folder."""

    rows = 24

    def _compute(self, task: str, method: str, entries: object) -> float:
        rows, examples = read(task, "test")[: self.rows], read(task, "train")[:SHOTS]
        if method not in ADAPTED:
            shots = examples if method == "3-shot" else ()
            return self.evaluator.score(self.evaluator.encode(rows, shots)).loss
        started = time.perf_counter()
        adapter = self._adapter(task, method)
        print(f"  {task} {method}: {time.perf_counter() - started:.1f} s", flush=True)
        return self.evaluator.score(self.evaluator.encode(rows), *adapter).loss

    def _adapter(self, task: str, method: str) -> tuple[Layout, list[FactorPair]]:
        """Return the modules and their factors."""
        kind, _, number = method.partition(" ")
        settings: dict[str, Any] = {"combine": kind} if kind in COMBINERS else {}
        if number:
            settings = {"rank": int(number)}
        planned = drawn(self.planned(task), [] if method == "general" else self.others(task))
        planned = replace(planned, recipe=planned.recipe.model_copy(update=settings))
        if not COMBINERS[planned.recipe.combine].linear:  # without the output prior
            coefficients = Coefficients(planned.coefficients.shared[:-1])
            planned = replace(planned, coefficients=coefficients, output_counts=None)
        return planned.layout, combine_adapters(planned, no_progress)


def main() -> None:
    options = options_of(__doc__, rows=24).parse_args()
    shared_data.require()
    benchmark = Combining(options.folder, Bank.embedded(), options.dtype)
    benchmark.rows = options.rows
    methods = ("base", "3-shot", *ADAPTED)
    losses: dict[str, list[float]] = {method: [] for method in methods}
    for task in report_tasks(options.tasks):
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
