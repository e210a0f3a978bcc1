"""Passes that begin at a layer give the losses and gradients of passes through all layers."""

from typing import Any

import pytest

from hf_lorameta.engines.row_tokens import Tokens
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.types import FactorPair
from tests.support.random_adapter import random_pairs
from tests.training.test_trainable_adapter import (
    MODELS,
    TOLERANCES,
    backward,
    model_of,
    targets_of,
)
from tests.training.tiny import tokens

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hf_lorameta.engines.transformers.forward import PassRunner  # noqa: E402 - they import torch
from hf_lorameta.engines.transformers.row_mode import TESTED, rows_apart  # noqa: E402
from hf_lorameta.training.target_layers import find_layout  # noqa: E402
from hf_lorameta.training.trainable_adapter import TrainableAdapter  # noqa: E402
from hf_lorameta.training.upper_layers import (  # noqa: E402
    UpperLayers,
    divide_layout,
    first_trained_layer,
)

RANK = 3
ROWS = {"shared": tokens(1, 6), "apart": tokens(2, 6, shared=False), "one": tokens(0, 1)}
pytestmark = pytest.mark.usefixtures("one_thread")


def losses_and_gradients(
    model: Any, layout: Layout, pairs: list[FactorPair], rows: list[Tokens], first: int = 0
) -> tuple[float, float, list[Any]]:
    """Return the losses with and without an adapter, and the gradients of its upper factors."""
    given = dict(zip(layout, pairs, strict=True))
    lower, trained = divide_layout(model, layout, first)
    adapter = TrainableAdapter(model, trained, RANK, 1.0)
    adapter.start(adapter.vector([given[module] for module in trained]))
    runner = PassRunner(model, 2, 30)
    below = UpperLayers(model, first, lower, [given[module] for module in lower], runner)
    with rows_apart(model), adapter.attached(), below as upper:
        upper.store(rows[:2])
        upper.store(rows)
        loss = backward(model, {0: rows}, budget=30)
        base = PassRunner(model, 1, 30).losses({0: rows}, adapters=False)[0].per_token
    return loss, base, adapter.modules(adapter.gradients)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", [name for name in MODELS if name != "gemma4_text"])
def test_losses_and_gradients_are_those_of_all_layers(name: str, rows: str) -> None:
    model = model_of(name)
    layout = find_layout(model, targets_of(name))
    pairs = random_pairs(layout, RANK, scale=0.2)
    first = first_trained_layer(model, 0.5)
    assert first == 2
    lower, upper = divide_layout(model, layout, first)
    assert len(upper) >= len(lower)
    loss, base, gradients = losses_and_gradients(model, layout, pairs, ROWS[rows])
    found = losses_and_gradients(model, layout, pairs, ROWS[rows], first)
    tolerance = TOLERANCES.get(name, 1e-9)
    assert found[0] == pytest.approx(loss, rel=tolerance)
    assert found[1] == pytest.approx(base, rel=tolerance)
    for expected, given in zip(gradients[-len(upper) :], found[2], strict=True):
        for factor, other in zip(expected, given, strict=True):
            torch.testing.assert_close(other, factor, rtol=1e-6, atol=tolerance)
    assert losses_and_gradients(model, layout, pairs, ROWS[rows])[:2] == (loss, base)


def test_classes_that_are_not_tried_again_are_tried_here() -> None:
    assert {type(model_of(name)).__name__ for name in MODELS if name != "gemma4_text"} >= TESTED


def test_models_whose_layers_share_more_than_states_are_trained_whole() -> None:
    assert first_trained_layer(model_of("gemma4_text"), 0.5) == 0
