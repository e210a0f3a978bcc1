"""Mixtures compared with the merged default: ``python -m tests.benchmarks.mixture FOLDER``.

As in `tests.benchmarks.growth`, the adapters of a task's source are left out of the bank, and the
losses are those of the reference outputs on test rows. The mixtures are loaded by PEFT's
`create_arrow_model` from the folders that `--emit mixture` writes. Seconds are CPU seconds per
token of an answer of 24 tokens to one prompt of each of the first tasks, on one thread
(``OMP_NUM_THREADS=1``).

``--methods`` needs base, 3-shot and default among them. Every score is saved in FOLDER at once, so
the command resumes where it stopped; another number of rows needs another folder.
"""

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from hf_lorameta import Bank, Plan, Recipe
from hf_lorameta.files import write_atomically
from hf_lorameta.formats.lora_file import WEIGHTS_FILE, AdapterFile
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.pipeline.adapter_folder import EXPERTS, SHARED
from hf_lorameta.pipeline.make import combine_adapters
from hf_lorameta.pipeline.mixture import ROUTED, Mixture
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

NAMES = {
    "base": "base model",
    "3-shot": "base model, 3-shot prompt",
    "general": "the general adapter alone",
    "default": "default: all adapters, merged",
    "merged 8": "the 8 of the largest coefficients, merged",
    "mixture 4": "mixture of 4",
    "mixture 8": "mixture of 8",
    "mixture 16": "mixture of 16",
}
ANSWER, TIMED = 24, 3


class Mixtures(Growth):
    """Losses and seconds by task and method, saved in a folder."""

    rows = 8

    def score(self, task: str, method: str, timed: bool) -> tuple[float, float]:
        """Return loss and CPU seconds per token, NaN if not timed, computed once."""
        path = self.folder / f"{task} {method}.json"
        if not path.exists():
            with self._applied(task, method) as adapter:
                rows = self.evaluator.encode(
                    read(task, "test")[: self.rows],
                    read(task, "train")[:SHOTS] if method == "3-shot" else (),
                )
                result = (
                    self.evaluator.score(rows, *adapter).loss,
                    self._seconds(rows[0].prompt) if timed else float("nan"),
                )
            write_atomically(path, json.dumps(result).encode())
        loss, seconds = json.loads(path.read_bytes())
        return loss, seconds

    def _seconds(self, prompt: Sequence[int]) -> float:
        import torch

        ids = torch.tensor([prompt])
        times = []
        with torch.no_grad():
            for length in (1, ANSWER + 1):
                started = time.process_time()
                self.evaluator.model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=length,
                    min_new_tokens=length,
                )
                times.append(time.process_time() - started)
        return (times[1] - times[0]) / ANSWER

    @contextmanager
    def _applied(self, task: str, method: str) -> Iterator[tuple[Layout, Sequence[FactorPair]]]:
        """Yield the adapter of a method; the base model has that of a mixture meanwhile."""
        kind, _, number = method.partition(" ")
        if method in ("base", "3-shot"):
            yield (), ()
        elif kind.startswith("mixture"):
            with self._mixture(task, int(number)):
                yield (), ()
        else:
            planned = self._plan(task, method)
            yield planned.layout, combine_adapters(planned, no_progress)

    def _plan(self, task: str, method: str) -> Plan:
        planned, others = self.planned(task), self.others(task)
        if method.startswith("merged"):
            return drawn(planned, others, Recipe(top_k=int(method.split()[1])))
        return drawn(planned, [] if method == "general" else others)

    @contextmanager
    def _mixture(self, task: str, size: int) -> Iterator[None]:
        """Write a mixture and let PEFT load it."""
        import torch
        from peft import ArrowConfig, create_arrow_model

        recipe = Recipe(emit="mixture", top_k=size)
        planned = replace(drawn(self.planned(task), self.others(task), recipe), recipe=recipe)
        mixture = Mixture(planned)
        with tempfile.TemporaryDirectory() as scratch:
            folder = mixture.save_pretrained(Path(scratch) / "mixture")
            shared = AdapterFile(folder / SHARED / WEIGHTS_FILE)
            linears = [self.evaluator.model.get_submodule(m.name) for m in shared.layout]
            own = [linear.weight.data for linear in linears]
            for module, linear in zip(shared.layout, linears, strict=True):
                A, B = map(torch.from_numpy, shared.factors(module.name))
                linear.weight.data = (linear.weight.data.float() + B @ A).to(linear.weight.dtype)
            config = ArrowConfig(top_k=min(ROUTED, len(mixture.entries)), rng_seed=0)
            experts = [str(folder / EXPERTS / entry.name) for entry in mixture.entries]
            routed = create_arrow_model(self.evaluator.model, experts, config)
            try:
                yield
            finally:
                routed.unload()
                for linear, weight in zip(linears, own, strict=True):
                    linear.weight.data = weight
                for name in {"peft_config", "_hf_peft_config_loaded"} & set(
                    vars(self.evaluator.model)
                ):
                    delattr(self.evaluator.model, name)


def main() -> None:
    parser = options_of(__doc__, rows=8)
    parser.add_argument("--methods", nargs="+", choices=NAMES, default=list(NAMES))
    options = parser.parse_args()
    shared_data.require()
    benchmark = Mixtures(options.folder, Bank.embedded(), options.dtype)
    benchmark.rows = options.rows
    scores: dict[str, list[tuple[float, float]]] = {method: [] for method in options.methods}
    for number, task in enumerate(report_tasks(options.tasks)):
        for method in options.methods:
            scores[method].append(benchmark.score(task, method, timed=number < TIMED))
        print(task, {name: round(values[-1][0], 3) for name, values in scores.items()}, flush=True)
    losses = {name: np.array(values)[:, 0] for name, values in scores.items()}
    seconds = {name: np.nanmedian(np.array(values)[:, 1]) for name, values in scores.items()}
    better = {name: (values < losses["default"]).mean() for name, values in losses.items()}
    head = (*HEAD, "better than default", "seconds per token")
    rows = [
        [NAMES[name], *cells(losses, name), f"{better[name]:.0%}", f"{seconds[name]:.3f}"]
        for name in options.methods
    ]
    text = markdown_table(head, rows, right=range(1, len(head)))
    write_atomically(options.folder / "mixture.md", f"{text}\n".encode())
    print("\n" + text)


if __name__ == "__main__":
    main()
