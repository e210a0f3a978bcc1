"""How a finished adapter is trained on rows of its dataset; needs no torch."""

from typing import NamedTuple

from hf_lorameta.training.settings import Settings

_HELD_OUT_SHARE, _LEAST_HELD_OUT, _MOST_HELD_OUT = 4, 4, 48
_LEAST_STEPS, _MOST_STEPS = 48, 192
_MEASUREMENTS = 4


class Part(NamedTuple):
    """Which part of the layers is trained, how fast and how long.

    AdamW's best learning rate is inversely proportional to the width of a model, the size of the
    states between its layers (muP, arXiv 2203.03466).

    Attributes:
        untrained: share of the layers, the lower ones, that are not trained.
        rate: learning rate, times the width.
        epochs: how often all rows are trained on, unless rows are very few or many.
    """

    untrained: float
    rate: float
    epochs: int


UPPER_FIFTH, UPPER_THREE_QUARTERS = Part(0.8, 0.9, 4), Part(0.25, 0.576, 8)
"""What a fit and a training train."""


def settings_for(rows: int, part: Part, width: int, rank: int, seed: int) -> Settings:
    """Return the settings of a training.

    Args:
        rows: to train on.
        part: of the layers that is trained.
        width: size of the states between layers.
        rank: of the adapter.
        seed: of the order of the rows.

    Example:
        >>> [settings_for(rows, UPPER_FIFTH, 576, 16, 0).steps for rows in (12, 240, 2000)]
        [48, 120, 250]
        >>> [round(settings_for(64, UPPER_FIFTH, width, 16, 0).lr, 5) for width in (576, 4096)]
        [0.00156, 0.00022]
    """
    steps = min(max(part.epochs * rows // Settings.rows, _LEAST_STEPS), _MOST_STEPS)
    steps = max(steps, rows // Settings.rows)
    return Settings(
        rank=rank, lr=part.rate / width, warmup=4, steps=steps, seed=seed,
        evaluate_every=max(steps // _MEASUREMENTS, 1),
    )  # fmt: skip


def held_out_rows(rows: int) -> int:
    """Return the number of rows to hold out.

    Example:
        >>> held_out_rows(8), held_out_rows(64), held_out_rows(1000)
        (4, 16, 48)
    """
    return min(max(rows // _HELD_OUT_SHARE, _LEAST_HELD_OUT), _MOST_HELD_OUT)
