"""Advise how to get the best adapter for a dataset, with the time that training takes here."""

import math
import shlex

from hf_lorameta.bank.index import EMBEDDED_BANK
from hf_lorameta.cards.model_card import as_arguments, generation_options
from hf_lorameta.environment import install_requirement
from hf_lorameta.errors import LoraMetaError
from hf_lorameta.hub.repo import is_repo_id
from hf_lorameta.pipeline.budget import measure_operations, training_seconds
from hf_lorameta.pipeline.plan import Plan
from hf_lorameta.pipeline.progress import duration
from hf_lorameta.pipeline.rows import MIN_TRAINING_ROWS
from hf_lorameta.training.bank.jobs import MARGIN, START_HOURS, TERAFLOPS, hourly_price

ROWS = (100, 64, 32, 16)
"""Rows to train on that are considered.

The most are advised: from 64 on, training takes less time than on 16, without cross-validation.
"""
_FLAVOR = "cpu-upgrade"
"""Hardware of Hugging Face Jobs: training further uses no GPU."""
LONGEST_SECONDS = 3600.0
"""Training that takes longer on this machine is not advised."""


def advise(plan: Plan, operations_per_second: float | None = None) -> str:
    """Recommend training, with the time that it takes here, or the default, with a prompt or not.

    The time is `training_seconds`, as with ``--budget``; the base model need not be here.

    Args:
        plan: of the dataset.
        operations_per_second: of matrix products in float32; None measures it.

    Example:
        >>> from hf_lorameta import plan
        >>> from hf_lorameta.demo import TRAIN_FILE
        >>> advise(plan(TRAIN_FILE), 1e11).split(":")[0]
        'train on 100 rows with --train 100, at most about 4 min on this CPU'
    """
    expected = plan.expected
    prompt_is_better = (
        expected is not None and expected.prompted is not None and expected.prompted > expected.mean
    )
    without = "use the default with a 3-shot prompt" if prompt_is_better else "use the default"
    if plan.recipe.is_mixture:
        return f"{without}: a mixture is not trained"
    if not plan.profile.output.total:
        return "use the default: the dataset has no outputs to train on"
    left = plan.profile.rows - sum((plan.recipe.rows_asked | {"train": 0}).values())
    if left < MIN_TRAINING_ROWS:
        return f"{without}: the rows are too few to train on"
    speed = operations_per_second or measure_operations()
    counts = [rows for rows in ROWS if rows <= left] or [ROWS[-1]]
    seconds = {rows: training_seconds(plan, rows, speed) for rows in counts}
    rows = next((rows for rows in counts if seconds[rows] <= LONGEST_SECONDS), None)
    if rows is None:
        rows = min(counts, key=lambda rows: seconds[rows])
        here = f"--train {rows} takes at most about {duration(seconds[rows])} on this CPU"
        return f"{without}; {here}{_on_jobs(plan, rows)}"
    trained = f"train on {rows} rows with --train {rows}, at most about {duration(seconds[rows])}"
    return f"{trained} on this CPU: this usually lowers the loss most. Otherwise, {without}"


def _on_jobs(plan: Plan, rows: int) -> str:
    """Return how to train on Hugging Face Jobs, with time and price; empty if a job cannot."""
    dataset, bank = plan.dataset, plan.bank.id
    if dataset.id is None or not (bank == EMBEDDED_BANK or is_repo_id(bank)):
        return ""
    hours = training_seconds(plan, rows, TERAFLOPS[_FLAVOR] * 1e12) / 3600 + START_HOURS
    if hours * 3600 > LONGEST_SECONDS:
        return ""
    try:
        price = hourly_price(_FLAVOR)
    except LoraMetaError:  # the advice is useful without it
        price = None
    cost = f", ${max(hours * price, 0.01):.2f}" if price is not None else ""
    job = ["--flavor", _FLAVOR, "--timeout", f"{math.ceil(MARGIN * hours)}h"]
    job += ["--secrets", "HF_TOKEN", "--with", install_requirement("eval", remote=True)]
    recipe = plan.recipe.model_copy(update={"train": rows})
    push = as_arguments(generation_options(dataset, bank, recipe, plan.bank.revision))
    command = shlex.join(["hf", "jobs", "uv", "run", *job, "hf-lorameta", "push", *push])
    return f", on Hugging Face Jobs {duration(hours * 3600)}{cost}: {command}"
