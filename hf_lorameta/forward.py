"""One forward pass of a causal LM over rows whose prompts begin alike: what their outputs cost.

Rows of one dataset usually share an instruction. Its tokens go through the model once, and their
keys and values are handed to every row: the same numbers for a fraction of the work. Works with or
without gradients. Needs the extra ``eval``.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hf_lorameta.scores import Tokens, shared_length

if TYPE_CHECKING:
    import torch

_LOGIT_ROWS = 256
"""Positions whose logits are widened to float32 at once: 50 MB with a vocabulary of 49,152."""
_WORTH_SHARING = 16
"""Tokens of a common beginning below which a pass of their own would cost more than it saves."""


def summed_nll(model: Any, batch: Sequence[Tokens], pad: int) -> "torch.Tensor":
    """Cross entropy of a batch's output tokens, summed.

    Args:
        model: a causal LM of transformers.
        batch: B rows, none with an empty prompt or an empty output.
        pad: any token id.

    Returns:
        A scalar, in nats; differentiable where gradients are on.
    """
    import torch

    shared = _common(batch) if len(batch) > 1 else 0
    prefix = batch[0].prompt[:shared] if shared >= _WORTH_SHARING else []
    rest = [Tokens(prompt[len(prefix) :], output) for prompt, output in batch]
    ids, mask = padded([[*prompt, *output[:-1]] for prompt, output in rest], pad)
    before = torch.zeros_like(mask, dtype=torch.bool)  # positions that predict an output token
    for row, (prompt, output) in enumerate(rest):
        before[row, len(prompt) - 1 : len(prompt) - 1 + len(output)] = True
    targets = torch.tensor([token for _, output in batch for token in output])
    given: dict[str, Any] = {"use_cache": False}
    if prefix:
        mask = torch.cat([torch.ones(len(batch), len(prefix), dtype=mask.dtype), mask], dim=1)
        given = {"cache": _cached(model, prefix, len(batch))}
    with _logits_only_at(model, before):
        logits = model(input_ids=ids, attention_mask=mask, **given).logits[0]
    parts = range(0, len(targets), _LOGIT_ROWS)
    chunks = [slice(start, start + _LOGIT_ROWS) for start in parts]
    cross_entropy = torch.nn.functional.cross_entropy
    losses = [cross_entropy(logits[c].float(), targets[c], reduction="sum") for c in chunks]
    return torch.stack(losses).sum()


def _common(batch: Sequence[Tokens]) -> int:
    """Length of what all prompts begin with; each keeps at least its last token."""
    first = batch[0].prompt
    shared = min(shared_length(first, row.prompt) for row in batch)
    return min(shared, min(len(row.prompt) for row in batch) - 1)


def _cached(model: Any, prefix: list[int], copies: int) -> Any:
    """Keys and values of a beginning, once for every row."""
    import torch

    # the logits of one position are computed, and not used
    ids = torch.tensor([prefix])
    cache = model(input_ids=ids, use_cache=True, logits_to_keep=1).cache
    cache.batch_repeat_interleave(copies)
    return cache


def padded(
    sequences: Sequence[list[int]], pad: int, left: bool = False
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Token ids and mask, both (B, T) int64."""
    import torch

    width = max(map(len, sequences))
    ids = torch.full((len(sequences), width), pad)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(sequences):
        place = slice(width - len(tokens), None) if left else slice(len(tokens))
        ids[row, place] = torch.tensor(tokens)
        mask[row, place] = 1
    return ids, mask


@contextmanager
def _logits_only_at(model: Any, positions: "torch.Tensor") -> Iterator[None]:
    """Hand only the chosen hidden states (n of B·T) to the output layer: logits (1, n, V)."""
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][positions][None],))
    try:
        yield
    finally:
        hook.remove()
