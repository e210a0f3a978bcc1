"""The default beside the prompts that people would use instead, in answers, time and CPU time.

``python -m tests.benchmarks.two_minutes FOLDER`` makes an adapter of the training rows of the tasks
of ``../shared/public`` (labels and choices) and of the 28 tasks of ``../shared/everyday`` as
``generate`` does, and scores greedy answers to their test rows: of the base model, alone (``base``)
and in its chat template (``chat``), with 3 examples as turns of a chat (``3-shot``) or as text
before the prompt (``3-shot text``), of the adapter without training (``budget 0``) and by default
(``budget 120``), and of a LoRA that PEFT trains from zero on all rows (``peft``). Rows are read in
the form that is chosen for the adapter. Scores are the share of right answers for labels and
Rouge-L for texts. No adapter of the bank has seen a task's source.

With ``--cpu-clock`` the time limit counts CPU seconds of this process, which other programs do not
change. Of adapters, the share of the time is printed that was spent in the forward and backward
passes of steps, from the loaded model to the saved folder. Every score is saved in FOLDER at once,
so the command resumes where it stopped.
"""

import argparse
import logging
import tempfile
import time
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_lorameta import Generation, Recipe, generate
from hf_lorameta.bank.open_bank import embedded_bank
from hf_lorameta.engines.prompts import in_chat
from hf_lorameta.hub.base_model import locate
from hf_lorameta.pipeline import generate as generating
from hf_lorameta.pipeline.session import LoadedModel, Session
from hf_lorameta.types import Row
from tests.benchmarks.everyday import EVERYDAY, REPORT_ON, prompted
from tests.benchmarks.peft_training import train_by_trainer
from tests.benchmarks.tables import markdown_table, stored
from tests.support import shared_data

PUBLIC = shared_data.SHARED / "public"
LABELS = (
    "causal_news", "clickbait_headlines", "dialogact_sgd", "emotion_emory", "intent_banking77",
    "offense_davidson", "readability_onestop", "relation_fewrel", "sentiment_senti4sd",
)  # fmt: skip
"""Of the 28 everyday tasks; the other outputs are texts."""
PROMPTS = ("3-shot", "3-shot text")
METHODS = ("base", "chat", *PROMPTS, "budget 0", "budget 120", "peft")
SHOTS = 3
Result = dict[str, float]


@cache
def public_tasks() -> list[str]:
    """Return the tasks of ``../shared/public``, all with labels or choices."""
    files = PUBLIC.glob("*.train.jsonl")
    return sorted(path.name.removesuffix(".train.jsonl") for path in files)


def is_text(task: str) -> bool:
    """Whether the outputs of a task are texts, not labels or choices."""
    return task not in (*LABELS, *public_tasks())


class TwoMinutes:
    """Scores by task and method, saved in a folder."""

    def __init__(
        self,
        folder: Path,
        session: Session,
        model: LoadedModel,
        rows: int,
        labeled: int | None,
        cpu_clock: bool,
    ) -> None:
        self._folder, self._session, self._model, self._rows = folder, session, model, rows
        self._cpu_clock = cpu_clock
        self._split = f"train[:{labeled}]" if labeled else None
        folder.mkdir(parents=True, exist_ok=True)

    def result(self, task: str, method: str) -> Result:
        """Return the score of a method, its seconds and CPU seconds, computed once."""
        path = self._folder / f"{task} {method}.json"
        result: Result = stored(path, lambda: self._compute(task, method))
        return result

    def _compute(self, task: str, method: str) -> Result:
        folder = PUBLIC if task in public_tasks() else EVERYDAY
        file, evaluator = folder / f"{task}.train.jsonl", self._session.evaluator
        train = self._session.open_dataset(file, split=self._split)
        columns = train.columns
        opened = self._session.open_dataset(folder / f"{task}.test.jsonl", columns=columns)
        test, examples = opened.head(self._rows), train.head(SHOTS)
        if method in ("base", "3-shot text"):
            return self._score(task, prompted(test, [] if method == "base" else examples))
        if method in ("chat", "3-shot"):
            shots = examples if method == "3-shot" else []
            return self._score(task, in_chat(evaluator.scored_form, test, shots))
        with tempfile.TemporaryDirectory() as scratch:
            adapter, started = Path(scratch) / "adapter", (time.time(), time.process_time())
            if method == "peft":
                base = self._session.bank.index.base_model
                known = evaluator.encode(list(train.rows()))
                train_by_trainer(evaluator.model, base, known, adapter)
            else:
                made = generate(
                    train, self._session.bank, Recipe(), budget=method.partition(" ")[2],
                    model=self._model,
                )  # fmt: skip
                assert isinstance(made, Generation)
                made.save_pretrained(adapter)
            seconds, cpu = time.time() - started[0], time.process_time() - started[1]
            found = {"seconds": seconds, "cpu": cpu}
            if method != "peft":
                found |= _of_generation(made, cpu if self._cpu_clock else seconds)
            return self._score(task, test, adapter) | found

    def _score(self, task: str, rows: Sequence[Row], adapter: Path | None = None) -> Result:
        evaluator = self._session.evaluator
        longest = max(len(tokens.output) for tokens in evaluator.encode(rows))
        evaluator.max_new_tokens = longest + 2
        scores, _ = evaluator.evaluate(rows, adapter)
        return {"score": float((scores.rouge_l if is_text(task) else scores.exact_match) or 0)}


def _of_generation(made: Generation, seconds: float) -> Result:
    """Return the share of the time that steps took, their number, and what the check counted."""
    training, check = made.outcome.training, made.outcome.check
    found = {"share": made.seconds_of_steps / seconds, "steps": training.steps if training else 0}
    if check:
        found |= {"checked": check.rows, "checked right": check.adapter.right}
    levels = ("unlikely", "unsure", "likely")
    return found | {"verdict": levels.index(made.verdict.level) - 1}


def table(results: dict[str, dict[str, Result]], methods: Sequence[str]) -> str:
    """Return a row for each method, of the means over labels and texts."""
    lines, prompts = [], [prompt for prompt in PROMPTS if prompt in methods]
    for method in methods:
        found = {task: of[method] for task, of in results.items()}
        parts: list[str] = []
        for texts in (False, True):
            chosen = {task: r for task, r in found.items() if is_text(task) == texts}
            best = {
                task: max(results[task][prompt]["score"] for prompt in prompts) for task in chosen
            }
            gains = [r["score"] - best[task] for task, r in chosen.items()]
            if not gains:
                parts += ["–"] * 3
                continue
            better = sum(gain > 0 for gain in gains)
            mean = np.mean([r["score"] for r in chosen.values()])
            parts += [f"{mean:.2f}", f"{better} of {len(gains)}", f"{min(gains):+.2f}"]
        for name in ("seconds", "cpu"):
            times = [r[name] for r in found.values() if name in r]
            parts.append(f"{np.median(times):.0f}" if times else "–")
        lines.append((method, *parts))
    head = ("method", "labels: right", "better than 3-shot", "worst", "texts: Rouge-L",
            "better than 3-shot", "worst", "s", "CPU s")  # fmt: skip
    return markdown_table(head, lines, right=range(1, len(head)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--tasks", nargs="*", help="default: all")
    parser.add_argument("--rows", type=int, default=60, help="test rows")
    parser.add_argument("--labeled", type=int, help="training rows; default: all")
    parser.add_argument("--base", help="default: that of the bank")
    parser.add_argument("--bank-of", help="base model of an embedded bank, for --base FILE.gguf")
    parser.add_argument("--cpu-clock", action="store_true", help="limit CPU seconds")
    options = parser.parse_args()
    if options.cpu_clock:
        setattr(generating, "Session", partial(Session, clock=time.process_time))  # noqa: B010
    shared_data.require()
    logging.disable(logging.WARNING)
    everyday = REPORT_ON.read_text().split()
    results: dict[str, dict[str, Result]] = {}
    base = locate(options.base or shared_data.BASE_MODEL)
    model = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    bank = embedded_bank(options.bank_of) if options.bank_of else None
    with Session(bank, base=None if options.bank_of else options.base, model=model) as session:
        benchmark = TwoMinutes(
            options.folder, session, model, options.rows, options.labeled, options.cpu_clock
        )
        for task in options.tasks or (*public_tasks(), *everyday):
            for method in options.methods:
                found = benchmark.result(task, method)
                results.setdefault(task, {})[method] = found
                print(task, method, {k: round(v, 3) for k, v in found.items()}, flush=True)
    if set(PROMPTS) & set(options.methods):
        print("\n" + table(results, options.methods))


if __name__ == "__main__":
    main()
