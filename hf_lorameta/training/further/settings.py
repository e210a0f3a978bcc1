"""How a finished adapter is trained on rows of its dataset; needs no torch."""

from hf_lorameta.training.settings import Settings

_LEAST_STEPS, _MOST_STEPS = 48, 192

UNTRAINED = 0.25
"""Share of the layers, the lower ones, that are not trained."""
_RATE = 0.576
"""Learning rate, times the width of the model.

AdamW's best rate is inversely proportional to the width, the size of the states between layers
(muP, arXiv 2203.03466).
"""
_EPOCHS = 8
"""How often all rows are trained on, unless rows are very few or many."""


def settings_for(rows: int, width: int, rank: int, seed: int) -> Settings:
    """Return the settings of a training.

    Args:
        rows: to train on.
        width: size of the states between layers.
        rank: of the adapter.
        seed: of the order of the rows.

    Example:
        >>> [settings_for(rows, 576, 16, 0).steps for rows in (12, 120, 2000)]
        [48, 120, 250]
        >>> [round(settings_for(64, width, 16, 0).lr, 5) for width in (576, 4096)]
        [0.001, 0.00014]
    """
    steps = min(max(_EPOCHS * rows // Settings.rows, _LEAST_STEPS), _MOST_STEPS)
    steps = max(steps, rows // Settings.rows)
    return Settings(rank=rank, lr=_RATE / width, warmup=4, steps=steps, seed=seed)
