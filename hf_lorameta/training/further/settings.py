"""How a finished adapter is trained on rows of its dataset; needs no torch."""

from hf_lorameta.training.settings import Settings

MOST_FEW_ROWS = 100
"""Of so many rows and fewer, none is held out if there is time for folds."""
_FEW_STEPS = {32: 24, MOST_FEW_ROWS + 1: 48}
"""Steps of a training of fewer rows than these."""
_MOST_STEPS = 192

UNTRAINED = 0.25
"""Share of the layers, the lower ones, that are not trained."""
_RATE = 0.576
"""Learning rate, times the width of the model.

AdamW's best rate is inversely proportional to the width, the size of the states between layers
(muP, arXiv 2203.03466).
"""
_EPOCHS = 8
"""How often all rows are trained on, unless they are few or very many."""


def settings_for(rows: int, width: int, rank: int, seed: int) -> Settings:
    """Return the settings of a training.

    Args:
        rows: to train on.
        width: size of the states between layers.
        rank: of the adapter.
        seed: of the order of the rows.

    Example:
        >>> [settings_for(rows, 576, 16, 0).steps for rows in (12, 64, 120, 2000)]
        [24, 48, 120, 250]
        >>> [round(settings_for(64, width, 16, 0).lr, 5) for width in (576, 4096)]
        [0.001, 0.00014]
    """
    few = (steps for most, steps in _FEW_STEPS.items() if rows < most)
    many = max(min(_EPOCHS * rows // Settings.rows, _MOST_STEPS), rows // Settings.rows)
    steps = next(few, many)
    return Settings(rank=rank, lr=_RATE / width, warmup=4, steps=steps, seed=seed)
