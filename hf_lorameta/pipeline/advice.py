"""The advice at the end of a plan."""

from hf_lorameta.pipeline.automatic import Automatic, possible
from hf_lorameta.pipeline.budget import (
    FIT_ROWS,
    holds_labels,
    measure_operations,
    rows_to_fit,
    training_seconds,
)
from hf_lorameta.pipeline.plan import Plan
from hf_lorameta.pipeline.progress import duration
from hf_lorameta.pipeline.rows import CHECK_ROWS, MIN_TRAINING_ROWS
from hf_lorameta.pipeline.session import Session
from hf_lorameta.training.further.settings import FIT

_MOST_TRAINED = 100
"""Rows to train on that are advised, at most."""


def advise(plan: Plan, session: Session, *, may_fit: bool = True) -> str | None:
    """Say what `hf_lorameta.generate` fits unasked, or recommend to fit or train, and the time.

    The time is `training_seconds` on this machine. The base model need not be here.

    Args:
        plan: of the dataset.
        session: of the plan's bank.
        may_fit: whether rows may be fitted on although the recipe does not say so.

    Returns:
        The advice; None if the recipe says how many rows to fit, train or check on, or cannot.

    Example:
        >>> from hf_lorameta import Recipe, plan
        >>> from hf_lorameta.demo import TRAIN_FILE
        >>> advise(plan(TRAIN_FILE, recipe=Recipe(emit="mixture")), Session())
        'use the default: a mixture is not trained'
    """
    recipe, rows = plan.recipe, plan.profile.rows
    if recipe.rows_asked:
        return None
    without = "use the default" if plan.bank.index.number else "name a bank"
    if recipe.is_mixture:
        return f"{without}: a mixture is not trained"
    if not plan.profile.output.total:
        return f"{without}: the dataset has no outputs to train on"
    if rows < MIN_TRAINING_ROWS:
        return f"{without}: the rows are too few to train on"
    count, depth = min(_MOST_TRAINED, rows), None
    advice = f"--train {count}"
    if (fitted := min(FIT_ROWS, rows - CHECK_ROWS)) >= MIN_TRAINING_ROWS and holds_labels(plan):
        count, depth, advice = fitted, FIT, f"--fit {fitted}"
        unasked = possible(Automatic(may_fit, check=False), recipe, plan.dataset, session).fit
        if unasked and (automatic := rows_to_fit(plan, rows)):
            count, advice = automatic, f"use the default: its fit on {automatic} rows with labels"
    seconds = training_seconds(plan, count, measure_operations(), depth)
    return f"{advice} takes at most about {duration(seconds)} on this CPU"
