"""Quality of generated adapters: ``python -m tests.benchmarks.quality DIR [--quick]``.

Leave-one-out over ``../shared``: the task's own adapter is not in the bank, and what is fitted on
the bank is fitted without it; then again without its siblings, tasks of the same source. Scores are
the loss of the reference outputs on test rows, in float32.

Every (task, method) is saved in DIR at once, so the command resumes where it stopped (if the code
is the same), and several processes can share the work (``--part 1/2``, ``--part 2/2``).
"""

import argparse
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hf_lorameta import Bank, Plan, Recipe, plan
from hf_lorameta.bank.train_neural_rule import train_neural_rule
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.hub.base_model import locate
from hf_lorameta.method.registries import COEFFICIENT_RULES
from hf_lorameta.pipeline.make import make_adapter
from hf_lorameta.types import Row
from tests.benchmarks.everyday import prompted
from tests.benchmarks.leave_one_out_banks import bank_without, siblings
from tests.benchmarks.tables import markdown_table, stored
from tests.support import shared_data

ROWS, SHOTS = 24, 3
SINGLE = ("base", "trained", "3-shot")
"""Methods that do not depend on the bank."""
HEAD = ("method", "loss", "gap recovered", "95 % interval", "better than base")
PAPER_METRICS = ("kl", "js", "mmd", "wd")


class Setting(NamedTuple):
    """A task and the bank that its adapters are generated from."""

    task: str
    bank: Bank

    def plan(self, recipe: Recipe | None = None) -> Plan:
        return plan(shared_data.SUITE / f"{self.task}.train.jsonl", self.bank, recipe)

    def weighted(self, weights: np.ndarray) -> Plan:
        return replace(
            self.plan(), coefficients=weights, general_coefficient=None, output_strength=None
        )


Method = Callable[[Setting], Plan]


def _uniform(at: Setting) -> Plan:
    return at.weighted(np.full(len(at.bank), 1 / len(at.bank)))


def _nearest(at: Setting) -> Plan:
    return at.weighted(np.eye(len(at.bank))[at.plan(Recipe(metric="js")).distances.argmin()])


def _random(at: Setting) -> Plan:
    chosen = np.random.default_rng(len(at.task)).integers(len(at.bank))
    return at.weighted(np.eye(len(at.bank))[chosen])


def _paper(metric: str, rule: str) -> Method:
    def make(at: Setting) -> Plan:
        if rule == "neural" and "neural.safetensors" not in at.bank.index.files:
            train_neural_rule(at.bank)
        return at.plan(Recipe.paper(metric=metric, coefficients=rule))

    return make


METHODS: dict[str, Method] = {
    "default": Setting.plan,
    **{
        f"paper {metric} {rule}": _paper(metric, rule)
        for metric in PAPER_METRICS
        for rule in COEFFICIENT_RULES
        if rule != "kernel"
    },
    "uniform": _uniform,
    "nearest by js": _nearest,
    "random neighbor": _random,
}


class Benchmark:
    """Losses of (task, method), saved in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "scores").mkdir(parents=True, exist_ok=True)

    @cached_property
    def evaluator(self) -> TorchEvaluator:
        logging.disable(logging.WARNING)
        return TorchEvaluator.from_folder(locate(shared_data.BASE_MODEL), dtype="float32")

    def loss(self, task: str, method: str, far: bool) -> float:
        """Return a loss, computed once; `far`: of a bank without the task's siblings."""
        mode = "far" if far and method not in SINGLE and siblings(task) != (task,) else "near"
        path = self.folder / "scores" / f"{task} {mode} {method}.json"
        return float(stored(path, lambda: self._compute(task, method, mode)))

    def _compute(self, task: str, method: str, mode: str) -> float:
        rows = shared_data.rows(task, "test")[:ROWS]
        shots = shared_data.rows(task, "train")[:SHOTS] if method == "3-shot" else ()
        rows = prompted(rows, shots)
        if method in SINGLE:
            own = shared_data.BANK / task if method == "trained" else None
            return self._loss(rows, own)
        left_out = siblings(task) if mode == "far" else (task,)
        bank = bank_without(left_out, self.folder / f"{mode}-{task}")
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "adapter"
            make_adapter(METHODS[method](Setting(task, bank))).save_pretrained(folder)
            return self._loss(rows, folder)

    def _loss(self, rows: Sequence[Row], adapter: Path | None) -> float:
        return self.evaluator.evaluate(rows, adapter, generate=False)[0].loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true", help="only 8 tasks of different kinds")
    parser.add_argument("--methods", nargs="*", default=METHODS, help="all if left out")
    parser.add_argument("--near-only", action="store_true", help="keep siblings in the bank")
    parser.add_argument("--part", default="1/1", help="such as 1/2: only every second task")
    options = parser.parse_args()
    shared_data.require()
    benchmark = Benchmark(options.folder)
    part, parts = map(int, options.part.split("/"))
    tasks = shared_data.tasks()[:: 6 if options.quick else 1][part - 1 :: parts]
    tables = []
    for far in (False,) if options.near_only else (False, True):
        losses: dict[str, np.ndarray] = {}
        for method in (*SINGLE, *options.methods):
            losses[method] = np.array([benchmark.loss(task, method, far) for task in tasks])
        mode = "Siblings left out" if far else "Leave-one-out"
        rows = [(method, *_cells(losses, method)) for method in losses]
        table = markdown_table(HEAD, rows, right=range(1, len(HEAD)))
        tables.append(f"{mode}, {len(tasks)} tasks:\n\n{table}\n")
        print(tables[-1], flush=True)
    (options.folder / "quality.md").write_text("\n".join(tables), encoding="utf-8")


def _cells(losses: dict[str, np.ndarray], method: str) -> list[str]:
    loss = losses[method]
    gain, gap = losses["base"] - loss, losses["base"] - losses["trained"]
    draws = np.random.default_rng(0).integers(len(loss), size=(2000, len(loss)))
    low, high = np.quantile(gain[draws].sum(1) / gap[draws].sum(1), (0.025, 0.975))
    return [
        f"{loss.mean():.3f}",
        f"{gain.sum() / gap.sum():.3f}",
        f"{low:.2f} to {high:.2f}",
        f"{(gain > 0).mean():.0%}",
    ]


if __name__ == "__main__":
    main()
