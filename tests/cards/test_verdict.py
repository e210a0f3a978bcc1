"""The verdict: what was counted, who wins, and what is in doubt."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hf_lorameta import Plan, Recipe, plan
from hf_lorameta.cards.model_card import CARD_FILE
from hf_lorameta.cards.results import Check, RightAnswers
from hf_lorameta.cards.verdict import verdict_of
from hf_lorameta.pipeline.make import make_adapter

RIGHT = RightAnswers(most_frequent=7, base=2, end=12, chat=3, prompt=9)
SENTIMENTS = [
    {"text": f"The {thing} was {word}.", "label": label}
    for thing in ("room", "tea", "bed", "view", "host", "bath")
    for word, label in (("lovely", "good"), ("awful", "bad"))
]


def check(**right: Any) -> Check:
    return Check(16, 2.0, 1.0, 1.0, 1, shots=3, right=replace(RIGHT, **right))


@pytest.mark.parametrize(
    ("right", "level", "winner"),
    [
        ({}, "likely", "the adapter answers best"),
        ({"prompt": 15}, "unlikely", "3 examples in the prompt"),
        ({"chat": 15}, "unlikely", "base model in its chat template"),
        ({"most_frequent": 15}, "unlikely", "the most frequent answer for all rows"),
        ({"base": 15}, "unlikely", "base model"),
        ({"prompt": 10}, "unsure", "3 examples in the prompt"),
        ({"prompt": 14}, "unsure", "3 examples in the prompt"),
        ({"end": 0, "base": 0, "chat": 0, "prompt": 0, "most_frequent": 0}, "unsure", "no answer"),
        ({"chat": None, "prompt": None}, "likely", "the adapter answers best"),
    ],
)
def test_the_verdict_names_the_winner(right: Any, level: str, winner: str) -> None:
    found = verdict_of(check(**right))
    assert found.level == level
    assert winner in found.title
    assert f"on 16 rows: the adapter {right.get('end', 12)}, the base model" in found.reason
    assert "None" not in found.reason


def test_nothing_is_promised_where_nothing_was_counted_or_something_is_in_doubt() -> None:
    assert verdict_of(None).level == "unsure"
    doubted = verdict_of(check(), ["The dataset holds images, which are not read."])
    assert doubted.level == "unsure"
    assert "the adapter 12" in doubted.reason
    assert "images" in doubted.reason


IMAGE = {"bytes": b"", "path": "a.png"}


@pytest.mark.parametrize(
    ("rows", "doubt"),
    [
        ([{"image": IMAGE, "text": f"a {n}", "label": "ab"[n % 2]} for n in range(9)], "images"),
        ([{"question": f"{n} + {n}", "answer": f"{2 * n}"} for n in range(9)], "numbers"),
        ([{"input": "a " * (n % 2), "output": "ab"[n % 2]} for n in range(12)], "are blank"),
        ([{"text": f"sun {n}", "next": f"a tree of kind {n}"} for n in range(9)], "what to do"),
    ],
)
def test_data_that_may_not_hold_what_an_answer_needs_is_never_promised_help(
    rows: Any, doubt: str
) -> None:
    columns = "input=text,output=next" if "next" in rows[0] else None
    planned = replace(plan(rows, columns=columns), check=check())
    assert planned.verdict.level == "unsure"
    assert doubt in planned.verdict.reason


@pytest.fixture(scope="module")
def planned() -> Plan:
    recipe = Recipe(top_k=2, rank=2)
    return plan(SENTIMENTS, recipe=recipe, instruction="Is the note good or bad?")


def test_python_card_and_json_state_the_same_verdict(planned: Plan, tmp_path: Path) -> None:
    generation = make_adapter(planned)
    for found in (None, check(), check(prompt=14)):
        checked = replace(planned, check=found)
        adapter = replace(generation, plan=checked)
        folder = adapter.save_pretrained(tmp_path / f"{found and found.right}")
        text = str(checked.verdict)
        card = (folder / CARD_FILE).read_text()
        assert card.count(f"**{checked.verdict.title}.** {checked.verdict.reason}") == 1
        assert checked.to_dict()["verdict"]["title"] == checked.verdict.title
        assert text in checked._repr_html_().replace("&#x27;", "'").replace("&quot;", '"')
        assert text in str(checked)
        assert (text in repr(adapter)) == (found is not None)
