"""Answers on well-known tasks in their own columns, in several forms of the prompt.

``python -m tests.benchmarks.answers FOLDER`` reads the tasks of ``../shared/public`` in each form
(`FORMS`), and scores on their test rows: the most frequent label, the base model, a 3-shot prompt,
the default, ``--fit`` and ``--train`` on some rows (``fit 300 train 100``: one after the other), a
LoRA trained by PEFT on as many (``peft 500``), and a logistic regression on what the base model's
last layer puts out for the same rows (``logistic 300``; needs scikit-learn). Scores are the
accuracy of choosing among the labels by the sum of log-probabilities (``ranked``, of the base
model), the share of right greedy answers, macro-F1 of these, and the loss. Where a label is a text
of the row's own, ``ranked`` is left out.

Every score is saved in FOLDER at once, so the command resumes where it stopped; several processes
may share the work.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hf_lorameta import Columns, Recipe, open_dataset
from hf_lorameta.data.chat_template import require_chat_form
from hf_lorameta.data.dataset import Dataset
from hf_lorameta.data.instruction_and_cue import with_instruction_and_cue
from hf_lorameta.engines.scoring import normalized, prompt_text
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.engines.transformers.peft_adapter import attached_by_peft
from hf_lorameta.pipeline.make import make_adapter
from hf_lorameta.pipeline.plan import plan_from_reading
from hf_lorameta.pipeline.read import read_dataset, token_counting
from hf_lorameta.pipeline.rows import draw_rows
from hf_lorameta.pipeline.session import Session
from hf_lorameta.training.bank.measure_prior import collect_states
from hf_lorameta.types import Row
from tests.benchmarks.peft_training import train_by_trainer
from tests.benchmarks.tables import markdown_table, stored
from tests.support import shared_data

PUBLIC = shared_data.SHARED / "public"
MOST_LABELS = 20
FORMS = ("raw", "known", "chat")
"""``raw``: the columns as they are. ``known``: the form that is chosen by default, with an
instruction and a cue. ``chat``: the instruction and the input in the base model's chat form."""
METHODS = ("majority", "base", "3-shot", "default", "fit 300")
HEAD = ("form", "method", "tasks", "right answers", "ranked", "macro-F1", "loss", "CPU s (median)")
Result = dict[str, float]


class Answers:
    """Scores by task, form and method, saved in a folder."""

    def __init__(
        self, folder: Path, session: Session, rows: int, tasks: Path = PUBLIC, *, choose: bool
    ) -> None:
        self.folder, self._session, self._rows, self._tasks = folder, session, rows, tasks
        self._choose = choose
        folder.mkdir(parents=True, exist_ok=True)

    def result(self, task: str, form: str, method: str) -> Result:
        """Return the scores of a method, computed once."""
        path = self.folder / f"{task} {form} {method}.json"
        result: Result = stored(path, lambda: self._compute(task, form, method))
        return result

    def _compute(self, task: str, form: str, method: str) -> Result:
        train, test = (self.read(task, form, part) for part in ("train", "test"))
        rows = test.head(self._rows)
        if method == "majority":
            return majority([output for _, output in rows])
        if method == "base":
            return self._score(rows, labels_of(train, rows))
        if method.endswith("-shot"):
            shots = self.read(task, "known" if form == "chat" else form, "train")
            examples = shots.head(int(method.removesuffix("-shot")))
            return self._score(self._prompted(task, form, examples), labels_of(train, rows))
        names, counts = method.split()[::2], [int(word) for word in method.split()[1::2]]
        if names == ["logistic"]:
            return self._regression(train, rows, *counts)
        if names == ["peft"]:
            return self._by_peft(train, rows, *counts)
        recipe = Recipe.of(**dict(zip(names, counts, strict=False)))
        with self._made(train, recipe) as (adapter, cpu):
            return self._score(rows, labels_of(train, rows), adapter) | {"cpu": cpu}

    def read(self, task: str, form: str, part: str) -> Dataset:
        """Open a part of a task in a form, as if it were public."""
        raw = open_dataset(self._tasks / f"{task}.train.jsonl", template="{prompt}")
        file, split = part, None
        if self._choose:
            border = 3 * len(raw.head(sys.maxsize)) // 4
            file, split = "train", f"train[:{border}]" if part == "train" else f"train[{border}:]"
        columns = raw.columns if form == "raw" else self._known(task)
        if form == "chat":
            start, end = self._chat.split("{prompt}")
            fields = "{instruction}\n\n{input}" if columns.instruction_text else "{input}"
            columns = columns.model_copy(update={"template": f"{start}{fields}{end}"})
        return open_dataset(self._tasks / f"{task}.{file}.jsonl", split=split, columns=columns)

    @property
    def _chat(self) -> str:
        return require_chat_form(self._session.chat_form, "the base model").template

    def _known(self, task: str) -> Columns:
        opened = open_dataset(self._tasks / f"{task}.train.jsonl")
        public = replace(opened, id=f"public/{task}", private=False)
        return with_instruction_and_cue(public).columns

    def _prompted(self, task: str, form: str, shots: Sequence[Row]) -> list[Row]:
        """Return the test rows with examples; in a chat, all of them are one message."""
        in_chat = form == "chat"
        rows = self.read(task, "known" if in_chat else form, "test").head(self._rows)
        prompted = [(prompt_text(text, shots), output) for text, output in rows]
        if not in_chat:
            return prompted
        start, end = self._chat.split("{prompt}")
        return [(start + text + end, output) for text, output in prompted]

    def _regression(self, train: Dataset, rows: Sequence[Row], count: int) -> Result:
        """Score a logistic regression on the states that predict the first tokens of outputs."""
        from sklearn.linear_model import LogisticRegressionCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        started = time.process_time()
        recipe, bank = Recipe(fit=count), self._session.bank
        read = read_dataset(train, recipe, token_counting(bank))
        known = draw_rows(recipe, read.pool).fit
        model = make_pipeline(StandardScaler(), LogisticRegressionCV(cv=4, max_iter=1000))
        model.fit(self._states(known), [output for _, output in known])
        answers = model.predict(self._states(rows)).tolist()
        cpu = time.process_time() - started
        return scores_of(answers, [output for _, output in rows]) | {"cpu": cpu}

    def _by_peft(self, train: Dataset, rows: Sequence[Row], count: int) -> Result:
        """Score a LoRA that PEFT trains, from zero."""
        evaluator = self._session.evaluator
        known = evaluator.encode(train.head(count))
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            base = self._session.bank.index.base_model
            cpu = train_by_trainer(evaluator.model, base, known, folder)
            return self._score(rows, (), folder) | {"cpu": cpu}

    def _states(self, rows: Sequence[Row]) -> np.ndarray:
        """Return the last layer's states (rows, d) where the outputs begin."""
        evaluator = self._session.evaluator
        encoded = evaluator.encode(rows)
        states = collect_states(evaluator.model, (), (), encoded)
        first = np.cumsum([0, *(len(row.output) for row in encoded[:-1])])
        return np.asarray(states.sums.numpy()[first])

    @contextmanager
    def _made(self, dataset: Dataset, recipe: Recipe) -> Iterator[tuple[Path, float]]:
        """Make an adapter; return its folder and the CPU seconds, without loading the model."""
        bank, session = self._session.bank, self._session
        session.evaluator.model  # noqa: B018 - loads it
        started = time.process_time()
        read = read_dataset(dataset, recipe, token_counting(bank))
        planned = plan_from_reading(read, bank)
        rows = draw_rows(planned.recipe, read.pool)
        generation = make_adapter(planned, rows, session)
        cpu = time.process_time() - started
        with tempfile.TemporaryDirectory() as scratch:
            generation.save_pretrained(folder := Path(scratch) / "adapter")
            yield folder, cpu

    def _score(
        self, rows: Sequence[Row], labels: Sequence[str], adapter: Path | None = None
    ) -> Result:
        evaluator = self._session.evaluator
        longest = max(len(tokens.output) for tokens in evaluator.encode(rows))
        evaluator.max_new_tokens = longest + 2  # a longer answer is wrong
        evaluator.model.generation_config.max_new_tokens = longest + 2
        scores, answers = evaluator.evaluate(rows, adapter)
        outputs = [output for _, output in rows]
        result = {"loss": scores.loss} | scores_of(answers, outputs)
        if labels and adapter is None:  # an adapter knows the labels
            result["ranked"] = scores_of(ranked(evaluator, rows, labels, adapter), outputs)["exact"]
        return result


def labels_of(train: Dataset, rows: Sequence[Row]) -> list[str]:
    """Return the labels, of training rows and test rows; none if they are too many."""
    labels = {output for _, output in (*train.rows(), *rows)}
    return sorted(labels) if len(labels) <= MOST_LABELS else []


def ranked(
    evaluator: TorchEvaluator, rows: Sequence[Row], labels: Sequence[str], adapter: Path | None
) -> list[str]:
    """Return for each row the label with the highest probability."""
    asked = [(text, label) for text, _ in rows for label in labels]
    with attached_by_peft(evaluator.model, adapter):
        losses = evaluator.row_losses(evaluator.encode(asked))
    chosen = np.array(losses.sums).reshape(len(rows), len(labels)).argmin(axis=1)
    return [labels[index] for index in chosen]


def scores_of(answers: Sequence[str], outputs: Sequence[str]) -> Result:
    """Return the share of right answers and their macro-F1; neither case nor ends count.

    Example:
        >>> scores_of(["A", "b", "a"], ["a", "b", "b"])
        {'exact': 0.6666666666666666, 'macro_f1': 0.6666666666666666}
    """
    given, wanted = ([normalized(text) for text in texts] for texts in (answers, outputs))
    right = Counter(a for a, b in zip(given, wanted, strict=True) if a == b)
    sizes = Counter(given), Counter(wanted)
    f1 = [2 * right[label] / (sizes[0][label] + sizes[1][label]) for label in sizes[1]]
    return {"exact": right.total() / len(wanted), "macro_f1": sum(f1) / len(f1)}


def majority(outputs: Sequence[str]) -> Result:
    """Return the scores of always answering the most frequent output.

    Example:
        >>> majority(["a", "b", "b", "b"])
        {'exact': 0.75, 'macro_f1': 0.42857142857142855, 'ranked': 0.75}
    """
    most = Counter(outputs).most_common(1)[0][0]
    scores = scores_of([most] * len(outputs), outputs)
    return scores | {"ranked": scores["exact"]}


def cells(results: Sequence[Result]) -> list[str]:
    """Return the means of a method over tasks."""

    def mean(name: str, digits: int = 3) -> str:
        found = [result[name] for result in results if name in result]
        return f"{np.mean(found):.{digits}f}" if found else "–"

    cpu = [result["cpu"] for result in results if "cpu" in result]
    figures = [mean(name) for name in ("exact", "ranked", "macro_f1", "loss")]
    return [str(len(results)), *figures, f"{np.median(cpu):.0f}" if cpu else "–"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--forms", nargs="*", default=FORMS)
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--tasks", nargs="*", help="default: all")
    parser.add_argument("--folder-of-tasks", type=Path, default=PUBLIC)
    parser.add_argument("--rows", type=int, default=100, help="test rows")
    parser.add_argument(
        "--choose", action="store_true", help="score a quarter of the training rows instead"
    )
    parser.add_argument("--base", help="default: that of the bank")
    parser.add_argument("--bank", help="default: the embedded one for the base model; or none")
    parser.add_argument("--part", default="1/1", help="such as 1/2: only every second task")
    options = parser.parse_args()
    shared_data.require()
    files = sorted(options.folder_of_tasks.glob("*.train.jsonl"))
    part, parts = map(int, options.part.split("/"))
    tasks = options.tasks or [path.name.removesuffix(".train.jsonl") for path in files]
    results: dict[tuple[str, str], list[Result]] = {}
    details: list[list[Any]] = []
    with Session(options.bank, base=options.base) as session:
        answers = Answers(
            options.folder, session, options.rows, options.folder_of_tasks, choose=options.choose
        )
        for task in tasks[part - 1 :: parts]:
            for form in options.forms:
                for method in options.methods:
                    result = answers.result(task, form, method)
                    results.setdefault((form, method), []).append(result)
                    print(
                        task, form, method, {k: round(v, 3) for k, v in result.items()}, flush=True
                    )
                shown = [results[form, method][-1] for method in options.methods]
                details.append([task, form, *(f"{result['exact']:.2f}" for result in shown)])
    rows = [(*key, *cells(found)) for key, found in results.items()]
    head = ("task", "form", *options.methods)
    text = "\n\n".join((
        markdown_table(HEAD, rows, right=range(2, len(HEAD))),
        markdown_table(head, details, right=range(2, len(head))),
    ))  # fmt: skip
    (options.folder / "answers.md").write_text(text + "\n", encoding="utf-8")
    print("\n" + text)


if __name__ == "__main__":
    main()
