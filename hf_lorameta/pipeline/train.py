"""Train a generated adapter further on rows of its dataset."""

from dataclasses import replace

from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.errors import AdapterError, Option
from hf_lorameta.pipeline.generation import Generation
from hf_lorameta.pipeline.rows import Rows
from hf_lorameta.types import LossProgress, no_progress


def check_trainable(evaluator: TorchEvaluator) -> None:
    """Raise `UsageError` if the base model cannot be trained here."""
    from hf_lorameta.engines.transformers.packing import check_row_attention

    check_row_attention(evaluator.model)


def train_adapter(
    generation: Generation,
    rows: Rows,
    evaluator: TorchEvaluator,
    *,
    progress: LossProgress = no_progress,
) -> Generation:
    """Train a finished adapter further on rows, in all projections of the base model.

    The result is the adapter after the number of steps that is best on rows it was not trained on;
    without any step it is the given one.

    Args:
        generation: the adapter.
        rows: those to train on, to decide on, and whose outputs take part count.
        evaluator: the base model.
        progress: called with (step, steps, loss on held-out rows).

    Returns:
        The adapter with its plan's `training`.

    Raises:
        UsageError: the base model cannot be trained here, or memory does not suffice.
        AdapterError: on held-out rows the base model is better, before and after the training.
    """
    from hf_lorameta.training.bank.one_task import encode_rows
    from hf_lorameta.training.device import plan_loaded_model
    from hf_lorameta.training.further.few_rows import FewRows, continue_training
    from hf_lorameta.training.further.settings import FOLDS, settings_for
    from hf_lorameta.training.target_layers import with_all_projections

    plan = generation.plan
    settings = settings_for(
        len(rows.train), generation.rank, plan.recipe.seed, others_decide=bool(rows.decide)
    )
    layout = with_all_projections(evaluator.model, generation.layout)
    checked = layout if rows.check else ()
    machine = plan_loaded_model(evaluator.model, layout, generation.rank, FOLDS, checked)
    given = dict(zip(generation.layout, generation.pairs, strict=True))
    encoded, others, deciding = (
        encode_rows(evaluator, settings.max_length, part)
        for part in (rows.train, rows.outputs, rows.decide)
    )
    factors, training = continue_training(
        evaluator.model,
        layout,
        [given.get(module) for module in layout],
        FewRows(encoded, deciding, [row.output for row in others]),
        settings,
        machine,
        progress,
    )
    if training.base < training.end:
        raise AdapterError(
            f"on {training.held_out} rows that it was not trained on, the adapter is worse than "
            f"the base model: loss {training.end:.3f} and {training.base:.3f}",
            hint=[
                "train on more rows",
                Option("bank", change="name another"),
                Option("train", change="leave out"),
            ],
        )
    generation = replace(generation, plan=replace(plan, training=training))
    if not training.steps:
        return generation
    return replace(generation, layout=layout, pairs=tuple(factors))
