"""Trainings that suit a tiny base model: high learning rates, and few steps."""

from collections.abc import Callable
from typing import Any

FAST = "from tests.support.fast_training import fast_training; fast_training()"
"""Code to run before a command."""
Set = Callable[[Any, str, Any], object]
"""`setattr`, or that of pytest's ``monkeypatch``, which is undone after the test."""


def fast_training(set_: Set = setattr, **changes: Any) -> None:
    """Let trainings on rows of a dataset suit a tiny base model, with changed settings."""
    from hf_lorameta.training import further
    from hf_lorameta.training.settings import Settings

    fast = {"steps": 24, "lr": 0.02, "warmup": 2, "measurements": 6} | changes

    def settings(rows: int, width: int, rank: int, seed: int) -> Settings:
        return Settings(rank=rank, seed=seed, **fast)

    set_(further, "settings_for", settings)
