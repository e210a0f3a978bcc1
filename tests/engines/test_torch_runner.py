"""The runner agrees with PEFT, dense gradients and finite differences, and restores the model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_lorameta.bank.pack_format import ModuleBases
from hf_lorameta.bank.weighted_sum import ModuleFactors, WeightedSum
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.engines.transformers.packing import passes
from hf_lorameta.engines.transformers.runner import TorchRunner, row_gradients
from hf_lorameta.errors import AdapterError
from hf_lorameta.formats.lora_file import WEIGHTS_FILE, write_tensors
from hf_lorameta.formats.lora_layout import Module
from hf_lorameta.formats.peft_config import CONFIG_FILE, write_config
from tests.engines.test_torch_evaluator import HIDDEN, ROWS, save_base

torch = pytest.importorskip("torch")

from hf_lorameta.engines.transformers.forward import token_losses  # noqa: E402 - it imports torch

LAYOUT = (
    Module("model.layers.0.self_attn.q_proj", HIDDEN, HIDDEN),
    Module("model.layers.1.self_attn.v_proj", HIDDEN, HIDDEN // 2),
    Module("model.layers.2.mlp.down_proj", 48, HIDDEN),
)
ALIKE = [(f"the same instruction for every row of it: {q}", a) for q, a in ROWS]
RANK = 2
C = np.array([0.5, -0.3, 0.8])


class Sum(WeightedSum):
    """A weighted sum of three random adapters, in memory."""

    size, rank, layout = 3, 3 * RANK, LAYOUT

    def __init__(self, scale: float = 0.3) -> None:
        rng = np.random.default_rng(0)
        self.by_name = {
            m.name: ModuleFactors(
                rng.normal(0, scale, m.shape("A", self.rank)).astype(np.float32),
                rng.normal(0, scale, m.shape("B", self.rank)).astype(np.float32),
                None,
            )
            for m in LAYOUT
        }

    def factors(self, module: str) -> ModuleFactors:
        return self.by_name[module]

    def by_adapter(self, by_rank: np.ndarray) -> np.ndarray:
        return np.asarray(by_rank.reshape(*by_rank.shape[:-1], 3, RANK).sum(-1))

    def pairs_at(self, c: np.ndarray = C) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        by_module = np.broadcast_to(np.repeat(c, RANK, -1).astype(np.float32), (3, self.rank))
        return ((f.A, f.B * by_module[i]) for i, f in enumerate(self.by_name.values()))


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory) -> TorchEvaluator:
    return TorchEvaluator(save_base(tmp_path_factory.mktemp("runner") / "base"), dtype="float32")


@contextmanager
def unchanged(evaluator: TorchEvaluator) -> Iterator[None]:
    """Check that the model keeps the same weight tensors with the same bits."""
    before = {n: (w.data_ptr(), w.clone()) for n, w in evaluator.model.named_parameters()}
    yield
    after = dict(evaluator.model.named_parameters())
    assert after.keys() == before.keys()
    for name, (place, bits) in before.items():
        assert after[name].data_ptr() == place
        assert torch.equal(after[name], bits)
        assert after[name].grad is None
        assert not after[name].requires_grad
    assert not any(module._forward_hooks for module in evaluator.model.modules())


# --- scores --------------------------------------------------------------------------------------


def test_update_has_the_loss_of_the_adapter_in_peft(
    evaluator: TorchEvaluator, tmp_path: Path
) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    pairs = list(Sum().pairs_at())
    write_tensors(folder / WEIGHTS_FILE, LAYOUT, 3 * RANK, "float32", pairs)
    (folder / CONFIG_FILE).write_bytes(write_config("org/base", LAYOUT, 3 * RANK))
    runner = TorchRunner(evaluator, LAYOUT)
    tokens = runner.encode(ALIKE)
    base = evaluator.evaluate(ALIKE, generate=False)[0].loss
    with unchanged(evaluator):
        assert runner.loss(tokens) == pytest.approx(base, abs=1e-6)
        runner.update(pairs)
        adapted = evaluator.evaluate(ALIKE, folder, generate=False)[0].loss
        assert abs(adapted - base) > 1e-3
        assert runner.loss(tokens) == pytest.approx(adapted, abs=1e-5)
        runner.clear()
        assert runner.loss(tokens) == pytest.approx(base, abs=1e-6)


def test_update_in_bfloat16_is_the_rounded_sum(tmp_path: Path) -> None:
    rounded = TorchEvaluator(save_base(tmp_path / "base"), dtype="bfloat16")
    runner = TorchRunner(rounded, LAYOUT)
    runner.update(Sum().pairs_at())
    for module, linear, (A, B) in zip(LAYOUT, runner._linears, Sum().pairs_at(), strict=True):
        with runner._update_applied():
            found = linear.weight.float().numpy()
        exact = linear.weight.float().numpy() + B @ A
        assert found.shape == (module.out_features, module.in_features)
        assert np.abs(found - exact).max() <= np.abs(exact).max() * 2**-8
    losses, gradients = runner.gradient(runner.encode(ALIKE), Sum())
    assert np.isfinite(losses).all()
    assert np.isfinite(gradients).all()


def test_losses_of_rows_are_those_of_the_softmax(evaluator: TorchEvaluator) -> None:
    runner = TorchRunner(evaluator, LAYOUT)
    runner.update(Sum().pairs_at())
    tokens = runner.encode(ALIKE)
    losses = runner.row_losses(tokens)
    assert losses.dtype == np.float64
    for (prompt, output), loss in zip(tokens, losses, strict=True):  # with a plain forward pass
        with runner._update_applied(), torch.no_grad():
            logits = evaluator.model(torch.tensor([prompt + output])).logits[0].double()
        p = logits[len(prompt) - 1 : -1].softmax(-1).numpy()[np.arange(len(output)), output]
        assert loss == pytest.approx(-np.log(p).sum(), rel=1e-5)
    count = sum(len(row.output) for row in tokens)
    assert runner.loss(tokens) == pytest.approx(losses.sum() / count, rel=1e-6)


# --- the gradient --------------------------------------------------------------------------------


def dense_gradient(evaluator: TorchEvaluator, row: Any, weighted_sum: Sum) -> np.ndarray:
    """∂L/∂c of one row in each module, by autograd through dense ΔW = Σ c_i B_i A_i."""
    c = torch.tensor(np.tile(C, (3, 1)), requires_grad=True)
    hooks = []
    for place, module in enumerate(LAYOUT):
        A, B, _ = weighted_sum.factors(module.name)
        each = torch.stack([torch.tensor(B[:, i : i + 2] @ A[i : i + 2]) for i in (0, 2, 4)])

        def add(_: Any, x: Any, y: Any, each: Any = each, place: int = place) -> Any:
            return y + x[0] @ torch.tensordot(c[place].float(), each, 1).T

        hooks.append(evaluator.model.get_submodule(module.name).register_forward_hook(add))
    try:
        [packed] = passes({0: [row]}, 1000)
        token_losses(evaluator.model, packed).mean().backward()  # type: ignore[no-untyped-call]
    finally:
        for hook in hooks:
            hook.remove()
    return np.asarray(c.grad)


@pytest.mark.parametrize(
    "budget", [0, 100, 512], ids=["single rows", "short sequences", "one sequence"]
)
def test_gradients_equal_those_of_dense_updates(
    evaluator: TorchEvaluator, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TorchEvaluator, "sequence_budget", budget)
    runner, weighted_sum = TorchRunner(evaluator, LAYOUT), Sum()
    tokens = runner.encode(ALIKE)
    runner.update(weighted_sum.pairs_at())
    with unchanged(evaluator):
        losses, gradients = runner.gradient(tokens, weighted_sum)
    assert losses.shape == (len(ALIKE),)
    assert gradients.shape == (len(ALIKE), 3, 3)
    for row, loss, found in zip(tokens, losses, gradients, strict=True):
        assert loss == pytest.approx(runner.loss([row]), rel=1e-6)
        expected = dense_gradient(evaluator, row, weighted_sum)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(gradients).max(0).min() > 1e-3


def test_gradients_equal_finite_differences(evaluator: TorchEvaluator) -> None:
    runner, weighted_sum = TorchRunner(evaluator, LAYOUT), Sum()
    tokens = runner.encode(ALIKE)
    runner.update(weighted_sum.pairs_at())
    gradients = runner.gradient(tokens, weighted_sum)[1]
    steps = 2e-3 * np.eye(9).reshape(9, 3, 3)
    for step, expected in zip(steps, gradients.reshape(-1, 9).T, strict=True):
        ends = []
        for sign in (1, -1):
            runner.update(weighted_sum.pairs_at(C + sign * step))
            ends.append(runner.gradient(tokens, weighted_sum)[0])
        np.testing.assert_allclose((ends[0] - ends[1]) / 4e-3, expected, rtol=0.02, atol=2e-3)


def test_gradient_of_the_base_model_is_that_of_a_zero_update(evaluator: TorchEvaluator) -> None:
    runner, weighted_sum = TorchRunner(evaluator, LAYOUT), Sum()
    tokens = runner.encode(ALIKE)
    _, of_base = runner.gradient(tokens, weighted_sum)
    runner.update(weighted_sum.pairs_at(np.zeros(3)))
    np.testing.assert_allclose(of_base, runner.gradient(tokens, weighted_sum)[1], atol=1e-6)


@pytest.mark.parametrize("packed", [False, True])
def test_row_gradients_equal_those_of_dense_matrices(packed: bool) -> None:
    rng = np.random.default_rng(3)
    lengths, ranks = [3, 1, 16], 30
    x, g = rng.standard_normal((20, 12)), rng.standard_normal((20, 8))
    inside, out = (5, 4) if packed else (12, 8)
    A, B = rng.standard_normal((ranks, inside)), rng.standard_normal((out, ranks))
    V, U = rng.standard_normal((5, 12)), rng.standard_normal((8, 4))
    whole = (A @ V, U @ B) if packed else (A, B)
    dense = [g[part].T @ x[part] for part in (slice(0, 3), slice(3, 4), slice(4, 20))]
    expected = [[whole[1][:, k] @ G @ whole[0][k] for k in range(ranks)] for G in dense]
    space = ModuleBases(V.astype(np.float32), U.astype(np.float32)) if packed else None
    factors = ModuleFactors(A.astype(np.float32), B.astype(np.float32), space)
    given = torch.tensor(x, dtype=torch.float32), torch.tensor(g, dtype=torch.float32)
    found = row_gradients(*given, factors, lengths).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-2)


# --- the model is restored -----------------------------------------------------------------------


class BrokenError(Exception):
    pass


def fail(*_: object) -> Any:
    raise BrokenError


@pytest.mark.parametrize(
    "act",
    [
        lambda runner, tokens: runner.loss(fail()),
        lambda runner, tokens: runner.loss([*tokens, tokens[0]._replace(output=[10**6])]),
        lambda runner, tokens: runner.row_losses([*tokens, tokens[0]._replace(output=[10**6])]),
        lambda runner, tokens: runner.gradient(tokens, Broken()),
        lambda runner, tokens: runner.update(broken_pairs()),
    ],
    ids=["loss", "forward", "row losses", "backward", "update"],
)
def test_errors_restore_the_base_model(
    evaluator: TorchEvaluator, act: Callable[[TorchRunner, Any], Any]
) -> None:
    runner = TorchRunner(evaluator, LAYOUT)
    tokens = runner.encode(ALIKE)
    base = runner.loss(tokens)
    runner.update(Sum().pairs_at())
    with unchanged(evaluator), pytest.raises((BrokenError, IndexError, RuntimeError)):
        act(runner, tokens)
    runner.clear()
    assert runner.loss(tokens) == base


class Broken(Sum):
    def factors(self, module: str) -> ModuleFactors:
        raise BrokenError


def broken_pairs() -> Iterator[Any]:
    yield next(Sum().pairs_at())
    raise BrokenError


def test_incomplete_update_is_not_applied(evaluator: TorchEvaluator) -> None:
    runner = TorchRunner(evaluator, LAYOUT)
    tokens = runner.encode(ALIKE)
    base = runner.loss(tokens)
    runner.update(Sum().pairs_at())
    with pytest.raises(BrokenError):
        runner.update(broken_pairs())
    assert runner.loss(tokens) == base


def test_modules_that_do_not_fit_are_named(evaluator: TorchEvaluator) -> None:
    with pytest.raises(AdapterError, match=r"has no module model\.layers\.9"):
        TorchRunner(evaluator, (Module("model.layers.9.self_attn.q_proj", HIDDEN, HIDDEN),))
    with pytest.raises(AdapterError, match=r"expected \(7, 32\)"):
        TorchRunner(evaluator, (Module("model.layers.0.self_attn.q_proj", HIDDEN, 7),))
