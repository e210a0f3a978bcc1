"""Train a generated adapter further on rows of its dataset."""

from collections.abc import Sequence
from dataclasses import replace

from hf_lorameta.engines.torch_evaluator import TorchEvaluator
from hf_lorameta.errors import AdapterError, UsageError
from hf_lorameta.pipeline.generation import Generation
from hf_lorameta.pipeline.held_out_rows import rows_to_check, rows_to_train
from hf_lorameta.types import LossProgress, Row, no_progress


def train_adapter(
    generation: Generation,
    pool: Sequence[Row],
    evaluator: TorchEvaluator,
    *,
    progress: LossProgress = no_progress,
) -> Generation:
    """Train a finished adapter further as its recipe says, in all projections of the base model.

    The result is the adapter after the number of steps that is best on rows it was not trained on;
    without any step it is the given one.

    Args:
        generation: its recipe has `train`, the number of rows.
        pool: labeled rows of the dataset, from which the rows are drawn.
        evaluator: the base model.
        progress: called with (step, steps, loss on held-out rows).

    Returns:
        The adapter with its plan's `training`.

    Raises:
        UsageError: the recipe asks for no training, the base model cannot be trained here, or
            memory does not suffice.
        EmptyDatasetError: fewer than 8 labeled rows are left by the fit and the check.
        AdapterError: on held-out rows the base model is better, before and after the training.
    """
    from hf_lorameta.training.device import plan_loaded_model
    from hf_lorameta.training.few_rows import FewRows, continue_training
    from hf_lorameta.training.few_rows_settings import FOLDS, settings_for
    from hf_lorameta.training.one_task import encode_rows
    from hf_lorameta.training.target_layers import with_all_projections

    plan = generation.plan
    if plan.recipe.train is None:
        raise UsageError("the recipe asks for no training", hint="--train 16")
    if plan.recipe.check is not None:
        rows_to_check(plan.recipe, pool)  # refuses too few rows before the training, not after it
    drawn = rows_to_train(plan.recipe, pool)
    settings = settings_for(
        len(drawn.train), generation.rank, plan.recipe.seed, others_decide=bool(drawn.decide)
    )
    layout = with_all_projections(evaluator.model, generation.layout)
    checked = layout if plan.recipe.check is not None else ()
    machine = plan_loaded_model(evaluator.model, layout, generation.rank, FOLDS, checked)
    given = dict(zip(generation.layout, generation.pairs, strict=True))
    rows, others, deciding = (encode_rows(evaluator, settings.max_length, rows) for rows in drawn)
    factors, training = continue_training(
        evaluator.model,
        layout,
        [given.get(module) for module in layout],
        FewRows(rows, deciding, [row.output for row in others]),
        settings,
        machine,
        progress,
    )
    if training.base < training.end:
        raise AdapterError(
            f"on {training.held_out} rows that it was not trained on, the adapter is worse than "
            f"the base model: loss {training.end:.3f} and {training.base:.3f}",
            hint="train on more rows, name another --bank, or leave out --train",
        )
    generation = replace(generation, plan=replace(plan, training=training))
    if not training.steps:
        return generation
    return replace(generation, layout=layout, pairs=tuple(factors))
