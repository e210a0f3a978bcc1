"""Try, test and improve an adapter on the visitor's rows, where this machine can."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from hf_lorameta.cards.results import check_of
from hf_lorameta.data.counts.sample import draw_stratified
from hf_lorameta.engines.scoring import ADAPTER_METHOD, CHAT_METHOD, Report, compare
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.errors import AdapterError
from hf_lorameta.pipeline.make import make_adapter
from hf_lorameta.pipeline.rows import MIN_TRAINING_ROWS, SHOTS, Rows
from hf_lorameta.pipeline.session import Session
from limits.hourly import ADAPTERS, model_time
from work.generating import Adapter
from work.jobs import Canceled, Job
from work.planning import PlanResult, RequestError

TEST_ROWS = 16
MIN_TEST_ROWS = 4
TEST_CHARACTERS = 1000
"""Of an input and an output; longer ones take long here."""
TITLES = {
    "base": "base model",
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


def rows_to_test(result: PlanResult) -> list[tuple[str, str]]:
    """Return the rows for the prompt and the test; none if they are too few.

    They are at most half of the samples, so that the others can be trained on, or all if half of
    them are too few.
    """
    samples, least = result.samples, SHOTS + MIN_TEST_ROWS
    half = len(samples) // 2 if len(samples) >= least + MIN_TRAINING_ROWS else len(samples)
    if half < least:
        return []
    return draw_stratified(samples, min(half, SHOTS + TEST_ROWS), seed=0)


def testable_rows(result: PlanResult) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the examples of the prompt, and the rows to test on; both empty if there are few."""
    rows = [
        (prompt[-TEST_CHARACTERS:], output[:TEST_CHARACTERS])
        for prompt, output in rows_to_test(result)
    ]
    return rows[:SHOTS], rows[SHOTS:]


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
    shots, rows = testable_rows(result)

    def show(method: str, done: int, total: int) -> None:
        if not asked and _MODEL.waiting:
            raise Canceled
        job.report(f"Counting right answers: {TITLES[method]}", done, total)

    with _turn(session, job, asked=asked) as evaluator:
        job.report("Counting right answers")
        methods = {"base": None, ADAPTER_METHOD: adapter.folder}
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


def rows_to_train(result: PlanResult) -> list[tuple[str, str]]:
    """Return the rows to train on: those that the adapter is not tested on."""
    tested = set(rows_to_test(result))
    return [row for row in result.samples if row not in tested]


def can_improve(result: PlanResult) -> bool:
    """Whether there are rows to train on."""
    return len(rows_to_train(result)) >= MIN_TRAINING_ROWS


def improve(adapter: Adapter, result: PlanResult, session: Session, job: Job) -> Improvement:
    """Train on `rows_to_train` until held-out rows stop to gain or the time is over.

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
    rows = Rows(train=tuple(rows_to_train(result)))
    with _turn(session, job):
        seconds = _TIME_SHARE * job.seconds_left
        reporting = session.with_progress(job.report)
        try:
            generation = make_adapter(result.plan, rows, reporting, seconds=seconds)
        except AdapterError:  # without a bank
            return _NO_GAIN
    training = generation.plan.training
    if training is None or not training.steps:
        return _NO_GAIN
    given = replace(training, given_rows=True)
    generation = replace(
        generation, plan=replace(generation.plan, training=given), seconds=adapter.seconds
    )
    return (
        Adapter(result.name, generation).save(job),
        f"Trained on {training.rows} of your rows. On held-out rows an output token now has a "
        f"probability of {training.end:.3f}; before it was {training.start:.3f}, with the base "
        f"model it is {training.base:.3f}",
    )
