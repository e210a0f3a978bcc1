"""Fits and trainings that suit a tiny base model: high learning rates, and few steps."""

from collections.abc import Callable
from functools import partial
from typing import Any

Set = Callable[[Any, str, Any], object]
"""`setattr`, or that of pytest's ``monkeypatch``, which is undone after the test."""


def fast_fits(set_: Set = setattr, steps: int = 40) -> None:
    """Let fits of the last layer suit a tiny base model."""
    from hf_lorameta.training.further import readout

    set_(readout, "ReadoutSettings", partial(readout.ReadoutSettings, lr=0.02, steps=steps))


def fast_training(set_: Set = setattr) -> None:
    """Let fits and trainings on rows of a dataset suit a tiny base model."""
    from hf_lorameta.training.further import settings as further
    from hf_lorameta.training.settings import Settings

    def settings(rows: int, rank: int, seed: int, others_decide: bool = False) -> Settings:
        return Settings(rank=rank, steps=24, lr=0.02, warmup=2, evaluate_every=4, seed=seed)

    fast_fits(set_)
    set_(further, "settings_for", settings)
