"""The stage that counts an adapter's right answers, beside those of the base model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, StrictBool

from hf_lorameta.deadline import Deadline
from hf_lorameta.errors import AdapterError, Option
from hf_lorameta.pipeline.budget import seconds_per_row, time_to_check
from hf_lorameta.pipeline.stages import Context, Stage, Unseen, Work
from hf_lorameta.settings import Settings

if TYPE_CHECKING:
    from hf_lorameta.engines.scoring import Report


class CheckSettings(Settings):
    """Settings of the check.

    Attributes:
        check: count right answers on rows that the adapter was not trained on, if the base model is
            run. A number does so on that many rows, and refuses an adapter without which the base
            model has more, by the verdict. False does neither: all rows are trained on.

    Example:
        >>> CheckSettings(check=2)
        Traceback (most recent call last):
        hf_lorameta.errors.RecipeError: check must be at least 4 and at most 4096, got 2
    """

    check: StrictBool | Annotated[int, Field(ge=4, le=4096)] = Field(
        default=True,
        description="Count right answers on this many other rows, e.g. 16, and refuse an adapter "
        "without which the base model has more (extra: eval). By default, they are only counted, "
        "on rows that it has not seen; without a check, all rows are trained on.",
    )

    @property
    def rows_to_check(self) -> int:
        """How many rows the adapter has to be checked on; 0 if right answers are only counted."""
        return 0 if isinstance(self.check, bool) else self.check


@dataclass(frozen=True)
class Check(Stage[CheckSettings]):
    """Score the adapter as it would be saved, and the base model, on rows it was not trained on.

    Without a number of rows, these are rows of folds, or held-out ones. Then time may limit how
    many are scored. Outputs that are texts or have several labels need all answers, which are
    generated if there is likely to be time for that.
    """

    Settings = CheckSettings
    name: ClassVar[str] = "check"
    stopped: ClassVar[str] = "The check was interrupted"
    failed: ClassVar[str] = "The adapter was not checked"

    @staticmethod
    def wanted(settings: CheckSettings, seconds: float) -> bool:
        """Whether anything is to be counted."""
        return bool(settings.check)

    @property
    def required(self) -> bool:
        """Whether a number of rows was given."""
        return self.settings.rows_to_check > 0

    def __str__(self) -> str:
        if self.required:
            return f"check on {self.settings.rows_to_check} other rows"
        return "count right answers on rows that it has not seen"

    def seconds_for(self, work: Work, step_seconds: float, seconds: float) -> float:
        """Return the time to count right answers; a check that is required takes what it needs."""
        rows = work.rows.foldable or work.rows.held_out
        texts = _are_texts(work)
        return 0.0 if self.required else time_to_check(len(rows), texts, step_seconds, seconds)

    def run(self, work: Work, context: Context) -> Work:
        """Score the adapter.

        Raises:
            AdapterError: a check that was asked for finds that the base model answers better.
        """
        from hf_lorameta.cards.results import CLASSIFIER, MOST_FREQUENT, check_result
        from hf_lorameta.pipeline.choose import with_choice
        from hf_lorameta.pipeline.verdict import verdict_on

        unseen, deadline = work.unseen, context.deadline
        if self.required:
            rows = work.rows
            unseen = (Unseen(rows.check, None, rows.prompt, rows.train),)
            deadline = Deadline()
        of_row = _seconds_per_row(work)
        context = replace(context, deadline=deadline)
        work = with_choice(work, unseen, context, of_row)
        if not any(part.rows for part in unseen) or deadline.left() <= of_row:
            return work
        report = _scored(unseen, work, context, of_row)
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
        outcome = replace(work.outcome, check=check, ungraded=ungraded)
        return replace(work, outcome=outcome, report=report)


def _are_texts(work: Work) -> bool:
    """Whether answers have to be generated to judge them."""
    from hf_lorameta.engines.scoring import measure_of

    rows = work.rows.foldable or work.rows.held_out
    return bool(rows and measure_of(rows, work.plan.dataset.form))


def _seconds_per_row(work: Work) -> float:
    """Return how long a row probably takes, judging by the training; 0 without one."""
    return seconds_per_row(_are_texts(work), work.pace.step_seconds) if work.pace else 0.0


def _scored(unseen: Sequence[Unseen], work: Work, context: Context, row_seconds: float) -> "Report":
    from hf_lorameta.cards.results import method_in_words
    from hf_lorameta.engines.comparing import Group, compare
    from hf_lorameta.engines.scoring import ADAPTER_METHOD, BASE_METHOD, measure_of

    rows, form = [row for part in unseen for row in part.rows], work.plan.dataset.form
    title = f"Checking {len(rows)} rows"
    groups = [
        Group(
            part.rows,
            {BASE_METHOD: None, ADAPTER_METHOD: part.weights or work.weights},
            part.examples,
        )
        for part in unseen
    ]

    def show(method: str, done: int, total: int) -> None:
        context.session.progress(f"{title}, {method_in_words(method)}", done, total)

    report = compare(
        context.session.evaluator,
        groups,
        generate=bool(work.lists_answers or measure_of(rows, form)),
        samples=len(rows) if work.lists_answers else 0,
        row_progress=show,
        form=form,
        deadline=context.deadline,
        row_seconds=row_seconds,
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
    from hf_lorameta.engines.scoring import is_right, normalized
    from hf_lorameta.engines.word_classifier import predicted_labels

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
