"""A few rows: training from the generated adapter and from zero.

``python -m tests.benchmarks.few_rows FOLDER`` compares on the tasks of
``../shared/everyday/report_on.txt``, whose sources are left out of the bank: the base model, a
3-shot prompt, its chat template (``base-chat``), the default, also with the prompt
(``default+3-shot``), without the output prior (``no-prior``), and with the mean of three draws of
some of the bank's adapters besides the general one (``adapters 50``), ``--fit`` and ``--train`` on
some rows, and a LoRA that PEFT trains from zero on as many rows
(`tests.benchmarks.peft_training`). Scores are losses of the reference outputs on 24 test rows, with
the CPU seconds; with ``--answers``, greedy answers to these rows are scored, too.

Every score is saved in FOLDER at once, so the command resumes where it stopped; several processes
may share the work.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hf_lorameta import Bank, Generation, Plan, Recipe
from hf_lorameta.engines.scoring import LoraWeights, in_chat
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.hub.base_model import locate
from hf_lorameta.pipeline.make import combine_adapters
from hf_lorameta.pipeline.rows import draw_rows
from hf_lorameta.pipeline.train import improve
from hf_lorameta.types import Row, no_progress
from tests.benchmarks.everyday import (
    GAINS,
    REPORT_ON,
    ROWS,
    SHOTS,
    Everyday,
    drawn,
    gains,
    prompted,
    read,
)
from tests.benchmarks.peft_training import train_by_trainer
from tests.benchmarks.tables import markdown_table, stored
from tests.support import shared_data

ALL, DRAWS = 4096, 3
HEAD = ("method", *GAINS, "CPU s (median)", "Rouge-L", "exact match")
ANSWERS = ("rouge_l", "exact_match")
Result = dict[str, float]


class FewRows(Everyday):
    """Scores and CPU seconds by task and method, saved in a folder.

    Attributes:
        answers: whether to generate answers, too.
    """

    answers = False

    def result(self, task: str, method: str) -> Result:
        """Return the scores of a method, computed once."""
        path = self.folder / f"{task} {method} answers.json"  # contains the loss, too
        if not self.answers and not path.exists():
            path = self.folder / f"{task} {method}.json"
        result: Result = stored(path, lambda: self._compute(task, method))
        return result

    def _compute(self, task: str, method: str) -> Result:
        name, _, number = method.partition(" ")
        rows, test = ALL if number == "all" else int(number or 0), read(task, "test")[:ROWS]
        match name:
            case "base":
                return self._score_base(test)
            case "base-chat":
                return self._score_base(in_chat(self.evaluator, test))
            case "3-shot":
                return self._score_base(prompted(test, read(task, "train")[:SHOTS]))
            case "default":
                return self._score(task, self._plan(task))
            case "default+3-shot":
                return self._score(task, self._plan(task), SHOTS)
            case "no-prior":
                return self._score(task, self._plan(task, output_prior=0))
            case "adapters":
                return self._few_adapters(task, int(number))
            case "fit" | "train":
                return self._improve(task, name, rows)
            case "PEFT":
                return self._peft(task, rows)
        raise SystemExit(f"there is no method {name}")

    def _score_base(self, rows: Sequence[Row]) -> Result:
        if self.answers:
            return self._scores(rows, None)
        return {"loss": self.evaluator.evaluate(rows, None, generate=False)[0].loss}

    def _scores(self, rows: Sequence[Row], adapter: Path | None) -> Result:
        """Score answers, too; PEFT attaches the adapter."""
        scores, _ = self.evaluator.evaluate(rows, adapter)
        return {name: getattr(scores, name) for name in ("loss", *ANSWERS)}

    def _plan(self, task: str, entries: Sequence[int] | None = None, **settings: Any) -> Plan:
        chosen = self.others(task) if entries is None else entries
        return drawn(self.planned(task), chosen, Recipe.of(**settings))

    def _generation(self, planned: Plan) -> Generation:
        pairs = combine_adapters(planned, no_progress)
        return Generation(planned, planned.layout, pairs[0][0].shape[0], tuple(pairs), 0.0)

    def _score(self, task: str, made: Plan | Generation, shots: int = 0) -> Result:
        rows = prompted(read(task, "test")[:ROWS], read(task, "train")[:shots])
        generation = self._generation(made) if isinstance(made, Plan) else made
        if self.answers:
            with tempfile.TemporaryDirectory() as scratch:
                generation.save_pretrained(folder := Path(scratch) / "adapter")
                return self._scores(rows, folder)
        adapter = LoraWeights(generation.layout, generation.pairs)
        return {"loss": self.evaluator.evaluate(rows, adapter, generate=False)[0].loss}

    def _few_adapters(self, task: str, number: int) -> Result:
        """Return the mean scores of draws of some of the bank's adapters; 0: of the general one."""
        draws = []
        for seed in range(DRAWS if number else 1):
            order = np.random.default_rng([seed, number]).permutation(self.others(task))
            entries = sorted(order[:number].tolist())
            draws.append(self._score(task, self._plan(task, entries=entries)))
        return {name: float(np.mean([scores[name] for scores in draws])) for name in draws[0]}

    def _improve(self, task: str, name: str, rows: int) -> Result:
        settings: dict[str, Any] = {name: rows}
        generation = self._generation(self._plan(task, **settings))
        labeled = draw_rows(generation.plan.recipe, read(task, "train"))
        started = time.process_time()
        improved = improve(generation, labeled, self.evaluator)
        cpu = time.process_time() - started
        [training] = improved.outcome.trainings
        facts = {name: getattr(training, name) for name in ("steps", "start", "end")}
        return {**self._score(task, improved), **facts, "cpu": cpu}

    @cached_property
    def _peft_evaluator(self) -> TorchEvaluator:
        return TorchEvaluator.from_folder(locate(shared_data.BASE_MODEL), self.dtype)

    def _peft(self, task: str, rows: int) -> Result:
        evaluator = self._peft_evaluator
        labeled, test = (
            draw_rows(Recipe(train=rows), read(task, "train")),
            read(task, "test")[:ROWS],
        )
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            known = evaluator.encode(labeled.train)
            cpu = train_by_trainer(evaluator.model, shared_data.BASE_MODEL, known, folder)
            return {**self._scores(test, folder), "cpu": cpu}


def cells(results: dict[str, list[Result]], method: str) -> list[str]:
    """Return a row of the table."""
    losses = (np.array([r["loss"] for r in results[m]]) for m in ("base", "3-shot", method))
    cpu = [r["cpu"] for r in results[method] if "cpu" in r]
    answers = [[r[name] for r in results[method] if name in r] for name in ANSWERS]
    return [
        *gains(*losses),
        f"{np.median(cpu):.0f}" if cpu else "–",
        *(f"{np.mean(scores):.3f}" if scores else "–" for scores in answers),
    ]


def report(scores: FewRows, tasks: Sequence[str], methods: Sequence[str]) -> None:
    """Score tasks, print a table, and write it into the folder of the scores."""
    results: dict[str, list[Result]] = {}
    for task in tasks:
        for method in dict.fromkeys(("base", "3-shot", *methods)):  # each once
            results.setdefault(method, []).append(scores.result(task, method))
        print(task, {m: round(r[-1]["loss"], 3) for m, r in results.items()}, flush=True)
    rows = [(method, *cells(results, method)) for method in results]
    text = markdown_table(HEAD, rows, right=range(1, len(HEAD)))
    (scores.folder / "few_rows.md").write_text(text + "\n", encoding="utf-8")
    print("\n" + text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bank", help="default: the embedded bank")
    parser.add_argument("--tasks", type=Path, default=REPORT_ON)
    parser.add_argument("--part", default="1/1", help="such as 1/2: only every second task")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--answers", action="store_true", help="also generate answers; slower")
    parser.add_argument(
        "--methods", nargs="*", default=["default", "train 16", "PEFT 16", "fit 300"]
    )
    options = parser.parse_args()
    shared_data.require()
    scores = FewRows(options.folder, Bank.from_pretrained(options.bank), options.dtype)
    scores.answers = options.answers
    part, parts = map(int, options.part.split("/"))
    tasks = options.tasks.read_text("utf-8").split()[part - 1 :: parts]
    report(scores, tasks, options.methods)


if __name__ == "__main__":
    main()
