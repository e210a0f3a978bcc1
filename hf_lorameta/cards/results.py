"""What was done with the base model, as recipes and model cards record it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from hf_lorameta.engines.scoring import (
    ADAPTER_METHOD,
    BASE_METHOD,
    CHAT_METHOD,
    MEASURES,
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
        rows: number of rows it was trained on.
        steps: optimizer steps.
        folds: number of folds of its rows, for each of which an adapter was trained on the others;
            0 if rows were held out.
        layers: number of layers trained, the upper ones; 0 if all were.
        outputs: how many different outputs its rows have.
        schedule: steps after which the learning rate was to be zero; perhaps more than `steps`.
    """

    rows: int
    steps: int
    folds: int = 0
    layers: int = 0
    outputs: int = 0
    schedule: int = 0

    @property
    def settings(self) -> dict[str, int | None]:
        """The settings of a recipe that repeat it, whatever time there is.

        Example:
            >>> Training(rows=152, steps=96).settings
            {'train': 152, 'steps': 96, 'schedule': None}
        """
        schedule = self.schedule if self.schedule > self.steps else None
        return {"train": self.rows, "steps": self.steps, "schedule": schedule}


@dataclass(frozen=True)
class RightAnswers:
    """How many rows are answered right, but for case, by greedy decoding.

    Attributes:
        most_frequent: if each answer were the most frequent output of these rows.
        base: by the base model.
        end: by the adapter, after scaling.
        chat: by the base model with its own chat template; None if it has none.
        prompt: by the base model with a prompt of examples; None if there were no other rows.
        classifier: by a classifier on words alone that was trained on the same rows; None if
            outputs are no labels.
    """

    most_frequent: int
    base: int
    end: int
    chat: int | None = None
    prompt: int | None = None
    classifier: int | None = None

    @property
    def most_by_model(self) -> int:
        """The most that the model answers right, with the adapter or without it."""
        return max(self.base, self.end, self.chat or 0, self.prompt or 0)


@dataclass(frozen=True)
class Graded:
    """A score of answers, 0 to 1, that are more or less right; see `RightAnswers` for the others.

    Attributes:
        measure: one of `hf_lorameta.engines.scoring.MEASURES`.
    """

    measure: str
    base: float
    end: float
    chat: float | None = None
    prompt: float | None = None


MOST_FREQUENT = "most-frequent"
"""Always the most frequent answer, a method of `Counted`."""
CLASSIFIER = "classifier"
"""A classifier on words alone, trained on the same rows; a method of `Counted`."""
FEW_SHOT = "few-shot"
"""The base model with a prompt of examples, a method of `Counted`."""


def method_in_words(method: str, shots: int) -> str:
    """Name a method that answers rows, for verdict, card, page and progress.

    Args:
        method: one of `Counted`, or ``k-shot``.
        shots: number of examples in the prompt.

    Example:
        >>> method_in_words("base-chat", 3), method_in_words("1-shot", 1)
        ('the base model in its chat template', '1 example in the prompt')
    """
    if method.endswith("-shot"):
        return f"{plural(shots, 'example')} in the prompt"
    return {
        MOST_FREQUENT: "the most frequent answer for all rows",
        CLASSIFIER: "a classifier on words alone",
        BASE_METHOD: "the base model",
        CHAT_METHOD: "the base model in its chat template",
        ADAPTER_METHOD: "the adapter",
    }[method]


class Counted(NamedTuple):
    """What a check counted of one method.

    Attributes:
        method: `MOST_FREQUENT`, `CLASSIFIER`, `FEW_SHOT`, `BASE_METHOD`, `CHAT_METHOD` or
            `ADAPTER_METHOD`.
        right: number of right answers.
        score: how good all answers are, if they are graded.
        loss: in nats per output token; None if the method gives no probabilities.
    """

    method: str
    right: int
    score: float | None = None
    loss: float | None = None


@dataclass(frozen=True)
class Check:
    """Scores of an adapter on rows it was not trained on.

    Losses are means over output tokens, in nats.

    Attributes:
        base: loss of the base model.
        end: loss of the adapter.
        right: the right answers.
        chat: loss of the base model with its own chat template; None if it has none.
        prompt: loss of the base model with a prompt of examples; None if there were no other rows.
        shots: number of examples.
        graded: how good the answers are, if outputs are texts or have several labels, and all
            answers were generated; else None.
    """

    rows: int
    base: float
    end: float
    right: RightAnswers
    chat: float | None = None
    prompt: float | None = None
    shots: int = 0
    graded: Graded | None = None

    @property
    def counted(self) -> Iterator[Counted]:
        """What was counted of each method that was tried, the adapter last.

        The most frequent answer is no method where no output repeats.
        """
        right, graded = self.right, self.graded
        if right.most_frequent > 1:
            yield Counted(MOST_FREQUENT, right.most_frequent)
        if right.classifier is not None:
            yield Counted(CLASSIFIER, right.classifier)
        methods = BASE_METHOD, CHAT_METHOD, FEW_SHOT, ADAPTER_METHOD
        counts = right.base, right.chat, right.prompt, right.end
        losses = self.base, self.chat, self.prompt, self.end
        scores: tuple[float | None, ...] = (None,) * len(methods)
        if graded:
            scores = graded.base, graded.chat, graded.prompt, graded.end
        for method, count, score, loss in zip(methods, counts, scores, losses, strict=True):
            if count is not None:
                yield Counted(method, count, score, loss)


@dataclass(frozen=True)
class StageRecord:
    """What a stage did; training and check have records with more, on which the verdict depends.

    Attributes:
        name: of the stage, as recipe.json and `hf-lorameta inspect` have it.
        values: JSON values by their names, for both; the same for the same recipe and dataset.
        title: of a section on the card.
        text: of that section, without Markdown.
    """

    name: str
    values: Mapping[str, Any]
    title: str
    text: str


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
        out_of_time: whether time ran out before the first step of the training.
        interrupted: which stage the user ended; None if none.
        given_model: whether a loaded base model was given, instead of that on this machine.
        budget: the time limit in seconds; 0 without one.
        records: what stages other than training and check did, in their order.
    """

    training: Training | None = None
    check: Check | None = None
    drawn: Drawn | None = None
    out_of_time: bool = False
    interrupted: Interruption | None = None
    given_model: bool = False
    budget: float = 0.0
    records: tuple[StageRecord, ...] = ()

    @property
    def checked_in_folds(self) -> bool:
        """Whether adapters of folds answered the rows of the check, on all of which it was trained.

        Not if the recipe asked for other rows to check on.
        """
        asked = self.drawn and self.drawn.check
        return bool(self.check and self.training and self.training.folds and not asked)

    @property
    def settings(self) -> dict[str, int | None]:
        """The settings of a recipe that repeat what was done, whatever time there is."""
        return self.training.settings if self.training else {}

    def to_dict(self) -> dict[str, Any]:
        """Return the results as JSON values, by their names in recipe.json.

        A loss that is not finite is None.
        """
        return dict(  # which refuses a record with the name of another
            training=_json(self.training),
            check=_json(self.check),
            interrupted=self.interrupted and self.interrupted.stage,
            rows=_json(self.drawn),
            **{record.name: record.values for record in self.records},
        )


def _json(result: Training | Check | Drawn | None) -> dict[str, Any] | None:
    if result is None:
        return None
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in asdict(result).items()
    }


def check_of(report: Report, shots: int) -> Check:
    """Return the check of an adapter.

    Args:
        report: on the base model and the adapter alone.
        shots: number of examples in its prompt.

    Example:
        >>> from hf_lorameta.engines.scoring import Scores
        >>> scores = {"base": Scores(2.0, 0, 0.5, 0.5, 2), "generated": Scores(1.0, 1, 1.0, 1.0, 2)}
        >>> check_of(Report(scores, most_frequent=1), 0).right
        RightAnswers(most_frequent=1, base=1, end=2, chat=None, prompt=None, classifier=None)
    """
    base, end = report.scores[BASE_METHOD], report.scores[ADAPTER_METHOD]
    others = [report.scores.get(method) for method in (CHAT_METHOD, f"{shots}-shot")]
    chat, prompt = ((s.right, s.loss) if s else (None, None) for s in others)
    by_method = base.right, end.right, chat[0], prompt[0], report.classified
    right = RightAnswers(report.most_frequent, *by_method)
    values: list[Any] = [getattr(s, report.measure, None) for s in (base, end, *others)]
    known = report.measure in MEASURES and None not in values[:2]
    graded = Graded(report.measure, *values) if known else None
    return Check(base.rows, base.loss, end.loss, right, chat[1], prompt[1], shots, graded)
