"""The forms of prompts that rows get in training."""

import json
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_lorameta.training.bank.forms import (
    TEXT_ALONE,
    WITH_INSTRUCTION,
    Example,
    Forms,
    filled,
    marks,
    split_instruction,
    with_marks,
)
from tests.benchmarks.unseen_forms import UNSEEN

pytestmark = pytest.mark.unit

CHAT = "<user>{prompt}<assistant>"
ASKED = "What does it want? Options: eat, sleep, play."
LABELS = ("eat", "sleep", "play")
CLASSES = [(f"{ASKED}\n\nInput: cat {n}\nOutput:", LABELS[n % 3]) for n in range(60)]
CHOICES = [
    (f"Choose.\n\nWho says {n}?\nA) cat {n}\nB) dog {n}\nC) cow {n}\n\nAnswer:", f"dog {n}")
    for n in range(40)
]


def test_labels_keep_the_text_and_stay_answers() -> None:
    drawn = Forms(CLASSES, CHAT).drawn(CLASSES, "seed")
    assert len({prompt for prompt, _ in drawn}) == len(drawn)
    for (prompt, output), (own, label) in zip(drawn, CLASSES, strict=True):
        text = re.search(r"cat \d+", own)
        assert text is not None
        assert text[0] in prompt
        assert "What does it want?" in prompt or "Classify the text as one of: eat" in prompt
        if output != label:
            assert output in prompt
    assert sum(prompt.startswith("<user>") for prompt, _ in drawn) in range(15, 45)
    assert sum(output == label for (_, output), (_, label) in zip(drawn, CLASSES, strict=True)) > 40


def test_the_same_seed_draws_the_same_and_another_draws_others() -> None:
    forms = Forms(CLASSES, CHAT)
    assert forms.drawn(CLASSES, "a") == forms.drawn(CLASSES, "a") != forms.drawn(CLASSES, "b")


def test_without_a_chat_template_none_is_drawn() -> None:
    assert all("<user>" not in prompt for prompt, _ in Forms(CLASSES).drawn(CLASSES, "seed"))


def test_options_get_other_marks_and_are_answered_by_text_or_mark() -> None:
    drawn = Forms(CHOICES).drawn(CHOICES, "seed")
    kinds = Counter(
        "text" if output.startswith("dog") else "both" if "dog" in output else "mark"
        for _, output in drawn
    )
    assert set(kinds) == {"text", "both", "mark"}
    for prompt, output in drawn:
        if "dog" not in output:
            assert re.search(rf"^{re.escape(output)}\S* dog", prompt, re.MULTILINE)


def test_more_labels_than_letters_get_no_marks() -> None:
    labels = [f"label {number}" for number in range(40)]
    asked = f"Which one is it? Options: {', '.join(labels)}."
    rows = [(f"{asked}\n\nInput: {n}\nOutput:", labels[n % 40]) for n in range(200)]
    drawn = Forms(rows).drawn(rows, "seed")
    assert [output for _, output in drawn] == [output for _, output in rows]


def test_a_row_without_a_single_right_option_stays() -> None:
    twice = Example("Choose.", "Which?\nA) a\nB) a", "a", "")
    other = Example("Choose.", "Which?\nA) a\nB) b", "c", "")
    assert [with_marks(row, "(1)", "mark") for row in (twice, other)] == [twice, other]


def test_examples_stand_before_the_row_in_the_same_form() -> None:
    rows = [(f"Name the color: {n} =>", f"blue {n}") for n in range(50)]
    drawn = Forms(rows).drawn(rows, "seed")
    shown = [prompt for prompt, output in drawn if prompt.count("blue") and output not in prompt]
    assert shown
    assert {prompt.count("blue") for prompt in shown} <= {1, 3}


@given(
    st.text(max_size=20), st.text(max_size=20), st.sampled_from((*WITH_INSTRUCTION, *TEXT_ALONE))
)
def test_templates_keep_what_is_put_into_them(instruction: str, text: str, template: str) -> None:
    prompt = filled(template, instruction, text)
    if template.startswith('{"'):
        assert json.loads(prompt + '"}') == {
            "instruction": instruction, "input": text, "output": ""
        }  # fmt: skip
    else:
        assert text in prompt
        assert "{instruction}" not in template or instruction in prompt


def test_no_template_is_one_of_those_that_are_reported_on() -> None:
    assert not {*WITH_INSTRUCTION, *TEXT_ALONE} & set(UNSEEN)


def test_marks_follow_each_other() -> None:
    found = marks("a)")
    assert [next(found) for _ in range(3)] == ["a)", "b)", "c)"]


def test_rows_that_share_nothing_have_no_instruction() -> None:
    texts = ["How are you?", "Who is it?"]
    assert split_instruction(texts) == ("", texts)
