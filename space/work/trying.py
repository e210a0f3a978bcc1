"""Try an adapter, count its right answers and train it, if this machine can run the base model."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from hf_lorameta.cards.results import check_of
from hf_lorameta.engines.scoring import ADAPTER_METHOD, BASE_METHOD, Report, compare, of_labels
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.errors import AdapterError, LoraMetaError
from hf_lorameta.pipeline.make import make_adapter
from hf_lorameta.pipeline.progress import duration
from hf_lorameta.pipeline.resolve import CHECK_ROWS, Resolved
from hf_lorameta.pipeline.rows import Rows, rows_for
from hf_lorameta.pipeline.session import Session
from hf_lorameta.types import Row
from limits.hourly import ADAPTERS, MODEL_TIME, TRAINING_TIME, HourlyShare
from work.background import Show
from work.generating import Adapter
from work.jobs import Canceled, Job
from work.planning import PlanResult, RequestError

TEST_CHARACTERS = 1000
"""Most characters of an input, and of an output; longer ones take long here."""
TRAINING_SECONDS = 120.0
MORE_SECONDS = 240.0
"""Seconds of a training for which a visitor asks for more time."""
UNTRAINED_METHOD = "untrained"
"""The adapter before it was trained, in a report."""
PROMPT_CHARACTERS = 20_000
"""Most characters of a prompt that is tried: the input, with the instruction and form around it."""
PROMPT_TOKENS = 512
"""Of a longer prompt, the base model reads the last tokens."""
_WAIT_SECONDS, _TRIES_SECONDS = 0.2, 10.0
_COUNT_SECONDS, _METHODS = 20.0, 4
"""Seconds that counting is expected to take at first, and how many methods are counted."""
_OVER = 0.9
"""A training that took more than this share of its time has ended because time ran out."""


class Model:
    """The base model, once in memory, for tries and, with lower priority, counting and training.

    Tries are made one at a time, and so are trainings, which wait in the line of `Background`.

    Args:
        session: loads it.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._loading, self._one_try = threading.Lock(), threading.Semaphore(1)
        self._tries: set[Job] = set()
        self._twins: tuple[TorchEvaluator, TorchEvaluator] | None = None

    def load(self, job: Job) -> tuple[TorchEvaluator, TorchEvaluator]:
        """Return the base model for counting and training, and the same for tries."""
        job.report("Loading the base model")
        with self._loading:
            if self._twins is None:  # before a training changes the layers of the first
                evaluator = self.session.evaluator
                tries = evaluator.twin()
                most = PROMPT_TOKENS + tries.max_new_tokens
                tries.max_length = min(tries.max_length, most)
                self._twins = evaluator, tries
        job.check()
        return self._twins

    @contextmanager
    def one_try(self, job: Job) -> Iterator[TorchEvaluator]:
        """Wait for a turn to try, and yield the base model.

        Waiting and running tries go before the next step of a training.
        """
        self._tries.add(job)
        try:
            # Gradio's queue is not enough: a canceled job leaves it before its thread ends
            while not self._one_try.acquire(timeout=_WAIT_SECONDS):
                job.report("Waiting for another request to end")
            try:
                yield self.load(job)[1]
            finally:
                self._one_try.release()
        finally:
            self._tries.discard(job)

    def let_tries_go(self, job: Job) -> None:
        """Wait for tries, but not so long that they keep a training from continuing."""
        end = time.monotonic() + _TRIES_SECONDS
        while self._tries and time.monotonic() < end:
            job.check()
            time.sleep(_WAIT_SECONDS / 4)


def rows_of(result: PlanResult) -> Rows:
    """Draw rows to check an adapter on, and others to train it on, as the command line does."""
    return rows_for(Resolved(result.plan.recipe, TRAINING_SECONDS, CHECK_ROWS), result.samples)


def _clipped(rows: Sequence[Row]) -> list[Row]:
    return [(text[-TEST_CHARACTERS:], output[:TEST_CHARACTERS]) for text, output in rows]


@contextmanager
def _counted(share: HourlyShare, job: Job) -> Iterator[None]:
    """Count how long a job uses the base model as a share of its address."""
    share.check(job.call.address)
    start = time.monotonic()
    try:
        yield
    finally:
        share.add(job.call.address, time.monotonic() - start)


def answers(adapter: Adapter, model: Model, text: str, job: Job) -> tuple[str, str]:
    """Return the answers of the base model and of the adapter to an input.

    The instruction and the form that all rows share are put around it.

    Raises:
        RequestError: the prompt, which may repeat the input, exceeds `PROMPT_CHARACTERS`.
        LoraMetaError: the base model cannot be run, or not by this visitor now.
    """
    prompt = adapter.plan.dataset.columns.prompt_of(text[: PROMPT_CHARACTERS + 1])
    characters = max(len(text), len(prompt))
    if characters > PROMPT_CHARACTERS:
        raise RequestError(
            f"The prompt has {characters:,} characters, more than the {PROMPT_CHARACTERS:,} that "
            "can be tried here: the instruction and the form count, too"
        )
    with model.one_try(job) as evaluator, _counted(MODEL_TIME, job):
        job.report("Waiting for both answers")
        base = evaluator.answer(prompt)
        job.check()
        return base, evaluator.answer(prompt, adapter.folder)


# --- counting and training ----------------------------------------------------------------------


class _Improving:
    """Counting and training of one adapter, with one bar over both; arguments as of `improve`."""

    def __init__(self, result: PlanResult, model: Model, job: Job, seconds: float) -> None:
        drawn = rows_of(result)
        self._result, self._model, self._job = result, model, job
        self.rows, self.shots = _clipped(drawn.check), _clipped(drawn.prompt)
        self.train = drawn.train
        self.seconds = seconds if drawn.train else 0.0
        self._started, self._count = time.monotonic(), _COUNT_SECONDS
        self._evaluator, _ = model.load(job)

    def _say(self, text: str, left: float) -> None:
        """Wait for tries, then show a step and the time left; end the work if it should end."""
        self._model.let_tries_go(self._job)
        gone = time.monotonic() - self._started
        left = max(10 * round(left / 10), 10) if left < 95 else left
        self._job.report(f"{text}, up to {duration(left)} left", int(gone), int(gone + left))

    def _say_count(self, share: float, later: float) -> None:
        self._say(f"Checking on {len(self.rows)} of your rows", (1 - share) * self._count + later)

    def count(self, adapter: Adapter) -> Report:
        """Return the answers of base model, few-shot prompt and adapter, and put them on its card.

        Counting ends when the job is stopped.
        """
        seen: list[str] = []

        def progress(method: str, done: int, total: int) -> None:
            if method not in seen:
                seen.append(method)
            share = (len(seen) - 1 + done / total) / _METHODS
            if len(seen) > 1:
                self._count = (time.monotonic() - self._started) / share
            if self._job.stopped:
                raise Canceled
            self._say_count(share, self.seconds + self._count / _METHODS * bool(self.seconds))

        methods = {BASE_METHOD: None, ADAPTER_METHOD: adapter.folder}
        rows = self.rows
        report = compare(
            self._evaluator, rows, methods, self.shots, samples=len(rows),
            row_progress=progress, form=self._result.plan.dataset.form,
        )  # fmt: skip
        adapter.add_check(check_of(report, len(self.shots)))
        return report

    def count_trained(self, trained: Adapter, report: Report) -> Report:
        """Return a report with the answers of the trained adapter; the others stay."""
        steps = 0

        def progress(more: int) -> None:
            nonlocal steps
            steps += more
            self._say_count(1 - (1 - steps / 2 / len(self.rows)) / _METHODS, 0)

        scores, texts = self._evaluator.evaluate(self.rows, trained.folder, done=progress)
        if report.measure == "label_f1":
            scores = of_labels(scores, self.rows, texts)
        samples = []
        for sample, text in zip(report.samples, texts, strict=True):
            old = {UNTRAINED_METHOD: sample.outputs[ADAPTER_METHOD]} | dict(sample.outputs)
            samples.append(replace(sample, outputs=old | {ADAPTER_METHOD: text}))
        before = {UNTRAINED_METHOD: report.scores[ADAPTER_METHOD]} | dict(report.scores)
        scores_of = before | {ADAPTER_METHOD: scores}
        report = replace(report, scores=scores_of, samples=tuple(samples))
        trained.add_check(check_of(report, len(self.shots)))
        return report

    def trained(self, adapter: Adapter) -> Adapter | None:
        """Return the trained adapter; None if no step made it better on held-out rows."""
        end = time.monotonic() + self.seconds
        text = "Training on your rows"

        def progress(stage: str, done: int, total: int) -> None:
            if self._job.stopped:
                raise KeyboardInterrupt
            self._say(text, max(end - time.monotonic(), 0) + self._count / _METHODS)

        session, rows = self._model.session.with_progress(progress), Rows(train=self.train)
        plan = self._result.plan
        try:
            generation = make_adapter(plan, rows, session, seconds=self.seconds)
        except (AdapterError, KeyboardInterrupt):  # without a bank; before a step had helped
            return None
        outcome, before = generation.outcome, adapter.generation.outcome.training
        training = outcome.training
        if training is None or not training.steps or (before and training.end <= before.end):
            return None
        outcome = replace(outcome, training=replace(training, given_rows=True))
        generation = replace(generation, outcome=outcome, seconds=adapter.generation.seconds)
        return Adapter(self._result.name, generation).save(self._job)


def improve(
    adapter: Adapter,
    result: PlanResult,
    model: Model,
    job: Job,
    show: Show,
    *,
    report: Report | None = None,
    seconds: float = TRAINING_SECONDS,
) -> bool:
    """Count right answers, also on the card; train; count again. Each result is shown at once.

    The rows that are trained on are not those that are counted on.

    Args:
        adapter: as it was made from the plan.
        result: its plan and rows.
        model: the base model.
        job: shows the progress; once it is stopped, the training ends with the best so far.
        show: is given each result.
        report: of the adapter, if its answers were counted before.
        seconds: how long the training may take.

    Returns:
        Whether more time might help, because time ran out.

    Raises:
        LoraMetaError: the base model cannot be loaded, or not by this visitor now.
        SpaceError: the visitor has made as many adapters as one may.
    """
    ADAPTERS.check(job.call.address)
    with _counted(TRAINING_TIME, job):
        work = _Improving(result, model, job, seconds)
        if work.rows and report is None:
            report = work.count(adapter)
            show(adapter, report, "")
        if not work.train:
            return False
        started = time.monotonic()
        trained = work.trained(adapter)
        over = job.stopped or time.monotonic() - started > _OVER * seconds
        if trained is None:
            why = "in the time that it had" if over else "on held-out rows"
            show(adapter, report, f"No training step helped {why}: the adapter stays as it was.")
            return over
        if report:
            try:
                report = work.count_trained(trained, report)
            except LoraMetaError:  # keep the adapter
                report = None
        training = trained.generation.outcome.training
        assert training  # else the result is None
        show(trained, report, f"Trained on {training.rows} of your rows.")
        return over
