"""Losses of several rows in one forward pass of a causal LM.

`hf_lorameta.engines.packing` packs the rows into one sequence. The attention mask lets each row see
the prefix it shares and itself, and its positions continue from the prefix, so the results equal
those of each row on its own. `token_losses` needs the attention function of that module instead of
a mask, which the other functions make for any model that takes positions. All work with and without
gradients. Needs the extra ``eval``.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hf_lorameta.engines.packing import Pass

if TYPE_CHECKING:
    import torch


_LOGIT_ROWS = 256
"""Positions whose logits are cast to float32 at once: 50 MB with a vocabulary of 49,152."""
GRADIENT_TOKENS = 512
"""Maximum tokens in a sequence for gradients, whose activations stay in memory."""
_LEAST_TOKENS, _TOKENS_PER_WIDTH = 512, 0.5
"""Maximum tokens in another sequence, and relative to the width of the model's layers if that is
more. Attention grows with the square of the length: it is then a twelfth of the work or less."""


def sequence_budget(model: Any) -> int:
    """Return the maximum number of tokens in a packed sequence; 0 if rows cannot be packed.

    They cannot in models that carry a state from token to token or do not take positions. With
    sliding-window attention, a sequence is no longer than the window.
    """
    stateful = getattr(model, "_is_stateful", False)
    if stateful or "position_ids" not in inspect.signature(model.forward).parameters:
        return 0
    config = model.config.get_text_config()
    tokens = max(_LEAST_TOKENS, int(_TOKENS_PER_WIDTH * config.hidden_size))
    return min(tokens, getattr(config, "sliding_window", None) or tokens)


def token_losses(model: Any, packed: Pass) -> "torch.Tensor":
    """Return the cross entropy of the n output tokens of a pass in nats, (n,).

    Args:
        model: a causal LM of transformers, after
            `hf_lorameta.engines.packing.use_row_attention`.
        packed: the pass.
    """
    import torch

    device = model.device
    logits = model(
        input_ids=torch.tensor([packed.ids], device=device),
        position_ids=torch.tensor([packed.positions], device=device),
        logits_to_keep=torch.tensor(packed.predicting, device=device),
        use_cache=False,
        row_segments=packed.segments,
    ).logits[0]
    targets = torch.tensor(packed.targets, device=device)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return torch.nn.functional.cross_entropy(logits, targets, reduction="none")


def summed_nll(model: Any, packed: Pass) -> "torch.Tensor":
    """Return the summed cross entropy in nats of the output tokens of a pass."""
    import torch

    cross_entropy = torch.nn.functional.cross_entropy
    parts = _output_logits(model, packed)
    losses = [cross_entropy(logits.float(), targets, reduction="sum") for logits, targets in parts]
    return torch.stack(losses).sum()


def row_nll(model: Any, packed: Pass) -> "torch.Tensor":
    """Return the mean cross entropy of each of R rows' output tokens in nats, (R,).

    The rows share no prefix: row r is segment r of the pass, and what its tokens contribute to a
    gradient belongs to row r only.
    """
    import torch

    by_row = torch.split(output_nll(model, packed), list(packed.by_row))
    return torch.stack([row.mean() for row in by_row])


def output_nll(model: Any, packed: Pass) -> "torch.Tensor":
    """Return the cross entropy in nats of the n output tokens of a pass, (n,), row after row."""
    import torch

    cross_entropy = torch.nn.functional.cross_entropy
    parts = _output_logits(model, packed)
    losses = [cross_entropy(logits.float(), targets, reduction="none") for logits, targets in parts]
    return torch.cat(losses)


def _output_logits(model: Any, packed: Pass) -> Iterator[tuple["torch.Tensor", "torch.Tensor"]]:
    """Yield logits (n, V) and the n tokens they should predict, some positions at a time."""
    import torch

    separation = {} if len(packed.segments) == 1 else _separate(model, packed)
    with _logits_only_at(model, torch.tensor(packed.predicting)):
        ids = torch.tensor([packed.ids])
        logits = model(input_ids=ids, use_cache=False, **separation).logits[0]
    targets = torch.tensor(packed.targets)
    for start in range(0, len(targets), _LOGIT_ROWS):
        part = slice(start, start + _LOGIT_ROWS)
        yield logits[part], targets[part]


def _separate(model: Any, packed: Pass) -> dict[str, "torch.Tensor"]:
    """Return attention mask and positions: each segment sees itself and its prefix."""
    import torch

    from hf_lorameta.engines.float32_products import compute_dtype

    dtype, lengths = compute_dtype(model), [length for length, _ in packed.segments]
    prefixes = torch.tensor([-1 if prefix is None else prefix for _, prefix in packed.segments])
    own = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    visible = ((own[:, None] == own) | (prefixes[own][:, None] == own)).tril()
    mask = torch.zeros(visible.shape, dtype=dtype)
    mask.masked_fill_(~visible, torch.finfo(dtype).min)
    return {"attention_mask": mask[None, None], "position_ids": torch.tensor([packed.positions])}


@contextmanager
def _logits_only_at(model: Any, positions: "torch.Tensor") -> Iterator[None]:
    """Pass only n of the (1, T) hidden states to the output layer: logits (1, n, V)."""
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][:, positions],))
    try:
        yield
    finally:
        hook.remove()
