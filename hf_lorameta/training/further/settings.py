"""How a generated adapter is trained further on a number of rows; needs no torch."""

import math

from hf_lorameta.training.settings import Settings

FOLDS = 2
"""Number of folds of the cross-validation."""
HOLD_OUT_ROWS = 64
"""With at least this many rows, some are held out, and there is no cross-validation."""
_HELD_OUT_SHARE, _MOST_HELD_OUT = 4, 48
_UNTRAINED_SHARE = 0.5
"""Of the layers, the lower ones, that are not trained where rows are held out."""
_LEAST_STEPS, _MOST_STEPS, _EPOCHS = 24, 192, 4
_STEPS_IF_OTHERS_DECIDE = 64
_MEASUREMENTS, _PATIENCE = 8, 3
_LR, _LR_OF_UPPER_LAYERS = 5e-4, 1e-3


def settings_for(rows: int, rank: int, seed: int, others_decide: bool = False) -> Settings:
    """Return the settings of a training on so many rows.

    Args:
        rows: to train on and to hold out.
        rank: of the adapter.
        seed: of the order of the rows.
        others_decide: whether other rows decide how long to train.

    Example:
        >>> settings_for(16, rank=16, seed=0).steps, settings_for(288, rank=16, seed=0).steps
        (24, 120)
    """
    steps = _EPOCHS * (rows - held_out_rows(rows)) // Settings.rows
    least = _STEPS_IF_OTHERS_DECIDE if others_decide else _LEAST_STEPS
    steps = min(max(steps, least), _MOST_STEPS)
    lr = _LR_OF_UPPER_LAYERS if untrained_share(rows) else _LR
    return Settings(
        rank=rank, lr=lr, warmup=4, steps=steps, evaluate_every=max(steps // _MEASUREMENTS, 1),
        patience=_PATIENCE, seed=seed,
    )  # fmt: skip


def other_outputs(rows: int) -> int:
    """Number of other rows whose outputs take part in training on so many rows: one in each step.

    Example:
        >>> other_outputs(16), other_outputs(64), other_outputs(0)
        (24, 0, 0)
    """
    return _LEAST_STEPS if rows and not held_out_rows(rows) else 0


def work(rows: int, seed: int) -> tuple[float, float]:
    """Return how many times all layers train on a row and how many times they score one, at most.

    Example:
        >>> work(16, seed=0), work(128, seed=0)
        ((576.0, 176.0), (192.0, 256.0))
    """
    settings, held_out = settings_for(rows, 1, seed), held_out_rows(rows)
    runs = 1 if held_out else FOLDS + 1
    measurements = math.ceil(settings.steps / settings.evaluate_every) + 3  # base, start, half way
    trained, scored = runs * settings.steps * settings.rows, measurements * (held_out or rows)
    below = untrained_share(rows)
    return trained * (1 - below), scored * (1 - below) + below * (rows + held_out)


def untrained_share(rows: int) -> float:
    """Share of the layers, the lower ones, that are not trained on so many rows.

    With few rows, outputs of other rows take part, so that what layers put out changes.
    """
    return _UNTRAINED_SHARE if held_out_rows(rows) else 0.0


def held_out_rows(rows: int) -> int:
    """Number of rows to hold out; 0 for cross-validation."""
    return min(rows // _HELD_OUT_SHARE, _MOST_HELD_OUT) if rows >= HOLD_OUT_ROWS else 0
