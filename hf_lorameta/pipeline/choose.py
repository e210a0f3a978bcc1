"""Labels that an adapter chooses from, and how sure it may be, which the check records.

Where outputs are labels, an answer is the likeliest of them. Its probability is calibrated by a
temperature, fitted on the rows that right answers are counted on: held out, or in folds.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from hf_lorameta.cards.confusion import CONFUSION_FILE, render_confusion
from hf_lorameta.cards.record import MergeRecord, Record
from hf_lorameta.cards.results import StageRecord
from hf_lorameta.engines.comparing import RowsInTime
from hf_lorameta.engines.label_tree import IndistinctLabelsError
from hf_lorameta.engines.scoring import are_texts
from hf_lorameta.method.calibration import (
    LabelMetrics,
    answered,
    fit_temperature,
    label_metrics,
    log_probabilities,
)
from hf_lorameta.pipeline.stages import Context, Unseen, Work
from hf_lorameta.tables import plural
from hf_lorameta.types import Array, Row

LABELS = "labels"
"""The name under which recipe.json has a `Choice`."""
_TAG = "decision-model"
"""By which the Hub finds models that choose from labels."""
MOST_LABELS = 256
_PART = 8
"""Rows that are scored between two reports of progress, at most."""
SURE = 0.95
"""The probability for which a card says how many rows would be answered."""
_DIGITS = 4


class Counted(BaseModel):
    """A counted row: the probability of the answer, and the numbers of answer and right label."""

    model_config = ConfigDict(frozen=True)

    probability: float
    answer: int
    right: int


class Choice(BaseModel):
    """The labels of an adapter, and what their probabilities were on rows that it had not seen.

    Attributes:
        labels: the different outputs of the rows, most frequent first; of several labels in an
            output, their combinations.
        several: whether an output is several labels, with commas between them.
        temperature: of the probabilities; 1 if no row was counted.
        counted: of each row that the temperature was fitted on.
        metrics: what the answers to these rows are worth; None if there are none.
    """

    model_config = ConfigDict(frozen=True)

    labels: tuple[str, ...]
    several: bool = False
    temperature: float = 1.0
    counted: tuple[Counted, ...] = ()
    metrics: LabelMetrics | None = None

    def answered(self, sure: float) -> tuple[int, int]:
        """Return how many of the counted rows are answered with such a probability, and right.

        Example:
            >>> rows = [Counted(probability=0.9, answer=0, right=0)]
            >>> Choice(labels=("a", "b"), counted=rows).answered(0.8)
            (1, 1)
        """
        right = np.array([row.answer == row.right for row in self.counted], bool)
        return answered(np.array([row.probability for row in self.counted]), right, sure)

    def when(self, sure: float) -> str:
        """Say what answering only above a probability means on the counted rows."""
        if not self.counted:
            return "No row was counted to know what the probabilities are worth."
        rows, right = self.answered(sure)
        return f"At {sure:g}: {rows} of {plural(len(self.counted), 'row')} answered, {right} right."


def choice_in(record: Record | MergeRecord | None) -> Choice | None:
    """Return the choice that an adapter's recipe.json has; None if it knows no labels."""
    stages = record.stages if isinstance(record, Record) else {}
    try:
        return Choice.model_validate(stages[LABELS])
    except (KeyError, ValidationError):
        return None


def labels_in(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the different outputs of rows if these are labels, most frequent first; else none.

    They are if each occurs twice on average, and they are no long texts.

    Example:
        >>> labels_in([("a", "no"), ("b", "yes"), ("c", "no"), ("d", "yes"), ("e", "no")])
        ('no', 'yes')
        >>> labels_in([("a", "Ann"), ("b", "Bo"), ("c", "Cy")])
        ()
    """
    counts = Counter(str(output) for _, output in rows)
    fits = 2 <= len(counts) <= MOST_LABELS and 2 * len(counts) <= len(rows)
    if not fits or are_texts(rows) or not all(map(str.strip, counts)):
        return ()
    return tuple(sorted(counts, key=lambda label: (-counts[label], label)))


def with_choice(
    work: Work, unseen: Sequence[Unseen], context: Context, row_seconds: float = 0.0
) -> Work:
    """Record the labels of an adapter, and fit their temperature on rows that it has not seen.

    Nothing is recorded where outputs are no labels, or equal as tokens. Rows are scored while
    time is left.

    Args:
        work: the adapter.
        unseen: rows to fit on.
        context: of the stage.
        row_seconds: that the first row probably takes.
    """
    rows = work.rows
    labels = labels_in([*rows.train, *rows.held_out, *rows.check])
    if not labels:
        return work
    try:
        scored = list(_scored(work, unseen, context, labels, row_seconds))
    except IndistinctLabelsError:
        return work
    choice = fitted(labels, scored, work.plan.dataset.form == "several")
    outcome = work.outcome
    outcome = replace(outcome, records=(*outcome.records, record_of(choice)))
    return replace(work, outcome=outcome)


def _scored(
    work: Work,
    unseen: Sequence[Unseen],
    context: Context,
    labels: Sequence[str],
    row_seconds: float,
) -> Iterator[tuple[Array, Sequence[int]]]:
    """Yield the scores (R, L) and the right labels of parts of the rows, in half of the time."""
    from hf_lorameta.engines.transformers.choosing import label_scores

    session, end = context.session, context.deadline.part(0.5)
    number = {label: index for index, label in enumerate(labels)}
    total, done, fitting = sum(len(part.rows) for part in unseen), 0, RowsInTime(end, row_seconds)
    for part in unseen:
        with session.evaluator.attached(part.weights or work.weights):
            left = part.rows
            while left and (count := fitting.next(min(len(left), _PART))):
                rows, left = left[:count], left[count:]
                scores = label_scores(session.evaluator, [prompt for prompt, _ in rows], labels)
                yield scores, [number[str(output)] for _, output in rows]
                done += len(rows)
                session.progress("Fitting probabilities", done, total)


def fitted(
    labels: Sequence[str], scored: Sequence[tuple[Array, Sequence[int]]], several: bool = False
) -> Choice:
    """Return labels with the temperature that fits scored rows.

    Args:
        labels: L of them.
        scored: scores (R, L) and right labels of rows; may be empty.
        several: see `Choice`.
    """
    if not scored:
        return Choice(labels=tuple(labels), several=several)
    scores = np.concatenate([part for part, _ in scored])
    right = np.array([number for _, numbers in scored for number in numbers])
    temperature = fit_temperature(scores, right)
    probabilities = np.exp(log_probabilities(scores, temperature))
    answers = scores.argmax(-1)
    rows = zip(probabilities.max(-1).round(_DIGITS), answers, right, strict=True)
    counted = [Counted(probability=p, answer=a, right=r) for p, a, r in rows]
    return Choice(
        labels=tuple(labels),
        several=several,
        temperature=round(temperature, _DIGITS),
        counted=tuple(sorted(counted, key=lambda row: -row.probability)),
        metrics=label_metrics(scores, right, temperature),
    )


def record_of(choice: Choice) -> StageRecord:
    """Return what recipe.json and the card have of a choice."""
    text = f"`hf-lorameta predict` chooses from {len(choice.labels)} labels."
    if metrics := choice.metrics:
        text += (
            f" On {plural(metrics.rows, 'row')} that the adapter was not trained on: accuracy "
            f"{metrics.accuracy:.2f}, macro F1 {metrics.macro_f1:.2f}, log loss "
            f"{metrics.log_loss:.2f}, Brier score {metrics.brier:.2f}, calibration error "
            f"{metrics.calibration_error:.2f}; {metrics.coverage:.0%} of the rows can be answered "
            f"with 5% of these wrong. {choice.when(SURE)} The temperature of the probabilities, "
            f"{choice.temperature:.2f}, was fitted on these rows."
        )
    pairs, labels = [(row.right, row.answer) for row in choice.counted], choice.labels
    pictures = {CONFUSION_FILE: render_confusion(labels, pairs)} if pairs else {}
    return StageRecord(LABELS, choice.model_dump(mode="json"), "Labels", text, pictures, (_TAG,))
