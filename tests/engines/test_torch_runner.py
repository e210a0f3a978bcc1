"""The probe against PEFT, a dense gradient, finite differences, and the model as it was before."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_lorameta.bank.packed import Space
from hf_lorameta.bank.weighted_sum import ModuleFactors
from hf_lorameta.engines.torch_evaluator import TorchEvaluator
from hf_lorameta.engines.torch_forward import summed_nll
from hf_lorameta.engines.torch_runner import TorchRunner, row_gradients
from hf_lorameta.errors import AdapterError
from hf_lorameta.formats.lora_file import WEIGHTS_FILE, write_tensors
from hf_lorameta.formats.lora_layout import Module
from hf_lorameta.formats.peft_config import CONFIG_FILE, write_config
from tests.engines.test_torch_evaluator import HIDDEN, ROWS, save_base

torch = pytest.importorskip("torch")

LAYOUT = (
    Module("model.layers.0.self_attn.q_proj", HIDDEN, HIDDEN),
    Module("model.layers.1.self_attn.v_proj", HIDDEN, HIDDEN // 2),
    Module("model.layers.2.mlp.down_proj", 48, HIDDEN),
)
ALIKE = [(f"the same instruction for every row of it: {q}", a) for q, a in ROWS]
RANK = 2
C = np.array([0.5, -0.3, 0.8])


class Sum:
    """A mixture of three random adapters, in memory."""

    size, rank = 3, 3 * RANK

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
        return by_rank.reshape(*by_rank.shape[:-1], 3, RANK).sum(-1)

    def pairs(self, c: np.ndarray = C) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        by_module = np.broadcast_to(np.repeat(c, RANK, -1).astype(np.float32), (3, self.rank))
        return ((f.A, f.B * by_module[i]) for i, f in enumerate(self.by_name.values()))


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory) -> TorchEvaluator:
    return TorchEvaluator(save_base(tmp_path_factory.mktemp("probe") / "base"), dtype="float32")


@contextmanager
def untouched(evaluator: TorchEvaluator) -> Iterator[None]:
    """Insists that the model's weights are the very same tensors with the very same bits."""
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


def test_an_update_scores_as_the_adapter_does_in_peft(
    evaluator: TorchEvaluator, tmp_path: Path
) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    pairs = list(Sum().pairs())
    write_tensors(folder / WEIGHTS_FILE, LAYOUT, 3 * RANK, "float32", pairs)
    (folder / CONFIG_FILE).write_bytes(write_config("org/base", LAYOUT, 3 * RANK))
    probe = TorchRunner(evaluator, LAYOUT)
    tokens = probe.encode(ALIKE)
    base = evaluator.evaluate(ALIKE, generate=False)[0].loss
    with untouched(evaluator):
        assert probe.loss(tokens) == pytest.approx(base, abs=1e-6)
        probe.update(pairs)
        adapted = evaluator.evaluate(ALIKE, folder, generate=False)[0].loss
        assert abs(adapted - base) > 1e-3
        assert probe.loss(tokens) == pytest.approx(adapted, abs=1e-5)
        probe.clear()
        assert probe.loss(tokens) == pytest.approx(base, abs=1e-6)


def test_an_update_in_bfloat16_is_the_rounded_sum(tmp_path: Path) -> None:
    rough = TorchEvaluator(save_base(tmp_path / "base"), dtype="bfloat16")
    probe = TorchRunner(rough, LAYOUT)
    probe.update(Sum().pairs())
    for module, linear, (A, B) in zip(LAYOUT, probe._linears, Sum().pairs(), strict=True):
        with probe._update_applied():
            found = linear.weight.float().numpy()
        exact = linear.weight.float().numpy() + B @ A
        assert found.shape == (module.out_features, module.in_features)
        assert np.abs(found - exact).max() <= np.abs(exact).max() * 2**-8
    losses, slopes = probe.gradient(probe.encode(ALIKE), Sum())
    assert np.isfinite(losses).all()
    assert np.isfinite(slopes).all()


def test_log_odds_are_those_of_the_softmax(evaluator: TorchEvaluator) -> None:
    probe = TorchRunner(evaluator, LAYOUT)
    probe.update(Sum().pairs())
    tokens = probe.encode(ALIKE)
    odds = probe.log_odds(tokens)
    assert odds.dtype == np.float64
    assert len(odds) == sum(len(row.output) for row in tokens)
    place = 0
    for prompt, output in tokens:  # one by one, by another way through the model
        with probe._update_applied(), torch.no_grad():
            logits = evaluator.model(torch.tensor([prompt + output])).logits[0].double()
        p = logits[len(prompt) - 1 : -1].softmax(-1).numpy()[np.arange(len(output)), output]
        part = slice(place, place + len(output))
        np.testing.assert_allclose(odds[part], np.log(p / (1 - p)), atol=1e-4)
        place = part.stop
    p = 1 / (1 + np.exp(-odds))
    assert probe.loss(tokens) == pytest.approx(-np.log(p).mean(), abs=1e-5)


# --- the gradient --------------------------------------------------------------------------------


def dense_gradient(evaluator: TorchEvaluator, row: Any, mixture: Sum) -> np.ndarray:
    """∂L/∂c of one row in each module, by autograd through dense ΔW = Σ c_i B_i A_i beside the
    model's weights."""
    c = torch.tensor(np.tile(C, (3, 1)), requires_grad=True)
    hooks = []
    for place, module in enumerate(LAYOUT):
        A, B, _ = mixture.factors(module.name)
        each = torch.stack([torch.tensor(B[:, i : i + 2] @ A[i : i + 2]) for i in (0, 2, 4)])

        def add(_: Any, x: Any, y: Any, each: Any = each, place: int = place) -> Any:
            return y + x[0] @ torch.tensordot(c[place].float(), each, 1).T

        hooks.append(evaluator.model.get_submodule(module.name).register_forward_hook(add))
    try:
        (summed_nll(evaluator.model, [row]) / len(row.output)).backward()
    finally:
        for hook in hooks:
            hook.remove()
    return c.grad.numpy()


@pytest.mark.parametrize("line", [0, 100, 512], ids=["rows alone", "short lines", "one line"])
def test_gradients_are_those_of_dense_updates(
    evaluator: TorchEvaluator, line: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluator, "_sequence_budget", line)
    probe, mixture = TorchRunner(evaluator, LAYOUT), Sum()
    tokens = probe.encode(ALIKE)
    probe.update(mixture.pairs())
    with untouched(evaluator):
        losses, slopes = probe.gradient(tokens, mixture)
    assert losses.shape == (len(ALIKE),)
    assert slopes.shape == (len(ALIKE), 3, 3)
    for row, loss, found in zip(tokens, losses, slopes, strict=True):
        assert loss == pytest.approx(probe.loss([row]), rel=1e-6)
        expected = dense_gradient(evaluator, row, mixture)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(slopes).max(0).min() > 1e-3


def test_gradients_are_the_slopes_of_the_losses(evaluator: TorchEvaluator) -> None:
    probe, mixture = TorchRunner(evaluator, LAYOUT), Sum()
    tokens = probe.encode(ALIKE)
    probe.update(mixture.pairs())
    slopes = probe.gradient(tokens, mixture)[1]
    steps = 2e-3 * np.eye(9).reshape(9, 3, 3)
    for step, expected in zip(steps, slopes.reshape(-1, 9).T, strict=True):
        ends = []
        for sign in (1, -1):
            probe.update(mixture.pairs(C + sign * step))
            ends.append(probe.gradient(tokens, mixture)[0])
        np.testing.assert_allclose((ends[0] - ends[1]) / 4e-3, expected, rtol=0.02, atol=2e-3)


def test_at_the_base_model_there_is_a_gradient_too(evaluator: TorchEvaluator) -> None:
    probe, mixture = TorchRunner(evaluator, LAYOUT), Sum()
    tokens = probe.encode(ALIKE)
    _, of_base = probe.gradient(tokens, mixture)
    probe.update(mixture.pairs(np.zeros(3)))
    np.testing.assert_allclose(of_base, probe.gradient(tokens, mixture)[1], atol=1e-6)


@pytest.mark.parametrize("packed", [False, True])
def test_slopes_of_one_module(packed: bool) -> None:
    rng = np.random.default_rng(3)
    lengths, ranks = [3, 1, 16], 30
    x, g = rng.standard_normal((20, 12)), rng.standard_normal((20, 8))
    inside, out = (5, 4) if packed else (12, 8)
    A, B = rng.standard_normal((ranks, inside)), rng.standard_normal((out, ranks))
    V, U = rng.standard_normal((5, 12)), rng.standard_normal((8, 4))
    whole = (A @ V, U @ B) if packed else (A, B)
    dense = [g[part].T @ x[part] for part in (slice(0, 3), slice(3, 4), slice(4, 20))]
    expected = [[whole[1][:, k] @ G @ whole[0][k] for k in range(ranks)] for G in dense]
    space = Space(V.astype(np.float32), U.astype(np.float32)) if packed else None
    factors = ModuleFactors(A.astype(np.float32), B.astype(np.float32), space)
    given = torch.tensor(x, dtype=torch.float32), torch.tensor(g, dtype=torch.float32)
    found = row_gradients(*given, factors, lengths).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-2)


# --- the model stays as it was -------------------------------------------------------------------


class BrokenError(Exception):
    pass


def fail(*_: object) -> Any:
    raise BrokenError


@pytest.mark.parametrize(
    "act",
    [
        lambda probe, tokens: probe.loss(fail()),
        lambda probe, tokens: probe.loss([*tokens, tokens[0]._replace(output=[10**6])]),
        lambda probe, tokens: probe.log_odds([*tokens, tokens[0]._replace(output=[10**6])]),
        lambda probe, tokens: probe.gradient(tokens, Broken()),
        lambda probe, tokens: probe.update(broken_pairs()),
    ],
    ids=["loss", "forward", "log odds", "backward", "update"],
)
def test_after_an_error_the_model_is_the_base_again(
    evaluator: TorchEvaluator, act: Callable[[TorchRunner, Any], Any]
) -> None:
    probe = TorchRunner(evaluator, LAYOUT)
    tokens = probe.encode(ALIKE)
    base = probe.loss(tokens)
    probe.update(Sum().pairs())
    with untouched(evaluator), pytest.raises((BrokenError, IndexError, RuntimeError)):
        act(probe, tokens)
    probe.clear()
    assert probe.loss(tokens) == base


class Broken(Sum):
    def factors(self, module: str) -> ModuleFactors:
        raise BrokenError


def broken_pairs() -> Iterator[Any]:
    yield next(Sum().pairs())
    raise BrokenError


def test_half_an_update_is_none(evaluator: TorchEvaluator) -> None:
    probe = TorchRunner(evaluator, LAYOUT)
    tokens = probe.encode(ALIKE)
    base = probe.loss(tokens)
    probe.update(Sum().pairs())
    with pytest.raises(BrokenError):
        probe.update(broken_pairs())
    assert probe.loss(tokens) == base


def test_modules_the_model_lacks_are_named(evaluator: TorchEvaluator) -> None:
    with pytest.raises(AdapterError, match=r"has no module model\.layers\.9"):
        TorchRunner(evaluator, (Module("model.layers.9.self_attn.q_proj", HIDDEN, HIDDEN),))
    with pytest.raises(AdapterError, match=r"expected \(7, 32\)"):
        TorchRunner(evaluator, (Module("model.layers.0.self_attn.q_proj", HIDDEN, 7),))
