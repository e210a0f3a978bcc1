"""Fit or train a finished adapter on labeled rows of its dataset: the same, of fewer layers."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

from hf_lorameta.cards.results import Training
from hf_lorameta.engines.scoring import Tokens
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.errors import AdapterError, Option, UsageError
from hf_lorameta.method.output_prior import PLAIN_DECODERS
from hf_lorameta.pipeline.rows import Rows
from hf_lorameta.pipeline.save import Generation
from hf_lorameta.training.further.settings import (
    FIT,
    FOLDS,
    Depth,
    depth_of_training,
    settings_for,
)
from hf_lorameta.types import Row, StageProgress, no_progress


def require_fittable(evaluator: TorchEvaluator) -> None:
    """Raise `UsageError` if the upper layers of the base model cannot be trained alone."""
    from hf_lorameta.engines.transformers.packing import check_row_attention

    model_type = evaluator.model.config.get_text_config().model_type
    if model_type not in PLAIN_DECODERS:
        raise UsageError(
            f"the upper layers of {model_type!r} cannot be fitted alone, expected "
            f"{', '.join(sorted(PLAIN_DECODERS))}",
            hint="train the adapter instead",
        )
    check_row_attention(evaluator.model)


def fit_adapter(
    generation: Generation,
    rows: Rows,
    evaluator: TorchEvaluator,
    *,
    progress: StageProgress = no_progress,
) -> Generation:
    """Fit a finished adapter on rows: train it in the upper fifth of the base model's layers.

    The rows pass once through the layers below. If rows that are held out do not gain, the adapter
    stays as it was.

    Args:
        generation: the adapter.
        rows: its rows to fit on count.
        evaluator: the base model.
        progress: called with (stage, done, total): rows passed, then steps.

    Returns:
        The adapter with its plan's `fit`.

    Raises:
        UsageError: the base model cannot be trained here, or memory does not suffice.
    """
    generation, fit = _continue(
        generation, Rows(train=rows.fit), evaluator, FIT, "Fitting", progress
    )
    return replace(generation, plan=replace(generation.plan, fit=fit))


def train_adapter(
    generation: Generation,
    rows: Rows,
    evaluator: TorchEvaluator,
    *,
    progress: StageProgress = no_progress,
) -> Generation:
    """Train a finished adapter further on rows: in all layers, or with many rows the upper half.

    The result is the adapter after the number of steps that is best on rows it was not trained on;
    without any step it is the given one.

    Args:
        generation: the adapter.
        rows: those to train on, to decide on, and whose outputs take part count.
        evaluator: the base model.
        progress: called with (stage, done, total): rows passed, then steps.

    Returns:
        The adapter with its plan's `training`.

    Raises:
        UsageError: the base model cannot be trained here, or memory does not suffice.
        AdapterError: on held-out rows the base model is better, before and after the training.
    """
    depth = depth_of_training(len(rows.train))
    generation, training = _continue(generation, rows, evaluator, depth, "Training", progress)
    if training.end < training.base:
        raise AdapterError(
            f"on {training.scored_rows}, the adapter is worse than the base model: an output token "
            f"has a probability of {training.end:.3f} and {training.base:.3f}",
            hint=[
                "train on more rows",
                Option("bank", change="name another"),
                Option("train", change="leave out"),
            ],
        )
    return replace(generation, plan=replace(generation.plan, training=training))


def _continue(
    generation: Generation,
    rows: Rows,
    evaluator: TorchEvaluator,
    depth: Depth,
    title: str,
    progress: StageProgress,
) -> tuple[Generation, Training]:
    """Train an adapter in all projections of the layers that a depth names."""
    from hf_lorameta.engines.transformers.forward import count_tokens
    from hf_lorameta.training.bank.one_task import encode_rows
    from hf_lorameta.training.device import plan_device
    from hf_lorameta.training.further.few_rows import FewRows, continue_training
    from hf_lorameta.training.further.upper_layers import (
        beginning_at,
        divide_layout,
        first_trained_layer,
        states_below,
    )
    from hf_lorameta.training.target_layers import with_all_projections

    model, seed, count = evaluator.model, generation.plan.recipe.seed, len(rows.train)
    width = model.config.get_text_config().hidden_size
    settings = settings_for(count, depth, width, generation.rank, seed, bool(rows.decide))
    first = first_trained_layer(model, depth.untrained)
    given = dict(zip(generation.layout, generation.pairs, strict=True))
    lower, _ = divide_layout(model, generation.layout, first)
    _, layout = divide_layout(model, with_all_projections(model, generation.layout), first)
    below = [given[module] for module in lower]

    def encode(part: Sequence[Row]) -> list[Tokens]:
        return encode_rows(evaluator, settings.max_length, part)

    few = FewRows(
        encode(rows.train), encode(rows.decide), [row.output for row in encode(rows.outputs)]
    )
    every, start = [*few.train, *few.held_out], [given.get(module) for module in layout]
    kept = 4 * width * count_tokens(every) if first else 0
    fit = [Option("fit", change="leave out"), Option("no_fit")]
    hint = fit if title == "Fitting" else [Option("train", change="leave out")]
    machine = plan_device(model, layout, generation.rank, FOLDS, first=first, kept=kept, hint=hint)
    passing = partial(progress, f"Running {count} rows")
    stepped = partial(progress, f"{title} on {count} rows")
    upper: AbstractContextManager[None] = nullcontext()
    try:
        if first:
            states = states_below(model, first, lower, below, every, machine.pass_tokens, passing)
            upper = beginning_at(model, first, states)
        with upper:
            factors, training = continue_training(
                model, layout, start, few, settings, machine, stepped
            )
    except KeyboardInterrupt as error:
        error.add_note(f"{title} was interrupted before a step had helped: no adapter was made")
        raise
    layers = len(model.get_decoder().layers) - first if first else 0
    outputs = len({output.strip() for _, output in rows.train})
    training = replace(training, layers=layers, outputs=outputs)
    if not training.steps:
        return generation, training
    return replace(generation, layout=lower + layout, pairs=(*below, *factors)), training
