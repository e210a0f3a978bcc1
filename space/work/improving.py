"""Train an adapter further on some of the visitor's rows, where this machine can."""

from dataclasses import dataclass, replace

from hf_lorameta.bank.bank import Bank
from hf_lorameta.errors import AdapterError, LoraMetaError
from hf_lorameta.pipeline.budget import obstacle_to_training, recipe_within
from hf_lorameta.pipeline.make import make_adapter
from hf_lorameta.pipeline.rows import draw_rows
from hf_lorameta.pipeline.session import Session
from work.generating import AdapterResult, save_files
from work.jobs import Job
from work.planning import PlanResult
from work.trying import rows_to_test

ROWS = 100
"""At most. On 64 and more, training takes less time than on 16, without cross-validation."""
_TIME_SHARE = 0.9
"""Share of the time limit that the training may take by its estimate."""


class TooSlowError(LoraMetaError):
    """The training would take longer than a request may."""


@dataclass(frozen=True)
class Improvement:
    """What the training brought.

    Attributes:
        adapter: the trained adapter; None if it is not better on held-out rows.
        message: one sentence.
    """

    adapter: AdapterResult | None
    message: str


def rows_to_train(plan_result: PlanResult) -> list[tuple[str, str]]:
    """Return the rows to train on: some of those that the adapter is not tested on."""
    tested = set(rows_to_test(plan_result))
    return [row for row in plan_result.samples if row not in tested][:ROWS]


def why_not_improve(plan_result: PlanResult, bank: Bank) -> str:
    """Return why no training is possible here; empty if it is."""
    rows = rows_to_train(plan_result)
    with Session(bank, token=False) as session:
        obstacle = obstacle_to_training(plan_result.plan, rows, session)
    return f"Not possible here: {obstacle}." if obstacle else ""


def improve(adapter: AdapterResult, plan_result: PlanResult, bank: Bank, job: Job) -> Improvement:
    """Train on `rows_to_train`, or fewer if they take too long; some are held out.

    Args:
        adapter: as it was made.
        plan_result: its plan and rows.
        bank: the bank.
        job: shows the progress; canceled between two steps.

    Raises:
        TooSlowError: by a measurement it would take longer than a request may.
        LoraMetaError: the base model cannot be loaded or trained.
    """
    rows = rows_to_train(plan_result)
    job.report("Loading the base model")
    with Session(bank, token=False) as session:
        choice = recipe_within(plan_result.plan, rows, session, _TIME_SHARE * job.time_limit)
        if choice.recipe.train is None:
            raise TooSlowError("Training would take longer here than this page allows")
        planned = replace(plan_result.plan, recipe=choice.recipe)
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
    job.report("Saving and validating the adapter")
    files = save_files(generation, plan_result.name, job)
    return Improvement(
        AdapterResult(files, adapter.seconds, trained=True),
        f"Trained on {training.rows} of your rows. On held-out rows the error is now "
        f"{training.end:.2f}; before it was {training.start:.2f}, and the base model's is "
        f"{training.base:.2f}",
    )
