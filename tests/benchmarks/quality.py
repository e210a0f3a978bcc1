"""What generated adapters are worth: ``python -m tests.benchmarks.quality DIR [--quick]``.

Leave-one-out over ``../shared``: the task's own adapter never takes part, and what is fitted on the
bank is fitted without it; then once more without its siblings, tasks of the same source. Loss of
the reference outputs on test rows, in float32; with ``--answers``, greedy answers of a few methods
too. Every (task, method) is kept in DIR as soon as it is known, so that the command goes on where
it stopped (as long as the code is the same), and several may score side by side (``--part 1/2``,
``--part 2/2``). Without ``--part`` it prints Markdown in the end and writes ``quality.md`` and
``quality.json`` into DIR.
"""

import argparse
import itertools
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hf_lorameta import Bank, Plan, Recipe, open_dataset, plan
from hf_lorameta.bank.fit import fit_bank
from hf_lorameta.data.columns import Columns
from hf_lorameta.engines.llama_probe import LlamaCppProbe
from hf_lorameta.engines.torch_evaluate import Evaluator
from hf_lorameta.engines.torch_probe import Probe
from hf_lorameta.hub.base_model import locate
from hf_lorameta.method.coefficients import COEFFICIENT_RULES, Coefficients
from hf_lorameta.pipeline.generate import generate_from_plan
from hf_lorameta.pipeline.tune import refine_plan
from tests import shared_data
from tests.benchmarks.leave_one_out import siblings, without
from tests.benchmarks.peft_linear import PeftLinear
from tests.engine_fixtures import packaged

ROWS, SHOTS = 24, 3
ANSWERED = ("base", "trained", "3-shot", "default")
SINGLE = ("base", "trained", "3-shot")
"""What does not depend on the bank."""
PEFT = "default, PEFT linear"
"""The default's coefficients, combined by PEFT."""
PAPER_METRICS = ("kl", "js", "mmd", "wd")


class Setting(NamedTuple):
    """A task and the bank it is scored with."""

    task: str
    bank: Bank
    evaluator: Evaluator

    @property
    def path(self) -> Path:
        return shared_data.SUITE / f"{self.task}.train.jsonl"

    def plan(self, recipe: Recipe | None = None) -> Plan:
        return plan(open_dataset(self.path), self.bank, recipe)

    def weighted(self, weights: np.ndarray) -> Plan:
        return replace(self.plan(), coefficients=Coefficients(weights))


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


def _refined(**settings: Any) -> Method:
    def make(at: Setting) -> Plan:
        probe = Probe(at.evaluator, at.bank.layout)
        return refine_plan(at.plan(Recipe.of(refine=16, **settings)), probe)

    return make


def _through_llama_cpp(at: Setting) -> Plan:
    with LlamaCppProbe(packaged(), at.bank.layout) as probe:
        return refine_plan(at.plan(Recipe.of(refine=16, refiner="search")), probe)


METHODS: dict[str, Method] = {
    "default": _with(),
    "refine 16": _refined(),
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
    PEFT: _with(),
    "default, inputs alone": lambda at: plan(
        open_dataset(at.path, columns=Columns(input="input")), at.bank
    ),
    "refine 16, search": _refined(refiner="search"),
    "refine 16, llama.cpp": _through_llama_cpp,
}


class Bench:
    """Scores of (task, method), from the folder or computed now."""

    def __init__(self, folder: Path, answers: bool) -> None:
        self.folder, self.answers = folder, answers
        (folder / "scores").mkdir(parents=True, exist_ok=True)

    @cached_property
    def evaluator(self) -> Evaluator:
        logging.disable(logging.WARNING)
        return Evaluator(locate(shared_data.BASE_MODEL), dtype="float32")

    @cached_property
    def peft(self) -> PeftLinear:
        return PeftLinear(locate(shared_data.BASE_MODEL))

    def score(self, task: str, method: str, far: bool) -> dict[str, Any]:
        answers = self.answers and method in ANSWERED
        far = far and siblings(task) != (task,)  # a task without siblings is scored once
        name = f"{task} {'far' if far else 'near'} {method}{' answers' if answers else ''}.json"
        path = self.folder / "scores" / name
        with_answers = path.with_stem(f"{path.stem} answers")  # holds the loss, too
        path = with_answers if with_answers.exists() else path
        if not path.exists():
            found = self._computed(task, method, far, answers)
            found = {k: float(v) if isinstance(v, np.floating) else v for k, v in found.items()}
            unfinished = path.with_suffix(f".{os.getpid()}")
            unfinished.write_text(json.dumps(found), encoding="utf-8")
            unfinished.replace(path)
        return json.loads(path.read_bytes())

    def _computed(self, task: str, method: str, far: bool, answers: bool) -> dict[str, Any]:
        rows = shared_data.rows(task, "test")[:ROWS]
        shots = shared_data.rows(task, "train")[:SHOTS] if method.endswith("3-shot") else ()
        name = method.removesuffix(" + 3-shot")
        evaluate = self.evaluator.evaluate
        if name in SINGLE:
            own = shared_data.BANK / task if name == "trained" else None
            return asdict(evaluate(rows, own, shots, answers)[0])
        left_out = siblings(task) if far else (task,)
        bank = without(left_out, self.folder / f"{'far' if far else 'near'}-{task}")
        started = time.perf_counter()
        made = METHODS[name](Setting(task, bank, self.evaluator))
        weights = made.coefficients.shared
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "adapter"
            if name == PEFT:
                entries = zip(bank.index.entries, weights, strict=True)
                folder = self.peft.save(
                    {e.dataset.removeprefix("suite/"): float(c) for e, c in entries}, folder
                )
            else:
                generate_from_plan(made).save_pretrained(folder)
            scores = asdict(evaluate(rows, folder, shots, answers)[0])
        spent = {"seconds": time.perf_counter() - started}
        spent |= {"fit": made.refinement.to_dict()} if made.refinement else {}
        return scores | spent | {"sum": weights.sum(), "negative": int((weights < 0).sum())}


def share(text: str) -> tuple[int, int]:
    """Which share of how many, counted from 1."""
    part, parts = map(int, text.split("/"))
    if not 1 <= part <= parts:
        raise argparse.ArgumentTypeError(f"{text}, expected one of 1/{parts} to {parts}/{parts}")
    return part, parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true", help="8 tasks of different kinds")
    parser.add_argument("--answers", action="store_true", help="Rouge-L and matches too, slower")
    parser.add_argument("--methods", nargs="*", help="some of them; all if left out")
    parser.add_argument("--near-only", action="store_true", help="siblings stay in")
    parser.add_argument(
        "--part", type=share, help="score a share of the tasks, such as 1/2, and no more"
    )
    chosen = parser.parse_args()
    bench = Bench(chosen.folder, chosen.answers)
    tasks = shared_data.tasks()[::6] if chosen.quick else shared_data.tasks()
    modes = (False,) if chosen.near_only else (False, True)
    methods = chosen.methods or [*SINGLE, "default + 3-shot", *METHODS]
    methods = list(dict.fromkeys(["base", "trained", *methods]))
    if chosen.part:
        part, parts = chosen.part
        for far, task, method in itertools.product(modes, tasks[part - 1 :: parts], methods):
            bench.score(task, method, far and method not in SINGLE)
            print(task, method, flush=True)
        return
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for far in modes:
        mode = "siblings left out" if far else "leave-one-out"
        for method in methods:
            listed = [bench.score(task, method, far and method not in SINGLE) for task in tasks]
            found.setdefault(mode, {})[method] = listed
            if "trained" in found[mode]:
                print(mode, method, _cells(found[mode], method), flush=True)
    text = "\n\n".join(_table(mode, scores) for mode, scores in found.items())
    (chosen.folder / "quality.md").write_text(text + "\n", encoding="utf-8")
    (chosen.folder / "quality.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
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
    def lines() -> Iterator[str]:
        yield f"{mode.capitalize()}, {len(scores['base'])} tasks:\n"
        yield (
            "| method | loss | gap recovered | 95 % interval | median task | better than base"
            " | Rouge-L | exact match | contains |"
        )
        yield "|:--|--:|--:|--:|--:|--:|--:|--:|--:|"
        for method in scores:
            yield f"| {method} | {' | '.join(_cells(scores, method))} |"

    return "\n".join(lines())


if __name__ == "__main__":
    main()
