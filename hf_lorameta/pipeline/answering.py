"""Answer questions with an adapter, in this process or in that of a worker."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hf_lorameta.data.columns.labels import JOINED
from hf_lorameta.data.questions import Question
from hf_lorameta.engines.adapter_weights import adapter_weights
from hf_lorameta.method.calibration import log_probabilities
from hf_lorameta.types import Array, no_progress

_DIGITS = 4
"""Of probabilities."""

if TYPE_CHECKING:
    from hf_lorameta.engines.transformers.evaluator import TorchEvaluator


class Prediction(NamedTuple):
    """The answer to a row.

    Attributes:
        answer: one of the labels, if the adapter knows some, or the row states its choices; else
            a text. Empty if the row has no input.
        probability: of the answer among the labels, calibrated; of a text, the geometric mean of
            the probabilities of its tokens. None if the row has no input.
        each: of several labels in the answer, the probability of each, in its order.
    """

    answer: str
    probability: float | None = None
    each: tuple[float, ...] = ()

    def above(self, sure: float) -> "Prediction":
        """Return it with an empty answer if the probability is lower.

        Example:
            >>> Prediction("a", 0.7).above(0.9)
            Prediction(answer='', probability=0.7, each=())
        """
        if self.probability is None or self.probability >= sure:
            return self
        return self._replace(answer="")


@dataclass(frozen=True)
class Answering:
    """How questions are answered; can be pickled.

    Attributes:
        folder: of the adapter.
        base: name and revision of the base model.
        labels: to choose from; none answers with texts.
        several: whether a label is several, with commas between them.
        temperature: of the labels' probabilities.
        max_tokens: of a text.
    """

    folder: Path
    base: tuple[str, str | None]
    labels: tuple[str, ...] = ()
    several: bool = False
    temperature: float = 1.0
    max_tokens: int = 64


_one_at_a_time = threading.Lock()


def answer_in_process(answering: Answering, questions: Sequence[Question]) -> list[Prediction]:
    """Answer questions with the base model that this process loads once, as a task of an executor.

    Raises:
        LoraMetaError: adapter or base model cannot be read.
    """
    with _one_at_a_time, attached(_evaluator(answering.base), answering) as answer:
        return answer(questions)


@lru_cache(1)
def _evaluator(base: tuple[str, str | None]) -> "TorchEvaluator":
    from hf_lorameta.pipeline.evaluate import open_evaluator

    return open_evaluator(*base)


@contextmanager
def attached(
    evaluator: "TorchEvaluator", answering: Answering, done: Callable[[int], None] = no_progress
) -> Iterator[Callable[[Sequence[Question]], list[Prediction]]]:
    """Attach an adapter, and yield a function that answers questions with it.

    Raises:
        AdapterError: the adapter is broken, or does not fit the base model.
    """
    from hf_lorameta.hub.packaged_model import quiet_transformers

    before = evaluator.max_new_tokens
    evaluator.max_new_tokens = answering.max_tokens
    try:
        with quiet_transformers(), evaluator.attached(adapter_weights(answering.folder)):
            yield lambda questions: _answers(evaluator, answering, questions, done)
    finally:
        evaluator.max_new_tokens = before


def _answers(
    evaluator: "TorchEvaluator",
    answering: Answering,
    questions: Sequence[Question],
    done: Callable[[int], None],
) -> list[Prediction]:
    from hf_lorameta.engines.transformers.choosing import label_scores
    from hf_lorameta.engines.transformers.continuing import continuations

    found = [Prediction("")] * len(questions)
    for labels, indices in _by_labels(questions, answering.labels).items():
        prompts = [questions[index].prompt for index in indices]
        if labels:
            scores = label_scores(evaluator, prompts, labels, done)
            predictions = _chosen(scores, labels, answering)
        else:
            texts = continuations(evaluator, prompts, done=done)
            predictions = [
                Prediction(text.text, round(text.probability, _DIGITS)) for text in texts
            ]
        for index, prediction in zip(indices, predictions, strict=True):
            found[index] = prediction
    return found


def _by_labels(
    questions: Sequence[Question], labels: tuple[str, ...]
) -> dict[tuple[str, ...], list[int]]:
    """Return the questions that have an input by the labels that their answers are chosen from."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, (prompt, choices) in enumerate(questions):
        if prompt:
            groups.setdefault(tuple(dict.fromkeys(choices)) or labels, []).append(index)
    return groups


def _chosen(scores: Array, labels: Sequence[str], answering: Answering) -> list[Prediction]:
    probabilities = np.exp(log_probabilities(scores, answering.temperature)).round(_DIGITS)
    best = scores.argmax(-1)
    found = [
        Prediction(labels[i], float(row[i])) for i, row in zip(best, probabilities, strict=True)
    ]
    if not answering.several:
        return found
    parts = [label.split(JOINED["several"]) for label in labels]
    names = sorted({name for several in parts for name in several})
    held = np.array([[name in several for name in names] for several in parts], float)
    each = (probabilities @ held).round(_DIGITS)  # (R, N): of each label, in whatever combination
    place = {name: number for number, name in enumerate(names)}
    return [
        one._replace(each=tuple(float(row[place[name]]) for name in parts[index]))
        for one, row, index in zip(found, each, best, strict=True)
    ]
