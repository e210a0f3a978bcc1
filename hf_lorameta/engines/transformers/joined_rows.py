"""Rows of several tasks in one sequence without padding, and attention within each row.

The tokens of a *pass* are those of task after task, and of a task row after row. The common prefix
of a task's prompts, usually an instruction, comes before its rows and only once. All layers of the
base model work on the single sequence; only attention separates the rows: each sees its task's
prefix and itself. This gives exactly the losses and gradients of single rows.
`hf_lorameta.engines.transformers.forward` computes them.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from hf_lorameta.data.prompt import shared_length
from hf_lorameta.engines.scoring import Tokens
from hf_lorameta.errors import UsageError

if TYPE_CHECKING:
    import torch

ATTENTION = "hf_lorameta_rows"
"""Name under which the attention function is registered in transformers."""
_ATTENTION_LAYERS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
_OTHER_SCORES = frozenset({"s_aux", "sinks", "position_bias", "indices", "block_indices"})
"""Arguments of transformers' attention functions that change scores or leave out tokens."""
OUTPUT_TOKEN_COST = 0.5
"""Memory of an output token's logits, relative to a token's activations in all layers.

0.4 for a vocabulary of 49,152 and 30 layers of width 576.
"""


class Segment(NamedTuple):
    """Consecutive tokens that see themselves and an earlier segment.

    Attributes:
        length: number of tokens.
        prefix: index of the segment that they see as well; None if there is none.
    """

    length: int
    prefix: int | None = None


class Slice(NamedTuple):
    """The tokens [start, stop) of one task, whose adapter is in `slot`."""

    slot: int
    start: int
    stop: int


class Boundaries(NamedTuple):
    """How the tokens of a forward pass are divided.

    Attributes:
        slices: among slots; none applies no adapter.
        segments: among rows; none stands for a single row.
    """

    slices: tuple[Slice, ...] = ()
    segments: tuple[Segment, ...] = ()


WHOLE = Boundaries((Slice(0, 0, sys.maxsize),))
"""All tokens belong to the task in slot 0, however many there are."""
_UNDIVIDED = Boundaries()
_PARTS: ContextVar[Boundaries] = ContextVar("parts", default=_UNDIVIDED)


@contextmanager
def using(parts: Boundaries) -> Iterator[None]:
    """State how tokens are divided, for forward passes of this thread."""
    token = _PARTS.set(parts)
    try:
        yield
    finally:
        _PARTS.reset(token)


def current_boundaries() -> Boundaries:
    """Return the parts of `using`; outside of it, those of a single row without adapters."""
    return _PARTS.get()


@dataclass(frozen=True)
class JoinedRows:
    """Rows of several tasks for one forward and backward pass.

    Attributes:
        ids: T token ids.
        positions: T positions within their rows.
        predicting: the n tokens, of T, that predict an output token.
        targets: these output tokens.
        slots: for each row in order, the slot of its task.
        by_row: for each row in order, how many of the n belong to it.
        segments: prefixes and rows, in order.
        slices: tokens of each task.
    """

    ids: list[int]
    positions: list[int]
    predicting: list[int]
    targets: list[int]
    slots: tuple[int, ...]
    by_row: tuple[int, ...]
    segments: tuple[Segment, ...]
    slices: tuple[Slice, ...]


def join_rows(rows: Mapping[int, Sequence[Tokens]], budget: int) -> Iterator[JoinedRows]:
    """Pack rows, in order, into passes of limited memory; a row that exceeds it is on its own.

    A task's rows share the common prefix of their prompts, which counts once.

    Args:
        rows: rows of the task in each slot.
        budget: maximum number of tokens; output tokens count half more (`OUTPUT_TOKEN_COST`).

    Example:
        >>> rows = {0: [Tokens([1, 2], [3]), Tokens([1, 4], [5])], 2: [Tokens([6], [7, 8])]}
        >>> [one] = join_rows(rows, budget=100)
        >>> one.ids, one.positions
        ([1, 2, 4, 6, 7], [0, 1, 1, 0, 1])
        >>> one.slices
        (Slice(slot=0, start=0, stop=3), Slice(slot=2, start=3, stop=5))
        >>> one.segments[2]
        Segment(length=1, prefix=0)
    """
    groups: dict[int, list[Tokens]] = {}
    full = 0.0  # cost of the groups but the last
    cost = 0.0
    for slot, of_slot in rows.items():
        full = cost
        for row in of_slot:
            longer = full + _cost([*groups.get(slot, ()), row])
            if groups and longer > budget:
                yield _joined(groups)
                groups, full = {}, 0.0
                longer = _cost([row])
            groups.setdefault(slot, []).append(row)
            cost = longer
    if groups:
        yield _joined(groups)


def _cost(rows: Sequence[Tokens]) -> float:
    prefix = _prefix_length(rows)
    tokens = prefix + sum(len(row.prompt) + len(row.output) - prefix for row in rows)
    return tokens + OUTPUT_TOKEN_COST * sum(len(row.output) for row in rows)


def _prefix_length(rows: Sequence[Tokens]) -> int:
    """Length of the prompts' common prefix; the last token of each prompt is not part of it."""
    if len(rows) == 1:
        return 0
    prompts = [row.prompt for row in rows]
    return min(shared_length(prompts), *(len(prompt) - 1 for prompt in prompts))


def _joined(groups: Mapping[int, Sequence[Tokens]]) -> JoinedRows:
    ids: list[int] = []
    positions: list[int] = []
    predicting: list[int] = []
    segments: list[Segment] = []
    slices: list[Slice] = []
    for slot, rows in groups.items():
        start, prefix = len(ids), _prefix_length(rows)
        if prefix:
            segments.append(Segment(prefix))
            ids += rows[0].prompt[:prefix]
            positions += range(prefix)
        seen = len(segments) - 1 if prefix else None
        for prompt, output in rows:
            own = [*prompt[prefix:], *output[:-1]]
            segments.append(Segment(len(own), seen))
            ids += own
            positions += range(prefix, prefix + len(own))
            predicting += range(len(ids) - len(output), len(ids))
        slices.append(Slice(slot, start, len(ids)))
    return JoinedRows(
        ids,
        positions,
        predicting,
        targets=[token for rows in groups.values() for row in rows for token in row.output],
        slots=tuple(slot for slot, rows in groups.items() for _ in rows),
        by_row=tuple(len(row.output) for rows in groups.values() for row in rows),
        segments=tuple(segments),
        slices=tuple(slices),
    )


@contextmanager
def using_row_attention(model: Any) -> Iterator[None]:
    """Let a model's attention layers work within rows, and as before afterwards.

    Raises:
        UsageError: as `check_row_attention` raises.
    """
    from transformers import AttentionInterface

    check_row_attention(model)
    before = model.config._attn_implementation
    AttentionInterface.register(ATTENTION, row_attention)
    model.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def check_row_attention(model: Any) -> None:
    """Check that all layers that mix tokens are attention that can work within rows.

    Raises:
        UsageError: some carry a state from token to token, so that rows of one sequence would mix,
            or the attention cannot be replaced.
    """
    config = model.config.get_text_config()
    states = sorted(set(getattr(config, "layer_types", None) or ()) - _ATTENTION_LAYERS)
    exchangeable = getattr(model, "_supports_attention_backend", False)
    own_scores = any("sink" in name for name, _ in model.named_parameters())
    if states or own_scores or not exchangeable or getattr(model, "_is_stateful", False):
        reason = (
            f"its layers of the type {', '.join(states)} carry a state from row to row"
            if states
            else "its layers are not all attention within a row"
        )
        raise UsageError(
            f"{type(model).__name__} cannot be trained here: {reason}",
            hint="train with PEFT (hf-lorameta bank build makes a bank of its adapters), or choose "
            "a base model such as Llama, Mistral, Qwen3, Gemma, SmolLM or Phi-3",
        )


def row_attention(
    module: Any,
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    attention_mask: None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **others: object,
) -> tuple["torch.Tensor", None]:
    """Causal attention within the segments of one sequence, as transformers calls it.

    Args:
        module: the attention layer.
        query: (1, H, T, D).
        key: (1, G, T, D), where G divides H.
        value: (1, G, T, D).
        attention_mask: unused.
        scaling: factor of the scores; None is 1/√D.
        softcap: s of the scores' cap, s·tanh(score/s).
        sliding_window: number of last positions that a token sees; None is all.
        others: what else the layer passes on.

    The segments are those of `using`.

    Returns:
        (1, T, H, D), and None for the attention weights.

    Raises:
        UsageError: the layer changes the scores in another way.
    """
    import torch

    if more := sorted(name for name in _OTHER_SCORES if others.get(name) is not None):
        raise UsageError(f"attention with {', '.join(more)} cannot work within rows")
    segments = current_boundaries().segments or (Segment(query.shape[2]),)
    lengths = [segment.length for segment in segments]
    queries, keys, values = (torch.split(x, lengths, 2) for x in (query, key, value))
    repeats = query.shape[1] // key.shape[1]
    outputs = []
    for index, (length, prefix) in enumerate(segments):  # no padding: fastest on a CPU
        k, v = keys[index], values[index]
        if prefix is not None:
            k, v = torch.cat([keys[prefix], k], 2), torch.cat([values[prefix], v], 2)
        mask = _mask(length, k.shape[2], sliding_window).repeat(repeats, 1).to(query.device)
        outputs.append(_attention(queries[index], k, v, mask, scaling, softcap))
    return torch.cat(outputs, 2).transpose(1, 2), None


def _attention(
    q: "torch.Tensor",
    k: "torch.Tensor",
    v: "torch.Tensor",
    mask: "torch.Tensor",
    scaling: float | None,
    softcap: float | None,
) -> "torch.Tensor":
    """Attention of q (R, H, n, D) to k and v (R, G, m, D), under a mask (…, H/G · n, m)."""
    import torch

    # the queries that share a key head become one head with as many times the positions
    folded, dtype = q.reshape(q.shape[0], k.shape[1], -1, q.shape[3]), q.dtype
    if q.device.type == "cpu" and dtype.itemsize == 2:  # takes 1.4 times as long as in float32
        folded, k, v = folded.float(), k.float(), v.float()
    if softcap:
        scores = (folded @ k.transpose(2, 3)) * (scaling or q.shape[3] ** -0.5)
        scores = softcap * torch.tanh(scores / softcap)
        output = scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v
    else:
        output = torch.nn.functional.scaled_dot_product_attention(
            folded, k, v, attn_mask=mask, scale=scaling
        )
    return output.to(dtype).reshape(q.shape[0], q.shape[1], q.shape[2], v.shape[3])


@lru_cache(maxsize=256)
def _mask(length: int, seen: int, window: int | None) -> "torch.Tensor":
    """Return which of `seen` tokens each of the last `length` sees: (length, seen) bool."""
    import torch

    mask = torch.ones(length, seen, dtype=torch.bool).tril(seen - length)
    return mask if window is None else mask.triu(seen - length - window + 1)
