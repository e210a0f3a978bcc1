"""A model computes in float32 or int8 what its own weights give in float32."""

import itertools
import math
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
products = pytest.importorskip("hf_lorameta.engines.transformers.products")
suited_layers = pytest.importorskip("hf_lorameta.engines.transformers.suited_layers")
rounds = pytest.mark.skipif(not products.int8_levels(), reason="int8 is not exact on this CPU")


def prefer(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Let a CPU be fastest in this, and slow with bfloat16; blocks have a few rows."""
    seconds = {**dict.fromkeys(products.Arithmetic, 1.0), products.Arithmetic(kind): 0.0}
    if kind != "int8":
        seconds[products.Arithmetic.INT8] = math.inf
    monkeypatch.setattr(products, "_measured", lambda: seconds)
    monkeypatch.setattr(products, "_BLOCK_VALUES", 100)


@pytest.fixture(autouse=True)
def slow_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    prefer(monkeypatch, "float32")


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
    suited.suit()
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
    suited_layers.suit(model)
    assert model.dtype == torch.float32
    assert "forward" not in vars(model.get_output_embeddings())


@pytest.mark.parametrize(("free", "expected"), [(8.1, torch.float32), (7.9, torch.bfloat16)])
def test_a_model_with_other_weights_is_converted_if_there_is_memory(
    base: Path, monkeypatch: pytest.MonkeyPatch, free: float, expected: Any
) -> None:
    model = TorchEvaluator.from_folder(base, "bfloat16").model
    model.register_parameter("experts", torch.nn.Parameter(torch.zeros(2, 2).bfloat16()))
    size = model.num_parameters()
    monkeypatch.setattr(suited_layers, "available_memory", lambda: free * size)
    undo = suited_layers.suit(model)
    assert {p.dtype for p in model.parameters()} == {expected}
    undo()
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


# --- int8 -----------------------------------------------------------------------------------------


@rounds
@pytest.mark.parametrize("rows", [0, 1, 3, 40])
def test_products_of_whole_numbers_are_exact(rows: int) -> None:
    """With a scale of 1, int8 has the products of int64."""
    levels, generator = products.int8_levels(), torch.Generator().manual_seed(0)
    weight = torch.randint(-levels, levels + 1, (50, 70), generator=generator)
    x, g = (torch.randint(-127, 128, (rows, n), generator=generator) for n in (70, 50))
    weight[:, 0], x[:, 0], g[:, 0] = levels, 127, -127
    rounded = products.quantized(weight.bfloat16())
    assert torch.equal(rounded.values, weight.to(torch.int8))
    assert torch.equal(products.linear(x.float(), rounded), (x @ weight.T).float())
    for rounds in (True, False):
        found = products.input_gradient(g.float(), rounded, rounds)
        assert torch.equal(found, (g @ weight).float())


@rounds
def test_rounding_is_relative_to_each_row() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, x, g = (torch.randn(n, generator=generator) for n in ((50, 70), (9, 70), (9, 50)))
    weight *= torch.logspace(-3, 3, 50)[:, None]
    x, g = (v * torch.logspace(-6, 3, 9)[:, None] for v in (x, g))
    weight[7], x[3] = 0.0, 0.0
    rounded = products.quantized(weight)
    for found, expected in (
        (products.linear(x, rounded), x @ weight.T),
        (products.input_gradient(g, rounded), g @ weight),
    ):
        error = suited_layers.relative_error(found, expected)
        assert 0.0 < error < 2.5 / products.int8_levels()


@rounds
def test_a_gradient_that_is_not_rounded_keeps_its_many_small_values() -> None:
    g, weight = torch.full((1, 5000), 1e-4), torch.ones(5000, 4)
    g[0, 7] = -0.9999
    found = products.input_gradient(g, products.quantized(weight), rounds=False)
    torch.testing.assert_close(found, g @ weight, atol=1e-3, rtol=0.0)


@rounds
def test_scales_of_inputs_keep_what_is_smaller_than_an_outlier() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(n, generator=generator) for n in ((50, 70), (9, 70)))
    weight[:, 5], x[:, 6], weight[:, 7] = 1e-2 * weight[:, 5], 0.0, 0.0
    x[:, 5] *= 100
    found = [
        suited_layers.relative_error(products.linear(x, rounded), x @ weight.T)
        for rounded in (products.quantized(weight, x), products.quantized(weight))
    ]
    assert found[0] < found[1] / 2


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_what_is_not_finite_has_an_infinite_error(value: float) -> None:
    x = torch.tensor([[1.0, value]])
    assert suited_layers.relative_error(x, torch.ones(1, 2)) == math.inf


@rounds
def test_a_rounded_model_has_one_copy_of_its_weights_and_about_the_same_losses(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefer(monkeypatch, "int8")
    rounded, plain = TorchEvaluator.from_folder(base), TorchEvaluator.from_folder(base, "float32")
    assert (rounded.arithmetic, plain.arithmetic) == ("int8", "float32")
    linears = [m for m in rounded.model.modules() if isinstance(m, torch.nn.Linear)]
    assert {module.weight.dtype for module in linears} == {torch.int8}
    found, expected = (one.row_losses(one.encode(ROWS)) for one in (rounded, plain))
    np.testing.assert_allclose(found.sums, expected.sums, rtol=0.05)
    assert found.sums != expected.sums
    twin = rounded.twin()
    assert twin.row_losses(twin.encode(ROWS)).sums == found.sums


@rounds
def test_a_layer_whose_output_changes_keeps_its_weight(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefer(monkeypatch, "int8")
    errors = itertools.cycle([0.0, 0.0, math.inf, 0.0])  # of an output, of its gradient
    monkeypatch.setattr(suited_layers, "relative_error", lambda found, expected: next(errors))
    plain = TorchEvaluator.from_folder(base, "bfloat16")
    linears = [m for m in plain.model.modules() if isinstance(m, torch.nn.Linear)]
    before = [module.weight for module in linears]
    with TorchEvaluator.of_model(plain.model, plain.tokenizer) as suited:
        dtypes = [module.weight.dtype for module in linears]
        assert dtypes.count(torch.int8) == (len(linears) + 1) // 2
        assert dtypes.count(torch.bfloat16) == len(linears) // 2
        assert suited.arithmetic == "int8"
    assert all(m.weight is own for m, own in zip(linears, before, strict=True))
    assert {p.dtype for p in plain.model.parameters()} == {torch.bfloat16}
    assert not [name for name, _ in plain.model.named_buffers() if "int8" in name]


@rounds
def test_a_kernel_that_fails_leaves_the_weights_as_they_are(
    base: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no such instruction")

    prefer(monkeypatch, "int8")
    monkeypatch.setattr(torch, "_int_mm", fails)
    with caplog.at_level("INFO", logger=suited_layers.__name__):
        suited = TorchEvaluator.from_folder(base)
    assert suited.arithmetic == "float32"
    assert len(caplog.records) == 1
    plain = TorchEvaluator.from_folder(base, "bfloat16")
    plain.model.float()
    found, expected = (one.row_losses(one.encode(ROWS)) for one in (suited, plain))
    np.testing.assert_allclose(found.sums, expected.sums, rtol=1e-4)


def test_without_an_exact_kernel_there_are_no_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    def saturates(x: Any, weight: Any) -> Any:
        return (x.double() @ weight.double()).clamp(-32768, 32767).int()

    monkeypatch.setattr(torch, "_int_mm", saturates)
    products.int8_levels.cache_clear()
    assert products.int8_levels() == 0
    products.int8_levels.cache_clear()
