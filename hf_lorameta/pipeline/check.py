"""The stage that counts an adapter's right answers, beside those of the base model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from hf_lorameta.cards.results import CLASSIFIER, MOST_FREQUENT, check_result, method_in_words
from hf_lorameta.deadline import Deadline
from hf_lorameta.engines.comparing import Group, compare
from hf_lorameta.engines.scoring import (
    ADAPTER_METHOD,
    BASE_METHOD,
    LoraWeights,
    Report,
    is_right,
    measure_of,
    normalized,
)
from hf_lorameta.engines.word_classifier import predicted_labels
from hf_lorameta.errors import AdapterError, Option
from hf_lorameta.pipeline.session import Session
from hf_lorameta.pipeline.stages import Unseen, Work
from hf_lorameta.pipeline.verdict import verdict_on


@dataclass(frozen=True)
class Check:
    """Score the adapter as it would be saved, and the base model, on rows it was not trained on.

    Without rows that the recipe asks for, these are rows of folds, or held-out ones. Then time may
    limit how many are scored. Outputs that are texts or have several labels need all answers, which
    are generated if there is likely to be time for that.

    Attributes:
        rows: how many the recipe asks for, on which the base model must not have more right
            answers without the adapter, by the verdict; None counts only.
        samples: whether the adapter's `report` lists all rows with their answers.
    """

    rows: int | None = None
    samples: bool = False
    name: ClassVar[str] = "check"
    stopped: ClassVar[str] = "The check was interrupted"
    failed: ClassVar[str] = "The adapter was not checked"

    @property
    def required(self) -> bool:
        """See `hf_lorameta.pipeline.stages.Stage`."""
        return self.rows is not None

    def __str__(self) -> str:
        if self.rows is not None:
            return f"check on {self.rows} other rows"
        return "count right answers on rows that it has not seen"

    def run(self, work: Work, session: Session, end: Deadline) -> Work:
        """Score the adapter.

        Raises:
            AdapterError: the recipe asks for the check, and the base model answers better.
        """
        adapter, unseen, deadline = work.adapter, work.unseen, end
        if self.required:
            rows = work.rows
            unseen = (Unseen(rows.check, None, rows.prompt, rows.train),)
            deadline = Deadline()
        if not any(part.rows for part in unseen):
            return work
        report = self._scored(unseen, work, session, deadline)
        check = check_result(report)
        verdict = verdict_on(check)
        by_another = verdict.figures["other"] in (CLASSIFIER, MOST_FREQUENT)
        if self.required and verdict.level == "unlikely" and not by_another:
            raise AdapterError(
                f"the adapter that was checked is {verdict.title.lower()}; {verdict.counts}",
                code="adapter.unlikely-to-help",
                hint=["add labeled rows", Option("check", change="leave out")],
            )
        ungraded = bool(report.measure) and not check.measure
        outcome = replace(adapter.outcome, check=check, ungraded=ungraded)
        return replace(work, adapter=replace(adapter, outcome=outcome, report=report))

    def _scored(
        self, unseen: Sequence[Unseen], work: Work, session: Session, deadline: Deadline
    ) -> Report:
        rows, form = [row for part in unseen for row in part.rows], work.adapter.plan.dataset.form
        title = f"Checking {len(rows)} rows"
        adapter = LoraWeights(work.adapter.layout, work.adapter.pairs)
        groups = [
            Group(
                part.rows,
                {BASE_METHOD: None, ADAPTER_METHOD: part.weights or adapter},
                part.examples,
            )
            for part in unseen
        ]

        def show(method: str, done: int, total: int) -> None:
            session.progress(f"{title}, {method_in_words(method)}", done, total)

        complete = bool(self.samples or measure_of(rows, form))
        report = compare(
            session.evaluator,
            groups,
            generate=complete,
            samples=len(rows) if self.samples else 0,
            row_progress=show,
            form=form,
            deadline=deadline,
        )
        if report.measure:
            return report
        scored = report.scores[ADAPTER_METHOD].rows
        return replace(report, classified=_classified(unseen, scored))


def _classified(unseen: Sequence[Unseen], scored: int) -> int | None:
    """Return how many of the first rows a classifier on words answers right.

    It is trained on the rows that the adapter was trained on.

    Returns:
        None if nothing was trained on, or outputs are no labels: on average, each has to occur
        twice among the rows that were trained on.
    """
    right = 0
    for part in unseen:
        if not (rows := part.rows[:scored]):
            break  # there was no time for this fold and those after it
        known = {normalized(output) for _, output in part.trained_on}
        if not known or 2 * len(known) > len(part.trained_on):
            return None
        answers = predicted_labels(part.trained_on, [text for text, _ in rows])
        pairs = zip(answers, rows, strict=True)
        right += sum(is_right(answer, output) for answer, (_, output) in pairs)
        scored -= len(rows)
    return right
