"""Try an adapter, and train and check it, if this machine can run the base model."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import NamedTuple

from hf_lorameta.deadline import Deadline
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.errors import AdapterError
from hf_lorameta.pipeline.budget import DEFAULT_BUDGET
from hf_lorameta.pipeline.make import make_adapter
from hf_lorameta.pipeline.progress import duration
from hf_lorameta.pipeline.resolve import Resolved
from hf_lorameta.pipeline.rows import Rows, rows_for
from hf_lorameta.pipeline.save import Generation
from hf_lorameta.pipeline.session import Session
from hf_lorameta.pipeline.verdict import is_as_good
from visitors.hourly import ADAPTERS, MODEL_TIME, TRAINING_TIME, HourlyShare
from work.generating import Adapter
from work.jobs import Job
from work.planning import PlanResult, RequestError

TRAINING_SECONDS = DEFAULT_BUDGET
MORE_SECONDS = 2 * DEFAULT_BUDGET
"""Seconds of a training for which a visitor asks for more time."""
PROMPT_CHARACTERS = 20_000
"""Most characters of a prompt that is tried: the input, with the instruction and form around it."""
PROMPT_TOKENS = 512
"""Of a longer prompt, the base model reads the last tokens."""
_SHORT_CHARACTERS = 500
"""Most characters of a prompt that does not wait for others."""
_WAIT_SECONDS, _TRIES_SECONDS = 0.2, 10.0
"""How often those who wait look, and for how long a long prompt or a step of a training waits."""
_OVER = 0.8
"""A training that took more than this share of its time has ended because time ran out."""


class Model:
    """The base model, once in memory, for tries and, with lower priority, training and checking.

    Trainings are made one at a time. Of tries, one at a time goes on to its next token.

    Args:
        session: loads it.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._lock, self._one_training = threading.Lock(), threading.Lock()
        self._tries: dict[Job, tuple[bool, int, int]] = {}
        self._numbers = count()
        self._twins: tuple[TorchEvaluator, TorchEvaluator] | None = None
        self._idle: list[TorchEvaluator] = []

    def load(self, job: Job) -> tuple[TorchEvaluator, TorchEvaluator]:
        """Return the base model for training and checking, and the one that tries get copies of."""
        job.report("Loading the base model")
        with self._lock:
            if self._twins is None:  # before a training changes the layers of the first
                evaluator = self.session.evaluator
                tries = evaluator.twin()
                tries.max_length = min(tries.max_length, PROMPT_TOKENS + tries.max_new_tokens)
                self._twins = evaluator, tries
        job.check()
        return self._twins

    @contextmanager
    def one_try(self, job: Job, prompt: str) -> Iterator[TorchEvaluator]:
        """Yield the base model, which waits before each pass for tries that go first.

        Those are tries of short prompts, and others that have waited for some seconds; of these,
        the first ones of an address. All go before the next step of a training.
        """
        from hf_lorameta.engines.transformers.decoder import text_model

        first, one_waits = self.load(job)[1], threading.Lock()

        def let_others_go(*_: object) -> None:
            with one_waits:  # of the threads that share the passes
                _wait(job, lambda: min([*self._tries.items()], key=_turn)[0] is not job)

        with self._lock:
            evaluator = self._idle.pop() if self._idle else first.twin()
            own = sum(other.call.address == job.call.address for other in self._tries)
            self._tries[job] = len(prompt) > _SHORT_CHARACTERS, own, next(self._numbers)
        hook = text_model(evaluator.model).register_forward_pre_hook(let_others_go)
        try:
            yield evaluator
        finally:
            hook.remove()
            with self._lock:
                del self._tries[job]
                self._idle.append(evaluator)

    @contextmanager
    def one_training(self, job: Job) -> Iterator[Session]:
        """Wait for a turn to train and check, and yield the session of the base model.

        A line is not enough, since a canceled job leaves it before its thread ends.
        """
        while not self._one_training.acquire(blocking=False):
            job.report("Waiting for another request to end")
            job.wait(_WAIT_SECONDS)
        try:
            self.load(job)
            yield self.session
        finally:
            self._one_training.release()

    def let_tries_go(self, job: Job) -> None:
        """Wait for tries, but not so long that they keep a training from continuing."""
        if self._tries:
            numbers = {"steps": job.step.steps, "seconds_left": job.step.seconds_left}
            text = "Training waits while an adapter is tried"
            job.report(text, job.step.done, job.step.total, **numbers)
        end = time.monotonic() + _TRIES_SECONDS
        _wait(job, lambda: bool(self._tries) and time.monotonic() < end)


def _turn(a_try: tuple[Job, tuple[bool, int, int]]) -> tuple[bool, int, int]:
    """Return a key to sort tries by: short ones first.

    A long one counts as short once it has waited for `_TRIES_SECONDS`.
    """
    job, (long, own, number) = a_try
    return long and job.waited < _TRIES_SECONDS, own, number


def _wait(job: Job, others_go_first: Callable[[], bool]) -> None:
    """Wait as long as others go first; check the job."""
    job.check()
    while others_go_first():
        job.wait(_WAIT_SECONDS / 4)


def rows_of(result: PlanResult) -> Rows:
    """Draw rows to train and check an adapter on, as the command line does."""
    asked = Resolved(result.request.but(budget=TRAINING_SECONDS)).rows
    return rows_for(asked, result.samples)


@contextmanager
def counted(share: HourlyShare, job: Job) -> Iterator[None]:
    """Count how long a job uses the base model as a share of its address, without waiting."""
    share.check(job.call.address)
    start = time.monotonic() - job.waited
    try:
        yield
    finally:
        share.add(job.call.address, time.monotonic() - job.waited - start)


def answers(adapter: Adapter, model: Model, text: str, job: Job) -> tuple[str, str]:
    """Return the answers of the base model and of the adapter to an input.

    The instruction and the form that all rows share are put around it.

    Raises:
        RequestError: the prompt, which may repeat the input, exceeds `PROMPT_CHARACTERS`.
        LoraMetaError: the base model cannot be run, or not by this visitor now.
    """
    text = text[: PROMPT_CHARACTERS + 1].encode("utf-8", "replace").decode()  # no half characters
    prompt = adapter.generation.plan.dataset.columns.prompt_of(text)
    characters = max(len(text), len(prompt))
    if characters > PROMPT_CHARACTERS:
        raise RequestError(
            f"The prompt has {characters:,} characters, more than the {PROMPT_CHARACTERS:,} that "
            "can be tried here: the instruction and the form count, too",
            code="page.prompt-too-long",
        )
    with model.one_try(job, prompt) as evaluator, counted(MODEL_TIME, job):
        job.report("Waiting for both answers")
        base = evaluator.answer(prompt)
        job.check()
        return base, evaluator.answer(prompt, adapter.folder)


# --- training and checking ----------------------------------------------------------------------


class Improved(NamedTuple):
    """What a training has made.

    Attributes:
        adapter: the best so far, with its answers.
        said: a sentence about the training.
        time_was_over: whether more time might help.
    """

    adapter: Adapter
    said: str
    time_was_over: bool


def improve(
    adapter: Adapter,
    result: PlanResult,
    model: Model,
    job: Job,
    *,
    seconds: float = TRAINING_SECONDS,
) -> Improved:
    """Train the adapter and count right answers, by the stages of the command line.

    Args:
        adapter: as it is now.
        result: its plan and rows.
        model: the base model.
        job: shows the progress; once it is stopped, the training ends with the steps so far.
        seconds: how long it may take, without waiting for tries; with that, twice as long.

    Raises:
        LoraMetaError: the base model cannot be loaded, or not by this visitor now.
        SpaceError: the visitor has made as many adapters as one may.
    """
    ADAPTERS.check(job.call.address)
    with model.one_training(job) as session, counted(TRAINING_TIME, job):
        started, waited, ended, steps = time.monotonic(), job.waited, False, 0

        def used() -> float:
            """Return the seconds without those for tries, but at least half of all."""
            passed = time.monotonic() - started
            return max(passed - (job.waited - waited), passed / 2)

        def progress(stage: str, done: int, total: int) -> None:
            nonlocal ended, steps
            model.let_tries_go(job)
            if job.stopped and not ended:
                ended = True  # what follows goes on: a training that is stopped is checked
                raise KeyboardInterrupt
            gone = used()
            left = max(seconds - gone, 0)
            rounded = max(10 * round(left / 10), 10) if left < 95 else left
            steps = done if stage.startswith("Training") else steps
            doing = "Checking it" if stage.startswith(("Checking", "Fitting")) else "Training"
            text = f"{doing} on your rows, up to {duration(rounded)} left"
            job.report(text, int(gone), int(gone + rounded), steps=steps, seconds_left=int(rounded))

        stages, then = result.request.but(budget=seconds).stages(), adapter.generation
        made: Generation | None = None
        why = "No step was taken in the time that it had"
        try:
            made = make_adapter(
                result.plan, rows_of(result), session.with_progress(progress), stages,
                deadline=Deadline(seconds, used), lists_answers=True,
            )  # fmt: skip
        except (KeyboardInterrupt, AdapterError) as error:  # no step, and no bank; or an overflow
            stopped = "The training was stopped before there was anything to keep"
            why = f"Not trained: {error}" if isinstance(error, AdapterError) else stopped
        over = job.stopped or used() > _OVER * seconds
        training = made and made.outcome.training
        if made and training and (not then.outcome.training or _keeps(made, then)):
            said = f"Trained on {training.seen_rows}."
            if training.folds:
                said += " Each was answered by an adapter that was not trained on it."
        else:
            why = "More time brought no better answers" if training else why
            said = f"{why}: the adapter stays as it was."
            if training or then.outcome.training:
                made = None  # else its answers are counted now
        return Improved(Adapter(result.name, made).save(job) if made else adapter, said, over)


def _keeps(made: Generation, before: Generation) -> bool:
    """Whether an adapter takes the place of the one before, as far as right answers are known."""
    now, then = made.outcome.check, before.outcome.check
    return is_as_good(now, then) if now and then else not then
