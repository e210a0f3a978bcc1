"""Rows of several tasks in one sequence, not padded one by one, and attention within each row.

A *pass* has the tokens of one task after another and, within a task, of one row after another. The
common prefix of a task's prompts, usually an instruction, comes once, before its rows. All layers
of the base model work on the single sequence; only attention separates the rows: each sees its
task's prefix and itself. If all layers that mix tokens are such attention layers, this gives
exactly the losses and gradients of single rows; `hf_lorameta.engines.transformers.row_mode` finds
out whether it does.

Rows of other models are padded: the rows of a task, with padding at their ends, in one batch.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from hf_lorameta.data.prompt import shared_length
from hf_lorameta.engines.row_tokens import Tokens

if TYPE_CHECKING:
    import torch

ATTENTION = "hf_lorameta_rows"
"""Name under which the attention function is registered in transformers."""
_OTHER_SCORES = frozenset({"s_aux", "sinks", "position_bias", "indices", "block_indices"})
"""Arguments of transformers' attention functions that change scores or leave out tokens."""
_MULTIPLE = 16
"""Each task's tokens in a pass are filled up to a multiple of this.

oneDNN compiles each product anew for each number of tokens, 80 to 120 ms in a step of 8 short rows,
and computes in tiles of 16 tokens anyway.
"""
OUTPUT_TOKEN_COST = 0.5
"""Memory of an output token's logits, relative to a token's activations in all layers.

0.4 for a vocabulary of 49,152 and 30 layers of width 576.
"""


class Branches(NamedTuple):
    """The last tokens of a segment, if they are a tree behind its other tokens.

    Attributes:
        depths: how many tokens after the other ones each of them stands, at least 1.
        sees: (n, n) bool, which of them each one sees, itself included.
    """

    depths: tuple[int, ...]
    sees: "torch.Tensor"


class Segment(NamedTuple):
    """Consecutive tokens that see themselves and an earlier segment.

    Attributes:
        length: number of tokens.
        prefix: index of the segment that they see as well; None if there is none.
        branches: the tree at its end; None if each token follows the one before it.
    """

    length: int
    prefix: int | None = None
    branches: Branches | None = None

    def positions(self, start: int) -> list[int]:
        """Return the positions of its tokens within their row, of which the first is `start`."""
        depths = self.branches.depths if self.branches else ()
        stem = start + self.length - len(depths)
        return [*range(start, stem), *(stem - 1 + depth for depth in depths)]


class Slice(NamedTuple):
    """The tokens [start, stop) of one task, whose adapter is in `slot`."""

    slot: int
    start: int
    stop: int


class PlacedRow(NamedTuple):
    """A row of a pass: its tokens without the last one, and their places in the pass."""

    tokens: tuple[int, ...]
    places: Sequence[int]


class Boundaries(NamedTuple):
    """How the tokens of a forward pass are divided.

    Attributes:
        slices: among slots; without any, no adapter is applied.
        segments: among rows; without any, there is one row, or one in each line of a batch.
        rows: the rows themselves; empty if they are not needed.
    """

    slices: tuple[Slice, ...] = ()
    segments: tuple[Segment, ...] = ()
    rows: tuple[PlacedRow, ...] = ()


WHOLE = Boundaries((Slice(0, 0, sys.maxsize),))
"""All tokens belong to the task in slot 0, however many there are."""
_UNDIVIDED = Boundaries()
_PARTS: ContextVar[Boundaries] = ContextVar("parts", default=_UNDIVIDED)


@contextmanager
def set_boundaries(parts: Boundaries) -> Iterator[None]:
    """Set how tokens are divided in this thread's forward passes."""
    token = _PARTS.set(parts)
    try:
        yield
    finally:
        _PARTS.reset(token)


def current_boundaries() -> Boundaries:
    """Return what `set_boundaries` has set; outside of it, a single row without adapters."""
    return _PARTS.get()


@dataclass(frozen=True)
class JoinedRows:
    """Rows of several tasks for one forward and backward pass.

    Attributes:
        ids: T token ids.
        positions: T positions within their rows; empty if each row is a line of a batch.
        predicting: the n tokens, of T, that predict an output token.
        targets: these output tokens.
        slots: for each row in order, the slot of its task.
        indices: for each row in order, its number among the rows of its task.
        by_row: for each row in order, how many of the n belong to it.
        rows: for each row in order, its tokens and their places among the T.
        segments: prefixes, rows and fillers, in order; empty if each row is a line of a batch.
        slices: tokens of each task.
        lines: number of sequences of equal length that the T tokens form.
    """

    ids: list[int]
    positions: list[int]
    predicting: list[int]
    targets: list[int]
    slots: tuple[int, ...]
    indices: tuple[int, ...]
    by_row: tuple[int, ...]
    rows: tuple[PlacedRow, ...]
    segments: tuple[Segment, ...]
    slices: tuple[Slice, ...]
    lines: int = 1


def join_rows(rows: Mapping[int, Sequence[Tokens]], budget: int) -> Iterator[JoinedRows]:
    """Pack rows, in order, into passes of limited memory; a row that is too long gets its own pass.

    A task's rows share the common prefix of their prompts, which counts once. Copies of the last
    token fill its part of a pass up to a multiple of 16 tokens.

    Args:
        rows: rows of the task in each slot.
        budget: maximum number of tokens; output tokens count 1.5 times (`OUTPUT_TOKEN_COST`).

    Example:
        >>> rows = {0: [Tokens([1, 2], [3]), Tokens([1, 4], [5])], 2: [Tokens([6], [7, 8])]}
        >>> [one] = join_rows(rows, budget=100)
        >>> one.ids[:3], one.ids[16:18], one.positions[:3]
        ([1, 2, 4], [6, 7], [0, 1, 1])
        >>> one.slices
        (Slice(slot=0, start=0, stop=16), Slice(slot=2, start=16, stop=32))
        >>> one.segments[2]
        Segment(length=1, prefix=0, branches=None)
    """
    groups: dict[int, list[tuple[int, Tokens]]] = {}
    full = 0.0  # cost of the groups but the last
    cost = 0.0
    for slot, of_slot in rows.items():
        full = cost
        for numbered in enumerate(of_slot):
            longer = full + _cost([row for _, row in (*groups.get(slot, ()), numbered)])
            if groups and longer > budget:
                yield _joined(groups)
                groups, full = {}, 0.0
                longer = _cost([numbered[1]])
            groups.setdefault(slot, []).append(numbered)
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


def _joined(groups: Mapping[int, Sequence[tuple[int, Tokens]]]) -> JoinedRows:
    ids: list[int] = []
    positions: list[int] = []
    predicting: list[int] = []
    segments: list[Segment] = []
    slices: list[Slice] = []
    placed: list[PlacedRow] = []
    for slot, numbered in groups.items():
        rows = [row for _, row in numbered]
        start, prefix = len(ids), _prefix_length(rows)
        if prefix:
            segments.append(Segment(prefix))
            ids += rows[0].prompt[:prefix]
            positions += range(prefix)
        seen = len(segments) - 1 if prefix else None
        for row in rows:
            own = row.read[prefix:]
            segments.append(Segment(len(own), seen))
            places = [*range(start, start + prefix), *range(len(ids), len(ids) + len(own))]
            placed.append(PlacedRow(row.read, places))
            ids += own
            positions += range(prefix, prefix + len(own))
            predicting += range(len(ids) - len(row.output), len(ids))
        if filler := -(len(ids) - start) % _MULTIPLE:
            segments.append(Segment(filler))
            ids += ids[-1:] * filler
            positions += range(filler)
        slices.append(Slice(slot, start, len(ids)))
    members = [(slot, index, row) for slot, of in groups.items() for index, row in of]
    return JoinedRows(
        ids,
        positions,
        predicting,
        targets=[token for _, _, row in members for token in row.output],
        slots=tuple(slot for slot, _, _ in members),
        indices=tuple(index for _, index, _ in members),
        by_row=tuple(len(row.output) for _, _, row in members),
        rows=tuple(placed),
        segments=tuple(segments),
        slices=tuple(slices),
    )


def pad_rows(rows: Mapping[int, Sequence[Tokens]], budget: int) -> Iterator[JoinedRows]:
    """Put rows of a task of similar length into batches of limited memory.

    Padding follows the rows, so that a causal model does not see it and needs no mask. It repeats
    the last token: the embedding of a padding token is often zero, and its gradient may be NaN.

    Args:
        rows: rows of the task in each slot.
        budget: maximum number of tokens, padding included; places where one of the rows has an
            output token count 1.5 times. A row that exceeds it gets its own batch.

    Example:
        >>> rows = {0: [Tokens([1, 2], [3, 4]), Tokens([5], [6]), Tokens([7, 8], [9])]}
        >>> [(one.lines, one.ids, one.indices) for one in pad_rows(rows, budget=6)]
        [(2, [5, 5, 7, 8], (1, 2)), (1, [1, 2, 3], (0,))]
    """
    for slot, of_slot in rows.items():
        order = sorted(range(len(of_slot)), key=lambda i: len(of_slot[i].read))
        batch: list[int] = []
        for index in order:
            if batch and _padded_cost([of_slot[i] for i in (*batch, index)]) > budget:
                yield _padded(slot, of_slot, batch)
                batch = []
            batch.append(index)
        yield _padded(slot, of_slot, batch)


def _padded_cost(rows: Sequence[Tokens]) -> float:
    width = max(len(row.read) for row in rows)
    predicting = {i for row in rows for i in _predicting(row)}
    return len(rows) * (width + OUTPUT_TOKEN_COST * len(predicting))


def _predicting(row: Tokens) -> range:
    """Return the positions in a row of the tokens that predict an output token."""
    return range(len(row.prompt) - 1, len(row.read))


def _padded(slot: int, rows: Sequence[Tokens], batch: Sequence[int]) -> JoinedRows:
    chosen = [rows[index] for index in batch]
    texts = [row.read for row in chosen]
    width = max(map(len, texts))
    return JoinedRows(
        ids=[token for text in texts for token in (*text, *text[-1:] * (width - len(text)))],
        positions=[],
        predicting=[line * width + i for line, row in enumerate(chosen) for i in _predicting(row)],
        targets=[token for row in chosen for token in row.output],
        slots=(slot,) * len(batch),
        indices=tuple(batch),
        by_row=tuple(len(row.output) for row in chosen),
        rows=tuple(
            PlacedRow(text, range(line * width, line * width + len(text)))
            for line, text in enumerate(texts)
        ),
        segments=(),
        slices=(Slice(slot, 0, len(batch) * width),),
        lines=len(batch),
    )


# --- attention within rows ------------------------------------------------------------------------


@contextmanager
def using_row_attention(model: Any) -> Iterator[None]:
    """Make a model's attention layers work within rows; restore them afterwards."""
    from transformers import AttentionInterface, AttentionMaskInterface

    before = model.config._attn_implementation
    AttentionInterface.register(ATTENTION, row_attention)
    AttentionMaskInterface.register(ATTENTION, row_mask)
    try:
        model.set_attn_implementation(ATTENTION)
        yield
    finally:
        model.set_attn_implementation(before)


def row_mask(
    q_length: int, mask_function: Callable[..., Any], device: Any = None, **others: object
) -> "torch.Tensor":
    """Return which tokens of a pass each of them sees, as transformers asks for a mask.

    Args:
        q_length: T.
        mask_function: called with (batch, head, position, position of another token) within a row;
            returns whether the first sees the other, according to the layers' windows.
        device: of the mask.
        others: further arguments of transformers, not used.

    Returns:
        (1, 1, T, T) bool; the segments are those of `set_boundaries`.
    """
    import torch

    segments = current_boundaries().segments or (Segment(q_length),)
    numbers, prefixes, positions = list[int](), list[int](), list[int]()
    for index, segment in enumerate(segments):
        length, seen, _ = segment
        numbers += [index] * length
        prefixes += [-1 if seen is None else seen] * length
        positions += segment.positions(0 if seen is None else segments[seen].length)
    parts = (numbers, prefixes, positions)
    number, prefix, position = (torch.tensor(part, device=device) for part in parts)
    zero = torch.zeros(1, 1, 1, 1, dtype=torch.long, device=device)
    sees = mask_function(zero, zero, position[None, None, :, None], position[None, None, None, :])
    mask: torch.Tensor = sees & ((number[:, None] == number) | (prefix[:, None] == number))
    stop = 0
    for length, _, branches in segments:
        stop += length
        if branches and branches.depths:
            start = stop - len(branches.depths)
            mask[..., start:stop, start:stop] &= branches.sees.to(mask.device)
    return mask


def row_attention(
    module: Any,
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    attention_mask: "torch.Tensor",
    scaling: float | None = None,
    softcap: float | None = None,
    **others: object,
) -> tuple["torch.Tensor", None]:
    """Causal attention within the segments of one sequence, as transformers calls it.

    Args:
        module: the attention layer.
        query: (1, H, T, D).
        key: (1, G, T, D), where G divides H.
        value: (1, G, T, D).
        attention_mask: from `row_mask`.
        scaling: factor of the scores; None is 1/√D.
        softcap: s of the scores' cap, s·tanh(score/s).
        others: further arguments of the layer.

    The segments are those of `set_boundaries`.

    Returns:
        (1, T, H, D), and None for the attention weights.

    Raises:
        NotImplementedError: the layer changes the scores in another way.
    """
    import torch

    if more := sorted(name for name in _OTHER_SCORES if others.get(name) is not None):
        raise NotImplementedError(f"attention with {', '.join(more)} cannot work within rows")
    segments = current_boundaries().segments or (Segment(query.shape[2]),)
    lengths = [segment.length for segment in segments]
    queries, keys, values, masks = (
        torch.split(x, lengths, 2) for x in (query, key, value, attention_mask)
    )
    repeats = query.shape[1] // key.shape[1]
    outputs = []
    for index, (_, prefix, _) in enumerate(segments):  # no padding: fastest on a CPU
        k, v, of_keys = keys[index], values[index], torch.split(masks[index][0, 0], lengths, 1)
        mask = of_keys[index]
        if prefix is not None:
            k, v = torch.cat([keys[prefix], k], 2), torch.cat([values[prefix], v], 2)
            mask = torch.cat([of_keys[prefix], mask], 1)
        outputs.append(_attention(queries[index], k, v, mask.repeat(repeats, 1), scaling, softcap))
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
