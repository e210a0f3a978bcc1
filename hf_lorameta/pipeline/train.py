"""The stage that trains an adapter on labeled rows of its dataset, until a deadline."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, model_validator

from hf_lorameta.errors import AdapterError, Option, RecipeError
from hf_lorameta.pipeline.budget import more_time
from hf_lorameta.pipeline.stages import Context, Stage, Unseen, Work
from hf_lorameta.settings import Settings
from hf_lorameta.tables import plural

if TYPE_CHECKING:
    from hf_lorameta.cards.results import Training
    from hf_lorameta.pipeline.rows import Rows
    from hf_lorameta.training.trained import Trained


class TrainSettings(Settings):
    """Settings of the training.

    Attributes:
        train: train the upper three quarters of the layers on this many rows of the dataset,
            which needs the base model; None does not. If right answers are counted and there are
            too few other rows for that, a quarter of all is held out, or few rows are divided into
            folds.
        steps: take exactly so many steps, on all of these rows. The record of an adapter that was
            trained has them.
        schedule: steps after which the learning rate is zero; None is `steps`. The record of an
            adapter has them if it is not from the last one.

    Example:
        >>> TrainSettings(train=1)
        Traceback (most recent call last):
        hf_lorameta.errors.RecipeError: train must be at least 6 and at most 4096, got 1
    """

    train: int | None = Field(
        default=None,
        ge=6,
        le=4096,
        description="Train the upper three quarters of the layers on this many rows, e.g. 16 or "
        "200 (extra: eval).",
    )
    steps: int | None = Field(
        default=None,
        ge=1,
        description="Take exactly so many steps of training, as the card of an adapter states "
        "that was made within a time limit.",
    )
    schedule: int | None = Field(
        default=None,
        ge=1,
        description="Steps after which the learning rate is zero, at least those taken, if the "
        "card of an adapter states them.",
    )

    @model_validator(mode="after")
    def _check_steps(self) -> "TrainSettings":
        if self.steps is not None and self.train is None:
            raise RecipeError(
                f"got steps={self.steps}, expected none without train",
                code="recipe.steps-without-train",
                hint=Option("steps", change="leave out"),
            )
        if self.schedule is not None and self.schedule < (self.steps or math.inf):
            expected = f"at least steps, {self.steps}" if self.steps else "none without steps"
            raise RecipeError(
                f"got schedule={self.schedule}, expected {expected}",
                code="recipe.schedule-mismatch",
                hint=Option("schedule", change="leave out"),
            )
        return self


@dataclass(frozen=True)
class Train(Stage[TrainSettings]):
    """Train on rows while time is left.

    An interruption (Ctrl-C) ends the training with the steps so far, after the first few.
    """

    Settings = TrainSettings
    name: ClassVar[str] = "training"
    stopped: ClassVar[str] = "The training was interrupted"
    failed: ClassVar[str] = "Not trained on your rows"

    @staticmethod
    def wanted(settings: TrainSettings, seconds: float) -> bool:
        """Whether there is time to train, or a number of rows was given."""
        return bool(seconds or settings.train)

    @property
    def required(self) -> bool:
        """Whether the caller has asked for it."""
        return self.insisted or bool(self.settings.train)

    def __str__(self) -> str:
        rows = self.settings.train
        return "train on " + ("your rows" if rows is None else f"{rows} rows")

    def run(self, work: Work, context: Context) -> Work:
        """Train the adapter.

        Raises:
            KeyboardInterrupt: within the first few steps.
            RecipeError: the recipe states more steps than a training has.
            UsageError: the base model cannot be trained here, or there is not enough memory.
            AdapterError: there was no time for a step, and there is no bank; or numbers overflow.
        """
        after = self._trained(work, context) if work.rows.train else work
        if not after.weights.pairs:
            raise AdapterError(
                f"{_why_untrained(after)}, and there is no bank to make an adapter from",
                code="training.none-without-bank",
                hint=[Option("train", 100), more_time(context.deadline.seconds), "name a bank"],
            )
        return after

    def _trained(self, work: Work, context: Context) -> Work:
        from hf_lorameta.cards.results import Interruption, Pace
        from hf_lorameta.training.context import TrainingContext
        from hf_lorameta.training.further import train_further
        from hf_lorameta.training.settings import MAX_TRAINED_TOKENS
        from hf_lorameta.training.trained import TrainingRows, encode_rows

        rows, evaluator = work.rows, context.session.evaluator
        train, few = (
            encode_rows(evaluator, MAX_TRAINED_TOKENS, r) for r in (rows.train, rows.foldable)
        )
        result = train_further(
            evaluator.model,
            work.combined,
            TrainingRows(train.rows, foldable=few.rows),
            work.rank,
            work.plan.recipe.seed,
            steps=self.settings.steps,
            schedule=self.settings.schedule,
            context=TrainingContext(
                context.deadline,
                context.reserved,
                context.session.progress,
                [Option("train", change="leave out")],
            ),
        )
        unseen = _unseen(result, rows)
        steps = f"this is the adapter after {plural(result.steps, 'step')}"
        stopped = f"{self.stopped}: {steps}. More steps might have made it better."
        if result.interrupted == "folds":
            counted = f"{sum(len(part.rows) for part in unseen)} of {len(rows.foldable)} rows"
            stopped = f"{self.stopped} in a fold: right answers can be counted on only {counted}."
        cut = (few if result.folds else train).cut
        training = _record(result, rows, work.plan.profile.rows, cut)
        outcome = replace(
            work.outcome,
            training=training and replace(training, arithmetic=evaluator.arithmetic),
            out_of_time=not result.rows,
            interrupted=Interruption(self.name, stopped) if result.interrupted else None,
        )
        return replace(
            work,
            weights=result.weights,
            outcome=outcome,
            unseen=unseen,
            seconds_of_steps=result.seconds,
            pace=Pace.of(result.all_steps, result.seconds, result.cpu_seconds / result.threads),
        )


def _why_untrained(work: Work) -> str:
    if not work.rows.train:
        return "there are too few labeled rows to train on"
    return "time ran out before the first training step"


def _record(result: "Trained", rows: "Rows", labeled: int, cut: int) -> "Training | None":
    """Return what is recorded of a training; None if there was no time for a step."""
    from hf_lorameta.cards.results import Training

    if not result.rows:
        return None
    trained_on = rows.foldable if result.folds else rows.train
    return Training(
        rows=result.rows,
        steps=result.steps,
        seen=result.seen,
        labeled=max(labeled, result.rows),
        schedule=result.schedule,
        folds=len(result.folds),
        layers=result.layers,
        outputs=len({output.strip() for _, output in trained_on}),
        cut=cut,
    )


def _unseen(result: "Trained", rows: "Rows") -> tuple[Unseen, ...]:
    """Return rows that right answers can be counted on: those of folds, or held-out ones."""
    from hf_lorameta.pipeline.rows import SHOTS

    if not result.folds:
        return (Unseen(rows.held_out, None, rows.prompt, rows.train),)
    parts = []
    for indices, weights in result.folds:
        inside = set(indices)
        others = [row for index, row in enumerate(rows.foldable) if index not in inside]
        parts.append(Unseen([rows.foldable[i] for i in indices], weights, others[:SHOTS], others))
    return tuple(parts)
