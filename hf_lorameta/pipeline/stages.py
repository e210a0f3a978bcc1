"""Stages: what is done with the base model after a plan's adapters were combined.

`hf_lorameta.pipeline.resolve.resolve` returns the stages of a request, and
`hf_lorameta.pipeline.make.make_adapter` runs them in order. A new one is a class in a module of its
own, and one line of `hf_lorameta.pipeline.resolve.stages_for`. What it did is a `StageRecord` that
it adds to `Outcome.records`, both in `hf_lorameta.cards.results`: recipe.json, ``inspect`` and the
card have it from there. Its `str` is part of what ``plan`` prints.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

from hf_lorameta.deadline import Deadline
from hf_lorameta.engines.scoring import LoraWeights
from hf_lorameta.pipeline.rows import Rows
from hf_lorameta.pipeline.save import Generation
from hf_lorameta.pipeline.session import Session
from hf_lorameta.types import Row


class Unseen(NamedTuple):
    """Rows, and an adapter that was not trained on them.

    Attributes:
        rows: to count right answers on.
        weights: of the adapter; None is the adapter as it is when it is checked.
        examples: other rows, for a prompt.
        trained_on: the rows that the adapter was trained on.
    """

    rows: Sequence[Row]
    weights: LoraWeights | None
    examples: Sequence[Row]
    trained_on: Sequence[Row] = ()


@dataclass(frozen=True, kw_only=True)
class Work:
    """An adapter on its way through the stages.

    Attributes:
        combined: as it was before the first stage; a training starts from it.
        adapter: as it is now.
        rows: drawn for it.
        unseen: rows that its right answers can be counted on.
    """

    combined: Generation
    adapter: Generation
    rows: Rows
    unseen: tuple[Unseen, ...] = ()


class Stage(Protocol):
    """One stage; its text says what it does, for a plan.

    A stage that changes the adapter also has to change the adapters of `Work.unseen`, where rows
    are answered in folds: by adapters that were made in the same way from other rows.

    Attributes:
        name: what recipe.json calls it.
        stopped: what the warning says if the user ends it (Ctrl-C), on the card as well. An adapter
            that was trained is kept as it was before this stage, and the others are left out.
        failed: the beginning of the warning about an error, if the stage is not required. The
            adapter then stays as it was, and the stages after it are left out, except those that
            are required.
    """

    name: ClassVar[str]
    stopped: ClassVar[str]
    failed: ClassVar[str]

    @property
    def required(self) -> bool:
        """Whether an error in it ends the command; False if it builds on a stage that may fail."""

    def run(self, work: Work, session: Session, end: Deadline) -> Work:
        """Do the work of this stage.

        Args:
            work: what the stages before it have made.
            session: has the base model.
            end: when the time of all stages ends.

        Raises:
            LoraMetaError: it cannot be done.
            KeyboardInterrupt: the user ended it, and there is nothing to keep of it.
        """
