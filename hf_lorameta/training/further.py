"""Train a generated adapter further, in all projections of the upper layers."""

from typing import Any

from hf_lorameta.engines.scoring import LoraWeights
from hf_lorameta.engines.transformers.decoder import width
from hf_lorameta.errors import Option, RecipeError
from hf_lorameta.training.context import TrainingContext
from hf_lorameta.training.settings import Settings, settings_for
from hf_lorameta.training.train_rows import train
from hf_lorameta.training.trained import Trained, TrainingRows
from hf_lorameta.training.trainer import TrainedPart


def train_further(
    model: Any,
    start: LoraWeights,
    rows: TrainingRows,
    rank: int,
    seed: int,
    *,
    steps: int | None = None,
    schedule: int | None = None,
    context: TrainingContext | None = None,
) -> Trained:
    """Train a generated adapter with the settings for its number of rows; see `train`.

    Args:
        model: a causal LM of transformers with frozen weights.
        start: the adapter.
        rows: to train on.
        rank: r of the modules that the training adds.
        seed: of these, and of the order of the rows.
        steps: as for `train`.
        schedule: as for `train`.
        context: its time; None is no limit.

    Raises:
        KeyboardInterrupt: as `train` raises.
        RecipeError: more steps than the training has.
        UsageError: the model cannot be trained, or there is not enough memory.
    """
    context = context or TrainingContext()
    if steps == 0 or context.deadline.passed:
        return Trained(start)
    part, count = TrainedPart.upper(model, start.layout), len(rows.train)

    def settings(rows: int) -> Settings:
        return settings_for(rows, width(model), rank, seed)

    if steps is not None and steps > (most := settings(count).steps):
        leave_out = Option("steps", change="leave out")
        expected = f"at most {most} on {count} rows"
        raise RecipeError(
            f"got {steps} steps, expected {expected}",
            code="recipe.schedule-mismatch",
            hint=leave_out,
        )
    return train(
        model, part, start, rows, settings, steps=steps, schedule=schedule, context=context
    )
