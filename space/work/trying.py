"""Try and test an adapter on the visitor's rows, where this machine can: through llama.cpp."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hf_lorameta.data.counts.sample import draw_stratified
from hf_lorameta.engines.scoring import MAX_NEW_TOKENS, Report
from hf_lorameta.pipeline.evaluate import Trial, check_of
from limits.hourly import model_time
from work.generating import Adapter
from work.jobs import Canceled, Job
from work.planning import PlanResult, RequestError

TEST_ROWS = 16
SHOTS = 3
MIN_TEST_ROWS = 4
_BEYOND = 8
"""Tokens of an answer that are read beyond the length of any output."""
TEST_CHARACTERS = 1000
"""Of an input and an output; longer ones take long here."""
_METHODS = {
    "base": "base model",
    "base-chat": "base model as a chat",
    "generated": "adapter",
    f"{SHOTS}-shot": "base with 3 examples",
}
PROMPT_CHARACTERS = 20_000
"""Of a prompt that is tried; the base model reads the last thousand tokens of it."""
_WAIT_SECONDS = 0.2
_TIME = {True: model_time(), False: model_time()}
"""Of what visitors asked for, and of the rest, which leaves them their time."""


class _Model:
    """The right to have a base model in memory, of one job at a time.

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


def testable_rows(result: PlanResult) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the examples of the prompt, and the rows to test on; both empty if there are few."""
    if len(result.samples) < SHOTS + MIN_TEST_ROWS:
        return [], []
    drawn = draw_stratified(result.samples, min(len(result.samples), SHOTS + TEST_ROWS), seed=0)
    rows = [(prompt[-TEST_CHARACTERS:], output[:TEST_CHARACTERS]) for prompt, output in drawn]
    return rows[:SHOTS], rows[SHOTS:]


def answers(adapter: Adapter, gguf: Path | None, text: str, job: Job) -> tuple[str, str]:
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
    with _trial(adapter, gguf, job) as trial:
        job.report("Waiting for both answers")
        both = trial.answers(prompt, check=job.check)
        return both.base, both.adapter


def test(
    adapter: Adapter, gguf: Path | None, result: PlanResult, job: Job, *, asked: bool
) -> Report:
    """Count right answers of base model, few-shot prompt and adapter, also on its card.

    Args:
        adapter: to test.
        gguf: the base model.
        result: its rows.
        job: shows the progress.
        asked: whether the visitor asked for it; if not, it ends as soon as anybody waits for the
            base model.
    """
    shots, rows = testable_rows(result)

    def show(method: str, done: int, total: int) -> None:
        if not asked and _MODEL.waiting:
            raise Canceled
        job.report(f"Counting right answers: {title(method)}", done, total)

    # a right answer has no more tokens than characters; others need not be read to their end
    longest = min(MAX_NEW_TOKENS, max(len(output) for _, output in rows) + _BEYOND)
    with _trial(adapter, gguf, job, asked=asked, max_new_tokens=longest) as trial:
        job.report("Counting right answers")
        report = trial.evaluate(rows, shots, show)
    job.check()
    adapter.add_check(check_of(report, len(shots)))
    return report


@contextmanager
def _trial(
    adapter: Adapter,
    gguf: Path | None,
    job: Job,
    *,
    asked: bool = True,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> Iterator[Trial]:
    """Run the base model, once no other job has one in memory; count how long this one has it."""
    folder = adapter.folder  # what is converted is deleted with the adapter
    base_model = adapter.plan.bank.index.base_model
    _TIME[asked].check(job.address)
    with _MODEL.turn(job, asked=asked):
        start = time.monotonic()
        try:
            job.report("Loading the base model")
            with Trial(folder, base_model, gguf, folder.parent, max_new_tokens) as trial:
                job.check()
                yield trial
        finally:
            _TIME[asked].add(job.address, time.monotonic() - start)


def title(method: str) -> str:
    """Return the readable name of a method of a report."""
    return _METHODS.get(method, method)
