"""An adapter whose upper layers are trained on rows of its dataset, from the recipe to the card."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.fast_training import fast_training
from tests.training import tiny

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from hf_lorameta import Bank, Recipe  # noqa: E402 - they import torch
from hf_lorameta.pipeline.generate import plan_with_rows  # noqa: E402
from hf_lorameta.pipeline.make import make_adapter  # noqa: E402
from hf_lorameta.pipeline.resolve import Resolved  # noqa: E402
from hf_lorameta.pipeline.rows import draw_rows  # noqa: E402
from hf_lorameta.pipeline.session import Session  # noqa: E402
from hf_lorameta.pipeline.train import improve  # noqa: E402
from tests.training.tiny import loss, make  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def suited_to_the_tiny_base(monkeypatch: pytest.MonkeyPatch) -> None:
    fast_training(monkeypatch.setattr, steps=60)


@pytest.fixture(scope="module", params=["with a prior", "without"])
def bank(
    request: pytest.FixtureRequest, tiny_bank: Bank, tmp_path_factory: pytest.TempPathFactory
) -> Bank:
    if request.param == "without":
        return tiny_bank
    general: dict[str, Any] = {"general_steps": 8, "general_rows": 4, "forms": True}
    return tiny.write_bank(tmp_path_factory.mktemp, **general)


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset whose outputs are one of two labels."""
    return tiny.write_task(tmp_path_factory.mktemp("new"), "labels", labeled())


def labeled(count: int = 64) -> list[dict[str, str]]:
    words = tiny.WORDS[:8]
    rows = ((words[i % 8], words[i // 8 % 8], tiny.WORDS[12 + (i % 8 > 3)]) for i in range(count))
    return [{"input": f"say {b} {a}", "output": label} for a, b, label in rows]


def test_a_fit_lowers_the_loss_of_other_rows_and_the_card_says_so(
    bank: Bank, new: Path, tmp_path: Path
) -> None:
    generated, fitted = make(bank, new), make(bank, new, fit=32, check=8)
    fit = fitted.outcome.fit
    assert fit is not None
    assert (fit.rows, fit.outputs, fit.held_out, fit.layers) == (24, 2, 8, 1)
    assert fit.steps > 0
    assert fit.end > fit.start
    before = dict(zip(generated.layout, generated.pairs, strict=True))
    after = dict(zip(fitted.layout, fitted.pairs, strict=True))
    assert len({m for m in after if "layers.1." in m.name}) == 7  # all projections
    for module, pair in before.items():
        changed = "layers.1." in module.name
        assert changed != all(map(np.array_equal, pair, after[module]))
    assert {len(A) for A, _ in fitted.pairs} == {4}
    generated.save_pretrained(tmp_path / "generated")
    fitted.save_pretrained(tmp_path / "fitted")
    pool = [(row["input"], row["output"]) for row in labeled()]
    drawn = draw_rows(fitted.plan.recipe, pool)
    others = [row for row in pool if row not in drawn.used]
    assert loss(bank, others, tmp_path / "fitted") < loss(bank, others, tmp_path / "generated") - 1
    assert fitted.outcome.check is not None
    card = (tmp_path / "fitted" / "README.md").read_text()
    assert "## Fitted on 24 rows" in card
    assert "in the last layer were trained" in card
    assert "No training took place" not in card
    assert "--fit 32" in card.split("How to reproduce it")[1]
    recipe = json.loads((tmp_path / "fitted" / "recipe.json").read_bytes())
    assert recipe["fit"]["steps"] == fit.steps
    assert recipe["recipe"]["fit"] == 32


def test_a_fit_that_does_not_help_leaves_the_adapter_as_it_was(
    tiny_bank: Bank, tmp_path: Path
) -> None:
    """The labels are drawn by chance, after they were fitted: nothing is left to learn."""
    rng = np.random.default_rng(0)
    rows = [row | {"output": tiny.WORDS[rng.integers(16)]} for row in labeled(16)]
    data = tiny.write_task(tmp_path, "chance", rows)
    with Session(tiny_bank) as session:
        recipe = Recipe(rank=4, fit=16)
        plan, drawn = plan_with_rows(session.open_dataset(data), session, Resolved(recipe))
        fitted = make_adapter(plan, drawn, session)
        again = improve(fitted, replace(drawn, fit=drawn.fit[:8]), session.evaluator)
    fit = again.outcome.fit
    assert fit is not None
    assert (fit.steps, fit.end) == (0, fit.start)
    assert again.pairs == fitted.pairs
