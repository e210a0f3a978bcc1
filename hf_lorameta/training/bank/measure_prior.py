"""Measure what the output prior needs to know about a base model with its general adapter."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import torch

from hf_lorameta.engines.row_tokens import Tokens
from hf_lorameta.engines.scoring import LoraWeights
from hf_lorameta.engines.transformers.joined_rows import join_rows
from hf_lorameta.engines.transformers.lora_layer import adapter_applied
from hf_lorameta.engines.transformers.one_pass import output_logits
from hf_lorameta.engines.transformers.row_mode import RowMode, row_mode, rows_apart
from hf_lorameta.formats.lora_layout import Layout, Module
from hf_lorameta.method.output_prior import ARCHITECTURES, OutputPrior
from hf_lorameta.training.bank.held_out import TaskRows
from hf_lorameta.types import FactorPair, FloatArray, Progress, no_progress

_DIMENSIONS = 256
_ROWS = 8
_GATE_RIDGE = 1e-2
_FIRST, _LATER = slice(0, 1), slice(1, None)
"""Parts of an output, each with its own background distribution."""
_UNSEEN = 1e-4
"""Share of a background distribution that is spread over all tokens, for those in no output."""


class States(NamedTuple):
    """Inputs of the last down-projection and the final norm where output tokens are predicted.

    They are on the CPU: computing with them takes float64, which mps lacks.

    Attributes:
        inputs: (n, in) inputs x of the down-projection.
        sums: (n, d) inputs z of the final norm: the sum of all layers' outputs, with that of the
            down-projection.
    """

    inputs: torch.Tensor
    sums: torch.Tensor


def measure_prior(
    model: Any,
    general: LoraWeights,
    tasks: Sequence[TaskRows],
    pass_tokens: int = 1024,
    progress: Progress = no_progress,
) -> OutputPrior | None:
    """Measure the output prior on rows of tasks.

    Returns None if the architecture is not supported, or if the adapters already change the last
    down-projection, since an adapter has one update per module.

    Args:
        model: a causal LM of transformers.
        general: the general adapter.
        tasks: rows of all tasks; the background is the mean of their distributions.
        pass_tokens: maximum tokens of a pass.
        progress: called with (tasks done, tasks).
    """
    if model.config.model_type not in ARCHITECTURES or row_mode(model) is not RowMode.JOINED:
        return None
    decoder, projection = model.get_decoder(), last_projection(model)
    if projection in general.layout:
        return None
    kept, weights, first = list[States](), list[float](), list[float]()
    for number, task in enumerate(tasks):
        progress(number, len(tasks))
        rows = task.train[:_ROWS]
        kept.append(collect_states(model, *general, rows, pass_tokens))
        of_task = [float(i == 0) for row in rows for i in range(len(row.output))]
        first += of_task
        weights += [1 / (len(of_task) * len(tasks))] * len(of_task)
    inputs, sums = (torch.cat(parts) for parts in zip(*kept, strict=True))
    by_token, is_first = torch.tensor(weights), torch.tensor(first)  # each task weighs alike
    gates = _regress(inputs, by_token, torch.stack([is_first, 1 - is_first], 1))
    epsilon = getattr(decoder.norm, "variance_epsilon", 1e-6)
    inverse = (sums.square().mean(1) + epsilon).rsqrt()
    scale = 1 / (inverse * by_token).sum()
    weight, norm = model.get_output_embeddings().weight, decoder.norm.weight
    vectors = weight.cpu().float() * norm.cpu().float()
    directions = _main_directions(vectors)
    return OutputPrior(
        projection,
        (vectors @ directions.T).numpy(),
        (directions * scale).numpy(),
        gates.T.float().numpy().copy(),
        np.stack([_background(tasks, part, len(vectors)) for part in (_FIRST, _LATER)]),
    )


def last_projection(model: Any) -> Module:
    """Return the last down-projection of a model of `ARCHITECTURES`."""
    projection = model.get_decoder().layers[-1].mlp.down_proj
    name = next(name for name, module in model.named_modules() if module is projection)
    return Module(name, projection.in_features, projection.out_features)


def collect_states(
    model: Any,
    layout: Layout,
    factors: Sequence[FactorPair],
    rows: Sequence[Tokens],
    pass_tokens: int = 1024,
) -> States:
    """Run rows once through a model with an adapter, and return the inputs of its last parts.

    Memory: that of a pass, and 4 · (in + d) bytes for each output token.

    Args:
        model: a causal LM of transformers with frozen weights; it is left unchanged.
        layout: the modules of the adapter; empty for the model alone.
        factors: A (r, in) and s·B (out, r) of each of them.
        rows: each within the model's context.
        pass_tokens: maximum tokens of a pass.
    """
    watched = (model.get_submodule(last_projection(model).name), model.get_decoder().norm)
    seen, kept = list[torch.Tensor](), list[list[torch.Tensor]]()
    with ExitStack() as stack:
        stack.enter_context(rows_apart(model))
        stack.enter_context(adapter_applied(model, layout, factors))
        for module in watched:
            hook = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]))
            stack.callback(hook.remove)
        for joined in join_rows({0: rows}, pass_tokens):
            seen.clear()
            with torch.no_grad():
                output_logits(model, joined)
            kept.append([values[joined.predicting].float().cpu() for values in seen])
    return States(*map(torch.cat, zip(*kept, strict=True)))


def _regress(x: torch.Tensor, weights: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Weighted ridge regression: x (n, in), weights (n,), targets (n, m) → (in, m)."""
    x, weighted = x.double(), (x * weights[:, None]).double()
    covariance = weighted.T @ x
    ridge = _GATE_RIDGE * covariance.diagonal().mean()
    covariance.diagonal().add_(ridge)
    solved: torch.Tensor = torch.linalg.solve(covariance, weighted.T @ targets.double())
    return solved


def _main_directions(vectors: torch.Tensor) -> torch.Tensor:
    """Return orthonormal directions (k, d) in which vectors (V, d) vary most."""
    centered = (vectors - vectors.mean(0)).double()
    directions: torch.Tensor = torch.linalg.eigh(centered.T @ centered).eigenvectors
    return directions[:, -_DIMENSIONS:].T.float()


def _background(tasks: Sequence[TaskRows], part: slice, size: int) -> FloatArray:
    """Return the mean over tasks of the distribution of a part of the output tokens."""
    total = np.zeros(size)
    for task in tasks:
        tokens = [token for row in task.train for token in row.output[part]]
        counts = np.bincount(tokens, minlength=size)
        total += counts / max(int(counts.sum()), 1)
    total += _UNSEEN * total.sum() / size + np.finfo(np.float32).tiny
    return np.asarray(total / total.sum(), np.float32)
