"""The expected gain that a plan with the embedded bank states."""

import json
from pathlib import Path

import pytest

from hf_lorameta import Bank, Recipe, plan
from hf_lorameta.bank.expected_gain import Estimate
from hf_lorameta.pipeline.plan_warnings import _gain_warnings
from tests.conftest import Shell


def write(path: Path, output: str) -> Path:
    lines = [{"input": f"Question {i}?", "output": f"{output} {i}"} for i in range(30)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_short_outputs_promise_more_than_long_ones(tmp_path: Path) -> None:
    bank = Bank.embedded()
    short = plan(write(tmp_path / "short.jsonl", "yes"), bank)
    long = plan(write(tmp_path / "long.jsonl", "the story goes on and on " * 8), bank)
    assert short.expected is not None
    assert long.expected is not None
    assert short.expected.mean > long.expected.mean
    assert not any("3-shot prompt" in text for text in short.warnings)
    assert any("3-shot prompt" in text for text in long.warnings)
    assert short.with_recipe(Recipe(output_prior=0)).expected is None


@pytest.mark.parametrize(
    ("expected", "outcome"),
    [
        (Estimate(0.1, 0.2, 16, 0.3), "3-shot prompt by 30%: this one may gain nothing"),
        (Estimate(0.1, 0.2, 16, None), "by 10% ± 20%: this one may gain nothing"),
        (Estimate(0.3, 0.2, 16, 0.4), "less than such a prompt"),
        (Estimate(0.3, 0.2, 16, 0.2), None),
        (Estimate(0.3, 0.2, 16, None), None),
    ],
)
def test_little_gain_or_less_than_that_of_a_prompt_is_a_warning(
    expected: Estimate, outcome: str | None
) -> None:
    text = "".join(_gain_warnings(expected, "train it"))
    assert bool(text) == bool(outcome)
    assert (outcome or "") in text


def test_plan_prints_the_expected_gain_beside_that_of_a_prompt(cli: Shell, tmp_path: Path) -> None:
    write(tmp_path / "short.jsonl", "yes")
    printed = cli("plan", "--dataset", "short.jsonl").out
    assert "less loss than the base model" in printed
    assert "a 3-shot prompt" in printed
    stated = cli("plan", "--dataset", "short.jsonl", "--json").json["expected"]
    assert set(stated) == {"mean", "spread", "datasets", "prompted"}
