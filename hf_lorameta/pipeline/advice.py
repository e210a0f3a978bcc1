"""Advise how to get the best adapter for a dataset, with the time that training takes here."""

from hf_lorameta.pipeline.budget import measure_operations, training_seconds
from hf_lorameta.pipeline.held_out_rows import MIN_TRAINING_ROWS
from hf_lorameta.pipeline.plan import Plan
from hf_lorameta.pipeline.progress import duration

ROWS = (100, 64, 32, 16)
"""Rows to train on that are considered.

The most are advised: from 64 on, training takes less time than on 16, without cross-validation.
"""
LONGEST_SECONDS = 3600.0
"""Training that takes longer on this machine is not advised."""


def advise(plan: Plan, operations_per_second: float | None = None) -> str:
    """Return which way to go: the default, also with a 3-shot prompt, or training, and its time.

    The time is `training_seconds`, as with ``--budget``; the base model need not be here.

    Args:
        plan: of the dataset.
        operations_per_second: of matrix products in float32; None measures it.

    Example:
        >>> import hf_lorameta
        >>> from hf_lorameta.demo import TRAIN_FILE
        >>> advise(hf_lorameta.plan(TRAIN_FILE), 1e11).split(":")[0]
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
    if plan.profile.rows < MIN_TRAINING_ROWS:
        return f"{without}: the rows are too few to train on"
    speed = operations_per_second or measure_operations()
    counts = [rows for rows in ROWS if rows <= plan.profile.rows] or [ROWS[-1]]
    seconds = {rows: training_seconds(plan, rows, speed) for rows in counts}
    rows = next((rows for rows in counts if seconds[rows] <= LONGEST_SECONDS), None)
    if rows is None:
        quickest = min(counts, key=lambda rows: seconds[rows])
        return (
            f"{without}, or train on a GPU: --train {quickest} takes at most about "
            f"{duration(seconds[quickest])} on this CPU"
        )
    trained = f"train on {rows} rows with --train {rows}, at most about {duration(seconds[rows])}"
    return f"{trained} on this CPU: it lowers the loss most, as a rule. Else {without}"
