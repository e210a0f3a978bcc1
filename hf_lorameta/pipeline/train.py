"""The stage that trains an adapter on labeled rows of its dataset, until a deadline."""

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from hf_lorameta.cards.results import Interruption, Training
from hf_lorameta.deadline import Deadline
from hf_lorameta.engines.scoring import LoraWeights, measure_of
from hf_lorameta.errors import AdapterError, Option
from hf_lorameta.pipeline.budget import more_time, time_to_check
from hf_lorameta.pipeline.rows import SHOTS, Rows
from hf_lorameta.pipeline.session import Session
from hf_lorameta.pipeline.stages import Unseen, Work
from hf_lorameta.tables import plural

if TYPE_CHECKING:
    from hf_lorameta.training.trained import Trained


@dataclass(frozen=True)
class Train:
    """Train on rows while time is left.

    An interruption (Ctrl-C) ends the training with the steps so far, after the first few.

    Attributes:
        rows: how many to train on; None is all.
        required: see `hf_lorameta.pipeline.stages.Stage`.
    """

    rows: int | None = None
    required: bool = True
    name: ClassVar[str] = "training"
    stopped: ClassVar[str] = "The training was interrupted"
    failed: ClassVar[str] = "Not trained on your rows"

    def __str__(self) -> str:
        return "train on " + ("your rows" if self.rows is None else f"{self.rows} rows")

    def run(self, work: Work, session: Session, end: Deadline) -> Work:
        """Train the adapter.

        Raises:
            KeyboardInterrupt: within the first few steps.
            RecipeError: the recipe states more steps than a training has.
            UsageError: the base model cannot be trained here, or there is not enough memory.
            AdapterError: there was no time for a step, and there is no bank; or numbers overflow.
        """
        after = self._trained(work, session, end) if work.rows.train else work
        if not after.adapter.pairs:
            raise AdapterError(
                f"{_why_untrained(after)}, and there is no bank to make an adapter from",
                hint=[Option("train", 100), more_time(end.seconds), "name a bank"],
            )
        return after

    def _trained(self, work: Work, session: Session, end: Deadline) -> Work:
        from hf_lorameta.training.further import train_further
        from hf_lorameta.training.settings import MAX_TRAINED_TOKENS
        from hf_lorameta.training.trained import TrainingRows, encode_rows

        adapter, rows, evaluator = work.adapter, work.rows, session.evaluator
        to_check = rows.few or rows.held_out  # time is left to count right answers on them
        texts = bool(to_check and measure_of(to_check, adapter.plan.dataset.form))
        reserved = partial(time_to_check, len(to_check), texts, seconds=end.left())
        train, few = (encode_rows(evaluator, MAX_TRAINED_TOKENS, r) for r in (rows.train, rows.few))
        result = train_further(
            evaluator.model,
            LoraWeights(work.combined.layout, work.combined.pairs),
            TrainingRows(train.rows, few=few.rows),
            adapter.rank,
            adapter.plan.recipe.seed,
            steps=adapter.plan.recipe.steps,
            schedule=adapter.plan.recipe.schedule,
            deadline=end,
            reserved=reserved,
            progress=session.progress,
            hint=[Option("train", change="leave out")],
        )
        unseen = _unseen(result, rows)
        steps = f"this is the adapter after {plural(result.steps, 'step')}"
        stopped = f"{self.stopped}: {steps}. More steps might have made it better."
        if result.interrupted == "folds":
            counted = f"{sum(len(part.rows) for part in unseen)} of {len(rows.few)} rows"
            stopped = f"{self.stopped} in a fold: right answers can be counted on only {counted}."
        outcome = replace(
            adapter.outcome,
            training=_record(
                result, rows, adapter.plan.profile.rows, (few if result.folds else train).cut
            ),
            out_of_time=not result.rows,
            interrupted=Interruption(self.name, stopped) if result.interrupted else None,
        )
        layout, pairs = result.weights
        trained = replace(
            adapter, layout=layout, pairs=tuple(pairs), outcome=outcome, step_seconds=result.seconds
        )
        return replace(work, adapter=trained, unseen=unseen)


def _why_untrained(work: Work) -> str:
    if not work.rows.train:
        return "there are too few labeled rows to train on"
    return "time ran out before the first training step"


def _record(result: "Trained", rows: Rows, labeled: int, cut: int) -> Training | None:
    """Return what is recorded of a training; None if there was no time for a step."""
    if not result.rows:
        return None
    trained_on = rows.few if result.folds else rows.train
    return Training(
        rows=result.rows,
        steps=result.steps,
        seen=result.seen,
        labeled=max(labeled, result.rows),
        schedule=result.schedule,
        folds=len(result.folds),
        layers=result.layers,
        outputs=len({output.strip() for _, output in trained_on}),
        cut=cut,
    )


def _unseen(result: "Trained", rows: Rows) -> tuple[Unseen, ...]:
    """Return rows that right answers can be counted on: those of folds, or held-out ones."""
    if not result.folds:
        return (Unseen(rows.held_out, None, rows.prompt, rows.train),)
    parts = []
    for indices, weights in result.folds:
        inside = set(indices)
        others = [row for index, row in enumerate(rows.few) if index not in inside]
        parts.append(Unseen([rows.few[i] for i in indices], weights, others[:SHOTS], others))
    return tuple(parts)
