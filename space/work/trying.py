"""Try, test and improve an adapter on the visitor's rows, where this machine can."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from hf_lorameta.cards.results import check_of
from hf_lorameta.engines.scoring import ADAPTER_METHOD, BASE_METHOD, CHAT_METHOD, Report, compare
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.errors import AdapterError
from hf_lorameta.pipeline.make import make_adapter
from hf_lorameta.pipeline.resolve import CHECK_ROWS
from hf_lorameta.pipeline.rows import MIN_ROWS, MIN_TRAINING_ROWS, SHOTS, Rows, draw_rows
from hf_lorameta.pipeline.session import Session
from hf_lorameta.types import Row
from limits.hourly import ADAPTERS, model_time
from work.generating import Adapter
from work.jobs import Canceled, Job
from work.planning import PlanResult, RequestError

TEST_CHARACTERS = 1000
"""Of an input and an output; longer ones take long here."""
TITLES = {
    BASE_METHOD: "base model",
    CHAT_METHOD: "base model as a chat",
    ADAPTER_METHOD: "adapter",
    f"{SHOTS}-shot": f"base with {SHOTS} examples",
}
"""Readable names of the methods of a report."""
_TIME_SHARE = 0.9
"""Share of the time limit after which the training ends with its best result."""
PROMPT_CHARACTERS = 20_000
"""Of a prompt that is tried; the base model reads the last thousand tokens of it."""
_WAIT_SECONDS = 0.2
_TIME = {True: model_time(), False: model_time()}
"""Of what visitors asked for, and of the rest, which leaves them their time."""


class _Model:
    """The right to use the base model, of one job at a time.

    Gradio's queue is not enough: a canceled job leaves it at once, and its thread ends only at the
    next check.

    Attributes:
        waiting: jobs that visitors asked for and that wait for the right.
    """

    def __init__(self) -> None:
        self._lock = threading.Semaphore(1)
        self.waiting: set[Job] = set()

    @contextmanager
    def turn(self, job: Job, *, asked: bool) -> Iterator[None]:
        """Wait for the right; a job that a visitor asked for is `waiting` meanwhile."""
        if asked:
            self.waiting.add(job)
        try:
            while not self._lock.acquire(timeout=_WAIT_SECONDS):
                job.report("Waiting for another request to end")
        finally:
            self.waiting.discard(job)
        try:
            yield
        finally:
            self._lock.release()


_MODEL = _Model()


def rows_of(result: PlanResult) -> Rows:
    """Draw rows to test an adapter on, none if they are few, and others to train it on."""
    wanted = {"fit": None, "train": len(result.samples), "check": CHECK_ROWS}
    rows = draw_rows(result.plan.recipe.model_copy(update=wanted), result.samples)
    return rows if len(rows.check) >= MIN_ROWS else replace(rows, check=())


def _clipped(rows: Sequence[Row]) -> list[Row]:
    return [(text[-TEST_CHARACTERS:], output[:TEST_CHARACTERS]) for text, output in rows]


def answers(adapter: Adapter, session: Session, text: str, job: Job) -> tuple[str, str]:
    """Return the answers of the base model and of the adapter to an input.

    The instruction and the form that all rows share are put around it.

    Raises:
        RequestError: the input is longer than `PROMPT_CHARACTERS`.
        LoraMetaError: the base model cannot be run, or not by this visitor now.
    """
    if len(text) > PROMPT_CHARACTERS:
        raise RequestError(
            f"The input has {len(text):,} characters, more than the {PROMPT_CHARACTERS:,} that "
            "can be tried here"
        )
    prompt = adapter.plan.dataset.columns.prompt_of(text)
    with _turn(session, job) as evaluator:
        job.report("Waiting for both answers")
        base = evaluator.answer(prompt)
        job.check()
        return base, evaluator.answer(prompt, adapter.folder)


def test(
    adapter: Adapter, session: Session, result: PlanResult, job: Job, *, asked: bool
) -> Report:
    """Count right answers of base model, few-shot prompt and adapter, also on its card.

    Args:
        adapter: to test.
        session: runs the base model.
        result: its rows.
        job: shows the progress.
        asked: whether the visitor asked for it; if not, it ends as soon as anybody waits for the
            base model.
    """
    drawn = rows_of(result)
    shots, rows = _clipped(drawn.prompt), _clipped(drawn.check)

    def show(method: str, done: int, total: int) -> None:
        if not asked and _MODEL.waiting:
            raise Canceled
        job.report(f"Counting right answers: {TITLES[method]}", done, total)

    with _turn(session, job, asked=asked) as evaluator:
        job.report("Counting right answers")
        methods = {BASE_METHOD: None, ADAPTER_METHOD: adapter.folder}
        report = compare(evaluator, rows, methods, shots, samples=len(rows), row_progress=show)
    job.check()
    adapter.add_check(check_of(report, len(shots)))
    return report


@contextmanager
def _turn(session: Session, job: Job, *, asked: bool = True) -> Iterator[TorchEvaluator]:
    """Wait until no other job uses the base model; count how long this one does."""
    _TIME[asked].check(job.call.address)
    with _MODEL.turn(job, asked=asked):
        start = time.monotonic()
        try:
            job.report("Loading the base model")
            evaluator = session.evaluator
            job.check()
            yield evaluator
        finally:
            _TIME[asked].add(job.call.address, time.monotonic() - start)


# --- training further ---------------------------------------------------------------------------


Improvement = tuple[Adapter | None, str]
"""The trained adapter, None if it is not better on held-out rows, and one sentence about it."""
_NO_GAIN: Improvement = (None, "No training step helped on held-out rows: the adapter stays")


def can_improve(result: PlanResult) -> bool:
    """Whether there are rows to train on."""
    return len(rows_of(result).train) >= MIN_TRAINING_ROWS


def improve(adapter: Adapter, result: PlanResult, session: Session, job: Job) -> Improvement:
    """Train until held-out rows stop gaining or the time is over, on rows that it is not tested on.

    Args:
        adapter: as it was made.
        result: its plan and rows.
        session: runs the base model.
        job: shows the progress; canceled between two steps.

    Raises:
        LoraMetaError: the base model cannot be loaded or trained.
        SpaceError: the visitor has made as many adapters as one may.
    """
    ADAPTERS.check(job.call.address)
    rows = Rows(train=rows_of(result).train)
    with _turn(session, job):
        seconds = _TIME_SHARE * job.seconds_left
        reporting = session.with_progress(job.report)
        try:
            generation = make_adapter(result.plan, rows, reporting, seconds=seconds)
        except AdapterError:  # without a bank
            return _NO_GAIN
    training = generation.outcome.training
    if training is None or not training.steps:
        return _NO_GAIN
    given = replace(training, given_rows=True)
    outcome = replace(generation.outcome, training=given)
    generation = replace(generation, outcome=outcome, seconds=adapter.seconds)
    return (
        Adapter(result.name, generation).save(job),
        f"Trained on {training.rows} of your rows. On held-out rows an output token now has a "
        f"probability of {training.end:.3f}; before it was {training.start:.3f}, with the base "
        f"model it is {training.base:.3f}",
    )
