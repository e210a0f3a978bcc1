"""Advise how to get the best adapter for a dataset, with the time that training takes here."""

import re
import time

import numpy as np

from hf_lorameta.pipeline.budget import passes
from hf_lorameta.pipeline.held_out_rows import MIN_TRAINING_ROWS
from hf_lorameta.pipeline.plan import Plan
from hf_lorameta.pipeline.progress import duration

ROWS = 16
"""Rows to train on that the advice is about."""
LONGEST_SECONDS = 3600.0
"""Training that takes longer on this machine is not advised."""
_MOST_TOKENS = 512


def advise(plan: Plan, operations_per_second: float | None = None) -> str:
    """Return which way to go: the default, a 3-shot prompt, or training, and its time.

    The time is an estimate from the size of the base model, which need not be on this machine, the
    lengths of the rows, and the speed of matrix products, measured in some milliseconds.

    Args:
        plan: of the dataset.
        operations_per_second: of matrix products in float32; None measures it.

    Example:
        >>> import hf_lorameta
        >>> from hf_lorameta.demo import TRAIN_FILE
        >>> advise(hf_lorameta.plan(TRAIN_FILE), 1e11).split(":")[0]
        'train on 16 rows with --train 16, at most about 8 min on this CPU'
    """
    expected = plan.expected
    prompt_is_better = (
        expected is not None and expected.prompted is not None and expected.prompted > expected.mean
    )
    without = "use a 3-shot prompt" if prompt_is_better else "use the default"
    if not plan.profile.output.total:
        return "use the default: the dataset has no outputs to train on"
    if plan.profile.rows < MIN_TRAINING_ROWS:
        return f"{without}: the rows are too few to train on"
    seconds = training_seconds(plan, operations_per_second or measure_operations())
    if seconds > LONGEST_SECONDS:
        return (
            f"{without}, or train on a GPU: --train {ROWS} takes about {duration(seconds)} on this "
            "CPU"
        )
    trained = f"train on {ROWS} rows with --train {ROWS}, at most about {duration(seconds)}"
    return f"{trained} on this CPU: it lowers the loss most, as a rule. Else {without}"


def training_seconds(plan: Plan, operations_per_second: float) -> float:
    """Estimate the time of training on `ROWS` rows.

    A pass takes two operations per parameter and token. A layer of width h has about 12 h²
    parameters. What is not a matrix product costs about as much as tokens that rows share save.

    Args:
        plan: of the dataset.
        operations_per_second: of matrix products.
    """
    profile, layout = plan.profile, plan.bank.layout
    layers = {number for module in layout for number in re.findall(r"\.(\d+)\.", module.name)}
    width = min(module.in_features for module in layout)
    tokens = min((profile.input.total + profile.output.total) / profile.rows, _MOST_TOKENS)
    operations = 2 * 12 * len(layers) * width**2 * tokens * passes(ROWS)
    return operations / operations_per_second


def measure_operations(size: int = 1024, repeats: int = 5) -> float:
    """Measure the operations per second of matrix products in float32 on all cores.

    The fastest of several, since other programs may slow some.
    """
    left, right = (np.ones((size, size), np.float32) for _ in range(2))
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)
