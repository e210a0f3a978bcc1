"""Rows of several tasks in one sequence without padding, and attention within each row.

The tokens of a *pass* are those of task after task, and of a task row after row. The common prefix
of a task's prompts, usually an instruction, comes before its rows and only once. All layers of the
base model work on the single sequence; only attention separates the rows: each sees its task's
prefix and itself. This gives exactly the losses and gradients of single rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from hf_lorameta.engines.scoring import Tokens
from hf_lorameta.engines.torch_forward import prefix_length
from hf_lorameta.errors import UsageError

if TYPE_CHECKING:
    import torch

ATTENTION = "hf_lorameta_rows"
"""Name under which the attention function is registered in transformers."""
_OUTPUT_TOKEN_COST = 0.5
"""Memory of an output token's logits, relative to a token's activations in all layers."""


class Segment(NamedTuple):
    """Consecutive tokens that see themselves and an earlier segment.

    Attributes:
        length: number of tokens.
        prefix: index of the segment that they see besides; None if there is none.
    """

    length: int
    prefix: int | None = None


class Slice(NamedTuple):
    """The tokens [start, stop) of one task, whose adapter is in `slot`."""

    slot: int
    start: int
    stop: int


@dataclass(frozen=True)
class Pass:
    """Rows of several tasks for one forward and backward pass.

    Attributes:
        ids: T token ids.
        positions: T positions within their rows.
        predicting: the n tokens, of T, that predict an output token.
        targets: these output tokens.
        outputs: for each slot in order, how many of the n belong to it.
        segments: prefixes and rows, in order.
        slices: tokens of each task.
    """

    ids: list[int]
    positions: list[int]
    predicting: list[int]
    targets: list[int]
    outputs: dict[int, int]
    segments: tuple[Segment, ...]
    slices: tuple[Slice, ...]


def passes(rows: Mapping[int, Sequence[Tokens]], budget: int) -> Iterator[Pass]:
    """Pack rows into passes of limited memory; a row that exceeds it is on its own.

    Args:
        rows: rows of the task in each slot.
        budget: maximum number of tokens, output tokens counting half more.

    Example:
        >>> rows = {0: [Tokens([1, 2], [3]), Tokens([1, 4], [5])], 2: [Tokens([6], [7, 8])]}
        >>> [one] = passes(rows, budget=100)
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
                yield _packed(groups)
                groups, full = {}, 0.0
                longer = _cost([row])
            groups.setdefault(slot, []).append(row)
            cost = longer
    if groups:
        yield _packed(groups)


def _cost(rows: Sequence[Tokens]) -> float:
    prefix = prefix_length(rows)
    tokens = prefix + sum(len(row.prompt) + len(row.output) - prefix for row in rows)
    return tokens + _OUTPUT_TOKEN_COST * sum(len(row.output) for row in rows)


def _packed(groups: Mapping[int, Sequence[Tokens]]) -> Pass:
    ids: list[int] = []
    positions: list[int] = []
    predicting: list[int] = []
    segments: list[Segment] = []
    slices: list[Slice] = []
    for slot, rows in groups.items():
        start, prefix = len(ids), prefix_length(rows)
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
    return Pass(
        ids,
        positions,
        predicting,
        targets=[token for rows in groups.values() for row in rows for token in row.output],
        outputs={slot: sum(len(row.output) for row in rows) for slot, rows in groups.items()},
        segments=tuple(segments),
        slices=tuple(slices),
    )


def token_losses(model: Any, packed: Pass) -> "torch.Tensor":
    """Return the cross entropy of the n output tokens of a pass in nats, (n,).

    Args:
        model: a causal LM of transformers, after `use_row_attention`.
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


def use_row_attention(model: Any) -> None:
    """Let a model's attention layers work within rows.

    Raises:
        UsageError: the architecture carries a state from token to token, or its attention cannot be
            replaced.
    """
    from transformers import AttentionInterface

    config = model.config.get_text_config()
    other = set(getattr(config, "layer_types", None) or ()) - {
        "full_attention", "sliding_attention", "chunked_attention",
    }  # fmt: skip
    exchangeable = getattr(model, "_supports_attention_backend", False)
    if other or not exchangeable or getattr(model, "_is_stateful", False):
        raise UsageError(
            f"{type(model).__name__} cannot be trained here: its layers are not all attention "
            "within a row",
            hint="choose a base model such as Llama, Mistral, Qwen2, Qwen3, Gemma or SmolLM",
        )
    AttentionInterface.register(ATTENTION, row_attention)
    model.set_attn_implementation(ATTENTION)


def row_attention(
    module: Any,
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    attention_mask: None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    row_segments: Sequence[Segment] = (),
    **_: object,
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
        row_segments: the segments, see `Pass`; none is a single row.

    Returns:
        (1, T, H, D), and None for the attention weights.
    """
    import torch

    segments = row_segments or (Segment(query.shape[2]),)
    lengths = [segment.length for segment in segments]
    queries, keys, values = (torch.split(x, lengths, 2) for x in (query, key, value))
    groups = key.shape[1]
    outputs = []
    for index, (length, prefix) in enumerate(segments):
        k, v = keys[index], values[index]
        if prefix is not None:
            k, v = torch.cat([keys[prefix], k], 2), torch.cat([values[prefix], v], 2)
        # the queries that share a key head become one head with as many times the positions
        q = queries[index].reshape(1, groups, -1, query.shape[3])
        repeats = q.shape[2] // length
        mask = _mask(length, k.shape[2], repeats, sliding_window, query.device)
        if softcap:
            scores = (q @ k.transpose(2, 3)) * (scaling or query.shape[3] ** -0.5)
            scores = softcap * torch.tanh(scores / softcap)
            output = scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v
        else:
            output = torch.nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, scale=scaling
            )
        outputs.append(output.view(1, -1, length, value.shape[3]))
    return torch.cat(outputs, 2).transpose(1, 2), None


@lru_cache(maxsize=2048)
def _mask(
    length: int, seen: int, repeats: int, window: int | None, device: "torch.device"
) -> "torch.Tensor":
    """Return which of `seen` tokens each of the last `length` sees, repeated: (n, seen) bool."""
    import torch

    mask = torch.ones(length, seen, dtype=torch.bool).tril(seen - length)
    if window is not None:
        mask = mask.triu(seen - length - window + 1)
    return mask.repeat(repeats, 1).to(device)
