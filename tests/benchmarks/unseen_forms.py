"""How good the default is in forms of prompts that it knows, and in others.

``python -m tests.benchmarks.unseen_forms FOLDER`` scores the tasks of ``report_on.txt`` in
the forms that they have, and in forms of other people's making, which no adapter was trained on.
The base model and the 3-shot prompt get the prompts as they are, the default gets them in the form
that it chooses for such a dataset. Adapters of a task's source are left out of the bank. Scores are
losses and right greedy answers, word for word.

Every score is saved in FOLDER at once, so the command resumes where it stopped.
"""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from zlib import crc32

import numpy as np

from hf_lorameta import Bank, Plan, open_dataset, plan
from hf_lorameta.bank.open_bank import open_bank
from hf_lorameta.data.dataset import Dataset
from hf_lorameta.data.prompt import fill
from hf_lorameta.engines.scoring import LoraWeights, Scores
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.hub.base_model import locate
from hf_lorameta.method.coefficients import Coefficients, RuleInputs, apply_rule
from hf_lorameta.pipeline.bank_prompts import prompts_like
from hf_lorameta.pipeline.coefficients import scale_for
from hf_lorameta.pipeline.make import combine_adapters
from hf_lorameta.training.bank.forms import split_instruction
from hf_lorameta.types import Row, no_progress
from tests.benchmarks.everyday import REPORT_ON, prompted, read, read_sources
from tests.benchmarks.tables import markdown_table, stored
from tests.support import shared_data

FORMS = ("known", "unseen")
METHODS = ("base", "3-shot", "default", "general")
ROWS, SHOTS = 24, 3
HEAD = ("form", "method", "loss", "share of the 3-shot gain", "better than base",
        "better than 3-shot", "right answers")  # fmt: skip
UNSEEN = (
    "Definition: {instruction}\n\nNow complete the following example -\nInput: {input}\nOutput: ",
    "{instruction}\nSentence: {input}\nSolution:",
    "<|user|>\n{instruction}\n{input}\n<|assistant|>\n",
    "### Human: {instruction} {input}\n### Assistant:",
    "Context: {input}\n\n{instruction}\n\nResponse:",
    "{input}\n\n===\n{instruction}\n===\n",
    "Passage: {input}\nQuestion: {instruction}\nYour answer:",
    "- Task: {instruction}\n- Given: {input}\n- Answer: ",
    "GPT4 Correct User: {instruction}\n\n{input}<|end_of_turn|>GPT4 Correct Assistant:",
    "task: {instruction}\ntext: |\n  {input}\nanswer:",
    "Problem: {instruction}\n{input}\n\nSolution:",
    "Read this: {input}\nNow {instruction}\n",
    "{instruction}\n\n```\n{input}\n```\n",
    "Request: {instruction}\nContent: {input}\nReply:",
    "> {input}\n\n{instruction}",
    "Prompt: {instruction} {input}\nCompletion:",
    "{instruction}\n\n« {input} »\n\n→",
    "INPUT\n{input}\nINSTRUCTION\n{instruction}\nOUTPUT\n",
    "Below is an instruction that describes a task, paired with an input.\n\n"
    "[Instruction]\n{instruction}\n[Input]\n{input}\n[Answer]\n",
    "{instruction} Text: {input}",
)
"""One for each task; no other part of the project knows them."""


class UnseenForms:
    """Losses and right answers by task, form and method, saved in a folder."""

    def __init__(self, folder: Path, bank: Bank, dtype: str) -> None:
        self.folder, self.bank, self.dtype = folder, bank, dtype
        self._sources = read_sources()
        folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def evaluator(self) -> TorchEvaluator:
        logging.disable(logging.WARNING)
        return TorchEvaluator.from_folder(locate(shared_data.BASE_MODEL), self.dtype)

    def others(self, task: str) -> list[int]:
        """Return the indices of the bank's entries of other sources."""
        general = self.bank.index.general
        seen = [t.name.removeprefix("local--") for t in general.tasks] if general else []
        if any(self._sources.get(name) == self._sources[task] for name in seen):
            raise SystemExit(f"the general adapter was trained on the source of {task}")
        names = [entry.adapter.rpartition("/")[2] for entry in self.bank.index.entries]
        return [i for i, n in enumerate(names) if self._sources.get(n) != self._sources[task]]

    def scores(self, task: str, form: str, method: str) -> Scores:
        """Return the scores of a method, computed once."""
        path = self.folder / f"{task} {form} {method}.json"
        return Scores(**stored(path, lambda: asdict(self._score(task, form, method))))

    def _score(self, task: str, form: str, method: str) -> Scores:
        train, test = in_unseen_form(task) if form == "unseen" else both(task)
        adapter = None
        if method in ("base", "3-shot"):
            rows = prompted(test, train[:SHOTS] if method == "3-shot" else ())
        else:
            dataset = self._as_public(train)
            rows = open_dataset(_named(test), columns=dataset.columns).head(len(test))
            entries = self.others(task) if method == "default" else []
            planned = drawn(plan(dataset, self.bank), entries)
            adapter = LoraWeights(planned.layout, combine_adapters(planned, no_progress))
        return self.evaluator.evaluate(rows[:ROWS], adapter, generate=False)[0]

    def _as_public(self, rows: Sequence[Row]) -> Dataset:
        """Open rows as a public dataset, in the form that is chosen for it."""
        opened = replace(open_dataset(_named(rows)), id="user/data", private=False)
        return prompts_like(self.bank)(opened)


def drawn(planned: Plan, entries: Sequence[int]) -> Plan:
    """Return a plan with some entries of the bank, as if it had no others."""
    bank, recipe = planned.bank, planned.recipe
    chosen = Coefficients(np.empty(0), 1.0)
    if len(entries):
        inside = bank.distances[recipe.metric][np.ix_(entries, entries)].astype(np.float64)
        inputs = RuleInputs(
            planned.distances[entries], recipe.temperature, lambda: inside, general=True
        )
        chosen = apply_rule(recipe.coefficients, inputs, recipe.top_k)
    weights = np.zeros(len(bank))
    weights[list(entries)] = chosen.adapters
    scaled = replace(chosen, adapters=weights).scaled(scale_for(bank, recipe, planned.profile))
    return replace(planned, coefficients=scaled.adapters, general_coefficient=scaled.general)


def _named(rows: Sequence[Row]) -> list[dict[str, str]]:
    return [{"input": prompt, "output": output} for prompt, output in rows]


def both(task: str) -> tuple[list[Row], list[Row]]:
    """Return the training and the test rows of a task, in the form that it has."""
    return read(task, "train"), read(task, "test")


def in_unseen_form(task: str) -> tuple[list[Row], list[Row]]:
    """Return the rows of a task in one of the unseen forms; without an instruction, as a text."""
    train, test = both(task)
    instruction, inputs = split_instruction([prompt for prompt, _ in (*train, *test)])
    form = UNSEEN[crc32(task.encode()) % len(UNSEEN)] if instruction else "{input}"
    filled = [fill(form, instruction, text) for text in inputs]
    rows = [(prompt, row[1]) for prompt, row in zip(filled, (*train, *test), strict=True)]
    return rows[: len(train)], rows[len(train) :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bank", help="default: the embedded bank")
    parser.add_argument("--tasks", type=Path, default=REPORT_ON)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    shared_data.require()
    bench = UnseenForms(options.folder, open_bank(options.bank), options.dtype)
    tasks, rows = options.tasks.read_text("utf-8").split(), []
    for form in FORMS:
        found = {m: [bench.scores(task, form, m) for task in tasks] for m in METHODS}
        losses = {m: np.array([scores.loss for scores in of]) for m, of in found.items()}
        base, shot = losses["base"], losses["3-shot"]
        for method, loss in losses.items():
            right = np.mean([scores.right / ROWS for scores in found[method]])
            share = (base - loss).mean() / (base - shot).mean()
            better = (f"{(loss < other).mean():.0%}" for other in (base, shot))
            rows.append(
                [form, method, f"{loss.mean():.3f}", f"{share:.2f}", *better, f"{right:.2f}"]
            )
    text = markdown_table(HEAD, rows, right=range(2, 7))
    (options.folder / "unseen_forms.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
