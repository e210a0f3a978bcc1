"""Fit the last layer of a generated adapter on labeled rows of its dataset."""

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from hf_lorameta.cards.results import Fit
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.pipeline.rows import Rows
from hf_lorameta.pipeline.save import Generation
from hf_lorameta.types import StageProgress, no_progress


def require_fittable(evaluator: TorchEvaluator) -> None:
    """Raise `UsageError` if the last layer of the base model cannot be fitted, nor it trained."""
    from hf_lorameta.engines.transformers.packing import check_row_attention
    from hf_lorameta.training.further.readout_states import last_projection

    last_projection(evaluator.model)
    check_row_attention(evaluator.model)


def fit_adapter(
    generation: Generation,
    rows: Rows,
    evaluator: TorchEvaluator,
    *,
    progress: StageProgress = no_progress,
) -> Generation:
    """Fit a finished adapter's last down-projection on rows, without a pass backwards.

    The rows pass once through the base model with the adapter. Ranks of this projection that the
    output prior leaves free are fitted to them. If rows that are held out from the fit do not gain,
    the adapter stays as it was.

    Args:
        generation: the adapter.
        rows: its rows to fit on count.
        evaluator: the base model.
        progress: called with (stage, done, total): rows passed, then steps of the fit.

    Returns:
        The adapter with its plan's `fit`.

    Raises:
        UsageError: the base model's last layer cannot be fitted, or the adapter uses all its ranks.
    """
    from hf_lorameta.training.bank.one_task import encode_rows
    from hf_lorameta.training.further.readout import ReadoutSettings, fit_readout, free_rank
    from hf_lorameta.training.further.readout_states import collect_states, last_projection
    from hf_lorameta.training.settings import Settings

    model, plan = evaluator.model, generation.plan
    passing, fitting = f"Running {len(rows.fit)} rows", "Fitting the last layer"
    settings = ReadoutSettings(rank=generation.rank, seed=plan.recipe.seed)
    module = last_projection(model)
    pairs = dict(zip(generation.layout, generation.pairs, strict=True))
    free_rank(pairs.get(module), settings)  # before the pass
    encoded = encode_rows(evaluator, Settings.max_length, rows.fit)
    with tempfile.TemporaryDirectory() as scratch:
        states = collect_states(
            model,
            generation.layout,
            generation.pairs,
            encoded,
            Path(scratch),
            progress=partial(progress, passing),
        )
        readout = fit_readout(
            model,
            states,
            settings,
            pairs.get(module),
            progress=lambda step, steps, _: progress(fitting, step, steps),
        )
    outputs = len({output.strip() for _, output in rows.fit})
    fit = Fit(readout.rows, outputs, readout.held_out, readout.start, readout.end, readout.steps)
    generation = replace(generation, plan=replace(plan, fit=fit))
    if not fit.steps:
        return generation
    pairs[module] = readout.factors
    return replace(generation, layout=tuple(pairs), pairs=tuple(pairs.values()))
