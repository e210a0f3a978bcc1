"""Stages: what is done with the base model after a plan's adapters were combined.

A new stage is a class in a module of its own, and one line of each of `STAGES` and `Request` in
`hf_lorameta.pipeline.request`. From its `Settings` come its options on the command line, its
arguments in Python, and its inputs on the page and of the endpoints. What it did is a `StageRecord`
that it adds to `Outcome.records`, both in `hf_lorameta.cards.results`: recipe.json, ``inspect`` and
the card have it from there. Its `str` is part of what ``plan`` prints. The module is imported for
``--help``: what takes long, such as numpy, is imported in `run`. Two commands then write the lists
of all settings again: ``python -m tests.tools.skill_commands``, ``python -m
tests.tools.recipe_schema``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Generic, NamedTuple, TypeVar

from hf_lorameta.deadline import Deadline
from hf_lorameta.settings import Settings

if TYPE_CHECKING:
    from hf_lorameta.cards.results import Outcome, Pace
    from hf_lorameta.engines.scoring import LoraWeights, Report
    from hf_lorameta.pipeline.plan_data import PlanData
    from hf_lorameta.pipeline.rows import Rows
    from hf_lorameta.pipeline.session import Session
    from hf_lorameta.types import Row

S = TypeVar("S", bound=Settings)


class Unseen(NamedTuple):
    """Rows, and an adapter that was not trained on them.

    Attributes:
        rows: to count right answers on.
        weights: of the adapter; None is the adapter as it is when it is checked.
        examples: other rows, for a prompt.
        trained_on: the rows that the adapter was trained on.
    """

    rows: "Sequence[Row]"
    weights: "LoraWeights | None"
    examples: "Sequence[Row]"
    trained_on: "Sequence[Row]" = ()


@dataclass(frozen=True, kw_only=True)
class Work:
    """An adapter on its way through the stages.

    Attributes:
        plan: which adapters were combined.
        rank: r of every module.
        combined: the weights before the first stage; a training starts from them.
        weights: as they are now.
        rows: drawn for it.
        unseen: rows that its right answers can be counted on.
        lists_answers: whether `report` lists all checked rows with their answers.
        outcome: what was done so far.
        report: what the check counted; None before.
        seconds_of_steps: how long all training steps took.
        pace: of these; None without a training.
    """

    plan: "PlanData"
    rank: int
    combined: "LoraWeights"
    weights: "LoraWeights"
    rows: "Rows"
    outcome: "Outcome"
    unseen: tuple[Unseen, ...] = ()
    lists_answers: bool = False
    report: "Report | None" = None
    seconds_of_steps: float = 0.0
    pace: "Pace | None" = None


@dataclass(frozen=True)
class Context:
    """What a stage works with.

    Attributes:
        session: has the base model, and shows progress.
        deadline: when the time of all stages ends.
        reserved: returns the seconds that later stages need, of those that a training step takes.
    """

    session: "Session"
    deadline: Deadline
    reserved: Callable[[float], float]


@dataclass(frozen=True)
class Stage(ABC, Generic[S]):
    """One stage of a request; its text says what it does, for a plan.

    A stage that changes the adapter also has to change the adapters of `Work.unseen`, where rows
    are answered in folds: by adapters that were made in the same way from other rows.

    Attributes:
        settings: as they were asked for, an object of its `Settings`, whose fields have
            descriptions. No two stages have a field of the same name.
        insisted: whether the caller asked for the base model to be run.
        name: what recipe.json calls it.
        stopped: what the warning says if the user ends it (Ctrl-C), on the card as well. An adapter
            that was trained is kept as it was before this stage, and the others are left out.
        failed: the beginning of the warning about an error, if the stage is not required. The
            adapter then stays as it was, and the stages after it are left out, except those that
            are required.
        needs_model: whether it runs the base model, which is then loaded before it.
    """

    settings: S
    insisted: bool = True
    Settings: ClassVar[type[Settings]]
    name: ClassVar[str]
    stopped: ClassVar[str]
    failed: ClassVar[str]
    needs_model: ClassVar[bool] = True

    @staticmethod
    @abstractmethod
    def wanted(settings: S, seconds: float) -> bool:
        """Whether a request asks for this stage.

        Args:
            settings: of the stage.
            seconds: to train; 0 trains only if the settings say so.
        """

    @property
    def required(self) -> bool:
        """Whether an error in it ends the command; False if it builds on a stage that may fail."""
        return True

    def seconds_for(self, work: Work, seconds_of_steps: float, seconds: float) -> float:
        """Return the seconds that are kept for this stage while earlier ones run.

        Args:
            work: before them.
            seconds_of_steps: how long one training step takes.
            seconds: for all of them; infinite if not limited.
        """
        return 0.0

    @abstractmethod
    def __str__(self) -> str:
        """What it does, for a plan."""

    @abstractmethod
    def run(self, work: Work, context: Context) -> Work:
        """Do the work of this stage.

        Raises:
            LoraMetaError: it cannot be done.
            KeyboardInterrupt: the user ended it, and there is nothing to keep of it.
        """
