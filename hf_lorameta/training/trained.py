"""What a training is given, encoded rows, and what it returns."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import ne
from typing import Literal, NamedTuple

from hf_lorameta.engines.row_tokens import Tokens
from hf_lorameta.engines.scoring import LoraWeights
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.training.settings import most_of_output
from hf_lorameta.training.trainer import HeldOutLosses
from hf_lorameta.types import Row


class TrainingRows(NamedTuple):
    """Encoded rows.

    Attributes:
        train: to train on.
        foldable: all rows, if they may be divided into folds; else none.
    """

    train: Sequence[Tokens]
    foldable: Sequence[Tokens] = ()


class EncodedRows(NamedTuple):
    """Rows of at most so many tokens as a training reads.

    Attributes:
        rows: outputs are cut off (`most_of_output`), then prompts lose their beginning.
        cut: number of rows that were longer.
    """

    rows: list[Tokens]
    cut: int


def encode_rows(evaluator: TorchEvaluator, length: int, rows: Sequence[Row]) -> EncodedRows:
    """Encode rows in at most `length` tokens."""
    whole, most = evaluator.encode(rows), most_of_output(length)
    short = [
        row._replace(output=row.output[:most]).truncated(length, evaluator.start_tokens)
        for row in whole
    ]
    return EncodedRows(short, sum(map(ne, whole, short)))


class Gain(NamedTuple):
    """Scores of the rows that decided.

    Attributes:
        start: before the training.
        end: with the result.
    """

    start: HeldOutLosses
    end: HeldOutLosses


class Fold(NamedTuple):
    """Rows, and an adapter that was not trained on them.

    Attributes:
        indices: of the rows, among all that were divided.
        weights: the adapter.
    """

    indices: Sequence[int]
    weights: LoraWeights


@dataclass
class Trained:
    """An adapter after a training.

    Attributes:
        weights: the adapter.
        rows: number of rows to train on.
        seen: number of these that the steps had; counted of generated adapters alone.
        steps: of the adapter; 0 if time sufficed for none, or none helped on held-out rows.
        taken: steps of the training, perhaps more.
        schedule: steps after which the learning rate was to be zero.
        layers: number of layers that were trained, the upper ones; 0 if all were.
        gain: of held-out rows; None without them.
        folds: adapters that answer rows that they were not trained on; empty without folds.
        seconds: that all steps took.
        all_steps: number of these, those of folds too.
        cpu_seconds: of this process in them.
        threads: that steps are computed in.
        interrupted: what the user ended: the training of this adapter, or that of the folds if this
            one was finished; None if neither.
    """

    weights: LoraWeights
    rows: int = 0
    seen: int = 0
    steps: int = 0
    taken: int = 0
    schedule: int = 0
    layers: int = 0
    gain: Gain | None = None
    folds: Sequence[Fold] = ()
    seconds: float = 0.0
    all_steps: int = 0
    cpu_seconds: float = 0.0
    threads: int = 1
    interrupted: Literal["folds", "steps"] | None = None

    @property
    def losses(self) -> tuple[float, float]:
        """Losses of the rows that decided, before and after, in nats per token; NaN without."""
        if self.gain is None:
            return math.nan, math.nan
        return self.gain.start.losses.per_token, self.gain.end.losses.per_token
