"""The runner agrees with PEFT and with dense updates, and restores the model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from hf_lorameta.engines.scoring import Tokens
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.engines.transformers.runner import TorchRunner
from hf_lorameta.errors import AdapterError
from hf_lorameta.formats.lora_file import WEIGHTS_FILE, write_tensors
from hf_lorameta.formats.lora_layout import Module
from hf_lorameta.formats.peft_config import CONFIG_FILE, write_config
from hf_lorameta.types import FactorPair
from tests.engines.test_torch_evaluator import HIDDEN, ROWS, save_base

torch = pytest.importorskip("torch")

LAYOUT = (
    Module("model.layers.0.self_attn.q_proj", HIDDEN, HIDDEN),
    Module("model.layers.1.self_attn.v_proj", HIDDEN, HIDDEN // 2),
    Module("model.layers.2.mlp.down_proj", 48, HIDDEN),
)
ALIKE = [(f"the same instruction for every row of it: {q}", a) for q, a in ROWS]
RANK = 2


def adapter(scale: float = 0.3) -> list[FactorPair]:
    """Return a random adapter."""
    rng = np.random.default_rng(0)
    return [
        (
            rng.normal(0, scale, module.shape("A", RANK)).astype(np.float32),
            rng.normal(0, scale, module.shape("B", RANK)).astype(np.float32),
        )
        for module in LAYOUT
    ]


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
    pairs = adapter()
    write_tensors(folder / WEIGHTS_FILE, LAYOUT, RANK, "float32", pairs)
    (folder / CONFIG_FILE).write_bytes(write_config("org/base", LAYOUT, RANK))
    runner = TorchRunner(evaluator)
    tokens = runner.encode(ALIKE)
    base = evaluator.evaluate(ALIKE, generate=False)[0].loss
    with unchanged(evaluator):
        assert runner.loss(tokens) == pytest.approx(base, abs=1e-6)
        runner.apply(LAYOUT, pairs)
        adapted = evaluator.evaluate(ALIKE, folder, generate=False)[0].loss
        assert abs(adapted - base) > 1e-3
        assert runner.loss(tokens) == pytest.approx(adapted, abs=1e-5)
        runner.clear()
        assert runner.loss(tokens) == pytest.approx(base, abs=1e-6)


def test_losses_are_those_of_the_softmax(evaluator: TorchEvaluator) -> None:
    runner = TorchRunner(evaluator)
    runner.apply(LAYOUT, adapter())
    tokens, total = runner.encode(ALIKE), 0.0
    for prompt, output in tokens:  # with a plain forward pass, of dense updates
        with dense(evaluator, adapter()), torch.no_grad():
            logits = evaluator.model(torch.tensor([prompt + output])).logits[0].double()
        p = logits[len(prompt) - 1 : -1].softmax(-1).numpy()[np.arange(len(output)), output]
        total -= np.log(p).sum()
    count = sum(len(row.output) for row in tokens)
    assert runner.loss(tokens) == pytest.approx(total / count, rel=1e-5)


def test_right_answers_are_those_of_greedy_decoding(evaluator: TorchEvaluator) -> None:
    prompt, ids = evaluator.encode(ALIKE)[0].prompt, list[int]()
    for _ in range(4):
        with torch.no_grad():
            logits = evaluator.model(torch.tensor([prompt + ids])).logits[0, -1]
        ids.append(int(logits.argmax()))
    *answer, after = ids
    end, runner = evaluator.end_token, TorchRunner(evaluator)
    right = Tokens(prompt, [*answer, end])
    wrong = Tokens(prompt, [*answer[:-1], (answer[-1] + 1) % 5, end])
    longer = Tokens(prompt, [*answer, after, end])
    for ends, expected in ((frozenset({after}), 1), (frozenset[int](), 0)):
        evaluator.__dict__["answer_ends"] = ends
        assert runner.score([right, wrong, longer]).right == expected
    del evaluator.__dict__["answer_ends"]


def test_answers_end_at_an_end_token_or_a_new_line(evaluator: TorchEvaluator) -> None:
    ends = evaluator.answer_ends
    assert evaluator.end_token in ends
    texts = {evaluator._tokenizer.decode([token]) for token in ends - {evaluator.end_token}}
    assert all(text.lstrip(" ").startswith("\n") for text in texts)


@contextmanager
def dense(evaluator: TorchEvaluator, pairs: list[FactorPair]) -> Iterator[None]:
    """Add B·A to the weights."""
    linears = [evaluator.model.get_submodule(module.name) for module in LAYOUT]
    own = [linear.weight.data for linear in linears]
    for linear, (A, B) in zip(linears, pairs, strict=True):
        linear.weight.data = linear.weight.data + torch.from_numpy(B @ A)
    yield
    for linear, weight in zip(linears, own, strict=True):
        linear.weight.data = weight


# --- the model is restored -----------------------------------------------------------------------


class BrokenError(Exception):
    pass


def broken_pairs() -> Iterator[FactorPair]:
    yield adapter()[0]
    raise BrokenError


def test_errors_restore_the_base_model(evaluator: TorchEvaluator) -> None:
    runner = TorchRunner(evaluator)
    tokens = runner.encode(ALIKE)
    base = runner.loss(tokens)
    runner.apply(LAYOUT, adapter())
    with unchanged(evaluator), pytest.raises((IndexError, RuntimeError)):
        runner.loss([*tokens, tokens[0]._replace(output=[10**6])])
    runner.clear()
    assert runner.loss(tokens) == base


def test_an_incomplete_adapter_is_not_applied(evaluator: TorchEvaluator) -> None:
    runner = TorchRunner(evaluator)
    tokens = runner.encode(ALIKE)
    base = runner.loss(tokens)
    runner.apply(LAYOUT, adapter())
    with pytest.raises(BrokenError):
        runner.apply(LAYOUT, broken_pairs())
    assert runner.loss(tokens) == base


def test_modules_that_do_not_fit_are_named(evaluator: TorchEvaluator) -> None:
    runner = TorchRunner(evaluator)
    with pytest.raises(AdapterError, match=r"has no module model\.layers\.9"):
        runner.apply((Module("model.layers.9.self_attn.q_proj", HIDDEN, HIDDEN),), [])
    with pytest.raises(AdapterError, match=r"expected \(7, 32\)"):
        runner.apply((Module("model.layers.0.self_attn.q_proj", HIDDEN, 7),), [])
