"""Find how rows of a base model can run together, by trying two short rows.

Classes that the tests try are not tried again: passes of a model with 1.5B parameters take seconds.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from enum import StrEnum
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch

from hf_lorameta.engines.row_tokens import Tokens
from hf_lorameta.engines.transformers.decoder import width
from hf_lorameta.engines.transformers.joined_rows import (
    JoinedRows,
    join_rows,
    pad_rows,
    using_row_attention,
)
from hf_lorameta.engines.transformers.one_pass import output_logits
from hf_lorameta.engines.transformers.threads import fastest_threads
from hf_lorameta.errors import Option, UsageError, first_line
from hf_lorameta.hub.packaged_model import quiet_transformers

_LEAST_TOKENS, _TOKENS_PER_WIDTH = 1024, 0.5
"""Maximum tokens of a pass: this number, or this multiple of the layers' width if that is more.
Products are no faster with more tokens."""
_PREFIX, _OWN = 5, (9, 14)
"""Number of tokens that the two rows share, and that each has of its own."""

TESTED = frozenset(
    f"{name}ForCausalLM" for name in ("Llama", "Mistral", "Phi3", "Qwen2", "Qwen3", "SmolLM3")
)
"""Classes of transformers whose rows run joined, and whose passes can begin at any layer."""

logger = logging.getLogger(__name__)


class RowMode(StrEnum):
    """How rows run together so that each has the results that it has alone."""

    JOINED = "joined"
    """In one sequence, their common beginning once, see `join_rows`."""
    PADDED = "padded"
    """In a batch, see `pad_rows`."""
    SINGLE = "single"
    """One by one."""


_COSTS = {
    RowMode.PADDED: "in padded batches, since they change each other's results in one sequence: "
    "this takes 1.5 to 2 times as long",
    RowMode.SINGLE: "one by one, since they change each other's results in a sequence or a batch: "
    "this takes 2 to 5 times as long",
}
_modes: WeakKeyDictionary[Any, RowMode] = WeakKeyDictionary()
_stateful: WeakSet[Any] = WeakSet()


def is_tested(model: Any) -> bool:
    """Whether tests show that rows of a model run joined, and that passes begin at any layer.

    They do not if its forward pass is replaced, as by accelerate.
    """
    own = type(model).__module__.startswith("transformers.models.") and "forward" not in vars(model)
    return own and type(model).__name__ in TESTED


def row_mode(model: Any) -> RowMode:
    """Return how rows of a model run together; one that is not tested is tried at the first call.

    Args:
        model: a causal LM of transformers, with weights.

    Raises:
        UsageError: it cannot be run on token ids alone, or is not causal.
    """
    if is_tested(model):
        return RowMode.JOINED
    if model not in _modes:
        with torch.no_grad(), quiet_transformers(), fastest_threads(model):
            _modes[model] = _find(model)
        if cost := _COSTS.get(_modes[model]):
            logger.info("Rows of %s run %s", type(model).__name__, cost)
    return _modes[model]


def keeps_states(model: Any) -> bool:
    """Whether layers keep states of a pass until the next one, which threads would mix up."""
    row_mode(model)
    return model in _stateful


def rows_apart(model: Any) -> AbstractContextManager[None]:
    """Make a model keep the rows of a pass apart; see `passes`."""
    return _apart(model, row_mode(model))


def passes(model: Any, rows: Mapping[int, Sequence[Tokens]], budget: int) -> Iterator[JoinedRows]:
    """Divide the rows of each slot into passes, in the mode of a model.

    Args:
        model: a causal LM of transformers.
        rows: of each slot.
        budget: maximum number of tokens, see `join_rows` and `pad_rows`.
    """
    return _passes(row_mode(model), rows, budget)


def suited_tokens(model: Any) -> int:
    """Return the maximum number of tokens of a pass that suits a model."""
    return max(_LEAST_TOKENS, int(_TOKENS_PER_WIDTH * width(model)))


def _apart(model: Any, mode: RowMode) -> AbstractContextManager[None]:
    return using_row_attention(model) if mode is RowMode.JOINED else nullcontext()


def _passes(
    mode: RowMode, rows: Mapping[int, Sequence[Tokens]], budget: int
) -> Iterator[JoinedRows]:
    if mode is RowMode.JOINED:
        return join_rows(rows, budget)
    return pad_rows(rows, budget if mode is RowMode.PADDED else 0)


# --- trying it out --------------------------------------------------------------------------------


def _find(model: Any) -> RowMode:
    name, rows = type(model).__name__, sample_rows(model)
    try:
        first = _run(model, RowMode.SINGLE, rows[:1])
        kept = _kept_states(model)
        alone = torch.cat([first, _run(model, RowMode.SINGLE, rows[1:])])
    except Exception as error:
        raise UsageError(
            f"{name} cannot be run on a text alone: {first_line(error)[:300]}",
            code="base.needs-more-than-text",
            hint=Option("base", change="name another"),
        ) from error
    if list(map(id, kept)) != list(map(id, _kept_states(model))):
        _stateful.add(model)
    for mode in (RowMode.JOINED, RowMode.PADDED):
        with suppress(Exception):  # an architecture that cannot do it may raise anything
            with _apart(model, mode):
                found = _run(model, mode, rows)
            if agree(model, found, alone):
                return mode
    longer = [row._replace(output=[*row.output, *rows[0].output]) for row in rows]
    sizes = [len(row.output) for row in rows]
    parts = torch.split(_run(model, RowMode.SINGLE, longer), [n + sizes[0] for n in sizes])
    same = torch.cat([part[:n] for part, n in zip(parts, sizes, strict=True)])
    if not agree(model, same, alone):
        raise UsageError(
            f"{name} is not a causal language model: its scores of a token depend on later ones",
            code="base.not-causal",
            hint=Option("base", change="name another"),
        )
    return RowMode.SINGLE


def _kept_states(model: Any) -> list[torch.Tensor]:
    """Return the tensors in a model's layers that are neither weights nor buffers."""
    values = (value for module in model.modules() for value in vars(module).values())
    return [value for value in values if isinstance(value, torch.Tensor)]


def sample_rows(model: Any) -> list[Tokens]:
    """Return two rows of different lengths with a common beginning; tokens vary widely."""
    words = model.get_input_embeddings().weight.shape[0]
    ids = iter([(7919 * i + 11) % words for i in range(1, 1 + _PREFIX + sum(_OWN))])
    prefix, *own = ([next(ids) for _ in range(count)] for count in (_PREFIX, *_OWN))
    return [Tokens([*prefix, tokens[0]], tokens[1:]) for tokens in own]


def _run(model: Any, mode: RowMode, rows: Sequence[Tokens]) -> torch.Tensor:
    """Return the logits of all output tokens in a mode, (n, V)."""
    found: dict[int, torch.Tensor] = {}
    for joined in _passes(mode, {0: rows}, _LEAST_TOKENS):
        logits, _ = output_logits(model, joined, adapters=False)
        found |= zip(joined.indices, torch.split(logits, list(joined.by_row)), strict=True)
    return torch.cat([found[index] for index in range(len(rows))])


def agree(model: Any, found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether logits (n, V) of a model differ by no more than its rounding.

    Logits of another row or position differ by more than half of their spread.
    """
    narrow = any(parameter.itemsize <= 2 for parameter in model.parameters())
    tolerance = 0.2 if narrow else 1e-3
    found, expected = found.double(), expected.double()
    spread = (expected - expected.mean(-1, keepdim=True)).square().sum()
    return bool((found - expected).square().sum() <= tolerance**2 * spread)
