"""Training further: its result, folds, deadlines, interruptions, and the same adapter again."""

import math
from collections.abc import Callable, Sequence
from itertools import chain, count, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_lorameta.deadline import Deadline
from hf_lorameta.engines.scoring import LoraWeights
from hf_lorameta.errors import RecipeError
from hf_lorameta.formats.lora_layout import FACTORS
from hf_lorameta.tables import plural
from tests.support.codes import raises_code
from tests.support.fast_training import fast_training
from tests.training.tiny import exact_norms, tokens, write_base

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hf_lorameta.engines.row_tokens import Tokens  # noqa: E402 - they import torch
from hf_lorameta.engines.transformers.forward import PassRunner  # noqa: E402
from hf_lorameta.training import device, further, trainer  # noqa: E402
from hf_lorameta.training.bank.held_out import TaskRows, train_with_held_out  # noqa: E402
from hf_lorameta.training.checkpoint import Checkpoint  # noqa: E402
from hf_lorameta.training.context import TrainingContext  # noqa: E402
from hf_lorameta.training.further import train_further  # noqa: E402
from hf_lorameta.training.settings import Settings  # noqa: E402
from hf_lorameta.training.target_layers import with_all_projections  # noqa: E402
from hf_lorameta.training.trained import Gain, Trained, TrainingRows  # noqa: E402
from hf_lorameta.training.trainer import (  # noqa: E402
    HeldOutLosses,
    TrainedPart,
    Trainer,
    batches,
)

FEW = [row._replace(output=[5] * len(row.output)) for row in tokens(1, 16)]
ROWS = TrainingRows(FEW[:12])
HELD_OUT = TaskRows(FEW[:12], FEW[12:])
FOLDED = TrainingRows(FEW[:12], foldable=FEW)
LAYERS = 5
pytestmark = pytest.mark.usefixtures("one_thread")
Show = Callable[[str, int, int], None]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of whose layers four are trained."""
    return write_base(tmp_path_factory.mktemp("base"), num_hidden_layers=LAYERS)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    fast_training(monkeypatch.setattr, steps=12, rows=4, measurements=3)


def load(base: Path) -> Any:
    model = transformers.LlamaForCausalLM.from_pretrained(base, dtype=torch.float64)
    return exact_norms(model.eval().requires_grad_(False))


def start_of(model: Any) -> LoraWeights:
    """Return a small random adapter of all projections."""
    layout, rng = with_all_projections(model, ()), np.random.default_rng(0)

    def small(shape: tuple[int, int]) -> Any:
        return 0.05 * rng.standard_normal(shape, np.float32)

    factors = [(small(m.shape("A", 4)), small(m.shape("B", 4))) for m in layout]
    return LoraWeights(layout, factors)


def train(base: Path, rows: TrainingRows | TaskRows = ROWS, **options: Any) -> Trained:
    """Train a small random adapter, in float64."""
    model = load(base)
    before, layers = model.config._attn_implementation, list(model.model.layers)
    start = start_of(model)
    if isinstance(rows, TaskRows):
        part, unused = TrainedPart.upper(model, start.layout), Checkpoint(base / "none", "key")
        result = train_with_held_out(model, part, start, rows, settings_of(rows), unused)
    else:
        numbers = {name: options.pop(name, None) for name in ("steps", "schedule")}
        context = TrainingContext(**options)
        result = train_further(model, start, rows, 4, 0, **numbers, context=context)
    assert model.config._attn_implementation == before
    assert list(model.model.layers) == layers
    assert not [m for m in model.modules() if type(m).__module__.startswith("hf_lorameta")]
    return result


def settings_of(rows: TaskRows) -> Settings:
    settings: Settings = vars(further)["settings_for"](len(rows.train), 32, 4, 0)
    return settings


def train_again(base: Path, result: Trained, rows: TrainingRows = ROWS) -> Trained:
    """Take the steps of a result again, on given rows."""
    return train(base, rows, steps=result.steps, schedule=result.schedule)


def content(weights: LoraWeights) -> list[bytes]:
    return [x.tobytes() for pair in weights.pairs for x in pair]


def start_content(base: Path) -> list[bytes]:
    return content(start_of(load(base)))


def gain_of(result: Trained) -> Gain:
    assert result.gain
    return result.gain


# --- results --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")
def test_the_scores_are_those_of_rows_that_were_not_trained_on(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checked with PEFT, and trained by torch's own optimizer."""
    peft = pytest.importorskip("peft")
    monkeypatch.setattr(trainer, "UNTRAINED", 0.0)
    result = train(base, HELD_OUT)
    assert result.steps
    start, end = gain_of(result)
    assert list(start.rows) == list(HELD_OUT.held_out)
    model = load(base)
    layout, factors = start_of(model)
    names = sorted({module.name.rpartition(".")[2] for module in layout})
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=names)
    wrapped = peft.get_peft_model(model, config).double()
    for module, pair in zip(layout, factors, strict=True):
        layer = wrapped.base_model.model.get_submodule(module.name)
        for factor, values, scale in zip(FACTORS, pair, (1.0, 0.5), strict=True):
            weight = getattr(layer, f"lora_{factor}")["default"].weight
            weight.data = torch.from_numpy(scale * values).double()
    before, after = start.losses.probabilities, end.losses.probabilities
    np.testing.assert_allclose(_probabilities(wrapped), before, rtol=1e-6)
    _train_with_peft(wrapped, result.steps)
    np.testing.assert_allclose(_probabilities(wrapped), after, rtol=1e-6)


def _probabilities(model: Any) -> list[float]:
    return [math.exp(-_loss(model, row).item()) for row in HELD_OUT.held_out]


def _train_with_peft(model: Any, steps: int) -> None:
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.0)
    settings = settings_of(HELD_OUT)
    order = batches(HELD_OUT.train, settings)
    for step in range(steps):
        batch = next(order)
        count = sum(len(row.output) for row in batch)
        loss = sum(_loss(model, row) * len(row.output) for row in batch) / count
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, settings.clip)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate(step)
        optimizer.step()


def _loss(model: object, row: Tokens) -> Any:
    ids = torch.tensor([[*row.prompt, *row.output]])
    logits = model(input_ids=ids).logits[0, len(row.prompt) - 1 : -1]  # type: ignore[operator]
    return torch.nn.functional.cross_entropy(logits, ids[0, len(row.prompt) :])


@pytest.mark.parametrize(("untrained", "untouched"), [(0.8, 4), (0.25, 1), (0.0, 0)])
def test_only_a_part_of_the_layers_is_changed(
    base: Path, untrained: float, untouched: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "UNTRAINED", untrained)
    result = train(base, HELD_OUT)
    layout, factors = start_of(load(base))
    assert result.weights.layout == layout
    for module, before, after in zip(layout, factors, result.weights.pairs, strict=True):
        below = int(module.name.split(".")[2]) < untouched
        assert below == all(map(np.array_equal, before, after))
    assert result.layers == (LAYERS - untouched if untouched else 0)
    start, end = gain_of(result)
    assert end.by_row.mean() > start.by_row.mean()


def probabilities(monkeypatch: pytest.MonkeyPatch, by_step: dict[int, float]) -> None:
    """Let each output have a probability that depends on the number of steps."""
    score = Trainer.score

    def scored(trainer: Any, rows: Any, parameters: Any = None) -> HeldOutLosses:
        loss = -math.log(by_step[0 if parameters is not None else trainer.taken])
        losses = score(trainer, rows, parameters).losses
        return HeldOutLosses(rows, losses._replace(sums=[loss * size for size in losses.sizes]))

    monkeypatch.setattr(Trainer, "score", scored)
    monkeypatch.setattr(HeldOutLosses, "by_row", property(lambda self: self.losses.probabilities))


def test_the_best_state_is_kept_not_the_last(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probabilities(monkeypatch, {0: 0.1, 4: 0.6, 8: 0.7, 12: 0.6})
    result = train(base, HELD_OUT)
    assert result.steps == 8
    assert content(train(base, steps=8, schedule=12).weights) == content(result.weights)


# --- folds ----------------------------------------------------------------------------------------


def test_each_row_is_answered_by_an_adapter_that_was_trained_on_the_rows_outside_of_its_fold(
    base: Path,
) -> None:
    result = train(base, FOLDED)
    assert len(result.folds) == 4
    assert sorted(i for fold in result.folds for i in fold.indices) == list(range(16))
    for indices, weights in result.folds:
        others = [row for i, row in enumerate(FEW) if i not in indices]
        alone = train_again(base, result, TrainingRows(others))
        assert content(alone.weights) == content(weights)


def test_the_adapter_of_folds_is_trained_on_all_rows(base: Path) -> None:
    result = train(base, FOLDED)
    assert (result.rows, result.steps) == (16, 12)
    again = train_again(base, result, TrainingRows(FEW))
    assert content(again.weights) == content(result.weights)


def test_memory_is_planned_for_all_rows_of_folds(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longest may be among those that are held out without folds."""
    given, plan = list[Sequence[Tokens]](), device.plan_device

    def planned(*args: Any, rows: Sequence[Tokens], **options: Any) -> Any:
        given.append(rows)
        return plan(*args, rows=rows, **options)

    monkeypatch.setattr(trainer, "plan_device", planned)
    train(base, FOLDED, steps=1)
    assert [list(rows) for rows in given] == [FEW]


class Timed:
    """A clock on which only steps take time.

    Args:
        seconds: of each step, in turn; the last one of all others.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *seconds: float) -> None:
        self.now, self.taken = 0.0, 0
        times, backward = chain(seconds, repeat(seconds[-1])), PassRunner.backward

        def timed(*args: Any) -> None:
            self.now, self.taken = self.now + next(times), self.taken + 1
            backward(*args)

        monkeypatch.setattr(PassRunner, "backward", timed)

    def deadline(self, seconds: float) -> Deadline:
        return Deadline(seconds, lambda: self.now)


@pytest.mark.parametrize(("seconds", "folds"), [(75, 4), (60, 3), (46, 2), (32, 2), (20, 0)])
def test_the_time_decides_how_many_folds_there_are(
    base: Path, seconds: int, folds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Timed(monkeypatch, 1.0)
    result = train(base, FOLDED, deadline=clock.deadline(seconds))
    assert len(result.folds) == folds
    assert result.rows == (16 if folds else 12)
    assert result.seconds == clock.taken <= seconds


def test_folds_for_which_time_runs_out_leave_time_to_train_on_all_rows(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Timed(monkeypatch, *[1.0] * 10, 5.0)
    result = train(base, FOLDED, deadline=clock.deadline(80))
    assert len(result.folds) == 1
    assert (result.rows, result.steps) == (16, 8)
    assert clock.now <= 80


def test_folds_are_trained_for_fewer_steps_where_these_take_longer_than_planned(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that all rows are counted."""
    clock = Timed(monkeypatch, *[1.0] * 10, 2.0)
    result = train(base, FOLDED, deadline=clock.deadline(80))
    assert len(result.folds) == 4
    assert (result.rows, result.steps) == (16, 7)
    assert clock.taken == 3 + 12 + 7 + 7 + 8 + 7
    assert clock.now <= 80


@pytest.mark.parametrize(
    ("rows", "settings", "before", "folds", "steps"),
    [(ROWS, {"steps": 48}, 20, 0, 43), (FOLDED, {"steps": 12}, 3 + 12 - 1, 4, 8)],
)
def test_a_step_that_is_delayed_neither_ends_a_training_nor_its_folds(
    base: Path, rows: TrainingRows, settings: dict[str, int], before: int, folds: int, steps: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    fast_training(monkeypatch.setattr, rows=4, **settings)
    clock = Timed(monkeypatch, *[1.0] * before, 40.0, 1.0)
    left, seconds = (0, 90) if folds else (20, 100)
    result = train(
        base, rows, deadline=clock.deadline(seconds), reserved=lambda step: min(left * step, 18.0)
    )
    assert (len(result.folds), result.steps) == (folds, steps)
    assert result.seconds == clock.now <= seconds


def test_folds_that_took_all_the_time_leave_the_adapter_as_it_was(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Timed(monkeypatch, *[1.0] * (3 + 12 - 1), 200.0)
    result = train(base, FOLDED, deadline=clock.deadline(90))
    assert (result.rows, result.steps, result.folds) == (0, 0, ())
    assert content(result.weights) == start_content(base)


def test_some_rows_are_not_trained_on_where_time_does_not_suffice_for_one_fold(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instead of a training on all rows of which nothing is known."""
    clock = Timed(monkeypatch, *[1.0] * 4, 5.0)
    result = train(base, FOLDED, deadline=clock.deadline(40))
    assert (result.rows, result.folds) == (12, [])
    assert clock.now <= 40
    again = train_again(base, result)
    assert content(again.weights) == content(result.weights)


# --- deadlines and interruptions ------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "steps"), [(0.5, 1), (1.9, 1), (7.5, 7), (12.5, 12), (99, 12)])
def test_a_deadline_ends_the_training_and_its_steps_give_the_same_bytes(
    base: Path, seconds: float, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, seen = Timed(monkeypatch, 1.0), list[int]()
    deadline = clock.deadline(seconds)
    timed = train(base, deadline=deadline, progress=lambda title, done, most: seen.append(done))
    assert seen == list(range(1, steps + 1))
    assert timed.steps == steps
    again = train_again(base, timed)
    assert content(again.weights) == content(timed.weights)


def test_the_learning_rate_reaches_zero_when_the_time_is_over(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast_training(monkeypatch.setattr, steps=40, rows=4, constant=0.6)
    clock = Timed(monkeypatch, 1.0, 0.5)  # the first step takes longer
    result = train(base, deadline=clock.deadline(11.5))
    assert (result.taken, result.schedule) == (21, 22)  # time for 21.5
    again = train_again(base, result)
    assert content(again.weights) == content(result.weights)
    assert content(train(base, steps=result.steps, schedule=40).weights) != content(result.weights)


def test_without_time_the_adapter_stays_as_it_was(base: Path) -> None:
    result = train(base, deadline=Deadline(0))
    assert (result.rows, result.steps) == (0, 0)
    assert content(result.weights) == start_content(base)


def test_a_deadline_that_passes_before_the_first_step_leaves_the_adapter(base: Path) -> None:
    looks = chain([0.0, 0.0], repeat(1.0))  # when it is made, and before the model is prepared
    result = train(base, FOLDED, deadline=Deadline(0.5, lambda: next(looks)))
    assert (result.rows, result.steps) == (0, 0)
    assert content(result.weights) == start_content(base)


def test_time_is_left_for_what_follows_a_training(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, shown = Timed(monkeypatch, 10.0), list[tuple[int, int]]()
    result = train(
        base,
        deadline=clock.deadline(93),
        reserved=lambda step_seconds: 1.5 * step_seconds,
        progress=lambda _, *counts: shown.append(counts),
    )
    assert shown[1] == (2, 8)  # of the 73 seconds left, six more steps take 60
    assert result.steps == 8  # of which the last takes 2 of the 15 seconds that are reserved
    assert clock.now == 80


def test_the_likely_number_of_steps_does_not_jump(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast_training(monkeypatch.setattr, steps=99, rows=4)
    clock, shown = Timed(monkeypatch, *[1.0, 3.0, 3.0, 1.0] * 9), list[int]()
    result = train(
        base,
        deadline=clock.deadline(60),
        progress=lambda title, done, most: shown.append(most),
    )
    assert shown[-1] == result.steps
    assert max(abs(most - result.steps) for most in shown[4:]) <= 4


@pytest.mark.parametrize("rows", [ROWS, FOLDED])
@pytest.mark.parametrize(("seconds", "steps"), [(5, 1), (30, 1), (36, 2)])
def test_time_is_left_for_what_follows_however_slow_steps_are(
    base: Path, rows: TrainingRows, seconds: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first one it is known how long they take."""
    clock = Timed(monkeypatch, 10.0)
    result = train(base, rows, deadline=clock.deadline(seconds), reserved=lambda step: 1.5 * step)
    assert (result.steps, result.folds, clock.now) == (steps, (), 10 * steps)


@pytest.mark.parametrize("rows", [ROWS, FOLDED])
def test_numbers_that_overflow_are_an_error(
    base: Path, rows: TrainingRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast_training(monkeypatch.setattr, steps=12, rows=4, lr=1e300)
    with raises_code("training.overflow") as caught:
        train(base, rows)
    assert caught.value.hint == "name another base model"


def test_an_interrupted_training_keeps_its_steps(base: Path) -> None:
    result = train(base, progress=interrupting(8))
    assert (result.interrupted, result.steps) == ("steps", 8)
    assert content(train_again(base, result).weights) == content(result.weights)


def test_more_steps_than_the_training_has_are_refused(base: Path) -> None:
    with pytest.raises(RecipeError, match="expected at most 12"):
        train(base, steps=13)


@pytest.mark.parametrize(("rows", "stop"), [(ROWS, 1), (FOLDED, 3)])
def test_a_training_that_is_interrupted_as_it_begins_has_no_result(
    base: Path, rows: TrainingRows, stop: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(base, rows, progress=interrupting(stop))


@pytest.mark.parametrize(("step", "folds", "rows"), [(3 + 5, 0, 12), (3 + 12 + 5, 1, 16)])
def test_an_interruption_within_folds_trains_on_all_rows_if_one_is_finished_else_on_some(
    base: Path, caplog: pytest.LogCaptureFixture, step: int, folds: int, rows: int
) -> None:
    result = train(base, FOLDED, progress=interrupting(step))
    assert (result.interrupted, len(result.folds), result.rows) == ("folds", folds, rows)
    assert caplog.messages == [
        f"The training was interrupted after {plural(folds, 'fold')}. Training on {rows} rows for "
        f"{result.steps} steps; interrupt again to end this, too"
    ]
    again = train_again(base, result, TrainingRows(FEW[:rows]))
    assert content(again.weights) == content(result.weights)


def test_an_interruption_of_folds_is_told_from_that_of_steps_that_time_left_out(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Timed(monkeypatch, *[1.0] * 20, 10.0)
    result = train(base, FOLDED, deadline=clock.deadline(75), progress=interrupting(20))
    assert result.schedule > result.steps
    assert result.interrupted == "folds"


@pytest.mark.parametrize(("stops", "folds"), [([3 + 4 * 12 + 1], 4), ([3 + 12 + 5, 21], 1)])
def test_an_interrupted_training_on_all_rows_keeps_its_steps(
    base: Path, stops: list[int], folds: int
) -> None:
    result = train(base, FOLDED, progress=interrupting(*stops))
    assert (result.interrupted, result.steps, result.rows) == ("steps", 1, 16)
    assert len(result.folds) == folds
    again = train_again(base, result, TrainingRows(FEW))
    assert content(again.weights) == content(result.weights)


def interrupting(*stops: int) -> Show:
    """Return a progress that interrupts at these steps."""
    steps = count(1)

    def progress(title: str, done: int, most: int) -> None:
        if next(steps) in stops:
            raise KeyboardInterrupt

    return progress


# --- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [4, 9, 16])
def test_each_epoch_has_all_rows_and_each_step_a_share_of_every_output(count: int) -> None:
    rows = [Tokens([i], [i % 2]) for i in range(count)]
    settings = Settings(rows=4)
    order, steps = batches(rows, settings), math.ceil(count / 4)
    for _ in range(2):
        epoch = [next(order) for _ in range(steps)]
        assert sorted(row.prompt for step in epoch for row in step) == [[i] for i in range(count)]
        for step in epoch:
            outputs: Sequence[list[int]] = [row.output for row in step]
            assert abs(outputs.count([0]) - outputs.count([1])) <= 1
