"""A few rows: training from the generated adapter and from zero.

``python -m tests.benchmarks.few_rows FOLDER`` compares on the tasks of
``../shared/everyday/report_on.txt``, whose sources are left out of the bank: the base model, a
3-shot prompt, its chat template (``base-chat``), the default, also with the prompt
(``default+3-shot``) and without the dataset's outputs (``unlabeled``; ``unlabeled+scale``: with the
scale for their length), ``--fit`` and ``--train`` on some rows, both also with a bank of random
adapters (``random-fit``, ``random-train``), and a LoRA that PEFT trains from zero on the same
rows (`tests.benchmarks.peft_training`). Scores are losses of the reference outputs on 24 test rows,
with the CPU seconds; with ``--answers``, greedy answers to these rows are scored, too.

Every score is saved in FOLDER at once, so the command resumes where it stopped; several processes
may share the work.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_lorameta import Bank, Columns, Generation, Plan, Recipe, open_dataset, plan
from hf_lorameta.engines.scoring import Tokens, chat_rows
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.files import write_atomically
from hf_lorameta.hub.base_model import locate
from hf_lorameta.pipeline.coefficients import compare_with_bank
from hf_lorameta.pipeline.make import combine_adapters
from hf_lorameta.pipeline.rows import draw_rows
from hf_lorameta.pipeline.train import fit_adapter, train_adapter
from hf_lorameta.training.bank.one_task import encode_rows
from hf_lorameta.training.further.settings import depth_of_training, settings_for
from hf_lorameta.training.settings import Settings
from hf_lorameta.types import Row, no_progress
from tests.benchmarks.growth import EVERYDAY, ROWS, SHOTS, Growth, drawn, read
from tests.benchmarks.peft_training import PeftTraining
from tests.benchmarks.random_bank import random_bank
from tests.benchmarks.tables import markdown_table
from tests.support import shared_data

ALL = 4096
PEFT_LR = 1e-3
"""Chosen on ten tasks of other sources, among 1e-3, 3e-3 and 1e-2."""
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ALL_LINEAR_LR = 5e-4
"""Chosen on five tasks of other sources, among 5e-4 and 1e-3."""
PEFT_STEPS = 32
"""At least; a training from zero takes more steps than one from a generated adapter."""
HEAD = ("method", "loss", "share of the 3-shot gain", "better than base", "better than 3-shot",
        "CPU s (median)", "Rouge-L", "exact match")  # fmt: skip
ANSWERS = ("rouge_l", "exact_match")
Result = dict[str, float]


class FewRows:
    """Scores and CPU seconds by task and method, saved in a folder."""

    def __init__(self, folder: Path, bank: Bank, dtype: str, answers: bool = False) -> None:
        self.growth = Growth(folder, bank, dtype)
        self.folder, self._dtype, self._answers = folder, dtype, answers

    def result(self, task: str, method: str) -> Result:
        """Return the scores of a method, computed once."""
        path = self.folder / f"{task} {method} answers.json"  # contains the loss, too
        if not self._answers and not path.exists():
            path = self.folder / f"{task} {method}.json"
        if not path.exists():
            write_atomically(path, json.dumps(self._compute(task, method)).encode())
        result: Result = json.loads(path.read_bytes())
        return result

    def _compute(self, task: str, method: str) -> Result:
        name, _, rows = method.partition(" ")
        compute: dict[str, Callable[[str, int], Result]] = {
            "train": self._train, "PEFT": self._peft, "fit": self._fit,
            "PEFT-all-linear": self._peft_all_linear,
            "random-train": self._train_random, "random-fit": self._fit_random,
            "default": self._default, "default+3-shot": self._prompted_default,
            "unlabeled": self._unlabeled, "unlabeled+scale": partial(self._unlabeled, scaled=True),
            "base": self._prompted, "3-shot": self._prompted, "base-chat": self._chat,
        }  # fmt: skip
        return compute[name](task, ALL if rows == "all" else int(rows or SHOTS * (name != "base")))

    def _chat(self, task: str, rows: int) -> Result:
        del rows
        return self._score_base(chat_rows(self.growth.evaluator, read(task, "test")[:ROWS]))

    def _prompted(self, task: str, shots: int) -> Result:
        return self._score_base(read(task, "test")[:ROWS], read(task, "train")[:shots])

    def _score_base(self, rows: Sequence[Row], shots: Sequence[Row] = ()) -> Result:
        if self._answers:
            return self._scores(rows, None, shots)
        evaluator = self.growth.evaluator
        return {"loss": evaluator.score(evaluator.encode(rows, shots)).loss}

    def _scores(
        self, rows: Sequence[Row], adapter: Path | None, shots: Sequence[Row] = ()
    ) -> Result:
        """Score answers, too; PEFT attaches the adapter."""
        scores, _ = self.growth.evaluator.evaluate(rows, adapter, shots)
        assert scores.rouge_l is not None
        assert scores.exact_match is not None
        return {
            "loss": scores.loss,
            "rouge_l": scores.rouge_l,
            "exact_match": scores.exact_match,
        }

    def _plan(self, task: str, bank: Bank | None = None, **settings: Any) -> Plan:
        recipe = Recipe.of(**settings)
        planned = drawn(self.growth.planned(task), self.growth.others(task), recipe)
        return replace(planned, recipe=recipe, bank=bank or planned.bank)

    @cached_property
    def _random_bank(self) -> Bank:
        return random_bank(self.growth.bank, self.folder / "random bank")

    def _generation(self, planned: Plan) -> Generation:
        pairs = combine_adapters(planned, no_progress)
        return Generation(planned, planned.layout, pairs[0][0].shape[0], tuple(pairs), 0.0)

    def _score(self, task: str, generation: Generation, shots: int = 0) -> Result:
        rows, examples = read(task, "test")[:ROWS], read(task, "train")[:shots]
        if self._answers:
            with tempfile.TemporaryDirectory() as scratch:
                generation.save_pretrained(folder := Path(scratch) / "adapter")
                return self._scores(rows, folder, examples)
        evaluator = self.growth.evaluator
        tokens = evaluator.encode(rows, examples)
        return {"loss": evaluator.score(tokens, generation.layout, generation.pairs).loss}

    def _default(self, task: str, rows: int) -> Result:
        del rows
        return self._score(task, self._generation(self._plan(task)))

    def _unlabeled(self, task: str, rows: int, scaled: bool = False) -> Result:
        """Score the default for the same rows without their outputs."""
        del rows
        dataset = open_dataset(EVERYDAY / f"{task}.train.jsonl", columns=Columns(input="input"))
        planned, others = plan(dataset, self.growth.bank), self.growth.others(task)
        compared = compare_with_bank(planned.bank, planned.profile, planned.recipe.metric)
        inside = compared.bank_distances()[np.ix_(others, others)]
        distances = (planned.distances[others], inside)
        planned = drawn(planned, others, distances=distances)
        coefficients = planned.coefficients[: len(planned.bank) + 1]  # no output prior
        if scaled:
            coefficients = self.growth.planned(task).scale * coefficients
        return self._score(task, self._generation(replace(planned, coefficients=coefficients)))

    def _prompted_default(self, task: str, shots: int) -> Result:
        return self._score(task, self._generation(self._plan(task)), shots)

    def _fit_random(self, task: str, rows: int) -> Result:
        return self._fit(task, rows, self._random_bank)

    def _train_random(self, task: str, rows: int) -> Result:
        return self._train(task, rows, self._random_bank)

    def _fit(self, task: str, rows: int, bank: Bank | None = None) -> Result:
        generation = self._generation(self._plan(task, bank, fit=rows))
        drawn, started = (
            draw_rows(generation.plan.recipe, read(task, "train")),
            time.process_time(),
        )
        fitted = fit_adapter(generation, drawn, self.growth.evaluator)
        cpu = time.process_time() - started
        return {**self._score(task, fitted), "cpu": cpu}

    def _train(self, task: str, rows: int, bank: Bank | None = None) -> Result:
        generation = self._generation(self._plan(task, bank, train=rows))
        started = time.process_time()
        curve: list[tuple[float, float]] = []
        trained = train_adapter(
            generation,
            draw_rows(generation.plan.recipe, read(task, "train")),
            self.growth.evaluator,
            losses=lambda step, steps, loss: curve.append((time.process_time() - started, loss)),
        )
        cpu = time.process_time() - started
        training = trained.plan.training
        assert training is not None
        facts = ("steps", "start", "end")
        result = {**self._score(task, trained), "cpu": cpu}
        result |= {name: getattr(training, name) for name in facts}
        if rows == ALL:
            target = self.result(task, "PEFT all")["end"]
            reached = [seconds for seconds, loss in curve if loss <= target]
            result["cpu to PEFT's loss"] = min(reached, default=float("nan"))
        return result

    @cached_property
    def _peft_evaluator(self) -> TorchEvaluator:
        return TorchEvaluator(locate(shared_data.BASE_MODEL), self._dtype)

    def _peft_all_linear(self, task: str, rows: int) -> Result:
        return self._peft(task, rows, ALL_LINEAR, ALL_LINEAR_LR)

    def _peft(
        self, task: str, rows: int, targets: tuple[str, ...] = Settings.targets, lr: float = PEFT_LR
    ) -> Result:
        evaluator = self._peft_evaluator
        drawn = draw_rows(Recipe(train=rows), read(task, "train"))
        settings = settings_for(len(drawn.train), depth_of_training(0), 576, 16, 0)
        steps = max(settings.steps, PEFT_STEPS)  # 64 were worse for PEFT
        settings = replace(
            settings, targets=targets, lr=lr, steps=steps, evaluate_every=steps // 8, patience=3
        )
        torch.manual_seed(0)
        training = PeftTraining(evaluator.model, settings)
        try:
            train, _, deciding = (
                encode_rows(evaluator, settings.max_length, rows_of)
                for rows_of in (drawn.train, drawn.outputs, drawn.decide)
            )
            result = training.train(train, deciding)
            test_rows = read(task, "test")[:ROWS]
            if self._answers:
                with tempfile.TemporaryDirectory() as scratch:
                    training.model.save_pretrained(scratch)
                    scores = self._scores(test_rows, Path(scratch))
            else:
                test: Sequence[Tokens] = evaluator.encode(test_rows)
                loss = training.loss_sum(test) / sum(len(row.output) for row in test)
                scores = {"loss": loss}
        finally:
            training.model.unload()
        return {**scores, "cpu": result.cpu, "steps": result.steps, "start": result.start,
                "end": result.end}  # fmt: skip


def cells(results: dict[str, list[Result]], method: str) -> list[str]:
    """Return a row of the table."""
    base, shot, loss = (
        np.array([r["loss"] for r in results[m]]) for m in ("base", "3-shot", method)
    )
    cpu = [r["cpu"] for r in results[method] if "cpu" in r]
    answers = [[r[name] for r in results[method] if name in r] for name in ANSWERS]
    return [
        f"{loss.mean():.3f}",
        f"{(base - loss).mean() / (base - shot).mean():.2f}",
        f"{(loss < base).mean():.0%}",
        f"{(loss < shot).mean():.0%}",
        f"{np.median(cpu):.0f}" if cpu else "–",
        *(f"{np.mean(scores):.3f}" if scores else "–" for scores in answers),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tasks", type=Path, default=EVERYDAY / "report_on.txt")
    parser.add_argument("--part", default="1/1", help="such as 1/2: only every second task")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--answers", action="store_true", help="also generate answers; slower")
    parser.add_argument(
        "--methods", nargs="*", default=["default", "train 16", "PEFT 16", "fit 300"]
    )
    options = parser.parse_args()
    shared_data.require()
    few = FewRows(options.folder, Bank.from_pretrained(), options.dtype, options.answers)
    part, parts = map(int, options.part.split("/"))
    results: dict[str, list[Result]] = {}
    for task in options.tasks.read_text("utf-8").split()[part - 1 :: parts]:
        for method in ("base", "3-shot", *options.methods):
            results.setdefault(method, []).append(few.result(task, method))
        print(task, {m: round(r[-1]["loss"], 3) for m, r in results.items()}, flush=True)
    rows = [(method, *cells(results, method)) for method in results]
    text = markdown_table(HEAD, rows, right=range(1, len(HEAD)))
    (options.folder / "few_rows.md").write_text(text + "\n", encoding="utf-8")
    print("\n" + text)


if __name__ == "__main__":
    main()
