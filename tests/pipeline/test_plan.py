"""Plans of datasets that lack inputs or outputs: what is compared, warned about and refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_lorameta import Bank, Plan, Recipe, plan
from hf_lorameta.bank.store_profiles import bank_distances
from hf_lorameta.data.counts.profile import ProfileTable, profile_rows
from hf_lorameta.errors import UnlabeledDatasetError
from hf_lorameta.method.coefficients import RuleInputs, apply_rule
from hf_lorameta.method.registries import COEFFICIENT_RULES, METRICS
from hf_lorameta.pipeline import read
from tests.conftest import Account, Built, Shell
from tests.conftest import rows as topic_rows
from tests.data.oracle import distribution, distributions
from tests.method import oracles
from tests.method.oracles import js
from tests.pipeline.conftest import with_recipe
from tests.support.plain_bank import plain_bank

TEXTS = ["When did it happen?", "How long does the storm last?", "Is the bridge still closed?"]


def write_rows(folder: Path, *columns: str) -> Path:
    path = folder / f"{'-'.join(columns)}.jsonl"
    lines = [{name: f"{TEXTS[i % 3]} {name} {i}" for name in columns} for i in range(30)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def embedded() -> Bank:
    return plain_bank()


@pytest.fixture
def prompts(tmp_path: Path, embedded: Bank) -> Plan:
    return plan(write_rows(tmp_path, "prompt"), embedded)


def js_inside(bank: Bank, part: Any) -> np.ndarray:
    """Return the (N, N) divergences of one part among the bank's datasets."""
    profiles = [bank.profiles[i] for i in range(len(bank))]
    each = distributions(profiles, bank.index.vocab_size, part)
    return np.array([[js(p, q) for q in each] for p in each])


def length_distances_inside(bank: Bank) -> np.ndarray:
    """Return the (N, N) distances of output lengths among the bank's datasets."""
    profiles = [bank.profiles[i] for i in range(len(bank))]
    each = distributions(profiles, bank.index.vocab_size, "lengths")
    return np.array([[oracles.lengths(p, q) for q in each] for p in each])


def default_coefficients(distances: np.ndarray, inside: np.ndarray) -> np.ndarray:
    inputs = RuleInputs(distances, bank_distances=lambda: inside)
    return apply_rule(Recipe().coefficients, inputs).adapters


# --- what is compared ----------------------------------------------------------------------------


def test_prompts_are_compared_with_inputs_only(prompts: Plan, embedded: Bank) -> None:
    size = embedded.index.vocab_size
    assert prompts.profile.rows == 30
    assert prompts.profile.output.total == 0
    own = distribution(prompts.profile, size, "input")
    profiles = [embedded.profiles[i] for i in range(len(embedded))]
    expected = np.array([js(own, q) for q in distributions(profiles, size, "input")])
    np.testing.assert_allclose(prompts.distances, expected)
    inside = js_inside(embedded, "input")
    np.testing.assert_allclose(
        prompts.coefficients, default_coefficients(expected, inside), atol=1e-7
    )
    np.fill_diagonal(inside, np.inf)
    assert prompts.nearest_in_bank == pytest.approx(float(np.median(inside.min(1))))


def test_a_bank_stores_the_distances_that_prompts_need(embedded: Bank) -> None:
    stored = bank_distances(embedded.profiles, embedded.index.vocab_size)
    assert set(stored) == {"js-task", "js-task of inputs"}
    expected = js_inside(embedded, "input")
    np.testing.assert_allclose(stored["js-task of inputs"], expected, atol=1e-6)


def test_a_bank_with_a_dataset_of_plain_text_has_distances_of_inputs() -> None:
    texts, prompts = ([("", "a b")], [("a", "b")])
    encode = lambda rows: [[ord(t) - 97 for t in row.split()] for row in rows]  # noqa: E731
    profiles = [profile_rows(rows, encode, 3) for rows in (texts, prompts, prompts)]
    inside = bank_distances(ProfileTable.from_profiles(profiles), 3)["js-task of inputs"]
    assert inside[1, 2] == inside[0, 0] == 0.0
    assert inside[0, 1] == inside[1, 0] > 0.3


def test_the_papers_metrics_also_compare_prompts_with_inputs_only(prompts: Plan) -> None:
    other = with_recipe(prompts, Recipe(metric="js", coefficients="normalized"))
    np.testing.assert_allclose(other.distances, prompts.distances)


def test_text_without_inputs_is_compared_with_outputs(tmp_path: Path, embedded: Bank) -> None:
    result = plan(write_rows(tmp_path, "text"), embedded)
    inside = js_inside(embedded, "output") + length_distances_inside(embedded)
    expected = default_coefficients(result.distances, inside)
    np.testing.assert_allclose(result.coefficients, expected, atol=1e-7)
    np.fill_diagonal(inside, np.inf)
    assert result.nearest_in_bank == pytest.approx(float(np.median(inside.min(1))))
    complete = with_recipe(result, Recipe(metric="js", coefficients="normalized"))
    assert complete.nearest_in_bank == embedded.index.typical_distances["js"]


def test_labeled_datasets_are_compared_completely(tmp_path: Path, embedded: Bank) -> None:
    result = plan(write_rows(tmp_path, "prompt", "completion"), embedded)
    assert result.nearest_in_bank == embedded.index.typical_distances[Recipe().metric]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("rule", sorted({*COEFFICIENT_RULES} - {"neural"}))
def test_nearer_datasets_come_first_with_every_metric_and_rule(
    tmp_path: Path, embedded: Bank, metric: str, rule: str
) -> None:
    result = plan(write_rows(tmp_path, "prompt", "completion"), embedded)
    result = with_recipe(result, Recipe(metric=metric, coefficients=rule))
    neighbors = result.neighbors()
    assert sum(n.coefficient for n in neighbors) == pytest.approx(1)
    coefficients = [abs(n.coefficient) for n in neighbors]
    assert coefficients == sorted(coefficients, reverse=True)
    if rule != "kernel":  # the other rules give nearer datasets larger coefficients
        distances = [n.distance for n in neighbors]
        assert distances == sorted(distances)


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["train", "check"])
def test_missing_outputs_are_refused_before_any_row_is_read(
    tmp_path: Path, embedded: Bank, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unexpected(*_: Any, **__: Any) -> Iterator[Any]:
        raise AssertionError("the rows were read")

    message = f"{option} compares answers with outputs, and the dataset has none"
    monkeypatch.setattr(read, "profile_rows", unexpected)
    with pytest.raises(UnlabeledDatasetError, match=message):
        plan(write_rows(tmp_path, "question"), embedded, {option: 16})


def test_prompts_from_the_hub_are_published_but_not_evaluated(
    cli: Shell, bank: Built, user: Account
) -> None:
    lines = [json.dumps({"id": i, "prompt": json.loads(row)["input"]}).encode() + b"\n"
             for i, row in enumerate(topic_rows(2).splitlines())]  # fmt: skip
    data = user.dataset("prompts", {"train.jsonl": b"".join(lines)})
    asked = ("-d", data, "--bank", bank.folder)
    done = cli("push", *asked, "--repo-id", f"{user.name}/made", token=user.token)
    assert "no outputs" in done.err
    made = cli("inspect", f"{user.name}/made", "--json", token=user.token).json
    assert made["provenance"]["dataset"]["columns"] == {"input": "prompt"}
    assert made["coefficients"][0]["dataset"] == f"{bank.owner.name}/e2"
    refused = cli(
        "push", *asked, "--check", 8, "--repo-id", f"{user.name}/other", token=user.token, code=3
    )
    assert "the setting check" in refused.err
    given = ("evaluate", f"{user.name}/made", "-d", data, "--split", "train")
    refused = cli(*given, code=3, token=user.token)
    assert "24 rows" in refused.err
