"""Rows to fit and to check on, and adapters that are weakened or refused, without a base model."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_lorameta import Bank, Generation, Plan, Recipe, generate_from_plan, open_dataset, plan
from hf_lorameta.bank.pack import pack
from hf_lorameta.cards.model_card import CARD_FILE
from hf_lorameta.engines.scoring import Tokens
from hf_lorameta.errors import AdapterError, EmptyDatasetError, UsageError
from hf_lorameta.method.coefficients import Coefficients
from hf_lorameta.pipeline.adapter_folder import read_provenance
from hf_lorameta.pipeline.held_out_rows import rows_to_check, rows_to_fit, rows_used
from hf_lorameta.pipeline.tune import refine_plan, validate_adapter


class Bowl:
    """Stands in for a base model: the loss is (1 - size / best)² of an update's size."""

    engine = "bowl"
    finite_difference_step = 0.05

    def __init__(self, best: float) -> None:
        self.best, self.size = best, 0.0

    def encode(self, rows: Sequence[Any]) -> list[Tokens]:
        return [Tokens([1], [2]) for _ in rows]

    def set(self, summed: Any, c: Any) -> None:
        self.size = size(summed.pairs(c))

    def clear(self) -> None:
        self.size = 0.0

    def loss(self, tokens: Sequence[Tokens]) -> float:
        return (1 - self.size / self.best) ** 2

    def gradient(self, tokens: Any, mixture: Any) -> Any:
        count = len(tokens)
        slopes = np.ones((count, len(mixture._bank.layout), len(mixture._ranks)))
        return np.full(count, self.loss(tokens)), slopes

    def log_odds(self, tokens: Any) -> Any:
        return np.full(len(tokens), -np.log(np.expm1(self.loss(tokens))))


def size(pairs: Any) -> float:
    """Frobenius norm of all updates."""
    return float(np.sqrt(sum(float(((A @ A.T) * (B.T @ B)).sum()) for A, B in pairs)))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    rows = [{"input": f"question {i}", "output": "" if i % 5 == 4 else f"{i}"} for i in range(50)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def planned(data: Path, **settings: Any) -> Plan:
    return plan(data, Bank.from_pretrained(), Recipe.of(top_k=3, **settings))


# --- rows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("refine", [None, 8, 16])
def test_rows_to_check_are_labeled_and_were_not_fitted_on(data: Path, refine: int | None) -> None:
    made = planned(data, refine=refine, check=12)
    fitted, others = rows_to_fit(made), rows_to_check(made)
    assert (len(fitted), len(others)) == (refine or 0, 12)
    assert len({*fitted, *others}) == len(fitted) + len(others)
    assert all(output.strip() for _, output in others)
    assert others == rows_to_check(made)
    assert others != rows_to_check(planned(data, refine=refine, check=12, seed=1))


def test_too_few_rows_to_check(data: Path) -> None:
    with pytest.raises(EmptyDatasetError, match="2 of 40 labeled rows that are left"):
        rows_to_check(planned(data, refine=38, check=12))


def test_rows_that_an_adapter_has_seen_are_known_again(data: Path) -> None:
    made = planned(data, refine=8, check=12)
    told, same = made.provenance(), open_dataset(data)
    expected = sorted([*rows_to_fit(made), *rows_to_check(made)])
    assert len(expected) == 20
    assert sorted(rows_used(told, same)) == expected
    assert rows_used(planned(data).provenance(), same) == []
    assert rows_used(told, replace(same, split="test")) == []
    published = {"private": False, "id": "user/name"}
    told["dataset"] |= published
    assert rows_used(told, replace(same, id="user/other")) == []
    assert sorted(rows_used(told, replace(same, **published))) == expected


def test_a_file_of_another_length_is_another_dataset(data: Path) -> None:
    told = planned(data, refine=8).provenance()
    with data.open("a") as file:
        file.write('{"input": "one", "output": "more"}\n')
    assert rows_used(told, open_dataset(data)) == []


def test_too_few_rows_to_check_are_told_before_the_fit(data: Path) -> None:
    class Unasked(Bowl):
        def loss(self, tokens: Sequence[Tokens]) -> float:
            raise AssertionError

    made = planned(data, refine=38, check=16, refiner="search")
    with pytest.raises(EmptyDatasetError, match="2 of 40 labeled rows"):
        refine_plan(made, Unasked(1))


def test_what_the_recipe_does_not_ask_for(data: Path) -> None:
    made = generate_from_plan(planned(data))
    with pytest.raises(UsageError, match="no check"):
        validate_adapter(made, Bowl(1))
    with pytest.raises(UsageError, match="no refinement"):
        refine_plan(made.plan, Bowl(1))


def test_gradients_are_not_asked_of_a_model_without(data: Path) -> None:
    class Forward(Bowl):
        gradient = property()

    made = planned(data, refine=8)
    with pytest.raises(UsageError, match="bowl computes no gradients") as caught:
        refine_plan(made, Forward(1))
    assert caught.value.hint == "--refiner search"
    fitted = refine_plan(replace(made, recipe=Recipe.of(refine=8, refiner="search")), Forward(1))
    assert fitted.refinement


# --- modules apart -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bank", "pack"])
@pytest.mark.parametrize("combine", ["exact", "factors"])
def test_modules_apart_are_combined_by_their_own_coefficients(
    data: Path, tmp_path: Path, combine: str, kind: str
) -> None:
    bank = Bank.from_pretrained()
    bank = pack(bank, tmp_path / "pack", basis=24) if kind == "pack" else bank
    rank = None if combine == "factors" else 24
    made = plan(data, bank, Recipe.of(top_k=3, combine=combine, rank=rank))
    c = np.zeros((len(made.bank.layout), len(made.bank)))
    c[:, made.active_indices] = np.random.default_rng(0).standard_normal((len(c), 3))
    apart = replace(made, coefficients=Coefficients.by_module(c))
    np.testing.assert_allclose(apart.coefficients.shared, c.mean(0))
    assert set(apart.active_indices) == set(made.active_indices)
    whole = generate_from_plan(apart)
    for place, line in enumerate(c):
        alike = generate_from_plan(replace(made, coefficients=Coefficients(line)))
        (A, B), (C, D) = whole.pairs[place], alike.pairs[place]
        np.testing.assert_allclose(B @ A, D @ C, atol=1e-5)
    assert size(whole.pairs) > 0.1
    recipe = made.recipe.model_copy(update={"check": 8})
    bowl = Bowl(0.4 * size(whole.pairs))
    weakened = validate_adapter(replace(whole, plan=replace(apart, recipe=recipe)), bowl)
    assert weakened.plan.check
    scale = weakened.plan.check.scale
    assert 0 < scale < 1
    np.testing.assert_allclose(weakened.plan.coefficients.per_module, scale * c)


def test_an_adapter_that_few_modules_use_takes_part(data: Path, tmp_path: Path) -> None:
    made = planned(data)
    c = np.zeros((len(made.bank.layout), len(made.bank)))
    c[0, 3], c[1, 3] = 0.5, -0.5  # nothing on average
    apart = replace(made, coefficients=Coefficients.by_module(c))
    assert apart.active_indices == [3]
    folder = generate_from_plan(apart).save_pretrained(tmp_path / "a")
    saved = read_provenance(folder)
    (line,) = saved["coefficients"]
    assert saved["provenance"]["modules"] == [module.name for module in made.bank.layout]
    assert line["coefficient"] == 0
    assert line["by_module"] == c[:, 3].tolist()


# --- the check -----------------------------------------------------------------------------------


@pytest.mark.parametrize("combine", ["exact", "factors"])
@pytest.mark.parametrize("share", [1, 0.6, 0.4, 0.15])
def test_a_checked_adapter_is_not_worse_than_the_base(
    data: Path, combine: str, share: float
) -> None:
    plain = generate_from_plan(planned(data, combine=combine))
    whole = size(plain.pairs)
    best = share * whole
    power = 2 if combine == "factors" else 1  # A and B are both sums
    scale = max(s for s in (1, 1 / 2, 1 / 4, 1 / 8) if s**power <= 2 * share)
    made = generate_from_plan(planned(data, combine=combine, check=16), scored=Bowl(best))
    found = made.plan.check
    assert found is not None
    assert (found.rows, found.scale) == (16, scale)
    assert size(made.pairs) == pytest.approx(scale**power * whole, rel=1e-4)
    assert found.end == pytest.approx((1 - size(made.pairs) / best) ** 2, rel=1e-3, abs=1e-6)
    assert found.end <= found.base == 1
    np.testing.assert_allclose(
        made.plan.coefficients.shared, scale * plain.plan.coefficients.shared
    )
    # the weakened adapter is what its coefficients say
    again = generate_from_plan(replace(made.plan, recipe=plain.plan.recipe))
    for (A, B), (C, D) in zip(made.pairs, again.pairs, strict=True):
        np.testing.assert_allclose(B @ A, D @ C, atol=1e-5)


def test_card_and_recipe_tell_of_the_check(data: Path, tmp_path: Path) -> None:
    whole = size(generate_from_plan(planned(data)).pairs)
    text = saved(
        generate_from_plan(planned(data, check=16), scored=Bowl(0.4 * whole)), tmp_path / "a"
    )
    part = text.split("## Checked on 16 rows")[1].split("##")[0]
    assert "multiplied by 0.5" in part
    rows = [line.split("|")[1:3] for line in part.splitlines() if line.startswith("|")][2:]
    assert [name.strip() for name, _ in rows] == [
        "base model", "this adapter at full strength", "this adapter",
    ]  # fmt: skip
    assert [float(loss) for _, loss in rows] == pytest.approx([1, 2.25, 0.0625], rel=0.01)
    assert "was worse than the base model: its coefficients were multiplied by 0.5" in text
    assert "Beyond the few rows above, this adapter was not evaluated" in text
    assert "--check 16" in text.split("How to reproduce it")[1]
    recipe = json.loads((tmp_path / "a" / "recipe.json").read_bytes())
    assert recipe["check"]["scale"] == 0.5
    assert recipe["recipe"]["check"] == 16

    good = saved(generate_from_plan(planned(data, check=16), scored=Bowl(whole)), tmp_path / "b")
    assert "## Checked on 16 rows" in good
    assert "at full strength" not in good
    assert "was worse" not in good


def saved(made: Generation, folder: Path) -> str:
    return (made.save_pretrained(folder) / CARD_FILE).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("settings", "hint"), [({"check": 8}, "leave out --check"), ({"refine": 8}, "out --refine")]
)
def test_an_adapter_of_zeros_is_refused(data: Path, settings: dict[str, int], hint: str) -> None:
    with pytest.raises(AdapterError, match="no share of this adapter is as good") as raised:
        generate_from_plan(planned(data, **settings), scored=Bowl(1e-9))
    assert hint in raised.value.hint


def test_refining_and_checking_ask_one_model(data: Path) -> None:
    losses = []

    class Counting(Bowl):
        def loss(self, tokens: Sequence[Tokens]) -> float:
            losses.append(len(tokens))
            return super().loss(tokens)

    made = generate_from_plan(planned(data, refine=8, check=12), scored=Counting(0.5))
    assert made.plan.refinement
    assert made.plan.refinement.by_module  # all rows ask for the same
    rows = made.plan.coefficients.per_module
    assert rows is not None
    assert rows.shape == (len(made.plan.bank.layout), len(made.plan.bank))
    assert made.plan.with_recipe(Recipe()).coefficients.per_module is None
    assert made.plan.check
    assert set(losses) == {8, 2, 12}  # the rows that were fitted on, their folds, and the check
    assert losses.index(12) == len(losses) - 2  # base model and adapter, at the end
