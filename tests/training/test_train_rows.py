"""Training further: its result, deadlines, interruptions, and the same adapter again."""

import math
from collections.abc import Callable, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_lorameta.deadline import Deadline
from hf_lorameta.errors import RecipeError
from hf_lorameta.formats.lora_layout import FACTORS
from tests.support.fast_training import fast_training
from tests.training.tiny import exact_norms, tokens, write_base

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hf_lorameta.engines.row_tokens import Tokens  # noqa: E402 - they import torch
from hf_lorameta.engines.transformers.forward import PassRunner  # noqa: E402
from hf_lorameta.training.further import train_rows  # noqa: E402
from hf_lorameta.training.further.settings import UNTRAINED  # noqa: E402
from hf_lorameta.training.further.train_rows import (  # noqa: E402
    Trained,
    batches,
    divide,
    train_further,
)
from hf_lorameta.training.settings import Settings  # noqa: E402
from hf_lorameta.training.target_layers import with_all_projections  # noqa: E402

ROWS = [row._replace(output=[5] * len(row.output)) for row in tokens(1, 16)]
DIVIDED = divide(ROWS, seed=0)
LAYERS = 5
pytestmark = pytest.mark.usefixtures("one_thread")
Show = Callable[[str, int, int], None]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of whose layers a training trains four."""
    return write_base(tmp_path_factory.mktemp("base"), num_hidden_layers=LAYERS)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    fast_training(monkeypatch.setattr, steps=12, rows=4, evaluate_every=3)


def load(base: Path) -> Any:
    model = transformers.LlamaForCausalLM.from_pretrained(base, dtype=torch.float64)
    return exact_norms(model.eval().requires_grad_(False))


def start_of(model: Any) -> tuple[Any, list[Any]]:
    """Return a small random adapter of all projections."""
    layout, rng = with_all_projections(model, ()), np.random.default_rng(0)

    def small(shape: tuple[int, int]) -> Any:
        return 0.05 * rng.standard_normal(shape, np.float32)

    return layout, [(small(m.shape("A", 4)), small(m.shape("B", 4))) for m in layout]


def train(base: Path, **options: Any) -> Trained:
    """Train a small random adapter, in float64."""
    model = load(base)
    before, layers = model.config._attn_implementation, list(model.model.layers)
    result = train_further(model, *start_of(model), DIVIDED, 4, 0, **options)
    assert model.config._attn_implementation == before
    assert list(model.model.layers) == layers
    assert not [m for m in model.modules() if type(m).__module__.startswith("hf_lorameta")]
    return result


def content(result: Trained) -> list[bytes]:
    return [x.tobytes() for pair in result.factors for x in pair]


def score(scores: Any) -> float:
    return float(scores.by_row.mean())


# --- results --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")
def test_the_scores_are_those_of_rows_that_were_not_trained_on(base: Path) -> None:
    """Checked with PEFT, and trained by torch's own optimizer."""
    peft = pytest.importorskip("peft")
    result = train(base, untrained=0.0)
    assert result.steps
    assert result.start
    assert result.end
    assert not {str(row) for row in DIVIDED.train} & {str(row) for row in DIVIDED.held_out}
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
    before, after = result.start.adapter.probabilities, result.end.adapter.probabilities
    np.testing.assert_allclose(_probabilities(wrapped), before, rtol=1e-6)
    _train_with_peft(wrapped, result.steps)
    np.testing.assert_allclose(_probabilities(wrapped), after, rtol=1e-6)
    with wrapped.disable_adapter():
        base_alone = _probabilities(wrapped)
    np.testing.assert_allclose(base_alone, result.start.base.probabilities, rtol=1e-6)


def _probabilities(model: Any) -> list[float]:
    return [math.exp(-_loss(model, row).item()) for row in DIVIDED.held_out]


def _train_with_peft(model: Any, steps: int) -> None:
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.0)
    settings: Settings = vars(train_rows)["settings_for"](len(DIVIDED.train), 32, 4, 0)
    order = batches(DIVIDED.train, settings)
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


@pytest.mark.parametrize(("untrained", "untouched"), [(0.8, 4), (UNTRAINED, 1), (0.0, 0)])
def test_only_a_part_of_the_layers_is_changed(base: Path, untrained: float, untouched: int) -> None:
    result = train(base, untrained=untrained)
    layout, factors = start_of(load(base))
    assert result.layout == layout
    for module, before, after in zip(layout, factors, result.factors, strict=True):
        below = int(module.name.split(".")[2]) < untouched
        assert below == all(map(np.array_equal, before, after))
    assert result.layers == (LAYERS - untouched if untouched else 0)
    assert score(result.end) > score(result.start)


def test_the_best_state_is_kept_not_the_last(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast_training(monkeypatch.setattr, steps=12, rows=4, evaluate_every=3, lr=0.3)
    monkeypatch.setattr(train_rows, "is_significant", lambda gains: True)
    result = train(base)
    assert result.steps < 12
    assert score(result.end) > score(train(base, steps=12).end)


def test_a_gain_within_its_standard_error_leaves_the_adapter_as_it_was(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_rows, "is_significant", lambda gains: False)
    result = train(base)
    _, factors = start_of(load(base))
    assert result.steps == 0
    assert result.end == result.start
    assert content(result) == [x.tobytes() for pair in factors for x in pair]


# --- deadlines and interruptions ------------------------------------------------------------------


class Clock:
    """A clock that stands still until time is over.

    Args:
        looks: how often somebody looks at it until then.
    """

    def __init__(self, looks: float = math.inf) -> None:
        self.looks = looks

    def __call__(self) -> float:
        self.looks -= 1
        return 0.0 if self.looks >= 0 else 1000.0


def until(clock: Clock) -> Deadline:
    return Deadline(100, clock)


PHASES: dict[str, tuple[float, int | None]] = {
    "scoring before the first step": (4, None),
    "the training": (math.inf, 7),
    "the last step": (math.inf, 12),
    "never": (math.inf, None),
}
"""When time is over: looks at the clock, or a step."""


@pytest.mark.parametrize("phase", PHASES)
def test_a_deadline_gives_the_best_so_far_and_its_steps_the_same_bytes(
    base: Path, phase: str
) -> None:
    looks, last = PHASES[phase]
    clock, seen = Clock(looks), list[int]()

    def show(title: str, done: int, most: int) -> None:
        assert most == 12
        seen.append(done)
        if done == last:
            clock.looks = 0

    timed = train(base, deadline=until(clock), progress=show)
    if last:
        assert seen[-1] == last
    assert bool(timed.start) == bool(seen)
    assert not seen or score(timed.end) > score(timed.start)
    assert bool(timed.steps) == bool(seen)
    again = train(base, steps=timed.steps)
    assert again.steps == timed.steps
    assert content(again) == content(timed)


def test_without_time_the_adapter_stays_as_it_was(base: Path) -> None:
    result = train(base, deadline=Deadline(0))
    _, factors = start_of(load(base))
    assert (result.steps, result.start) == (0, None)
    assert content(result) == [x.tobytes() for pair in factors for x in pair]


def test_the_deadline_is_kept_where_steps_and_scores_take_long(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def taking(seconds: float, method: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            nonlocal now
            now += seconds
            return method(*args, **options)

        return run

    for name, seconds in (("backward", 10.0), ("losses", 7.0)):
        monkeypatch.setattr(PassRunner, name, taking(seconds, getattr(PassRunner, name)))
    shown = list[tuple[int, int]]()
    result = train(
        base, deadline=Deadline(93, lambda: now), progress=lambda _, *counts: shown.append(counts)
    )
    assert shown[0] == (1, 7)  # of the 69 seconds left, six more steps and a score take 67
    assert now == 2 * 7 + 5 * 10 + 3 * 7  # another step and its score would take too long
    assert result.steps == 5


def test_fewer_held_out_rows_decide_where_scoring_them_takes_long(base: Path) -> None:
    rows, model = divide([row._replace(output=[5]) for row in tokens(2, 64)], seed=0), load(base)
    seconds = chain([0.0] * 3, repeat(30.0))  # the first 8 rows take 30 s
    deadline = Deadline(100, lambda: next(seconds))
    result = train_further(model, *start_of(model), rows, 4, 0, deadline=deadline)
    assert len(rows.held_out) == 16
    assert result.end
    assert len(result.end.rows) == 8


def test_an_interrupted_training_keeps_the_best_so_far(base: Path) -> None:
    result = train(base, progress=interrupting(8))
    assert result.interrupted
    assert result.steps
    assert score(result.end) > score(result.start)
    assert content(train(base, steps=result.steps)) == content(result)


def test_more_steps_than_the_training_has_are_refused(base: Path) -> None:
    with pytest.raises(RecipeError, match="expected at most 12"):
        train(base, steps=13)


def test_a_training_that_is_interrupted_before_a_step_helped_has_no_result(base: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(base, progress=interrupting(1))


def interrupting(stop: int) -> Show:
    """Return a progress that interrupts at this step."""
    steps = iter(range(1, stop + 1))

    def progress(title: str, done: int, most: int) -> None:
        if next(steps) == stop:
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
