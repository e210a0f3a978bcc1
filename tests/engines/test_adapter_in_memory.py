"""Scores with an adapter in memory are those of PEFT and of dense updates."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hf_lorameta.engines.scoring import LoraWeights, normalized
from hf_lorameta.engines.transformers.answers import Answers
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.errors import AdapterError
from hf_lorameta.formats.lora_layout import Module
from hf_lorameta.hub.packaged_model import quiet_transformers
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
IN_MEMORY = LoraWeights(LAYOUT, ADAPTER)


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
    base = evaluator.evaluate(ALIKE, generate=False)[0].loss
    with unchanged(evaluator):
        adapted = evaluator.evaluate(ALIKE, folder, generate=False)[0].loss
        assert abs(adapted - base) > 1e-3
        found = evaluator.evaluate(ALIKE, IN_MEMORY, generate=False)[0].loss
        assert found == pytest.approx(adapted, abs=1e-5)


@pytest.mark.parametrize(("adapter", "generate"), [(None, False), (IN_MEMORY, True)])
def test_answers_shown_by_losses_are_those_that_are_generated(
    evaluator: TorchEvaluator, adapter: LoraWeights | None, generate: bool
) -> None:
    """Of references that greedy decoding gives, gives but for case, and does not give."""
    prompts = [prompt for prompt, _ in ALIKE]
    with evaluator.attached(adapter), quiet_transformers():
        encoded = [row.prompt for row in evaluator.encode([(prompt, "") for prompt in prompts])]
        generation = Answers(evaluator.model, evaluator.tokenizer, 64, first_line=True)
        expected = generation.generated(encoded, evaluator.max_new_tokens)
    assert len({*expected}) > 2
    variants: list[Callable[[str], str]]
    variants = [str, str.upper, lambda e: e[:-1], lambda e: f"{e} more", lambda e: "other"]
    for number, variant in enumerate(variants):
        rows = [(prompt, variant(e) or "x") for prompt, e in zip(prompts, expected, strict=True)]
        scores, answers = evaluator.evaluate(rows, adapter, generate=generate)
        right = [normalized(e) == normalized(row[1]) for e, row in zip(expected, rows, strict=True)]
        assert scores.right == sum(right)
        assert all(right) == (number < 2)
        for answer, whole, is_right in zip(answers, expected, right, strict=True):
            assert answer == whole or not (generate or is_right)
            assert whole.startswith(answer)


# --- the model is restored -----------------------------------------------------------------------


def test_errors_restore_the_base_model(evaluator: TorchEvaluator) -> None:
    def fail(steps: int) -> None:
        raise KeyError(steps)

    base = evaluator.evaluate(ALIKE)
    with unchanged(evaluator), pytest.raises(KeyError):
        evaluator.evaluate(ALIKE, IN_MEMORY, done=fail)
    assert evaluator.evaluate(ALIKE) == base


def test_modules_that_do_not_fit_are_named(evaluator: TorchEvaluator) -> None:
    for module, message in (
        (Module("model.layers.9.self_attn.q_proj", HIDDEN, HIDDEN), r"no module model\.layers\.9"),
        (Module("model.layers.0.self_attn.q_proj", HIDDEN, 7), r"expected \(7, 32\)"),
    ):
        with pytest.raises(AdapterError, match=message):
            evaluator.evaluate(ALIKE, LoraWeights((module,), []))
