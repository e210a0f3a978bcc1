"""A plan refined: its coefficients fitted on a few rows of the user's dataset, with the base model.

Needs the extra ``eval`` and the base model, on this machine or on the Hub.
"""

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import numpy as np

from hf_lorameta.base_model import locate
from hf_lorameta.errors import UsageError
from hf_lorameta.evaluate import Evaluator
from hf_lorameta.generation import Plan
from hf_lorameta.probe import Probe
from hf_lorameta.profile import Row
from hf_lorameta.refine import REFINERS, Mixture, Scored

_AMONG = 1000
"""The rows to fit on are drawn among so many at the dataset's beginning."""


def refined(
    made: Plan,
    scored: Scored | None = None,
    *,
    progress: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> Plan:
    """Fit a plan's coefficients as its recipe says.

    Args:
        made: a plan whose recipe has `refine`, the number of rows.
        scored: holds the base model; None loads it.
        progress: called with (step, steps, loss on the held-out rows).

    Returns:
        The plan with the fitted coefficients and its `refinement`.

    Raises:
        UsageError: the recipe does not ask for it.
        EmptyDatasetError: the dataset has fewer than 4 labelled rows.
        MissingExtraError: the extra ``eval`` is not installed.
        NotFoundError: the base model is out of reach.
    """
    if made.recipe.refine is None:
        raise UsageError("the recipe asks for no refinement", hint="--refine 16")
    rows = chosen_rows(made, made.recipe.refine)
    if scored is None:
        base_model = made.bank.index.base_model
        scored = Probe(Evaluator(locate(base_model), base_model=base_model), made.bank.layout)
    used = made.used
    c, refinement = REFINERS[made.recipe.refiner](
        made.coefficients[used], Mixture(made.bank, used), rows, scored, progress=progress
    )
    coefficients = np.zeros_like(made.coefficients)
    coefficients[used] = c
    return replace(made, coefficients=coefficients, refinement=refinement)


def chosen_rows(made: Plan, count: int) -> list[Row]:
    """Labelled rows drawn with the recipe's seed among the first thousand."""
    rows = [row for row in islice(made.dataset.rows(), _AMONG) if row[1].strip()]
    return random.Random(made.recipe.seed).sample(rows, min(count, len(rows)))
