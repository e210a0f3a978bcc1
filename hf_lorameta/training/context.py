"""The time that a training has, and whom it tells of its progress."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hf_lorameta.deadline import Deadline
from hf_lorameta.errors import Advice
from hf_lorameta.types import StageProgress, no_progress


def no_seconds(step_seconds: float) -> float:
    """Keep no time for what follows a training."""
    return 0.0


@dataclass(frozen=True)
class TrainingContext:
    """What surrounds a training, and does not change what a step does.

    Attributes:
        deadline: the training ends when no more time is left than a step takes.
        reserved: returns the seconds that are to be left then, if a step takes so many.
        progress: called after each step with (title, steps done, likely steps in all).
        hint: what to do if there is not enough memory.
    """

    deadline: Deadline = field(default_factory=Deadline)
    reserved: Callable[[float], float] = no_seconds
    progress: StageProgress = no_progress
    hint: Sequence[Advice] = ()
