"""How an adapter is trained; needs no torch."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Self

from hf_lorameta.errors import Option, UsageError

MOST_FEW_ROWS = 100
"""Of so many rows and fewer, all are trained on if there is time for folds."""
_FEW_STEPS = {32: (24, 0.35), MOST_FEW_ROWS + 1: (48, 0.7)}
"""Steps of a training of fewer rows than these, and a factor of the learning rate."""
_MOST_STEPS = 192

UNTRAINED = 0.25
"""Share of the layers, the lower ones, that are not trained."""
_RATE = 0.576
"""Learning rate, times the width of the model.

AdamW's best rate is inversely proportional to the width, the size of the states between layers
(muP, arXiv 2203.03466).
"""
_CONSTANT = 0.6
"""Share of a generated adapter's steps before the learning rate falls.

How many fit into the time is known better then.
"""
_EPOCHS = 8
"""How often all rows are trained on, unless they are few or very many."""

MAX_TRAINED_TOKENS = 512
"""Tokens of a row that is trained on, at most."""

_GENERAL_STEPS_PER_TASK, _GENERAL_STEPS, _GENERAL_MEASUREMENTS = 5, 1000, 8


@dataclass(frozen=True)
class Settings:
    """How an adapter is trained. The same settings, rows and base model give the same adapter.

    Attributes:
        rank: r.
        steps: maximum number of optimizer steps.
        rows: rows in one step.
        lr: peak learning rate of AdamW.
        warmup: steps of linear warm-up.
        constant: share of the steps at the peak learning rate, with the warm-up; linear decay to
            zero follows.
        clip: maximum norm of the gradient.
        measurements: how often held-out rows are scored, evenly over the steps.
        equal_rows: whether each row of a step has the same weight, however long its output is;
            otherwise each output token has.
        seed: of the initialization and the order of the rows.

    Raises:
        UsageError: a value that the command line has an option for is out of range.
    """

    rank: int = 16
    steps: int = 96
    rows: int = 8
    lr: float = 2e-3
    warmup: int = 8
    constant: float = 0.0
    clip: float = 1.0
    measurements: int = 1
    equal_rows: bool = False
    seed: int = 0
    scaling: ClassVar[float] = 2.0
    """The factor of B·A, α / r."""

    def __post_init__(self) -> None:
        self._require_at_least(rank=1, steps=1, rows=1, seed=0)
        if not self.lr > 0:
            raise UsageError(
                f"lr is {self.lr}, expected a positive number", code="training.setting-invalid"
            )

    def _require_at_least(self, **least: int) -> None:
        for name, minimum in least.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise UsageError(
                    f"{name} is {value}, expected at least {minimum}",
                    code="training.setting-invalid",
                )

    @property
    def measured(self) -> tuple[int, ...]:
        """After how many steps held-out rows are scored.

        Example:
            >>> Settings(steps=24).measured, Settings(steps=24, measurements=3).measured
            ((24,), (8, 16, 24))
        """
        parts = range(1, self.measurements + 1)
        return tuple(self.steps * part // self.measurements for part in parts)

    @property
    def _decay_start(self) -> int:
        """After how many steps the learning rate falls."""
        return int(self.constant * self.steps)

    def ending_after(self, taken: int, likely: float) -> Self:
        """Return settings whose learning rate falls from now on, if it is time for that.

        The rate of the steps that were taken is the same with these settings.

        Args:
            taken: steps so far.
            likely: how many there will be in all.

        Returns:
            These settings if it is too early, or there is time for all of their steps.

        Example:
            >>> settings = Settings(steps=192, constant=0.6)
            >>> [settings.ending_after(taken, likely=30).steps for taken in (17, 18)]
            [192, 30]
        """
        if not int(self.constant * likely) <= taken < self._decay_start:
            return self
        return replace(self, steps=math.ceil(taken / self.constant))

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of step 0, 1, …: linear warm-up, constant, then linear decay.

        Example:
            >>> settings = Settings(steps=5, warmup=2, constant=0.6, lr=1.0)
            >>> [settings.learning_rate(step) for step in range(5)]
            [0.5, 1.0, 1.0, 1.0, 0.5]
        """
        rising = (step + 1) / self.warmup if self.warmup else 1.0
        falling = (self.steps - step) / max(self.steps - max(self.warmup, self._decay_start), 1)
        return self.lr * min(rising, falling, 1.0)


@dataclass(frozen=True)
class BankSettings(Settings):
    """How the adapters of a bank are trained: each on its task, and before them one on all tasks.

    The defaults were chosen on everyday tasks, see ``hf_lorameta/training/README.md``.

    Attributes:
        targets: last parts of the names of the adapted linear layers.
        held_out: maximum number of rows to hold out if a task has no validation split.
        max_length: maximum tokens of a row; prompts are truncated from the left, outputs at half of
            it.
        max_rows: rows of a task that training draws from; a random sample if it has more.
        forms: whether rows get prompts of many forms, half of them in the chat template of the base
            model, see `hf_lorameta.training.bank.forms`; otherwise they stay as they are.
        general_steps: steps of the general adapter, from which the others start; 0 trains none,
            and None lets the number of tasks decide.
        general_rows: rows in one of its steps.
        general_lr: its peak learning rate.
        general_only: whether no other adapter is trained, and no output prior measured.

    Raises:
        UsageError: a value that the command line has an option for is out of range.
    """

    measurements: int = 4
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    held_out: int = 32
    max_length: int = MAX_TRAINED_TOKENS
    max_rows: int = 4096
    forms: bool = True
    general_steps: int | None = None
    general_rows: int = 16
    general_lr: float = 1e-3
    general_only: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(max_length=8, general_steps=0)
        if self.general_only and self.general_steps == 0:
            hint = Option("general_steps", change="leave out")
            raise UsageError(
                "neither the general adapter nor others would be trained",
                code="training.nothing-to-train",
                hint=hint,
            )
        if not self.targets:
            hint = Option("targets", "q_proj,k_proj,v_proj")
            raise UsageError("no target modules are named", code="targets.unnamed", hint=hint)

    def of_general(self, tasks: int) -> Settings:
        """Return the settings of the general adapter's own training."""
        steps = self.general_steps_for(tasks)
        return Settings(
            rank=self.rank,
            steps=steps,
            rows=self.general_rows,
            lr=self.general_lr,
            warmup=min(self.warmup, steps),
            clip=self.clip,
            measurements=_GENERAL_MEASUREMENTS,
            equal_rows=True,
            seed=self.seed,
        )

    def general_steps_for(self, tasks: int) -> int:
        """Return the number of steps of the general adapter of a bank of so many tasks.

        Example:
            >>> BankSettings().general_steps_for(1), BankSettings().general_steps_for(100)
            (0, 500)
        """
        if self.general_steps is not None:
            return self.general_steps
        return min(_GENERAL_STEPS_PER_TASK * tasks, _GENERAL_STEPS) if tasks > 1 else 0

    def to_dict(self) -> dict[str, Any]:
        """Return what adapters depend on as JSON values, without `general_only`.

        So a bank of only a general adapter can be extended.
        """
        return {name: value for name, value in asdict(self).items() if name != "general_only"}


def most_of_output(length: int) -> int:
    """Return how many of so many tokens of a row its output may take in training.

    Example:
        >>> most_of_output(MAX_TRAINED_TOKENS)
        256
    """
    return length // 2


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
        [0.0007, 0.0001]
    """
    few = (settings for most, settings in _FEW_STEPS.items() if rows < most)
    many = max(min(_EPOCHS * rows // Settings.rows, _MOST_STEPS), rows // Settings.rows)
    steps, factor = next(few, (many, 1.0))
    lr = factor * _RATE / width
    return Settings(rank=rank, steps=steps, lr=lr, warmup=4, constant=_CONSTANT, seed=seed)
