"""Quality of generated adapters: ``python -m tests.benchmarks.quality DIR [--quick]``.

Leave-one-out over ``../shared``: the task's own adapter is not in the bank, and what is fitted on
the bank is fitted without it; then again without its siblings, tasks of the same source. Scores are
the loss of the reference outputs on test rows, in float32; with ``--answers``, greedy answers of a
few methods too.

Every (task, method) is saved in DIR at once, so the command resumes where it stopped (if the code
is the same), and several processes can share the work (``--part 1/2``, ``--part 2/2``). Without
``--part`` it finally prints Markdown and writes ``quality.md`` and ``quality.json`` into DIR.
"""

import argparse
import itertools
import json
import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hf_lorameta import Bank, Plan, Recipe, open_dataset, plan
from hf_lorameta.bank.fit_neural_rule import fit_bank
from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.engines.scoring import chat_rows
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.files import write_atomically
from hf_lorameta.hub.base_model import locate
from hf_lorameta.method.coefficients import COEFFICIENT_RULES
from hf_lorameta.pipeline.make import make_adapter
from tests.benchmarks.leave_one_out_banks import bank_without, siblings
from tests.benchmarks.tables import markdown_table
from tests.support import shared_data

ROWS, SHOTS = 24, 3
CHAT = "base-chat"
"""The base model with its own chat template."""
ANSWERED = ("base", CHAT, "trained", "3-shot", "default")
SINGLE = ("base", CHAT, "trained", "3-shot")
"""Methods that do not depend on the bank."""
HEAD = ("method", "loss", "gap recovered", "95 % interval", "median task", "better than base",
        "Rouge-L", "exact match", "contains")  # fmt: skip
PAPER_METRICS = ("kl", "js", "mmd", "wd")


class Setting(NamedTuple):
    """A task and the bank that its adapters are generated from."""

    task: str
    bank: Bank
    evaluator: TorchEvaluator

    @property
    def path(self) -> Path:
        return shared_data.SUITE / f"{self.task}.train.jsonl"

    def plan(self, recipe: Recipe | None = None) -> Plan:
        return plan(open_dataset(self.path), self.bank, recipe)

    def weighted(self, weights: np.ndarray) -> Plan:
        return replace(self.plan(), coefficients=weights)


Method = Callable[[Setting], Plan]


def _uniform(at: Setting) -> Plan:
    return at.weighted(np.full(len(at.bank), 1 / len(at.bank)))


def _nearest(at: Setting) -> Plan:
    return at.weighted(np.eye(len(at.bank))[at.plan(Recipe(metric="js")).distances.argmin()])


def _random(at: Setting) -> Plan:
    chosen = np.random.default_rng(len(at.task)).integers(len(at.bank))
    return at.weighted(np.eye(len(at.bank))[chosen])


def _with(**settings: Any) -> Method:
    return lambda at: at.plan(Recipe.of(**settings))


def _paper(metric: str, rule: str) -> Method:
    def make(at: Setting) -> Plan:
        if rule == "neural" and "neural.safetensors" not in at.bank.index.files:
            fit_bank(at.bank)
        return at.plan(Recipe.paper(metric=metric, coefficients=rule))

    return make


METHODS: dict[str, Method] = {
    "default": _with(),
    "js-io kernel": _with(metric="js-io"),
    "js-io normalized": _with(metric="js-io", coefficients="normalized"),
    **{
        f"paper {metric} {rule}": _paper(metric, rule)
        for metric in PAPER_METRICS
        for rule in COEFFICIENT_RULES
        if rule != "kernel"
    },
    "uniform": _uniform,
    "nearest by js": _nearest,
    "random neighbor": _random,
    "default, factors": _with(combine="factors"),
    "default, inputs alone": lambda at: plan(
        open_dataset(at.path, columns=Columns(input="input")), at.bank
    ),
}


class Benchmark:
    """Scores of (task, method), saved in a folder."""

    def __init__(self, folder: Path, answers: bool) -> None:
        self.folder, self.answers = folder, answers
        (folder / "scores").mkdir(parents=True, exist_ok=True)

    @cached_property
    def evaluator(self) -> TorchEvaluator:
        logging.disable(logging.WARNING)
        return TorchEvaluator(locate(shared_data.BASE_MODEL), dtype="float32")

    def score(self, task: str, method: str, far: bool) -> dict[str, Any]:
        answers = self.answers and method in ANSWERED
        far = far and siblings(task) != (task,)  # without siblings both modes are the same
        name = f"{task} {'far' if far else 'near'} {method}{' answers' if answers else ''}.json"
        path = self.folder / "scores" / name
        with_answers = path.with_stem(f"{path.stem} answers")  # contains the loss too
        path = with_answers if with_answers.exists() else path
        if not path.exists():
            scores = self._compute(task, method, far, answers)
            scores = {k: float(v) if isinstance(v, np.floating) else v for k, v in scores.items()}
            write_atomically(path, json.dumps(scores).encode())
        cached: dict[str, Any] = json.loads(path.read_bytes())
        return cached

    def _compute(self, task: str, method: str, far: bool, answers: bool) -> dict[str, Any]:
        rows = shared_data.rows(task, "test")[:ROWS]
        shots = shared_data.rows(task, "train")[:SHOTS] if method.endswith("3-shot") else ()
        name = method.removesuffix(" + 3-shot")
        evaluate = self.evaluator.evaluate
        if name in SINGLE:
            own = shared_data.BANK / task if name == "trained" else None
            rows = chat_rows(self.evaluator, rows) if name == CHAT else rows
            return asdict(evaluate(rows, own, shots, answers)[0])
        left_out = siblings(task) if far else (task,)
        bank = bank_without(left_out, self.folder / f"{'far' if far else 'near'}-{task}")
        started = time.perf_counter()
        planned = METHODS[name](Setting(task, bank, self.evaluator))
        weights = planned.coefficients
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "adapter"
            make_adapter(planned).save_pretrained(folder)
            scores = asdict(evaluate(rows, folder, shots, answers)[0])
        spent = {"seconds": time.perf_counter() - started}
        return scores | spent | {"sum": weights.sum(), "negative": int((weights < 0).sum())}


def parse_part(text: str) -> tuple[int, int]:
    """Parse 1/2 as (1, 2): the first of two parts."""
    part, parts = map(int, text.split("/"))
    if not 1 <= part <= parts:
        raise argparse.ArgumentTypeError(f"{text}, expected one of 1/{parts} to {parts}/{parts}")
    return part, parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true", help="only 8 tasks of different kinds")
    parser.add_argument("--answers", action="store_true", help="also generate answers; slower")
    parser.add_argument("--methods", nargs="*", help="all if left out")
    parser.add_argument("--near-only", action="store_true", help="keep siblings in the bank")
    parser.add_argument(
        "--part", type=parse_part, help="score only one part of the tasks, such as 1/2"
    )
    options = parser.parse_args()
    shared_data.require()
    benchmark = Benchmark(options.folder, options.answers)
    tasks = shared_data.tasks()[::6] if options.quick else shared_data.tasks()
    modes = (False,) if options.near_only else (False, True)
    methods = options.methods or [*SINGLE, "default + 3-shot", *METHODS]
    methods = list(dict.fromkeys(["base", "trained", *methods]))
    if options.part:
        part, parts = options.part
        for far, task, method in itertools.product(modes, tasks[part - 1 :: parts], methods):
            benchmark.score(task, method, far and method not in SINGLE)
            print(task, method, flush=True)
        return
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for far in modes:
        mode = "siblings left out" if far else "leave-one-out"
        for method in methods:
            scores = [benchmark.score(task, method, far and method not in SINGLE) for task in tasks]
            results.setdefault(mode, {})[method] = scores
            if "trained" in results[mode]:
                print(mode, method, _cells(results[mode], method), flush=True)
    text = "\n\n".join(_table(mode, scores) for mode, scores in results.items())
    (options.folder / "quality.md").write_text(text + "\n", encoding="utf-8")
    (options.folder / "quality.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    print("\n" + text)


def _column(scores: dict[str, list[dict[str, Any]]], method: str, key: str = "loss") -> np.ndarray:
    values = [task.get(key) for task in scores[method]]
    return np.array([np.nan if v is None else v for v in values], float)


def _cells(scores: dict[str, list[dict[str, Any]]], method: str) -> list[str]:
    base, trained, loss = (_column(scores, m) for m in ("base", "trained", method))
    gain, gap = base - loss, base - trained
    draws = np.random.default_rng(0).integers(len(loss), size=(2000, len(loss)))
    low, high = np.quantile(gain[draws].sum(1) / gap[draws].sum(1), (0.025, 0.975))
    cells = [f"{loss.mean():.3f}", f"{gain.sum() / gap.sum():.3f}", f"{low:.2f} to {high:.2f}",
             f"{np.median(gain / gap):.3f}", f"{(gain > 0).mean():.0%}"]  # fmt: skip
    for key in ("rouge_l", "exact_match", "contains"):
        value = _column(scores, method, key).mean()
        cells.append("–" if np.isnan(value) else f"{value:.3f}")
    return cells


def _table(mode: str, scores: dict[str, list[dict[str, Any]]]) -> str:
    rows = [(method, *_cells(scores, method)) for method in scores]
    table = markdown_table(HEAD, rows, right=range(1, len(HEAD)))
    return f"{mode.capitalize()}, {len(scores['base'])} tasks:\n\n{table}"


if __name__ == "__main__":
    main()
