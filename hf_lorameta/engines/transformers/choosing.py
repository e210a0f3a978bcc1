"""The probabilities that a base model with an adapter gives to labels. Needs the extra ``eval``.

Of a label, its tokens are read up to the first one that tells it from all others, see
`hf_lorameta.engines.label_tree`. Where rows of the model run joined, a pass has what all prompts
begin with once, then each prompt with the tree of the labels behind it, so that a prompt is read
once for all labels. Other models read a prompt again for each label.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from hf_lorameta.data.prompt import shared_length
from hf_lorameta.engines.label_tree import LabelTree, distinct_beginnings, label_tree
from hf_lorameta.engines.row_tokens import Tokens
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.engines.transformers.forward import PassRunner
from hf_lorameta.engines.transformers.joined_rows import (
    OUTPUT_TOKEN_COST,
    Branches,
    JoinedRows,
    Segment,
    Slice,
)
from hf_lorameta.engines.transformers.row_mode import (
    RowMode,
    row_mode,
    rows_apart,
    suited_tokens,
)
from hf_lorameta.types import Array, no_progress

_MULTIPLE = 16
"""Tokens of a pass are filled up to a multiple of this, as those of `joined_rows` are."""
_LOGIT_ROWS = 256
"""Places whose logits are cast to float32 at once."""


class LabelTokens(NamedTuple):
    """The labels behind a prompt, as tokens.

    Attributes:
        labels: tokens of each, end token included.
        dropped: how many tokens at the end of the prompt belong to the labels.
        longest: the label with the most tokens.
    """

    labels: list[list[int]]
    dropped: int
    longest: str


def label_scores(
    evaluator: TorchEvaluator,
    prompts: Sequence[str],
    labels: Sequence[str],
    done: Callable[[int], None] = no_progress,
) -> Array:
    """Return the log probabilities of labels behind prompts, (rows, labels), before calibration.

    They do not add up to one: the model may also continue otherwise.

    Args:
        evaluator: with the adapter attached.
        prompts: of the rows, in the form that the adapter was made for.
        labels: different ones.
        done: called with the number of rows of each pass that is finished.
    """
    scores = np.full((len(prompts), len(labels)), -math.inf)
    if len(labels) == 1:
        return np.zeros_like(scores)
    groups: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault(_tail(evaluator, prompt, labels[0]), []).append(index)
    for tail, indices in groups.items():
        known = label_tokens(evaluator, tail, labels)
        rows = evaluator.encode([(prompts[index], known.longest) for index in indices])
        ids = [row.prompt[: len(row.prompt) - known.dropped] for row in rows]
        scores[indices] = token_scores(evaluator, ids, known.labels, done)
    return scores


def _tail(evaluator: TorchEvaluator, prompt: str, label: str) -> str:
    """Return the last line of a prompt if a label has the same tokens behind it, else the prompt.

    Most prompts end in the same line, behind which labels are encoded once.
    """
    _, line_break, last = prompt.rpartition("\n")
    if not line_break or not last or type(prompt) is not str:
        return prompt
    whole, part = evaluator.encode([(prompt, label), (last, label)])
    return last if whole.output == part.output else prompt


def label_tokens(evaluator: TorchEvaluator, prompt: str, labels: Sequence[str]) -> LabelTokens:
    """Return labels as tokens behind a prompt, whose last tokens may differ from label to label."""
    rows = evaluator.encode([(prompt, label) for label in labels])
    shared = min(shared_length([row.prompt, rows[0].prompt]) for row in rows)
    tokens = [row.prompt[shared:] + row.output for row in rows]
    longest = max(range(len(labels)), key=lambda index: len(tokens[index]))
    return LabelTokens(tokens, len(rows[longest].prompt) - shared, labels[longest])


def token_scores(
    evaluator: TorchEvaluator,
    prompts: Sequence[list[int]],
    labels: Sequence[list[int]],
    done: Callable[[int], None] = no_progress,
) -> Array:
    """Return the log probabilities of labels behind prompts, all as tokens, (rows, labels)."""
    model = evaluator.model
    budget = min(evaluator.batch_tokens, suited_tokens(model))
    if row_mode(model) is not RowMode.JOINED:
        beginnings = [list(label) for label in distinct_beginnings(labels)]
        rows = [Tokens(prompt, label) for prompt in prompts for label in beginnings]
        losses = evaluator.row_losses(rows)
        done(len(prompts))
        return -np.array(losses.sums).reshape(len(prompts), -1)
    tree = label_tree(labels)
    jobs = list(joined_trees(prompts, tree, budget))
    paths = torch.zeros(len(tree.edges), len(labels), dtype=torch.float64)
    for label, path in enumerate(tree.paths):
        paths[list(path), label] = 1.0
    places, tokens = torch.tensor(list(zip(*tree.edges, strict=True)))

    def compute(logits: torch.Tensor, joined: JoinedRows) -> Array:
        rows = len(joined.by_row)
        total = torch.cat([part.float().logsumexp(-1) for part in torch.split(logits, _LOGIT_ROWS)])
        order, place = torch.tensor(_read_places(tree)), logits.view(rows, -1, logits.shape[-1])
        at = torch.searchsorted(order, places)
        edges = place[:, at, tokens].float() - total.view(rows, -1)[:, at]
        done(rows)
        found: Array = (edges.double() @ paths).numpy()
        return found

    with rows_apart(model):
        runner = PassRunner(model, max(evaluator.batch_tokens // budget, 1), budget)
        return np.concatenate(runner.results(jobs, compute))


def _read_places(tree: LabelTree) -> list[int]:
    """Return the places whose logits are needed, in order."""
    return sorted({place for place, _ in tree.edges})


def joined_trees(
    prompts: Sequence[list[int]], tree: LabelTree, budget: int
) -> Iterator[JoinedRows]:
    """Pack prompts, each with a tree behind it, into passes, in order.

    Args:
        prompts: tokens of each, at least one.
        tree: of the labels.
        budget: maximum number of tokens, of which those whose logits are needed count 1.5 times; a
            prompt that is too long gets its own pass.

    Example:
        >>> [one] = joined_trees([[1, 2], [1, 3]], label_tree([[5, 6], [5, 7]]), 100)
        >>> one.ids[:5], one.positions[:5], one.predicting
        ([1, 2, 5, 3, 5], [0, 1, 2, 1, 2], [1, 2, 3, 4])
    """
    shared = min(shared_length(prompts), *(len(prompt) - 1 for prompt in prompts), len(prompts[0]))
    places = _read_places(tree)
    more = len(tree.read) + OUTPUT_TOKEN_COST * len(places)
    batch: list[list[int]] = []
    cost: float = shared
    for prompt in prompts:
        own = len(prompt) - shared + more
        if batch and cost + own > budget:
            yield _joined(batch, shared, tree, places)
            batch, cost = [], shared
        batch.append(prompt)
        cost += own
    yield _joined(batch, shared, tree, places)


def _joined(
    prompts: Sequence[list[int]], shared: int, tree: LabelTree, places: Sequence[int]
) -> JoinedRows:
    count = len(tree.read)
    sees = torch.zeros(count, count, dtype=torch.bool)
    for index, seen in enumerate(tree.sees()):
        sees[index, seen] = True
    branches = Branches(tuple(tree.depths), sees)
    segments = [Segment(shared)] if shared else []
    ids, positions = prompts[0][:shared], list(range(shared))
    predicting: list[int] = []
    for prompt in prompts:
        own = Segment(len(prompt) - shared + count, 0 if shared else None, branches)
        last = len(ids) + len(prompt) - shared - 1
        segments.append(own)
        ids += [*prompt[shared:], *tree.read]
        positions += own.positions(shared)
        predicting += [last + place for place in places]
    if filler := -len(ids) % _MULTIPLE:
        segments.append(Segment(filler))
        ids += ids[-1:] * filler
        positions += range(filler)
    rows = range(len(prompts))
    return JoinedRows(
        ids,
        positions,
        predicting,
        targets=[ids[place] for place in predicting],
        slots=(0,) * len(prompts),
        indices=tuple(rows),
        by_row=(len(places),) * len(prompts),
        rows=(),
        segments=tuple(segments),
        slices=(Slice(0, 0, len(ids)),),
    )
