"""What was done with the base model, as recipes and model cards record it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hf_lorameta.engines.scoring import (
    ADAPTER_METHOD,
    BASE_METHOD,
    CHAT_METHOD,
    Report,
)
from hf_lorameta.tables import plural


@dataclass(frozen=True)
class Drawn:
    """How many rows were drawn for an adapter, from which the same ones can be drawn again.

    Attributes:
        pool: number of rows that the others were drawn from.
        train: to train on.
        held_out: to count right answers on.
        check: to check on, where the recipe asks for that.
    """

    pool: int
    train: int
    held_out: int
    check: int

    @property
    def to_train(self) -> int:
        """Number of rows to train on, those that were held out of them included."""
        return self.train + self.held_out


@dataclass(frozen=True)
class Training:
    """Result of training an adapter.

    Attributes:
        rows: number of rows that were drawn to train on.
        steps: optimizer steps.
        seen: number of these rows that its steps had: fewer if time allowed no more.
        labeled: number of labeled rows that were read, from which `rows` were drawn.
        folds: number of folds of its rows, for each of which an adapter was trained on the others;
            0 if rows were held out.
        layers: number of layers trained, the upper ones; 0 if all were.
        outputs: how many different outputs its rows have.
        schedule: steps after which the learning rate was to be zero; perhaps more than `steps`.
        cut: number of its rows of which only a part was read, since they are too long.
        arithmetic: of the base model's products, int8 or a dtype; another gives other weights.
    """

    rows: int
    steps: int
    seen: int
    labeled: int
    folds: int = 0
    layers: int = 0
    outputs: int = 0
    schedule: int = 0
    cut: int = 0
    arithmetic: str = ""

    @property
    def saw_all(self) -> bool:
        """Whether each row that was drawn was in a step."""
        return self.seen == self.rows

    @property
    def seen_rows(self) -> str:
        """How many rows it was trained on, of how many if it has not seen all that were drawn.

        Example:
            >>> Training(rows=500, steps=4, seen=32, labeled=9705).seen_rows
            '32 of 9,705 rows'
            >>> Training(rows=500, steps=96, seen=500, labeled=9705).seen_rows
            '500 rows'
        """
        return (
            plural(self.rows, "row")
            if self.saw_all
            else (f"{self.seen:,} of {plural(self.labeled, 'row')}")
        )

    @property
    def settings(self) -> dict[str, int | None]:
        """The settings that repeat it, whatever time there is.

        Example:
            >>> Training(rows=152, steps=96, seen=152, labeled=200).settings
            {'train': 152, 'steps': 96, 'schedule': None}
        """
        schedule = self.schedule if self.schedule > self.steps else None
        return {"train": self.rows, "steps": self.steps, "schedule": schedule}


@dataclass(frozen=True)
class Pace:
    """How fast a training was.

    Attributes:
        steps_per_minute: of the clock.
        idle_steps_per_minute: what they would have been if no other program had used the cores;
            None if hardly more.
    """

    steps_per_minute: float
    idle_steps_per_minute: float | None = None

    @classmethod
    def of(cls, steps: int, seconds: float, cpu_seconds: float) -> "Pace | None":
        """Return the pace of steps that took so long.

        Args:
            steps: number of them.
            seconds: of the clock.
            cpu_seconds: of one core; what is waited for within a step is not known, so up to a
                quarter less than the time of the clock is taken for an idle machine's.

        Returns:
            None if there was no step.

        Example:
            >>> Pace.of(10, 60.0, 12.0), Pace.of(10, 60.0, 55.0)
            (Pace(steps_per_minute=10.0, idle_steps_per_minute=50.0), \
Pace(steps_per_minute=10.0, idle_steps_per_minute=None))
        """
        if not (steps and seconds):
            return None
        idle = 60 * steps / cpu_seconds if 0 < cpu_seconds < _BUSY * seconds else None
        return cls(60 * steps / seconds, idle)

    @property
    def step_seconds(self) -> float:
        """Of the clock, for a step."""
        return 60 / self.steps_per_minute

    def __str__(self) -> str:
        idle, here = self.idle_steps_per_minute, f"{self.steps_per_minute:.3g} a minute"
        return f"{here}; if idle, this machine would take about {idle:.2g}" if idle else here


_BUSY = 0.75
"""A machine is busy if a training got less of a core than this."""

MOST_FREQUENT = "most-frequent"
"""Always the most frequent answer, a method of `CheckResult`."""
CLASSIFIER = "classifier"
"""A classifier on words alone, trained on the same rows; a method of `CheckResult`."""


def method_in_words(method: str) -> str:
    """Name a method that answers rows, for verdict, card, page and progress.

    Args:
        method: one of `CheckResult.counted`.

    Example:
        >>> method_in_words("base-chat"), method_in_words("1-shot")
        ('the base model in its chat template', '1 example in the prompt')
    """
    if method.endswith("-shot"):
        return f"{plural(int(method.removesuffix('-shot')), 'example')} in the prompt"
    return {
        MOST_FREQUENT: "the most frequent answer for all rows",
        CLASSIFIER: "a classifier on words alone",
        BASE_METHOD: "the base model",
        CHAT_METHOD: "the base model in its chat template",
        ADAPTER_METHOD: "the adapter",
    }[method]


@dataclass(frozen=True)
class Counted:
    """What a check counted of one method.

    Attributes:
        right: number of rows that are answered right, but for case, by greedy decoding.
        loss: mean over output tokens, in nats; None if the method gives no probabilities.
        score: how good all answers are, 0 to 1, if they are graded; else None.
    """

    right: int
    loss: float | None = None
    score: float | None = None


@dataclass(frozen=True)
class CheckResult:
    """What was counted of an adapter and of other methods, on rows that neither was trained on.

    Attributes:
        rows: number of rows.
        counted: of each method, in the order in which all lists show them: the adapter as it is
            saved, the base model, perhaps in its chat template and with a prompt of examples
            (``k-shot``), and methods without it: `MOST_FREQUENT`, where an output repeats, and
            `CLASSIFIER`, where outputs are labels.
        measure: what the scores are, one of `hf_lorameta.engines.scoring.MEASURES`; None if answers
            are not graded.
    """

    rows: int
    counted: Mapping[str, Counted]
    measure: str | None = None

    @property
    def adapter(self) -> Counted:
        """What was counted of the adapter."""
        return self.counted[ADAPTER_METHOD]

    @property
    def right(self) -> dict[str, int]:
        """Right answers by method."""
        return {m: c.right for m, c in self.counted.items()}

    @property
    def losses(self) -> dict[str, float]:
        """Losses by method, of those that give probabilities."""
        return {m: c.loss for m, c in self.counted.items() if c.loss is not None}

    @property
    def scores(self) -> dict[str, float]:
        """Scores by method, of those whose answers are graded."""
        return {m: c.score for m, c in self.counted.items() if c.score is not None}


@dataclass(frozen=True)
class StageRecord:
    """What a stage did; training and check have records with more, on which the verdict depends.

    Attributes:
        name: of the stage, as recipe.json and `hf-lorameta inspect` have it.
        values: JSON values by their names, for both; the same for the same recipe and dataset.
        title: of a section on the card.
        text: of that section, without Markdown.
        pictures: SVG files below it, by their names.
        tags: of the card.
    """

    name: str
    values: Mapping[str, Any]
    title: str
    text: str
    pictures: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()


class Interruption(NamedTuple):
    """The first stage that the user ended (Ctrl-C).

    Attributes:
        stage: its name, which recipe.json has.
        warning: a sentence on what that means for the adapter.
    """

    stage: str
    warning: str


@dataclass(frozen=True)
class Outcome:
    """What was done with the base model after the adapters of a plan were combined.

    Attributes:
        training: how the adapter was trained, if it was.
        check: how it scored on other rows, if it was checked.
        drawn: the rows that were drawn for it; None if the base model was not run.
        to_count: number of rows to count right answers on, if there is time.
        ungraded: whether there was no time to compare texts by Rouge-L or F1; then only answers
            that equal the output are counted.
        out_of_time: whether time ran out before the first step of the training.
        interrupted: which stage the user ended; None if none.
        given_model: whether a loaded base model was given, instead of that on this machine.
        budget: the time limit in seconds; None without one.
        pace: how fast the training was; None without one. It is not in recipe.json, where equal
            settings give equal bytes.
        records: what stages other than training and check did, in their order.
        asked: the settings of the stages that were run, those that are not the defaults.
    """

    training: Training | None = None
    check: CheckResult | None = None
    drawn: Drawn | None = None
    to_count: int = 0
    ungraded: bool = False
    out_of_time: bool = False
    interrupted: Interruption | None = None
    given_model: bool = False
    budget: float | None = None
    pace: Pace | None = None
    records: tuple[StageRecord, ...] = ()
    asked: Mapping[str, Any] = field(default_factory=dict)

    @property
    def checked_in_folds(self) -> bool:
        """Whether adapters of folds answered the rows of the check, on all of which it was trained.

        Not if the recipe asked for other rows to check on.
        """
        asked = self.drawn and self.drawn.check
        return bool(self.check and self.training and self.training.folds and not asked)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of stages that repeat what was done, whatever time there is."""
        return {**self.asked, **(self.training.settings if self.training else {})}

    @property
    def recorded(self) -> dict[str, Mapping[str, Any]]:
        """The values of `records` by the names of stages."""
        return {record.name: record.values for record in self.records}


def check_result(report: Report) -> CheckResult:
    """Return what a check counted.

    Args:
        report: on the base model and the adapter alone.

    Example:
        >>> from hf_lorameta.engines.scoring import Scores
        >>> scores = {"base": Scores(2.0, 0, 0.5, 0.5, 2), "generated": Scores(1.0, 1, 1.0, 1.0, 2)}
        >>> check_result(Report(scores, most_frequent=1)).counted  # doctest: +NORMALIZE_WHITESPACE
        {'generated': Counted(right=2, loss=1.0, score=None),
         'base': Counted(right=1, loss=2.0, score=None)}
    """
    order = dict.fromkeys((ADAPTER_METHOD, BASE_METHOD, CHAT_METHOD, *report.scores))
    scores = {method: report.scores[method] for method in order if method in report.scores}
    measure = report.measure
    counted = {
        method: Counted(s.right, s.loss, getattr(s, measure) if measure else None)
        for method, s in scores.items()
    }
    if report.most_frequent > 1:
        counted[MOST_FREQUENT] = Counted(report.most_frequent)
    if report.classified is not None:
        counted[CLASSIFIER] = Counted(report.classified)
    if counted[ADAPTER_METHOD].score is None:  # there was no time to generate all answers
        measure = None
    return CheckResult(scores[BASE_METHOD].rows, counted, measure)
