"""Losses and log odds of several rows in one forward pass of a causal LM.

Rows are packed into one sequence. The common prefix of their prompts, usually an instruction, comes
first and only once. The attention mask lets each row see that prefix and itself, and its positions
continue from the prefix, so the results equal those of each row on its own, without padding and
without repeated work. Works with and without gradients. Needs the extra ``eval``.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hf_lorameta.engines.scoring import Tokens, shared_length

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


def packed_sequences(
    rows: Sequence[Tokens], budget: int, share: bool = True
) -> Iterator[list[Tokens]]:
    """Group rows, in order, into sequences within a token budget; a longer row is on its own.

    With `share`, the common prefix of a sequence's prompts counts once.

    Example:
        >>> rows = [Tokens([1, 2, 3], [4]), Tokens([1, 2, 5], [6]), Tokens([7], [8])]
        >>> [len(batch) for batch in packed_sequences(rows, budget=6)]
        [2, 1]
    """
    batch: list[Tokens] = []
    for row in rows:
        if batch and _packed_length([*batch, row], share) > budget:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _packed_length(batch: Sequence[Tokens], share: bool) -> int:
    prefix = prefix_length(batch, share)
    return prefix + sum(len(prompt) + len(output) - prefix for prompt, output in batch)


def prefix_length(batch: Sequence[Tokens], share: bool = True) -> int:
    """Length of the prompts' common prefix; the last token of each prompt is not part of it."""
    if not share or len(batch) == 1:
        return 0
    first = batch[0].prompt
    return min(min(shared_length(first, prompt), len(prompt) - 1) for prompt, _ in batch)


def summed_nll(model: Any, batch: Sequence[Tokens]) -> "torch.Tensor":
    """Return the summed cross entropy in nats of the output tokens of one sequence's rows."""
    import torch

    cross_entropy = torch.nn.functional.cross_entropy
    parts = _output_logits(model, batch)
    losses = [cross_entropy(logits.float(), targets, reduction="sum") for logits, targets in parts]
    return torch.stack(losses).sum()


def row_nll(model: Any, batch: Sequence[Tokens]) -> "torch.Tensor":
    """Return the mean cross entropy of each of R rows' output tokens in nats, (R,).

    No prefix is shared: row r occupies `row_lengths` tokens of the sequence, and what these
    contribute to a gradient belongs to row r only.
    """
    import torch

    cross_entropy = torch.nn.functional.cross_entropy
    parts = _output_logits(model, batch, share=False)
    losses = [cross_entropy(logits.float(), targets, reduction="none") for logits, targets in parts]
    by_row = torch.split(torch.cat(losses), [len(row.output) for row in batch])
    return torch.stack([row.mean() for row in by_row])


def row_lengths(batch: Sequence[Tokens]) -> list[int]:
    """Return each row's number of tokens in `row_nll`: all but its last, which predicts nothing."""
    return [len(prompt) + len(output) - 1 for prompt, output in batch]


def log_odds(model: Any, batch: Sequence[Tokens]) -> "torch.Tensor":
    """Return ``log p / (1 − p)`` of every output token, p being its probability under the model.

    Both terms are computed from the logits, which keeps the result finite for p close to 1.
    Returns (n,) float64, row after row.
    """
    import torch

    odds = []
    for logits, targets in _output_logits(model, batch):
        logits, index = logits.double(), targets[:, None]
        others = logits.scatter(1, index, -torch.inf).logsumexp(1)
        odds.append(logits.gather(1, index)[:, 0] - others)
    return torch.cat(odds)


def _output_logits(
    model: Any, batch: Sequence[Tokens], share: bool = True
) -> Iterator[tuple["torch.Tensor", "torch.Tensor"]]:
    """Yield logits (n, V) and the n tokens they should predict, some positions at a time."""
    import torch

    prefix = prefix_length(batch, share)
    sequence, rows, predicting = batch[0].prompt[:prefix], [0] * prefix, [False] * prefix
    for row, (prompt, output) in enumerate(batch, 1):
        sequence += [*prompt[prefix:], *output[:-1]]
        predicting += [False] * (len(prompt) - prefix - 1) + [True] * len(output)
        rows += [row] * (len(sequence) - len(rows))
    separation = {} if len(batch) == 1 else _separate(model, torch.tensor(rows))
    with _logits_only_at(model, torch.tensor([predicting])):
        ids = torch.tensor([sequence])
        logits = model(input_ids=ids, use_cache=False, **separation).logits[0]
    targets = torch.tensor([token for _, output in batch for token in output])
    for start in range(0, len(targets), _LOGIT_ROWS):
        part = slice(start, start + _LOGIT_ROWS)
        yield logits[part], targets[part]


def _separate(model: Any, rows: "torch.Tensor") -> dict[str, "torch.Tensor"]:
    """Attention mask and positions, from the (T,) row numbers of the tokens; 0 is the prefix."""
    import torch

    from hf_lorameta.engines.float32_products import compute_dtype

    dtype = compute_dtype(model)
    visible = ((rows[:, None] == rows) | (rows == 0)).tril()
    mask = torch.zeros(visible.shape, dtype=dtype)
    mask.masked_fill_(~visible, torch.finfo(dtype).min)
    return {"attention_mask": mask[None, None], "position_ids": visible.sum(1)[None] - 1}


@contextmanager
def _logits_only_at(model: Any, positions: "torch.Tensor") -> Iterator[None]:
    """Pass only n of the B·T hidden states to the output layer: logits (1, n, V)."""
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][positions][None],))
    try:
        yield
    finally:
        hook.remove()
