"""The fit of the last layer on a tiny random model, whose adapter PEFT runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_lorameta.errors import EmptyDatasetError, UsageError
from hf_lorameta.formats.lora_layout import Layout, Module
from hf_lorameta.types import FactorPair, Row
from tests.support.random_adapter import random_pairs, write_adapter
from tests.training.test_lora_slots import model_of
from tests.training.tiny import VOCABULARY, rows, write_base

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from hf_lorameta.engines.transformers.evaluator import TorchEvaluator  # noqa: E402 - it imports torch
from hf_lorameta.training.further import readout  # noqa: E402
from hf_lorameta.training.further.readout import ReadoutSettings, fit_readout  # noqa: E402
from hf_lorameta.training.further.readout_states import (  # noqa: E402
    States,
    collect_states,
    last_projection,
)

pytestmark = pytest.mark.usefixtures("one_thread")
RANK = 4
SETTINGS = ReadoutSettings(rank=RANK, lr=0.02, steps=120, candidates=4)
DOWN = Module("model.layers.1.mlp.down_proj", 48, 32)
LAYOUT = (Module("model.layers.0.self_attn.q_proj", 32, 32), DOWN)
ROWS = [(row["input"], row["output"]) for topic in (0, 1) for row in rows(topic)]


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory) -> TorchEvaluator:
    return TorchEvaluator(write_base(tmp_path_factory.mktemp("base") / "base"), "float32")


def adapter(free: int = 2) -> tuple[Layout, list[FactorPair]]:
    """Return a random adapter whose last down-projection has some ranks free."""
    pairs = random_pairs(LAYOUT, RANK, scale=0.2)
    pairs[1][1][:, RANK - free :] = 0
    return LAYOUT, pairs


def states_of(evaluator: TorchEvaluator, folder: Path, **options: Any) -> States:
    tokens = evaluator.encode(ROWS)
    return collect_states(evaluator.model, *adapter(), tokens, folder, **options)


def loss_in_peft(
    evaluator: TorchEvaluator, pairs: Sequence[FactorPair], scored: Sequence[Row], folder: Path
) -> float:
    """Loss of rows with an adapter on disk."""
    write_adapter(folder, LAYOUT, pairs)
    return evaluator.evaluate(scored, folder, generate=False)[0].loss


def held_out_of(states: States) -> list[Row]:
    held_out = readout._held_out(states.sizes, SETTINGS)
    return [row for row, held in zip(ROWS, held_out, strict=True) if held]


def test_the_adapter_has_in_peft_the_losses_that_the_fit_reports(
    evaluator: TorchEvaluator, tmp_path: Path
) -> None:
    _, pairs = adapter()
    before = {name: value.clone() for name, value in evaluator.model.named_parameters()}
    states = states_of(evaluator, tmp_path)
    fitted = fit_readout(evaluator.model, states, SETTINGS, pairs[1])
    assert (fitted.rows, fitted.held_out) == (96, 24)
    assert fitted.factors[0].shape == (RANK, 48)
    assert fitted.factors[1].shape == (32, RANK)
    found = loss_in_peft(evaluator, pairs, held_out_of(states), tmp_path / "before")
    assert fitted.start == pytest.approx(found, rel=1e-4)
    found = loss_in_peft(evaluator, [pairs[0], fitted.factors], ROWS, tmp_path / "after")
    assert found < 0.8 * fitted.start
    assert fitted.end < 0.8 * fitted.start
    assert fitted.steps > 0
    for name, value in evaluator.model.named_parameters():
        assert torch.equal(value, before[name])
    assert not any(module._forward_pre_hooks for module in evaluator.model.modules())


def test_a_layer_without_an_update_is_fitted_from_zero(
    evaluator: TorchEvaluator, tmp_path: Path
) -> None:
    states = collect_states(evaluator.model, (), (), evaluator.encode(ROWS), tmp_path)
    fitted = fit_readout(evaluator.model, states, SETTINGS)
    base = evaluator.evaluate(held_out_of(states), generate=False)[0].loss
    assert fitted.start == pytest.approx(base, rel=1e-4)
    assert np.linalg.matrix_rank(fitted.factors[1] @ fitted.factors[0]) == RANK


def test_the_start_is_kept_where_the_outputs_are_what_the_model_expects(
    evaluator: TorchEvaluator, tmp_path: Path
) -> None:
    _, pairs = adapter()
    states = states_of(evaluator, tmp_path)
    expected = readout._Head(evaluator.model).logits(states.sums).softmax(1)
    drawn = torch.multinomial(expected, 1, generator=torch.Generator())[:, 0]
    unlearnable = States(states.inputs, states.sums, drawn, states.sizes)
    fitted = fit_readout(evaluator.model, unlearnable, SETTINGS, pairs[1])
    assert (fitted.steps, fitted.end) == (0, fitted.start)
    A, B = fitted.factors
    np.testing.assert_array_equal(B @ A, pairs[1][1] @ pairs[1][0])


def test_a_fit_that_costs_right_answers_is_not_kept(
    evaluator: TorchEvaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, pairs = adapter()
    states, by_row = states_of(evaluator, tmp_path), readout._by_row
    fitted = fit_readout(evaluator.model, states, SETTINGS, pairs[1])
    write_adapter(tmp_path / "adapter", LAYOUT, [pairs[0], fitted.factors])
    answers = evaluator.evaluate(ROWS, tmp_path / "adapter")[1]
    states = collect_states(
        evaluator.model, LAYOUT, [pairs[0], fitted.factors], evaluator.encode(ROWS)
    )
    right = by_row(readout._Head(evaluator.model), states, None)[1]
    assert right.tolist() == [a.strip() == o for a, (_, o) in zip(answers, ROWS, strict=True)]
    assert 0 < right.sum() < len(right)

    def fewer(head: Any, states: States, update: Any) -> tuple[Any, Any]:
        losses, right = by_row(head, states, update)
        return losses, np.full(len(right), update is None)

    monkeypatch.setattr(readout, "_by_row", fewer)
    assert fit_readout(evaluator.model, states, SETTINGS, pairs[1]).steps == 0


def test_states_in_files_give_the_same_fit(evaluator: TorchEvaluator, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    in_memory = states_of(evaluator, tmp_path, progress=lambda *step: seen.append(step))
    assert not list(tmp_path.iterdir())
    assert seen[-1] == (len(ROWS), len(ROWS))
    in_files = states_of(evaluator, tmp_path, in_memory=0)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 4 * (32 + 48) * len(
        in_files.targets
    )
    one, other = (
        fit_readout(evaluator.model, states, SETTINGS, adapter()[1][1])
        for states in (in_memory, in_files)
    )
    assert one.end == other.end
    for ours, theirs in zip(one.factors, other.factors, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("count", [0, 4, 100])
def test_candidates_give_the_loss_over_the_whole_vocabulary(
    evaluator: TorchEvaluator, tmp_path: Path, count: int
) -> None:
    states, head = states_of(evaluator, tmp_path), readout._Head(evaluator.model)
    candidates = readout._Candidates(head, states, count)
    outputs = set(states.targets.tolist())
    assert outputs <= set(candidates.tokens.tolist())
    assert len(candidates.tokens) == min(len(outputs) + count, len(VOCABULARY))
    every = torch.arange(len(states.targets))
    generator = torch.Generator().manual_seed(0)
    for change, tolerance in ((0.0, 1e-5), (0.1, 2e-3)):
        moved = states.sums + change * torch.randn(states.sums.shape, generator=generator)
        found = candidates.loss(head.norm(moved), every)
        whole = torch.nn.functional.cross_entropy(head.logits(moved), states.targets)
        assert float(found) == pytest.approx(float(whole), rel=tolerance)


def test_a_token_that_an_update_prefers_becomes_a_candidate(tmp_path: Path) -> None:
    """The expansion, made where the token is unlikely, misses what it adds to the loss."""
    evaluator = TorchEvaluator(write_base(tmp_path / "base", vocab_size=256), "float32")
    model, count = evaluator.model, 16
    states = collect_states(model, (), (), evaluator.encode(ROWS), tmp_path)
    head, every = readout._Head(model), torch.arange(len(states.targets))
    alone = readout._Candidates(head, states, count)
    rising = next(token for token in range(255, 0, -1) if token not in alone.tokens)
    mean = states.inputs.mean(0)
    update = (mean / mean.square().sum())[None], 30 * head.vectors(torch.tensor([rising])).T
    sums = readout._updated(states, every, update)
    whole = float(torch.nn.functional.cross_entropy(head.logits(sums), states.targets))
    assert float(alone.loss(head.norm(sums), every)) < whole - 1
    more = readout._Candidates(head, states, count, [update])
    assert rising in more.tokens
    assert len(more.tokens) == len(alone.tokens) + count
    assert float(more.loss(head.norm(sums), every)) == pytest.approx(whole, abs=0.05)


def test_what_cannot_be_fitted_is_refused(evaluator: TorchEvaluator, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="last layer of 'gemma2' cannot be fitted"):
        last_projection(model_of("Gemma2"))
    assert last_projection(evaluator.model) == DOWN
    with pytest.raises(EmptyDatasetError, match="no row"):
        collect_states(evaluator.model, (), (), [], tmp_path)
    few = collect_states(evaluator.model, (), (), evaluator.encode(ROWS[:7]), tmp_path)
    with pytest.raises(EmptyDatasetError, match="7 rows to fit on, expected at least 8"):
        fit_readout(evaluator.model, few, SETTINGS)
    with pytest.raises(UsageError, match="uses all 4 ranks of the last layer"):
        fit_readout(evaluator.model, states_of(evaluator, tmp_path), SETTINGS, adapter(0)[1][1])
