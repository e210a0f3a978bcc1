"""A model in bfloat16 that computes in float32 agrees with its own weights in float32."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_lorameta.engines.scoring import LoraWeights
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from tests.engines.test_adapter_in_memory import LAYOUT
from tests.engines.test_torch_evaluator import ROWS, save_base
from tests.support.random_adapter import random_pairs

torch = pytest.importorskip("torch")
float32_products = pytest.importorskip("hf_lorameta.engines.transformers.float32_products")


@pytest.fixture(autouse=True)
def slow_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that is slow with bfloat16, and blocks of a few rows."""
    monkeypatch.setattr(float32_products, "bfloat16_is_faster", lambda: False)
    monkeypatch.setattr(float32_products, "_BLOCK_VALUES", 100)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture
def pair(base: Path) -> tuple[TorchEvaluator, TorchEvaluator]:
    """The base model in bfloat16, suited to the CPU, and the same values in float32."""
    suited, plain = (
        TorchEvaluator.from_folder(base, "bfloat16"),
        TorchEvaluator.from_folder(base, "bfloat16"),
    )
    suited.prefer_float32()
    plain.model.float()
    assert suited.model.get_input_embeddings().weight.dtype == torch.bfloat16
    return suited, plain


Pair = tuple[TorchEvaluator, TorchEvaluator]


def test_losses_and_answers_agree(pair: Pair) -> None:
    results: list[Any] = []
    for evaluator in pair:
        losses = evaluator.row_losses(evaluator.encode(ROWS))
        results.append((losses.sums, evaluator.evaluate(ROWS)[1]))
    (sums, answers), expected = results
    np.testing.assert_allclose(sums, expected[0], atol=1e-4)
    assert answers == expected[1]


def test_training_agrees(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    from hf_lorameta.training import trainer
    from hf_lorameta.training.further import train_further
    from hf_lorameta.training.trained import TrainingRows

    monkeypatch.setattr(trainer, "UNTRAINED", 0.0)
    start, factors = LoraWeights(LAYOUT, random_pairs(LAYOUT, rank=2, scale=0.1)), []
    for evaluator in pair:
        encoded = evaluator.encode(ROWS * 2)
        rows = TrainingRows([row._replace(output=[5] * len(row.output)) for row in encoded])
        trained = train_further(evaluator.model, start, rows, 2, 0, steps=6)
        assert trained.steps == 6
        factors.append(np.concatenate([x.ravel() for pair in trained.weights.pairs for x in pair]))
    np.testing.assert_allclose(factors[0], factors[1], atol=1e-4)


def test_a_loaded_model_is_the_same_afterwards(base: Path) -> None:
    plain = TorchEvaluator.from_folder(base, "bfloat16")
    model, ids = plain.model, torch.tensor([[3, 4, 5, 6]])
    before, dtypes = model(ids).logits, [p.dtype for p in model.parameters()]
    with TorchEvaluator.of_model(model, plain.tokenizer):
        assert model(ids).logits.dtype == torch.float32
    assert [p.dtype for p in model.parameters()] == dtypes
    assert torch.equal(model(ids).logits, before)


def test_a_model_can_be_used_within_another_use_of_it(base: Path) -> None:
    plain = TorchEvaluator.from_folder(base, "bfloat16")
    with TorchEvaluator.of_model(plain.model, plain.tokenizer) as outer:
        expected, _ = outer.evaluate(ROWS)
        with TorchEvaluator.of_model(plain.model, plain.tokenizer) as inner:
            assert inner.evaluate(ROWS)[0] == expected
        assert outer.evaluate(ROWS)[0] == expected
    assert {p.dtype for p in plain.model.parameters()} == {torch.bfloat16}


def test_a_model_in_float32_stays_as_it_is(base: Path) -> None:
    model = TorchEvaluator.from_folder(base, "float32").model
    float32_products.prefer_float32(model)
    assert model.dtype == torch.float32
    assert "forward" not in vars(model.get_output_embeddings())


@pytest.mark.parametrize(("free", "expected"), [(8.1, torch.float32), (7.9, torch.bfloat16)])
def test_a_model_with_other_weights_is_converted_if_there_is_memory(
    base: Path, monkeypatch: pytest.MonkeyPatch, free: float, expected: Any
) -> None:
    model = TorchEvaluator.from_folder(base, "bfloat16").model
    model.register_parameter("experts", torch.nn.Parameter(torch.zeros(2, 2).bfloat16()))
    size = model.num_parameters()
    monkeypatch.setattr(float32_products, "available_memory", lambda: free * size)
    undo = float32_products.prefer_float32(model)
    assert {p.dtype for p in model.parameters()} == {expected}
    undo()
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
