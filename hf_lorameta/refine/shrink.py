"""Shrink coefficients until an adapter is not worse than its base model."""

import math
from collections.abc import Sequence

import numpy as np

from hf_lorameta.engines.interfaces import AdapterUpdate, BaseModelRunner
from hf_lorameta.engines.scoring import Tokens, chat_rows, prompt_text
from hf_lorameta.method.coefficients import Coefficients
from hf_lorameta.refine.results import Check
from hf_lorameta.types import Row

_MIN_SCALE = 1 / 8


def backtrack_scale(
    coefficients: Coefficients,
    loss: float,
    base: float,
    update: AdapterUpdate,
    runner: BaseModelRunner,
    tokens: Sequence[Tokens],
) -> tuple[float, float]:
    """Halve coefficients, with this loss on the rows, until it is at most that of the base model.

    Returns:
        The scale, 1 to 1/8, or 0 if even 1/8 is worse than the base model; and the loss with it.
    """
    scale = 1.0
    while not loss <= base:  # also where it is not a number
        scale /= 2
        if scale < _MIN_SCALE:
            return 0.0, base
        runner.set(update, coefficients.scaled(scale))
        loss = _loss(runner, tokens)
    return scale, loss


def _loss(runner: BaseModelRunner, tokens: Sequence[Tokens]) -> float:
    """Return the loss of rows; infinity if it is not a number: worse than any other."""
    loss = runner.loss(tokens)
    return math.inf if math.isnan(loss) else loss


def check_update(
    update: AdapterUpdate,
    runner: BaseModelRunner,
    rows: Sequence[Row],
    shots: Sequence[Row] = (),
    *,
    shrink: bool = True,
) -> Check:
    """Compare an adapter, with a single coefficient, with its base model; shrink it if worse.

    Without `shrink`, it stays as it is.

    The base model is also scored with its own chat template, if it has one, and with a prompt of
    examples, if some are given.
    """
    tokens = runner.encode(rows)
    unscaled = Coefficients(np.ones(1))
    runner.clear()
    base = _loss(runner, tokens)
    in_chat = chat_rows(runner, rows)
    chat = _loss(runner, runner.encode(in_chat)) if in_chat else None
    in_prompt = [(prompt_text(text, shots), output) for text, output in rows] if shots else []
    prompt = _loss(runner, runner.encode(in_prompt)) if in_prompt else None
    runner.set(update, unscaled)
    start = _loss(runner, tokens)
    scale, end = 1.0, start
    if shrink:
        scale, end = backtrack_scale(unscaled, start, base, update, runner, tokens)
    return Check(len(tokens), base, start, end, scale, chat, prompt, len(shots))
