"""How a generated adapter is trained further on a number of rows; needs no torch."""

import math
from typing import NamedTuple

from hf_lorameta.training.settings import Settings

FOLDS = 2
"""Number of folds of the cross-validation."""
HOLD_OUT_ROWS = 64
"""With at least this many rows, some are held out, and there is no cross-validation."""
_HELD_OUT_SHARE, _MOST_HELD_OUT = 4, 48
_LEAST_STEPS, _MOST_STEPS, _EPOCHS = 24, 192, 4
_STEPS_IF_OTHERS_DECIDE = 64
_MEASUREMENTS, _PATIENCE = 8, 3
_MEASUREMENTS_OF_MANY_ROWS = 4


class Depth(NamedTuple):
    """Which layers are trained, and how fast.

    Of AdamW, the best learning rate is inversely proportional to the width of a model, the size of
    the states between its layers (muP, arXiv 2203.03466).

    Attributes:
        untrained: share of the layers, the lower ones, that are not trained.
        rate: learning rate, times the width.
    """

    untrained: float
    rate: float


FIT = Depth(0.8, 0.9)
_UPPER_HALF, _ALL_LAYERS = Depth(0.5, 0.576), Depth(0.0, 0.288)


def depth_of_training(rows: int) -> Depth:
    """Return which layers are trained further on so many rows.

    With few rows, outputs of other rows take part, so that what lower layers put out changes.

    Example:
        >>> depth_of_training(63).untrained, depth_of_training(64).untrained
        (0.0, 0.5)
    """
    return _UPPER_HALF if held_out_rows(rows) else _ALL_LAYERS


def settings_for(
    rows: int, depth: Depth, width: int, rank: int, seed: int, others_decide: bool = False
) -> Settings:
    """Return the settings of a training on so many rows.

    Args:
        rows: to train on and to hold out.
        depth: which layers are trained.
        width: size of the states between layers.
        rank: of the adapter.
        seed: of the order of the rows.
        others_decide: whether other rows decide how long to train.

    Example:
        >>> [settings_for(rows, FIT, 576, rank=16, seed=0).steps for rows in (16, 288, 2000)]
        [24, 120, 244]
        >>> [round(settings_for(64, FIT, width, 16, 0).lr, 5) for width in (576, 900, 4096)]
        [0.00156, 0.001, 0.00022]
    """
    trained = rows - held_out_rows(rows)
    least = _STEPS_IF_OTHERS_DECIDE if others_decide else _LEAST_STEPS
    steps = min(max(_EPOCHS * trained // Settings.rows, least), _MOST_STEPS)
    steps = max(steps, trained // Settings.rows)
    many = bool(held_out_rows(rows))
    measurements = _MEASUREMENTS_OF_MANY_ROWS if many else _MEASUREMENTS
    return Settings(
        rank=rank, lr=depth.rate / width, warmup=4, steps=steps, seed=seed,
        evaluate_every=max(steps // measurements, 1), patience=steps if many else _PATIENCE,
    )  # fmt: skip


def other_outputs(rows: int) -> int:
    """Number of other rows whose outputs take part in training on so many rows: one in each step.

    Example:
        >>> other_outputs(16), other_outputs(64), other_outputs(0)
        (24, 0, 0)
    """
    return _LEAST_STEPS if rows and not held_out_rows(rows) else 0


class Work(NamedTuple):
    """Rows of a training, at most.

    Attributes:
        trained: forward and backward, through the trained layers.
        scored: through the trained layers.
        passed: through the untrained layers.
    """

    trained: int
    scored: int
    passed: int


def work(rows: int, depth: Depth, seed: int) -> Work:
    """Return how many rows a training on so many rows passes through the layers.

    Example:
        >>> work(16, depth_of_training(16), seed=0), work(128, depth_of_training(128), seed=0)
        (Work(trained=576, scored=160, passed=32), Work(trained=384, scored=192, passed=160))
    """
    settings, held_out = settings_for(rows, depth, 1, 1, seed), held_out_rows(rows) or rows
    runs = 1 if held_out < rows else FOLDS + 1
    measurements = math.ceil(settings.steps / settings.evaluate_every) + 2  # base, start
    trained = runs * settings.steps * settings.rows
    return Work(trained, measurements * held_out, rows + held_out)


def held_out_rows(rows: int) -> int:
    """Number of rows to hold out; 0 for cross-validation."""
    return min(rows // _HELD_OUT_SHARE, _MOST_HELD_OUT) if rows >= HOLD_OUT_ROWS else 0
