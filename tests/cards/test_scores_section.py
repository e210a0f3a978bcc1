"""Measured scores on a card: the tables and ``model-index``."""

import math
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_lorameta.cards.scores_section import MeasuredScores, with_scores
from hf_lorameta.errors import AdapterError
from tests.cards.examples import QUESTIONS, metadata, metadata_fields, of_dataset, rendered, section
from tests.support.full_hub import card_rules as hub_rules

MEASURED = MeasuredScores(
    dataset=replace(QUESTIONS, split="test"),
    rows=1200,
    scores={
        "base": {"loss": 2.25, "rouge_l": 0.125, "exact_match": 0.0, "contains": 0.25},
        "generated": {"loss": 0.3456789, "rouge_l": 0.5, "exact_match": 0.25, "contains": 0.375},
        "3-shot": {"loss": 0.5, "rouge_l": None, "exact_match": None, "contains": None},
    },
)
CARD = rendered("me/lora")


def results(text: str) -> list[tuple[object, ...]]:
    found = metadata(text).eval_results or []
    return [
        (r.dataset_type, r.dataset_config, r.dataset_split, r.metric_type, r.metric_value)
        for r in found
    ]


def test_card_shows_all_scores_and_indexes_those_of_this_adapter() -> None:
    text = with_scores(CARD, MEASURED, "me/lora")
    part = section(text, "What was measured")
    assert "### `me/questions` `main`, split `test`" in part
    assert f"datasets/me/questions/tree/{'d' * 40}" in part
    assert "1,200 rows" in part
    assert [line for line in part.splitlines() if line.startswith("| `")] == [
        "| `base` | 2.250 | 0.125 | 0.000 | 0.250 |",
        "| `generated` | 0.346 | 0.500 | 0.250 | 0.375 |",
        "| `3-shot` | 0.500 | – | – | – |",
    ]
    place = ("me/questions", "main", "test")
    assert results(text) == [
        (*place, "loss", 0.3456789), (*place, "rouge", 0.5), (*place, "exact_match", 0.25),
    ]  # fmt: skip
    assert {r.dataset_revision for r in metadata(text).eval_results or []} == {"d" * 40}
    assert metadata(text).model_name == "me/lora"
    assert "not evaluated" not in text
    assert "Only the scores above were measured" in section(text, "What was not measured")
    assert "other rows:\n\n```bash\nhf-lorameta evaluate me/lora" in text
    assert hub_rules.check(text, "model") == ([], [])


def test_several_labels_are_said_to_match_in_any_order() -> None:
    several = {"generated": {"loss": 2.0, "exact_match": 1.0, "contains": 1.0, "label_f1": 0.75}}
    part = section(
        with_scores(CARD, replace(MEASURED, scores=several), "me/lora"), "What was measured"
    )
    assert "from 0 to 1, and labels match in any order. " in part
    assert "| `generated` | 2.000 | – | 1.000 | 1.000 | 0.750 |" in part


def test_other_sections_and_metadata_stay_unchanged() -> None:
    text = with_scores(CARD, MEASURED, "me/lora")
    titles = re.findall(r"^## (.+)$", text, re.MULTILINE)
    before = re.findall(r"^## (.+)$", CARD, re.MULTILINE)
    assert titles == [
        *before[: before.index("What was not measured")],
        "What was measured",
        *before[before.index("What was not measured") :],
    ]
    for title in set(before) - {"What was not measured"}:
        assert section(text, title) == section(CARD, title)
    old, new = metadata_fields(CARD), metadata_fields(text)
    assert {name: new[name] for name in old} == old
    assert set(new) - set(old) == {"model-index"}


def test_new_scores_replace_those_of_the_same_split_only() -> None:
    later = replace(MEASURED, rows=7, scores={"generated": {"loss": 0.25}})
    again = replace(later, **of_dataset(revision="e" * 40, split="test"))
    other = replace(MEASURED, **of_dataset(id="you/others", config=None, split="test"))
    text = with_scores(CARD, MEASURED, "me/lora")
    assert with_scores(text, MEASURED, "me/lora") == text
    text = with_scores(with_scores(text, other, "me/lora"), again, "me/lora")
    part = section(text, "What was measured")
    assert (part.count("### `me/questions`"), part.count("### `you/others`")) == (1, 1)
    assert "1,200 rows" in part  # of the other
    assert "| `generated` | 0.250 | – | – | – |" in part
    assert sorted({found[:1] + found[3:] for found in results(text)}) == [
        ("me/questions", "loss", 0.25),
        ("you/others", "exact_match", 0.25),
        ("you/others", "loss", 0.3456789),
        ("you/others", "rouge", 0.5),
    ]
    assert text.count("Only the scores above were measured") == 1


@pytest.mark.parametrize("hidden", [{"private": True}, {"id": None}])
def test_scores_do_not_name_a_private_dataset(hidden: dict[str, object]) -> None:
    before = rendered("me/lora", **of_dataset(**hidden))
    text = with_scores(before, replace(MEASURED, **of_dataset(split="test", **hidden)), "me/lora")
    assert "### a local or private dataset, split `test`" in text
    assert "| `generated` | 0.346 |" in text
    assert not re.search(r"me/questions|d{40}|`main`", text)
    assert "model-index" not in text


def test_scores_are_appended_to_a_rewritten_card() -> None:
    text = with_scores("---\nlicense: mit\n---\nMine alone.", MEASURED, None)
    assert text.index("Mine alone.") < text.index("## What was measured")
    assert len(results(text)) == 3
    with pytest.raises(AdapterError, match="metadata cannot be read"):
        with_scores("---\nlicense: [\n---\n", MEASURED, None)


def test_nan_and_infinity_are_not_indexed() -> None:
    odd = replace(MEASURED, scores={"generated": {"loss": math.nan, "exact_match": math.inf}})
    assert results(with_scores(CARD, odd, None)) == []


@settings(max_examples=30)
@given(st.text(max_size=20))
def test_names_of_a_scored_dataset_are_escaped(text: str) -> None:
    scores = {text: {"loss": 1.0}, "generated": {"loss": 1.0}}
    measured = replace(MEASURED, scores=scores)
    odd = replace(measured, **of_dataset(id=text, config=text, split=text))
    written = with_scores(CARD, odd, "me/lora")
    assert re.findall(r"^## (.+)$", written, re.MULTILINE)[-1] == "Citation"
    assert written.count("\n### ") == 1
    assert hub_rules.check(written, "model")[0] == []
