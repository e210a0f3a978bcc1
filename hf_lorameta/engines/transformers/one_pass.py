"""One forward pass of a causal LM over rows that are joined or padded. Needs the extra ``eval``."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from hf_lorameta.engines.transformers.decoder import text_model
from hf_lorameta.engines.transformers.joined_rows import Boundaries, JoinedRows, set_boundaries

_LOGIT_ROWS = 256
"""Positions whose logits are cast to float32 at once: 50 MB with a vocabulary of 49,152."""


def token_losses(model: Any, joined: JoinedRows) -> torch.Tensor:
    """Return the cross entropy of the n output tokens of a pass with its adapters, in nats, (n,).

    Args:
        model: as for `output_logits`.
        joined: the pass.
    """
    return cross_entropies(*output_logits(model, joined))


def output_logits(
    model: Any, joined: JoinedRows, adapters: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits of the n output tokens of a pass, (n, V), and the tokens, (n,) int64.

    Args:
        model: a causal LM of transformers, inside `rows_apart` of `row_mode`.
        joined: the pass.
        adapters: apply the adapters of the pass's slots, or the base model alone.
    """
    length, at = len(joined.ids) // joined.lines, torch.tensor(joined.predicting)
    columns = torch.tensor(sorted({i % length for i in joined.predicting}))
    lines, places = at // length, torch.searchsorted(columns, at % length)
    inputs = _inputs(model, joined) | {"logits_to_keep": columns.to(model.device)}
    slices = joined.slices if adapters else ()
    with set_boundaries(Boundaries(slices, joined.segments, joined.rows)):
        logits = model(**_accepted(model, inputs)).logits
    if logits.shape[1] != len(columns):  # a model that computes all of them
        places = at % length
    if joined.lines > 1 or logits.shape[1] != len(places):
        logits = logits[lines.to(model.device), places.to(model.device)]
    else:
        logits = logits[0]
    return logits, torch.tensor(joined.targets, device=model.device)


def run_decoder(model: Any, joined: JoinedRows) -> None:
    """Run a pass with the adapters of its slots through the layers, without logits or gradients."""
    decoder = text_model(model)
    with torch.no_grad(), set_boundaries(Boundaries(joined.slices, joined.segments, joined.rows)):
        decoder(**_accepted(decoder, _inputs(model, joined)))


def _inputs(model: Any, joined: JoinedRows) -> dict[str, Any]:
    """Return the arguments of a model or its decoder."""
    ids = torch.tensor(joined.ids, device=model.device).view(joined.lines, -1)
    inputs = {"input_ids": ids, "use_cache": False}
    if len(joined.segments) > 1:
        inputs["position_ids"] = torch.tensor([joined.positions], device=model.device)
        # without it, transformers infers other row boundaries than ours from the positions
        inputs["attention_mask"] = torch.ones_like(ids)
    return inputs


def _accepted(module: torch.nn.Module, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that a model takes."""
    parameters = inspect.signature(module.forward).parameters
    others = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {name: x for name, x in arguments.items() if others or name in parameters}


def cross_entropies(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the cross entropies of targets (n,) under logits (n, V), in nats."""
    parts = zip(*(torch.split(x, _LOGIT_ROWS) for x in (logits, targets)), strict=True)
    return torch.cat([_cross_entropy(*part) for part in parts])


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return torch.nn.functional.cross_entropy(logits, targets, reduction="none")


def by_row(joined: JoinedRows, values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Split values of the n output tokens of a pass among its rows."""
    return torch.split(values, list(joined.by_row))
