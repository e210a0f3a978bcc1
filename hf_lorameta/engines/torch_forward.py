"""One forward pass of a causal LM over several rows: what their outputs cost.

The rows stand in one line of tokens, what their prompts have in common at its beginning and only
once: rows of one dataset usually share an instruction. A mask lets each row see that beginning and
itself, and its positions go on from there, so that the numbers are those of each row alone, without
padding and without computing anything twice. Works with or without gradients. Needs the extra
``eval``.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hf_lorameta.engines.scoring import Tokens, shared_length

if TYPE_CHECKING:
    import torch


_LOGIT_ROWS = 256
"""Positions whose logits are with_module_scale at once: to float32, 50 MB with a vocabulary of 49,152."""
_LINE = 512
"""Tokens in a line at most: attention and its mask grow with their square."""


def sequence_budget(model: Any) -> int:
    """Tokens that may stand in one line; 0 where rows cannot be kept apart and go alone.

    That is so of models that carry a state from token to token, and of those that do not take
    positions. Where attention slides, a line is no longer than its window.
    """
    stateful = getattr(model, "_is_stateful", False)
    if stateful or "position_ids" not in inspect.signature(model.forward).parameters:
        return 0
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    return min(_LINE, window or _LINE)


def packed_sequences(
    rows: Sequence[Tokens], budget: int, share: bool = True
) -> Iterator[list[Tokens]]:
    """Rows, in their order, by lines of so many tokens at most; a longer row stands alone.

    Args:
        rows: any number of them.
        budget: tokens in a line.
        share: a common beginning stands in a line once.

    Example:
        >>> rows = [Tokens([1, 2, 3], [4]), Tokens([1, 2, 5], [6]), Tokens([7], [8])]
        >>> [len(line) for line in packed_sequences(rows, budget=6)]
        [2, 1]
    """
    line: list[Tokens] = []
    for row in rows:
        if line and _tokens([*line, row], share) > budget:
            yield line
            line = []
        line.append(row)
    if line:
        yield line


def _tokens(batch: Sequence[Tokens], share: bool) -> int:
    once = _common(batch) if share and len(batch) > 1 else 0
    return once + sum(len(prompt) + len(output) - once for prompt, output in batch)


def summed_nll(model: Any, batch: Sequence[Tokens]) -> "torch.Tensor":
    """Cross entropy of the output tokens of some rows, summed.

    Args:
        model: a causal LM of transformers.
        batch: rows for one line, none with an empty prompt or an empty output.

    Returns:
        A scalar, in nats.
    """
    import torch

    cross_entropy = torch.nn.functional.cross_entropy
    parts = _output_logits(model, batch)
    losses = [cross_entropy(logits.float(), targets, reduction="sum") for logits, targets in parts]
    return torch.stack(losses).sum()


def row_nll(model: Any, batch: Sequence[Tokens]) -> "torch.Tensor":
    """Cross entropy of each row's output tokens, the mean over them, differentiable.

    Nothing is shared: row r stands in the line with its own `row_lengths` tokens, so that what any
    of these contributes to a gradient belongs to r alone.

    Args:
        model: a causal LM of transformers.
        batch: R rows for one line, none with an empty prompt or an empty output.

    Returns:
        (R,), in nats.
    """
    import torch

    cross_entropy = torch.nn.functional.cross_entropy
    parts = _output_logits(model, batch, share=False)
    losses = [cross_entropy(logits.float(), targets, reduction="none") for logits, targets in parts]
    by_row = torch.split(torch.cat(losses), [len(row.output) for row in batch])
    return torch.stack([row.mean() for row in by_row])


def row_lengths(batch: Sequence[Tokens]) -> list[int]:
    """Tokens that each row takes in a line of `row_nll`: all but its last, which predicts none."""
    return [len(prompt) + len(output) - 1 for prompt, output in batch]


def log_odds(model: Any, batch: Sequence[Tokens]) -> "torch.Tensor":
    """``log p / (1 − p)`` of every output token, p being the model's probability for it.

    Both sides are taken from the logits, so that p may be as near to 1 as a logit can tell.

    Args:
        model: a causal LM of transformers.
        batch: rows for one line, none with an empty prompt or an empty output.

    Returns:
        (n,) float64, row after row.
    """
    import torch

    odds = []
    for logits, targets in _output_logits(model, batch):
        wide, places = logits.double(), targets[:, None]
        others = wide.scatter(1, places, -torch.inf).logsumexp(1)
        odds.append(wide.gather(1, places)[:, 0] - others)
    return torch.cat(odds)


def _output_logits(
    model: Any, batch: Sequence[Tokens], share: bool = True
) -> Iterator[tuple["torch.Tensor", "torch.Tensor"]]:
    """Logits (n, V) and the n tokens they should predict, some positions at a time, in order."""
    import torch

    shared = _common(batch) if share and len(batch) > 1 else 0
    line, rows, predicting = batch[0].prompt[:shared], [0] * shared, [False] * shared
    for row, (prompt, output) in enumerate(batch, 1):
        line += [*prompt[shared:], *output[:-1]]
        predicting += [False] * (len(prompt) - shared - 1) + [True] * len(output)
        rows += [row] * (len(line) - len(rows))
    given = {} if len(batch) == 1 else _kept_apart(model, torch.tensor(rows))
    with _logits_only_at(model, torch.tensor([predicting])):
        ids = torch.tensor([line])
        logits = model(input_ids=ids, use_cache=False, **given).logits[0]
    targets = torch.tensor([token for _, output in batch for token in output])
    for start in range(0, len(targets), _LOGIT_ROWS):
        part = slice(start, start + _LOGIT_ROWS)
        yield logits[part], targets[part]


def _kept_apart(model: Any, rows: "torch.Tensor") -> dict[str, "torch.Tensor"]:
    """Mask and positions of a line; (T,) numbers say whose each token is, 0 is everyone's."""
    import torch

    visible = ((rows[:, None] == rows) | (rows == 0)).tril()
    mask = torch.zeros(visible.shape, dtype=model.dtype)
    mask.masked_fill_(~visible, torch.finfo(model.dtype).min)
    return {"attention_mask": mask[None, None], "position_ids": visible.sum(1)[None] - 1}


def _common(batch: Sequence[Tokens]) -> int:
    """Length of what all prompts begin with; each keeps at least its last token."""
    first = batch[0].prompt
    shared = min(shared_length(first, row.prompt) for row in batch)
    return min(shared, min(len(row.prompt) for row in batch) - 1)


@contextmanager
def _logits_only_at(model: Any, positions: "torch.Tensor") -> Iterator[None]:
    """Hand only the chosen hidden states (n of B·T) to the output layer: logits (1, n, V)."""
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][positions][None],))
    try:
        yield
    finally:
        hook.remove()
