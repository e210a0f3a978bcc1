"""Plans of datasets that lack a part: what is compared, what is said, what is refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_lorameta import Bank, Plan, Recipe, generate_from_plan, plan
from hf_lorameta.bank.geometry import bank_distances
from hf_lorameta.cards.model_card import CARD_FILE
from hf_lorameta.data import profile
from hf_lorameta.data.profile import ProfileTable, profile_rows
from hf_lorameta.errors import UnlabeledDatasetError
from hf_lorameta.method.coefficients import RuleInputs, apply_rule
from hf_lorameta.pipeline import plan as plan_module
from tests.conftest import Account, Built, Shell
from tests.conftest import rows as topic_rows
from tests.data.oracle import distribution, distributions
from tests.method import oracles
from tests.method.oracles import js

WORDS = ["When did it happen?", "How long does the storm last?", "Is the bridge still closed?"]


def file(folder: Path, *columns: str) -> Path:
    path = folder / f"{'-'.join(columns)}.jsonl"
    lines = [{name: f"{WORDS[i % 3]} {name} {i}" for name in columns} for i in range(30)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def embedded() -> Bank:
    return Bank.from_pretrained()


@pytest.fixture
def prompts(tmp_path: Path, embedded: Bank) -> Plan:
    return plan(file(tmp_path, "prompt"), embedded)


def part(bank: Bank, name: Any) -> np.ndarray:
    """(N, N) divergences of one part among the datasets of a bank, by the plain function."""
    each = distributions(bank.profiles, bank.index.vocab_size, name)
    return np.array([[js(p, q) for q in each] for p in each])


def lengths(bank: Bank) -> np.ndarray:
    """(N, N) distances of the outputs' lengths, by the plain function."""
    each = distributions(bank.profiles, bank.index.vocab_size, "lengths")
    return np.array([[oracles.lengths(p, q) for q in each] for p in each])


def by_default_rule(distances: np.ndarray, inside: np.ndarray) -> np.ndarray:
    inputs = RuleInputs(distances, bank_distances=lambda: inside)
    return apply_rule(Recipe().coefficients, inputs).shared


# --- what is compared ----------------------------------------------------------------------------


def test_prompts_are_compared_with_inputs_alone(prompts: Plan, embedded: Bank) -> None:
    size = embedded.index.vocab_size
    assert prompts.profile.rows == 30
    assert prompts.profile.output.total == 0
    own = distribution(prompts.profile, size, "input")
    others = distributions(embedded.profiles, size, "input")
    expected = np.array([js(own, q) for q in others])
    np.testing.assert_allclose(prompts.distances, expected)
    inside = part(embedded, "input")
    np.testing.assert_allclose(
        prompts.coefficients.shared, by_default_rule(expected, inside), atol=1e-9
    )
    np.fill_diagonal(inside, np.inf)
    assert prompts.nearest_in_bank == pytest.approx(float(np.median(inside.min(1))))


def test_a_bank_keeps_the_distances_that_datasets_of_prompts_need(embedded: Bank) -> None:
    kept = bank_distances(embedded.profiles, embedded.index.vocab_size)
    assert set(kept) == {"js-task", "js-task of inputs"}
    np.testing.assert_allclose(kept["js-task of inputs"], part(embedded, "input"), atol=1e-6)


def test_a_bank_with_a_dataset_of_plain_texts_has_distances_of_inputs() -> None:
    texts, prompts = ([("", "a b")], [("a", "b")])
    encode = lambda rows: [[ord(t) - 97 for t in row.split()] for row in rows]  # noqa: E731
    profiles = [profile_rows(rows, encode, 3) for rows in (texts, prompts, prompts)]
    kept = bank_distances(ProfileTable.from_profiles(profiles), 3)
    inside = kept["js-task of inputs"]
    assert inside[1, 2] == inside[0, 0] == 0.0
    assert inside[0, 1] == inside[1, 0] > 0.3


def test_the_papers_metrics_too_leave_the_banks_outputs_out(prompts: Plan, embedded: Bank) -> None:
    made = prompts.with_recipe(Recipe(metric="js", coefficients="normalized"))
    np.testing.assert_allclose(made.distances, prompts.distances)


def test_texts_without_inputs_are_compared_in_one_kind_of_distance(
    tmp_path: Path, embedded: Bank
) -> None:
    made = plan(file(tmp_path, "text"), embedded)
    inside = part(embedded, "output") + lengths(embedded)
    expected = by_default_rule(made.distances, inside)
    np.testing.assert_allclose(made.coefficients.shared, expected, atol=1e-9)
    np.fill_diagonal(inside, np.inf)
    assert made.nearest_in_bank == pytest.approx(float(np.median(inside.min(1))))
    whole = made.with_recipe(Recipe(metric="js", coefficients="normalized"))
    assert whole.nearest_in_bank == embedded.index.typical_distances["js"]


def test_of_a_labeled_dataset_nothing_is_left_out(tmp_path: Path, embedded: Bank) -> None:
    made = plan(file(tmp_path, "prompt", "completion"), embedded)
    assert made.nearest_in_bank == embedded.index.typical_distances[Recipe().metric]


# --- what is said --------------------------------------------------------------------------------


def test_plan_and_card_say_what_it_costs(
    prompts: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "The dataset has no outputs: inputs alone were compared"
    assert any(warning.startswith(said) for warning in prompts.warnings)
    assert not any("only text" in warning for warning in prompts.warnings)
    assert prompts.expected is None
    folder = generate_from_plan(prompts.with_recipe(Recipe(top_k=2))).save_pretrained(
        tmp_path / "a"
    )
    card = (folder / CARD_FILE).read_text(encoding="utf-8")
    assert said in card.split("## Warnings")[1]
    assert "--columns input=prompt" in card
    assert "When did it happen" not in card
    monkeypatch.setattr(plan_module, "LOST_WITHOUT_OUTPUTS", 0.25)
    assert any("25% less of the way" in warning for warning in prompts.warnings)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["refine", "check"])
def test_what_needs_outputs_is_refused_before_any_work(
    prompts: Plan, tmp_path: Path, embedded: Bank, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: Any, **__: Any) -> Iterator[Any]:
        raise AssertionError("the rows were read")

    recipe = Recipe.of(**{option: 16})
    said = f"--{option} compares answers with outputs, and the dataset has none"
    with pytest.raises(UnlabeledDatasetError, match=said):
        prompts.with_recipe(recipe)
    monkeypatch.setattr(profile, "profile_rows", read)
    with pytest.raises(UnlabeledDatasetError, match=said):
        plan(file(tmp_path, "question"), embedded, recipe)


def test_prompts_from_the_hub_are_published_and_not_evaluated(
    cli: Shell, bank: Built, user: Account
) -> None:
    lines = [json.dumps({"id": i, "prompt": json.loads(row)["input"]}).encode() + b"\n"
             for i, row in enumerate(topic_rows(2).splitlines())]  # fmt: skip
    data = user.dataset("prompts", {"train.jsonl": b"".join(lines)})
    asked = ("-d", data, "--bank", bank.folder)
    done = cli("push", *asked, "--repo-id", f"{user.name}/made", token=user.token)
    assert "Warning: The dataset has no outputs" in done.err
    made = cli("inspect", f"{user.name}/made", "--json", token=user.token).json
    assert made["provenance"]["dataset"]["columns"] == {"input": "prompt"}
    assert made["coefficients"][0]["dataset"] == f"{bank.owner.name}/e2"
    refused = cli(
        "push", *asked, "--check", 8, "--repo-id", f"{user.name}/other", token=user.token, code=3
    )
    assert "--check compares answers with outputs" in refused.err
    given = ("evaluate", f"{user.name}/made", "-d", data, "--split", "train")
    refused = cli(*given, code=3, token=user.token)
    assert "none of 21 rows has an output" in refused.err
