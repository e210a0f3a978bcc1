"""Scores with an adapter in memory are those of PEFT and of dense updates."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from hf_lorameta.engines.scoring import Tokens
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.errors import AdapterError
from hf_lorameta.formats.lora_layout import Module
from hf_lorameta.types import FactorPair
from tests.engines.test_torch_evaluator import HIDDEN, ROWS, save_base
from tests.support.random_adapter import random_pairs, write_adapter

torch = pytest.importorskip("torch")

LAYOUT = (
    Module("model.layers.0.self_attn.q_proj", HIDDEN, HIDDEN),
    Module("model.layers.1.self_attn.v_proj", HIDDEN, HIDDEN // 2),
    Module("model.layers.2.mlp.down_proj", 48, HIDDEN),
)
ALIKE = [(f"the same instruction for every row of it: {q}", a) for q, a in ROWS]
ADAPTER = random_pairs(LAYOUT, rank=2)


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory) -> TorchEvaluator:
    return TorchEvaluator.from_folder(
        save_base(tmp_path_factory.mktemp("runner") / "base"), dtype="float32"
    )


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
    folder = write_adapter(tmp_path / "adapter", LAYOUT, ADAPTER)
    tokens = evaluator.encode(ALIKE)
    base = evaluator.evaluate(ALIKE, generate=False)[0].loss
    with unchanged(evaluator):
        adapted = evaluator.evaluate(ALIKE, folder, generate=False)[0].loss
        assert abs(adapted - base) > 1e-3
        found = evaluator.score(tokens, LAYOUT, ADAPTER).loss
        assert found == pytest.approx(adapted, abs=1e-5)
        assert evaluator.score(tokens).loss == pytest.approx(base, abs=1e-6)


def test_losses_are_those_of_the_softmax(evaluator: TorchEvaluator) -> None:
    tokens, total = evaluator.encode(ALIKE), 0.0
    for prompt, output in tokens:  # with a plain forward pass, of dense updates
        with dense(evaluator, ADAPTER), torch.no_grad():
            logits = evaluator.model(torch.tensor([prompt + output])).logits[0].double()
        p = logits[len(prompt) - 1 : -1].softmax(-1).numpy()[np.arange(len(output)), output]
        total -= np.log(p).sum()
    count = sum(len(row.output) for row in tokens)
    found = evaluator.score(tokens, LAYOUT, ADAPTER).loss
    assert found == pytest.approx(total / count, rel=1e-5)


def test_right_answers_are_those_of_greedy_decoding(evaluator: TorchEvaluator) -> None:
    prompt, ids = evaluator.encode(ALIKE)[0].prompt, list[int]()
    for _ in range(4):
        with torch.no_grad():
            logits = evaluator.model(torch.tensor([prompt + ids])).logits[0, -1]
        ids.append(int(logits.argmax()))
    *answer, after = ids
    end = evaluator.end_token
    right = Tokens(prompt, [*answer, end])
    wrong = Tokens(prompt, [*answer[:-1], (answer[-1] + 1) % 5, end])
    longer = Tokens(prompt, [*answer, after, end])
    for ends, expected in ((frozenset({after}), 1), (frozenset[int](), 0)):
        evaluator.__dict__["answer_ends"] = ends
        assert evaluator.score([right, wrong, longer]).right == expected
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


def test_errors_restore_the_base_model(evaluator: TorchEvaluator) -> None:
    tokens = evaluator.encode(ALIKE)
    base = evaluator.score(tokens)
    with unchanged(evaluator), pytest.raises((IndexError, RuntimeError)):
        evaluator.score([*tokens, tokens[0]._replace(output=[10**6])], LAYOUT, ADAPTER)
    assert evaluator.score(tokens) == base


def test_modules_that_do_not_fit_are_named(evaluator: TorchEvaluator) -> None:
    for module, message in (
        (Module("model.layers.9.self_attn.q_proj", HIDDEN, HIDDEN), r"no module model\.layers\.9"),
        (Module("model.layers.0.self_attn.q_proj", HIDDEN, 7), r"expected \(7, 32\)"),
    ):
        with pytest.raises(AdapterError, match=message):
            evaluator.score([], (module,), [])
