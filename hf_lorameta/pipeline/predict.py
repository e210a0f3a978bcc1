"""Answer all rows of a dataset with an adapter, in Python or into a file.

Rows are answered in blocks, whose answers go to a journal beside the file. When all are answered,
rows and answers are written together. The same command goes on where it was.
"""

import hashlib
import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from hf_lorameta._version import __version__
from hf_lorameta.bank.executors import reporting_dead_workers
from hf_lorameta.cards.record import RECIPE_FILE
from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.data.questions import Question, Questions, open_questions
from hf_lorameta.data.reading import reading_of
from hf_lorameta.data.sources.raw_dataset import RawDataset
from hf_lorameta.data.written_rows import check_ending, rows_written
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator, require_eval
from hf_lorameta.errors import Option, UsageError
from hf_lorameta.files import sha256
from hf_lorameta.formats.lora_file import WEIGHTS_FILE, folder_config
from hf_lorameta.formats.peft_config import CONFIG_FILE
from hf_lorameta.hub.client import Hub
from hf_lorameta.pipeline.adapter_folder import (
    base_model_of,
    locate_adapter,
    read_adapter,
)
from hf_lorameta.pipeline.answering import Answering, Prediction, answer_in_process, attached
from hf_lorameta.pipeline.choose import Choice, choice_in
from hf_lorameta.pipeline.evaluate import open_evaluator
from hf_lorameta.pipeline.journal import Journal
from hf_lorameta.pipeline.progress import bars_unless
from hf_lorameta.pipeline.session import LoadedModel
from hf_lorameta.types import StageProgress, no_progress

logger = logging.getLogger(__name__)

BLOCK = 256
"""Rows of a block: what is lost at most if the command is killed, and joined in passes."""
ANSWER, PROBABILITY = "answer", "probability"
"""The columns that are added."""
_AHEAD = 2
"""Blocks that wait for each worker of an executor."""


class Predictor(NamedTuple):
    """An adapter that is ready to answer.

    Attributes:
        answering: how.
        columns: how the rows that it was made for were read; None if that is not known.
        choice: the labels that it knows; None if it knows none.
    """

    answering: Answering
    columns: Columns | None
    choice: Choice | None

    def cells(self, answer: Prediction, names: tuple[str, str]) -> dict[str, Any]:
        """Return what a file has in its two added columns: of several labels, a list of values."""
        several = self.answering.several and answer.each
        return {names[0]: answer.answer, names[1]: several or answer.probability}


class Written(NamedTuple):
    """What was written to a file.

    Attributes:
        path: of the file.
        rows: number of rows.
        answered: those with an answer.
        columns: names of the columns that were added.
    """

    path: Path
    rows: int
    answered: int
    columns: tuple[str, str]


def predict(
    adapter: str | Path,
    rows: Any,
    *,
    sure: float = 0.0,
    max_tokens: int = 64,
    base: str | Path | None = None,
    model: LoadedModel | None = None,
    token: str | None = None,
    progress: StageProgress | None = None,
    **reading: Any,
) -> list[Prediction]:
    """Answer rows with an adapter.

    Args:
        adapter: folder or Hub id.
        rows: a list of texts, each an input; or a dataset as for `hf_lorameta.open_dataset`, with
            or without outputs. Prompts are made as the adapter's recipe says.
        sure: the answer is empty where its probability is lower.
        max_tokens: of an answer that is a text.
        base: folder, GGUF file or Hub id of the base model; None is what the adapter names.
        model: the base model, on the CPU, and its tokenizer; the model is left unchanged. None
            loads it.
        token: of the Hub; None uses the saved one.
        progress: called with (stage, done, total), where total is 0 if unknown; None shows bars.
        reading: `config`, `split`, `revision`, `columns`, `instruction` and `template` of
            `hf_lorameta.open_dataset`.

    Returns:
        The answer to each row, in order.

    Raises:
        ColumnsError: an input column is missing.
        UsageError: `sure` is no probability, or the model is on another device.
        LoraMetaError: adapter, dataset or base model cannot be read.
        MissingExtraError: the extra ``eval`` is not installed.
    """
    require_eval()
    check_sure(sure)
    hub = Hub(token)
    given = "the given model" if model else None
    predictor = open_predictor(adapter, hub, base or given, max_tokens)
    questions = open_questions(rows, predictor.columns, hub, reading_of(reading))
    found: list[Prediction] = []
    with (
        bars_unless(progress) as show,
        TorchEvaluator.of_model(*model)
        if model
        else nullcontext(open_evaluator(*predictor.answering.base, token)) as evaluator,
        attached(evaluator, predictor.answering) as answer,
    ):
        total = questions.raw.total or 0
        for block in _blocks(questions.raw):
            found += answer([questions.of(row) for row in block])
            show("Answering", len(found), total)
    return [one.above(sure) for one in found]


def check_sure(sure: float) -> None:
    """Refuse what is no probability.

    Raises:
        UsageError: it is not from 0 to 1.
    """
    if not 0 <= sure <= 1:
        raise UsageError(
            f"{sure:g} is no probability", code="predict.no-probability", hint=Option("sure", 0.95)
        )


def open_predictor(
    adapter: str | Path, hub: Hub, base: str | Path | None = None, max_tokens: int = 64
) -> Predictor:
    """Find an adapter, and what its recipe says about its rows and labels.

    Raises:
        AdapterError: no adapter, or another version wrote its recipe.
        HubError: the repo is missing or cannot be reached.
        UsageError: no base model is named.
    """
    folder = locate_adapter(adapter, hub=hub)
    named = base_model_of(adapter, folder_config(folder, patterns=True), base)
    saved = read_adapter(folder)
    choice = choice_in(saved.record)
    answering = Answering(folder, named, max_tokens=max_tokens)
    if choice:
        answering = replace(
            answering,
            labels=choice.labels,
            several=choice.several,
            temperature=choice.temperature,
        )
    return Predictor(answering, saved.columns, choice)


@dataclass(frozen=True)
class Task:
    """Rows of a dataset to answer into a file.

    Attributes:
        predictor: the adapter.
        questions: the rows.
        path: of the file.
        sure: the answer is empty where its probability is lower.
        token: of the Hub, to load the base model.
    """

    predictor: Predictor
    questions: Questions
    path: Path
    sure: float = 0.0
    token: str | None = None

    @property
    def digest(self) -> str:
        """The digest of all that the answers depend on."""
        raw, answering = self.questions.raw, self.predictor.answering
        files = {
            name: sha256(answering.folder / name)
            for name in (CONFIG_FILE, WEIGHTS_FILE, RECIPE_FILE)
            if (answering.folder / name).exists()
        }
        content = [
            __version__, BLOCK, files, answering.base, answering.max_tokens, raw.revision,
            raw.config, raw.split, self.questions.columns.model_dump(),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def run(
        self, progress: StageProgress = no_progress, executor: Executor | None = None
    ) -> Written:
        """Answer the rows that no run before has answered, and write all.

        Args:
            progress: called with (stage, done, total).
            executor: whose workers answer blocks; None answers in this process.

        Raises:
            UsageError: the disk is full, or the file cannot be written.
            LoraMetaError: as `predict` raises.
        """
        journal = Journal(self.path, self.digest)
        try:
            rows = self._answer(journal, progress, executor)
            written = self._write(journal, rows, progress)
        finally:
            journal.close()
        journal.remove()
        return written

    def _answer(self, journal: Journal, progress: StageProgress, executor: Executor | None) -> int:
        """Answer what the journal lacks; return the number of rows."""
        raw, total = self.questions.raw, _counted(self.questions)
        if len(journal):
            logger.info("Going on after %d rows that were answered before", len(journal) * BLOCK)
        rows = 0

        def blocks() -> Iterator[tuple[int, list[Question]]]:
            nonlocal rows
            for number, block in enumerate(_blocks(raw)):
                rows += len(block)
                if number not in journal:
                    yield number, [self.questions.of(row) for row in block]

        done = len(journal) * BLOCK
        for number, answers in self._answered(blocks(), executor):
            journal.add(number, answers)
            done += len(answers)
            progress("Answering", done, total())
        return rows

    def _answered(
        self, blocks: Iterator[tuple[int, list[Question]]], executor: Executor | None
    ) -> Iterator[tuple[int, list[Prediction]]]:
        answering = self.predictor.answering
        if executor is None:
            for first in islice(blocks, 1):  # nothing is loaded if there is nothing to do
                evaluator = open_evaluator(*answering.base, self.token)
                with attached(evaluator, answering) as answer:
                    yield first[0], answer(first[1])
                    for number, questions in blocks:
                        yield number, answer(questions)
            return
        waiting: deque[tuple[int, Future[list[Prediction]]]] = deque()
        most = _AHEAD * max(getattr(executor, "_max_workers", 0), 8)
        with reporting_dead_workers():
            for number, questions in blocks:
                waiting.append((number, executor.submit(answer_in_process, answering, questions)))
                if len(waiting) >= most:
                    number, future = waiting.popleft()
                    yield number, future.result()
            while waiting:
                number, future = waiting.popleft()
                yield number, future.result()

    def _write(self, journal: Journal, total: int, progress: StageProgress) -> Written:
        raw, answered = self.questions.raw, 0
        names = added_columns(raw.columns)
        rows = enumerate(_blocks(raw))

        def answers(number: int) -> list[dict[str, Any]]:
            found = (Prediction(*one).above(self.sure) for one in journal.read(number))
            return [self.predictor.cells(one, names) for one in found]

        sample = [row | more for row, more in zip(raw.sample, answers(0), strict=False)]
        with rows_written(self.path, [*raw.columns, *names], sample) as write:
            for number, block in rows:
                added = answers(number)
                answered += sum(bool(one[names[0]]) for one in added)
                write([row | more for row, more in zip(block, added, strict=True)])
                progress("Writing", number * BLOCK + len(block), total)
        return Written(self.path, total, answered, names)


def _blocks(raw: RawDataset) -> Iterator[list[dict[str, Any]]]:
    rows = raw.rows()
    while block := list(islice(rows, BLOCK)):
        yield block


def added_columns(own: Sequence[str]) -> tuple[str, str]:
    """Return the names of the columns to add, which differ from those that the rows have.

    Example:
        >>> added_columns(["text"]), added_columns(["text", "answer"])
        (('answer', 'probability'), ('predicted_answer', 'probability'))
    """

    def free(name: str) -> str:
        while name in own:
            name = f"predicted_{name}"
        return name

    return free(ANSWER), free(PROBABILITY)


def _counted(questions: Questions) -> Callable[[], int]:
    """Return a function that returns the number of rows as soon as it is known, before that 0.

    Rows of local files are counted in another thread while the first ones are answered.
    """
    raw = questions.raw
    known = [raw.total or 0]

    def count() -> None:
        known[0] = sum(1 for _ in raw.rows())

    if not known[0] and raw.repo is None:
        threading.Thread(target=count, daemon=True).start()
    return lambda: known[0]


def open_task(
    adapter: str | Path,
    dataset: Any,
    path: Path,
    *,
    sure: float = 0.0,
    max_tokens: int = 64,
    overwrite: bool = False,
    base: str | Path | None = None,
    token: str | None = None,
    **reading: Any,
) -> Task:
    """Check everything that can be checked before rows are answered.

    Args:
        adapter: folder or Hub id.
        dataset: as for `predict`.
        path: of the file to write: .csv, .jsonl or .parquet.
        sure: as for `predict`.
        max_tokens: as for `predict`.
        overwrite: replace an existing file.
        base: as for `predict`.
        token: as for `predict`.
        reading: as for `predict`.

    Raises:
        UsageError: another ending, the file exists or is the one that is read, or `sure` is no
            probability.
        LoraMetaError: as `predict` raises.
    """
    require_eval()
    check_sure(sure)
    check_ending(path)
    named = Path(dataset) if isinstance(dataset, str | Path) else None
    if named and named.exists() and path.exists() and path.samefile(named):
        raise UsageError(
            f"{path} is the file that is read",
            code="predict.reads-target",
            hint="name another file",
        )
    if path.exists() and not overwrite:
        raise UsageError(
            f"{path} exists already",
            code="predict.target-exists",
            hint=["name another file", Option("overwrite", True)],
        )
    hub = Hub(token)
    predictor = open_predictor(adapter, hub, base, max_tokens)
    questions = open_questions(dataset, predictor.columns, hub, reading_of(reading))
    return Task(predictor, questions, path, sure, token)
