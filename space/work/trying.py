"""Try and test an adapter beside its base model, through llama.cpp; torch is not needed."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from hf_lorameta.bank.bank import Bank
from hf_lorameta.data.counts.sample import draw_stratified
from hf_lorameta.engines.scoring import Report
from hf_lorameta.errors import ConnectionLostError, LoraMetaError, MissingExtraError
from hf_lorameta.pipeline.evaluate import Trial, scores_to_card
from settings import Settings, base_gguf
from work.generating import AdapterResult
from work.jobs import Job
from work.planning import PlanResult

T = TypeVar("T")
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


def rows_to_test(plan_result: PlanResult) -> list[tuple[str, str]]:
    """Return the rows for the prompt and the test; none if they are too few.

    They are at most half of the samples, so that the others can be trained on, or all if half of
    them are too few.
    """
    samples, least = plan_result.samples, SHOTS + MIN_TEST_ROWS
    half = len(samples) // 2 if len(samples) >= least + MIN_TRAINING_ROWS else len(samples)
    if half < least:
        return []
    return draw_stratified(samples, min(half, SHOTS + TEST_ROWS), seed=0)


def testable_rows(plan_result: PlanResult) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the examples of the prompt, and the rows to test on; both empty if there are few."""
    rows = [
        (prompt[-TEST_CHARACTERS:], output[:TEST_CHARACTERS])
        for prompt, output in rows_to_test(plan_result)
    ]
    return rows[:SHOTS], rows[SHOTS:]


def answers(
    adapter: AdapterResult, bank: Bank, settings: Settings, prompt: str, job: Job
) -> tuple[str, str]:
    """Return the answers of the base model and of the adapter to a prompt."""
    job.report("Loading the base model")
    with _trial(adapter, bank, settings) as trial:
        job.report("Waiting for both answers")
        both = trial.answers(prompt)
        return both.base, both.adapter


def test(
    adapter: AdapterResult, bank: Bank, settings: Settings, plan_result: PlanResult, job: Job
) -> Report:
    """Score base model, few-shot prompt and adapter; the scores go on the adapter's card."""
    job.report("Loading the base model")
    shots, rows = testable_rows(plan_result)
    with _trial(adapter, bank, settings) as trial:
        report = trial.evaluate(rows, shots, _reporter(job))
    job.check()
    scores_to_card(adapter.files.folder, report, plan_result.plan.dataset)
    adapter.files.write_archive()
    return report


def is_worse(report: Report) -> bool:
    """Whether the adapter's loss is not below the base model's."""
    return not report.scores["generated"].loss < report.scores["base"].loss


def _trial(adapter: AdapterResult, bank: Bank, settings: Settings) -> Trial:
    folder = adapter.files.folder  # what is converted is deleted with the adapter
    return Trial(folder, bank.index.base_model, base_gguf(settings), cache=folder.parent)


def _reporter(job: Job) -> Callable[[str, int, int], None]:
    return lambda method, done, total: job.report(
        f"Testing the {_METHODS.get(method, method)}", done, total
    )


def titles(methods: Sequence[str]) -> list[str]:
    """Return the readable names of the methods of a report."""
    return [_METHODS.get(method, method) for method in methods]
