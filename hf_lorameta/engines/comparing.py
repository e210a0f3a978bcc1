"""Compare methods, such as adapters and prompts, by scores on the same rows. Runs no model."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from hf_lorameta.data.chat_form import ChatForm
from hf_lorameta.data.columns.labels import Form
from hf_lorameta.deadline import Deadline
from hf_lorameta.engines.prompts import in_chat
from hf_lorameta.engines.scoring import (
    CHAT_METHOD,
    Adapter,
    Evaluator,
    Report,
    Sample,
    Scores,
    labels_of,
    measure_of,
    normalized,
    of_labels,
    score,
)
from hf_lorameta.types import Row, StageProgress, no_progress

SAMPLES = 5
"""Rows that a report lists with their answers."""
_PART = 8
"""Most rows that are scored at first, before it is known how long they take."""
_SLOWER = 1.15
"""How many times as long as the rows so far later ones may take."""

Methods = Mapping[str, tuple[Sequence[Row], Adapter | None]]
"""The rows of each method, in its prompts, and its adapter."""


class Group(NamedTuple):
    """Rows that are scored with the same adapters and the same examples.

    Attributes:
        rows: to score.
        adapters: method to adapter; None is the base model itself. The usual names are base and
            generated.
        shots: other rows; k of them add the method "k-shot", without an adapter.
    """

    rows: Sequence[Row]
    adapters: Mapping[str, Adapter | None]
    shots: Sequence[Row] = ()

    def methods(self, form: ChatForm | None) -> Methods:
        """Return each method's prompts with their outputs, and its adapter.

        Args:
            form: of the base model's chat template, see `Evaluator.scored_form`.
        """
        methods = {method: (self.rows, adapter) for method, adapter in self.adapters.items()}
        if self.shots:
            methods[f"{len(self.shots)}-shot"] = (in_chat(form, self.rows, self.shots), None)
        if (chat := in_chat(form, self.rows)) != list(self.rows):
            methods[CHAT_METHOD] = (chat, None)
        return methods


def compare(
    evaluator: Evaluator,
    groups: Sequence[Group],
    generate: bool = True,
    samples: int = SAMPLES,
    progress: Callable[[str, Scores], None] = no_progress,
    row_progress: StageProgress = no_progress,
    form: Form = "one",
    deadline: Deadline | None = None,
    row_seconds: float = 0.0,
) -> Report:
    """Evaluate several methods on the same rows.

    If the base model has a chat template, the method `CHAT_METHOD` is added: no adapter, and each
    prompt as a user's message. It is often the stronger baseline. Examples are earlier turns of
    such a chat.

    Args:
        evaluator: the base model.
        groups: rows to score, at least one, with the same methods in each group.
        generate: complete all answers, see `Evaluator.evaluate`; not if there is a deadline, and
            those to the first rows are likely to take longer.
        samples: number of rows that the report lists with their answers.
        progress: called with each method and its scores when they are complete; if there is a
            deadline or several groups, with those of each part of the rows.
        row_progress: called with (method, rows done, all rows) while a method is evaluated; a row
            whose answer is not known yet counts half.
        form: what the outputs of the dataset are.
        deadline: if it would be missed, only the first rows are scored, at least one.
        row_seconds: that the first row probably takes, with all methods.

    Raises:
        AdapterError: an adapter cannot be loaded.
    """
    steps, rows = Counter[str](), [row for group in groups for row in group.rows]
    deadline = deadline or Deadline()
    generate = generate and _may_generate(evaluator, groups[0], deadline)

    def counting(method: str) -> Callable[[int], None]:
        def done(more: int) -> None:
            steps[method] += more
            row_progress(method, steps[method] // 2, len(rows))

        return done

    parts, answers = dict[str, list[Scores]](), dict[str, list[str]]()
    for methods, part in _parts_in_time(evaluator, groups, RowsInTime(deadline, row_seconds)):
        for method, (asked, adapter) in methods.items():
            scores, texts = evaluator.evaluate(asked[part], adapter, generate, counting(method))
            parts.setdefault(method, []).append(scores)
            answers.setdefault(method, []).extend(texts)
            progress(method, scores)
    measure, rows = measure_of(rows, form), rows[: len(answers[next(iter(answers))])]
    joined = {m: _joined(parts[m], rows, answers[m], generate) for m in parts}
    any_order = generate and form == "several"
    if any_order:
        joined = {m: of_labels(s, rows, answers[m]) for m, s in joined.items()}
    listed = (
        Sample(*row, {method: outputs[index] for method, outputs in answers.items()})
        for index, row in enumerate(rows[:samples])
    )
    outputs = Counter(map(labels_of if any_order else normalized, (output for _, output in rows)))
    return Report(joined, tuple(listed), outputs.most_common(1)[0][1], measure)


def _may_generate(evaluator: Evaluator, group: Group, deadline: Deadline) -> bool:
    """Whether there is likely to be time to generate the answers to the first rows."""
    if not deadline.limited:
        return True
    first = group._replace(rows=group.rows[:_PART])
    seconds = evaluator.answer_seconds(first.rows, deadline.clock)
    return len(first.methods(evaluator.scored_form)) * seconds <= deadline.left()


class RowsInTime:
    """How many rows are scored next, so that a deadline is kept, judging by those so far.

    There is no more than doubles their number, as the load of a machine changes.

    Args:
        deadline: of all rows.
        row_seconds: that the first row probably takes; 0 if that is not known.

    Example:
        >>> fitting = RowsInTime(Deadline(60, clock=lambda: 0.0), row_seconds=20.0)
        >>> fitting.next(12)
        2
    """

    def __init__(self, deadline: Deadline, row_seconds: float = 0.0) -> None:
        self._deadline, self._likely = deadline, row_seconds
        self._started, self._done = deadline.clock(), 0

    def next(self, rows: int) -> int:
        """Return how many of so many rows come next; 0 if time is over, but never at first."""
        deadline, of_row = self._deadline, self._likely
        if not deadline.limited:
            return rows
        if self._done:
            of_row = max((deadline.clock() - self._started) / self._done, 1e-9)
        affordable = deadline.left() / (_SLOWER * of_row) if of_row else math.inf
        count = int(min(rows, affordable, max(self._done, _PART)))
        count = count if self._done else max(count, 1)
        self._done += count
        return count


def _parts_in_time(
    evaluator: Evaluator, groups: Sequence[Group], fitting: RowsInTime
) -> Iterator[tuple[Methods, slice]]:
    """Yield parts of the rows of groups, as long as there is likely to be time for them."""
    for group in groups:
        methods, done = group.methods(evaluator.scored_form), 0
        while done < len(group.rows):
            if not (count := fitting.next(len(group.rows) - done)):
                return
            yield methods, slice(done, done + count)
            done += count


def _joined(
    parts: Sequence[Scores], rows: Sequence[Row], answers: Sequence[str], complete: bool
) -> Scores:
    """Return the scores of rows from those of parts of them."""
    if len(parts) == 1:
        return parts[0]
    tokens = sum(part.tokens for part in parts)
    loss = sum(part.loss * part.tokens for part in parts) / tokens
    return score(loss, rows, answers, complete, tokens)
