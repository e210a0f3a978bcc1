"""Further training: its number of steps, its result, and interruptions."""

import math
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_lorameta.formats.lora_layout import FACTORS
from tests.training.tiny import exact_norms, tokens, write_base

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hf_lorameta.engines.scoring import Tokens  # noqa: E402 - they import torch
from hf_lorameta.engines.transformers.forward import RowLosses  # noqa: E402
from hf_lorameta.training.device import DevicePlan  # noqa: E402
from hf_lorameta.training.further import few_rows  # noqa: E402
from hf_lorameta.training.further.few_rows import (  # noqa: E402
    Continued,
    FewRows,
    batches,
    continue_training,
    split,
)
from hf_lorameta.training.further.settings import HOLD_OUT_ROWS  # noqa: E402
from hf_lorameta.training.settings import Settings  # noqa: E402
from hf_lorameta.training.target_layers import find_layout  # noqa: E402
from hf_lorameta.training.trainer import Run  # noqa: E402

SETTINGS = Settings(rank=4, steps=12, rows=4, lr=0.02, warmup=2, evaluate_every=3)
UNRELATED_ROWS = tokens(1, 16)
ROWS = [row._replace(output=[5] * len(row.output)) for row in UNRELATED_ROWS]
Factors = list[tuple[Any, Any]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


def train(
    base: Path,
    rows: list[Tokens] = ROWS,
    settings: Settings = SETTINGS,
    start: Factors | None = None,
    progress: Callable[[int, int], None] = lambda done, steps: None,
    outputs: Sequence[list[int]] = (),
) -> Continued:
    """Train an adapter, by default a random small one, in float64."""
    model = transformers.LlamaForCausalLM.from_pretrained(base, dtype=torch.float64)
    model = exact_norms(model.eval().requires_grad_(False))
    layout = find_layout(model, settings.targets)
    rng = np.random.default_rng(0)

    def small(shape: tuple[int, int]) -> Any:
        return 0.05 * rng.standard_normal(shape, np.float32)

    start = start or [(small(m.shape("A", 4)), small(m.shape("B", 4))) for m in layout]
    before = model.config._attn_implementation
    few = FewRows(rows, outputs=outputs)
    result = continue_training(model, layout, start, few, settings, DevicePlan(), progress)
    assert model.config._attn_implementation == before
    assert all(type(model.get_submodule(m.name)) is torch.nn.Linear for m in layout)
    return result


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")
def test_the_losses_are_those_of_rows_that_were_not_trained_on(base: Path) -> None:
    """Checked with PEFT: train one fold as the other is held out, by torch's own optimizer."""
    peft = pytest.importorskip("peft")
    result = train(base)
    assert result.training.steps > 0
    assert result.training.end > max(result.training.start, result.training.base)
    total = 0.0
    for rows, held_out in split(ROWS, SETTINGS.seed):
        assert not {str(row) for row in rows} & {str(row) for row in held_out}
        model = transformers.LlamaForCausalLM.from_pretrained(base, dtype=torch.float64)
        model = exact_norms(model.eval().requires_grad_(False))
        config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=list(SETTINGS.targets))
        layout = find_layout(model, SETTINGS.targets)
        wrapped = peft.get_peft_model(model, config).double()
        rng = np.random.default_rng(0)
        for module in layout:
            layer = wrapped.base_model.model.get_submodule(module.name)
            for factor, scale in zip(FACTORS, (1.0, 0.5), strict=True):
                values = 0.05 * scale * rng.standard_normal(module.shape(factor, 4), np.float32)
                weight = getattr(layer, f"lora_{factor}")["default"].weight
                weight.data = torch.from_numpy(values).double()
        _train_with_peft(wrapped, rows, result.training.steps)
        total += sum(math.exp(-_loss(wrapped, row).item()) for row in held_out)
    assert total / len(ROWS) == pytest.approx(result.training.end, rel=1e-6)


def loss_of(base: Path, trained: Continued, rows: list[Tokens]) -> float:
    """Return the loss of rows with a trained adapter merged into the base model, in float64."""
    model = transformers.LlamaForCausalLM.from_pretrained(base, dtype=torch.float64)
    model = exact_norms(model.eval().requires_grad_(False))
    layout = find_layout(model, SETTINGS.targets)
    for module, (A, B) in zip(layout, trained.factors, strict=True):
        model.get_submodule(module.name).weight += torch.from_numpy(B @ A).double()
    losses = [float(_loss(model, row).item()) * len(row.output) for row in rows]
    return sum(losses) / sum(len(row.output) for row in rows)


def _train_with_peft(model: object, rows: list[Tokens], steps: int) -> None:
    parameters = [p for p in model.parameters() if p.requires_grad]  # type: ignore[attr-defined]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.0)
    order = batches(rows, SETTINGS)
    for step in range(steps):
        batch = next(order)
        count = sum(len(row.output) for row in batch)
        loss = sum(_loss(model, row) * len(row.output) for row in batch) / count
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, SETTINGS.clip)
        for group in optimizer.param_groups:
            group["lr"] = SETTINGS.learning_rate(step)
        optimizer.step()


def _loss(model: object, row: Tokens) -> Any:
    ids = torch.tensor([[*row.prompt, *row.output]])
    logits = model(input_ids=ids).logits[0, len(row.prompt) - 1 : -1]  # type: ignore[operator]
    return torch.nn.functional.cross_entropy(logits, ids[0, len(row.prompt) :])


def test_with_few_rows_all_are_trained_on_in_the_end(base: Path) -> None:
    seen: list[tuple[int, int]] = []
    result = train(base, progress=lambda done, steps: seen.append((done, steps)))
    assert result.training.held_out == len(ROWS)
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1))
    assert seen[0][1] == 2 * SETTINGS.steps
    assert seen[-1] == (len(seen), len(seen))
    assert seen[-1 - result.training.steps][1] == 2 * SETTINGS.steps  # before the final training


def test_with_many_rows_a_quarter_is_held_out(base: Path) -> None:
    rows = [row._replace(output=[5]) for row in tokens(2, HOLD_OUT_ROWS)]
    result = train(base, rows)
    assert result.training.held_out == HOLD_OUT_ROWS // 4
    assert result.training.rows == HOLD_OUT_ROWS - HOLD_OUT_ROWS // 4
    assert result.training.on_other_rows
    assert result.training.end > result.training.start


def test_the_same_seed_gives_the_same_bytes(base: Path) -> None:
    first, second = train(base), train(base)
    other = train(base, settings=Settings(**SETTINGS.to_dict() | {"seed": 1}))
    assert [b"".join(map(bytes, pair)) for pair in first.factors] == [
        b"".join(map(bytes, pair)) for pair in second.factors
    ]
    assert first.training.end != other.training.end


def test_a_training_that_does_not_help_keeps_the_adapter(base: Path) -> None:
    """A learning rate so high that every step makes a trained adapter worse."""
    trained = train(base)
    settings = Settings(**SETTINGS.to_dict() | {"lr": 50.0, "warmup": 0})
    result = train(base, settings=settings, start=trained.factors)
    assert (result.training.steps, result.training.end) == (0, result.training.start)
    for before, after in zip(trained.factors, result.factors, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(before, after, strict=True))


def test_a_gain_within_its_standard_error_leaves_the_adapter_as_it_was(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = train(base, settings=Settings(**SETTINGS.to_dict() | {"lr": 1e-30}))
    monkeypatch.setattr(few_rows, "is_significant", lambda gains: False)
    result = train(base)
    assert (result.training.steps, result.training.end) == (0, result.training.start)
    for before, after in zip(start.factors, result.factors, strict=True):
        np.testing.assert_array_equal(before[1], after[1])


def test_probabilities_decide_where_the_loss_would_stop() -> None:
    """As training goes on, nine rows are answered with certainty, and one wrongly so."""
    run = Run("rows", iter([]), [[]], steps=2, by_probability=True)
    for step, right, wrong in [(0, 0.5, 0.5), (1, 0.7, 0.3), (2, 0.99, 0.0001)]:
        run.step = step
        losses = [-math.log(p) for p in (*[right] * 9, wrong)]
        run.record(RowLosses(losses, [1] * 10), torch.full((1,), step))
    assert (run.best_step, run.best.item()) == (2, 2)
    assert run.lowest.per_token > run.start.per_token
    assert run.loss == pytest.approx(1 - (9 * 0.99 + 0.0001) / 10)


def test_a_row_of_each_step_has_the_output_of_another_row() -> None:
    rows, outputs = [Tokens([i], [0]) for i in range(8)], [[1], [2], [3]]
    order, plain = batches(rows, SETTINGS, outputs), batches(rows, SETTINGS)
    for step in range(6):
        batch, without = next(order), next(plain)
        assert [row.prompt for row in batch] == [row.prompt for row in without]
        assert sorted(row.output for row in batch) == [[0], [0], [0], outputs[step % 3]]


def test_outputs_of_other_rows_keep_labels_possible_that_no_row_has(base: Path) -> None:
    """All rows have the output 5; that of the others, 7, is not forgotten."""
    unseen = [row._replace(output=[7] * len(row.output)) for row in UNRELATED_ROWS]
    plain, mixed = train(base), train(base, outputs=[[7], [7, 7]])
    assert plain.training.steps
    assert mixed.training.steps
    assert loss_of(base, mixed, unseen) < loss_of(base, plain, unseen)


def test_rows_with_the_same_output_are_in_both_folds() -> None:
    rows = [Tokens([i], [output]) for i, output in enumerate([3, 1, 2, 1, 3, 2, 4, 4])]
    for train_on, held_out in split(rows, seed=0):
        assert sorted(row.output for row in train_on) == [[1], [2], [3], [4]]
        assert sorted(row.output for row in held_out) == [[1], [2], [3], [4]]


def interrupting(stop: int) -> Callable[[int, int], None]:
    """Return a progress that interrupts at this call."""
    calls = count(1)

    def progress(done: int, steps: int) -> None:
        if next(calls) == stop:
            raise KeyboardInterrupt

    return progress


def test_a_training_that_is_interrupted_before_a_step_helped_has_no_result(base: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(base, progress=interrupting(1))


@pytest.mark.parametrize("stop", [8, 14, 20])
def test_an_interrupted_training_keeps_the_best_so_far(base: Path, stop: int) -> None:
    result = train(base, progress=interrupting(stop))
    assert result.training.interrupted
    assert result.training.steps
    assert result.training.end > result.training.start
    assert result.training.rows == len(ROWS) // 2  # of the first half, whose state is kept
    assert result.training.used_rows == len(ROWS)
