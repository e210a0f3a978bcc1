"""Try, test and improve an adapter on the visitor's rows, where this machine can.

Trying and testing go through llama.cpp, without torch; training needs torch and the base model.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from hf_lorameta.bank.bank import Bank
from hf_lorameta.data.counts.sample import draw_stratified
from hf_lorameta.engines.scoring import Report
from hf_lorameta.errors import (
    AdapterError,
    ConnectionLostError,
    LoraMetaError,
    MissingExtraError,
)
from hf_lorameta.pipeline.budget import obstacle_to_training, recipe_within
from hf_lorameta.pipeline.evaluate import Trial, scores_to_card
from hf_lorameta.pipeline.make import make_adapter
from hf_lorameta.pipeline.rows import draw_rows
from hf_lorameta.pipeline.session import Session
from limits.model_time import ModelTime
from settings import Settings, base_gguf
from work.generating import Adapter, save_files
from work.jobs import Job, SpaceError
from work.planning import PlanResult, RequestError

TEST_ROWS = 16
SHOTS = 3
MIN_TEST_ROWS = 4
MIN_TRAINING_ROWS = 8
TEST_CHARACTERS = 1000
"""Of an input and an output; longer ones take long here."""
_METHODS = {
    "base": "base model",
    "base-chat": "base model as a chat",
    "generated": "adapter",
    f"{SHOTS}-shot": "base with 3 examples",
}
TRAINING_ROWS = 100
"""At most. On 64 and more, training takes less time than on 16, without cross-validation."""
_TIME_SHARE = 0.9
"""Share of the time limit that the training may take by its estimate."""
PROMPT_CHARACTERS = 20_000
"""Of a prompt that is tried; the base model reads the last thousand tokens of it."""
_WAIT_SECONDS = 0.2
_MODEL = threading.Semaphore(1)
"""Held while a base model is in memory. Gradio's queue is not enough: a canceled job leaves it at
once, and its thread ends only at the next check."""
_TIME = ModelTime()


def why_not(bank: Bank, settings: Settings) -> str:
    """Return why this machine cannot run the bank's base model; empty if it can."""
    try:
        Trial.require(bank.index.base_model, base_gguf(settings))
    except MissingExtraError:
        return "A package that runs the base model is not installed on this machine."
    except ConnectionLostError:
        return "The Hub did not respond, so the file of the base model is missing here."
    except LoraMetaError:
        return f"This machine has no small file of the base model, {bank.index.base_model}."
    return ""


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


def answers(
    adapter: Adapter, bank: Bank, settings: Settings, prompt: str, job: Job
) -> tuple[str, str]:
    """Return the answers of the base model and of the adapter to a prompt.

    Raises:
        RequestError: the prompt is longer than `PROMPT_CHARACTERS`.
        LoraMetaError: the base model cannot be run, or not by this visitor now.
    """
    if len(prompt) > PROMPT_CHARACTERS:
        raise RequestError(
            f"The input has {len(prompt):,} characters, more than the {PROMPT_CHARACTERS:,} that "
            "can be tried here"
        )
    with _trial(adapter, bank, settings, job) as trial:
        job.report("Waiting for both answers")
        both = trial.answers(prompt, check=job.check)
        return both.base, both.adapter


def test(adapter: Adapter, bank: Bank, settings: Settings, result: PlanResult, job: Job) -> Report:
    """Score base model, few-shot prompt and adapter; the scores go on the adapter's card."""
    shots, rows = testable_rows(result)
    with _trial(adapter, bank, settings, job) as trial:
        report = trial.evaluate(
            rows,
            shots,
            lambda method, done, total: job.report(f"Testing the {title(method)}", done, total),
        )
    job.check()
    scores_to_card(adapter.folder, report, result.plan.dataset)
    adapter.write_archive()
    return report


def is_worse(report: Report) -> bool:
    """Whether the adapter's loss is not below the base model's."""
    return not report.scores["generated"].loss < report.scores["base"].loss


@contextmanager
def _trial(adapter: Adapter, bank: Bank, settings: Settings, job: Job) -> Iterator[Trial]:
    folder = adapter.folder  # what is converted is deleted with the adapter
    base_model, gguf = bank.index.base_model, base_gguf(settings)
    with _turn(job), Trial(folder, base_model, gguf, cache=folder.parent) as trial:
        job.check()
        yield trial


@contextmanager
def _turn(job: Job) -> Iterator[None]:
    """Wait until no other job has a base model in memory; count how long this one has it."""
    _TIME.check(job.address)
    while not _MODEL.acquire(timeout=_WAIT_SECONDS):
        job.report("Waiting for another request to end")
    start = time.monotonic()
    try:
        job.report("Loading the base model")
        yield
    finally:
        _MODEL.release()
        _TIME.add(job.address, time.monotonic() - start)


def title(method: str) -> str:
    """Return the readable name of a method of a report."""
    return _METHODS.get(method, method)


# --- training further ---------------------------------------------------------------------------


class TooSlowError(SpaceError):
    """The training would take longer than a request may."""


@dataclass(frozen=True)
class Improvement:
    """What the training brought.

    Attributes:
        adapter: the trained adapter; None if it is not better on held-out rows.
        message: one sentence.
    """

    adapter: Adapter | None
    message: str


def rows_to_train(result: PlanResult) -> list[tuple[str, str]]:
    """Return the rows to train on: some of those that the adapter is not tested on."""
    tested = set(rows_to_test(result))
    return [row for row in result.samples if row not in tested][:TRAINING_ROWS]


def why_not_improve(result: PlanResult, bank: Bank) -> str:
    """Return why no training is possible here; empty if it is."""
    rows = rows_to_train(result)
    with Session(bank, token=False) as session:
        obstacle = obstacle_to_training(result.plan, rows, session)
    return f"Not possible here: {obstacle}." if obstacle else ""


def improve(adapter: Adapter, result: PlanResult, bank: Bank, job: Job) -> Improvement:
    """Train on `rows_to_train`, or fewer if they take too long; some are held out.

    Args:
        adapter: as it was made.
        result: its plan and rows.
        bank: the bank.
        job: shows the progress; canceled between two steps.

    Raises:
        TooSlowError: by a measurement it would take longer than a request may.
        LoraMetaError: the base model cannot be loaded or trained.
    """
    rows = rows_to_train(result)
    with _turn(job), Session(bank, token=False) as session:
        choice = recipe_within(result.plan, rows, session, _TIME_SHARE * job.time_limit)
        job.check()
        if choice.recipe.train is None:
            raise TooSlowError("Training would take longer here than this page allows")
        planned = replace(result.plan, recipe=choice.recipe)
        try:
            drawn = draw_rows(choice.recipe, rows)
            generation = make_adapter(planned, drawn, session, job.report)
        except AdapterError:
            return Improvement(None, "Training did not make the adapter better than the base model")
    training = generation.plan.training
    if training is None or not training.steps:
        return Improvement(None, "No training step helped on held-out rows: the adapter stays")
    given = replace(training, given_rows=True)
    generation = replace(generation, plan=replace(generation.plan, training=given))
    card = generation.plan.card_data(generation.rank)
    trained = Adapter(result.name, adapter.seconds, trained=card)
    return Improvement(
        save_files(generation, trained, job),
        f"Trained on {training.rows} of your rows. On held-out rows the error is now "
        f"{training.end:.2f}; before it was {training.start:.2f}, and the base model's is "
        f"{training.base:.2f}",
    )
