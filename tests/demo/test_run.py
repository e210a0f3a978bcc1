"""The demo's messages and its summary."""

from pathlib import Path

import pytest

from hf_lorameta.bank.bank import Bank
from hf_lorameta.demo import run
from hf_lorameta.errors import LoraMetaError
from hf_lorameta.localhub import LocalHub


def test_run_shows_the_messages_of_a_command_and_returns_its_json(
    capfd: pytest.CaptureFixture[str],
) -> None:
    said: list[str] = []
    plan = ["plan", "--dataset", str(run.DATA_FOLDER / "train.jsonl")]
    result = run._run(plan, {}, said.append, quiet=False)
    assert result["recipe"]["metric"]
    assert said == [f"\n$ hf-lorameta plan --dataset {plan[-1]}"]
    shown = capfd.readouterr()
    assert f"{len(Bank.embedded())} adapters" in shown.err
    assert shown.out == ""


def test_run_raises_after_the_messages_of_a_failed_command(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(LoraMetaError, match="inspect failed, see above"):
        run._run(["inspect", "no-such-adapter"], {}, print, quiet=True)
    assert "no-such-adapter" in capfd.readouterr().err


def test_commands_share_the_cache_and_nothing_else_of_the_users_hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_LORAMETA_CACHE", str(tmp_path / "cache"))
    with LocalHub() as hub:
        given = run._environment(hub, tmp_path / "home", None)
        assert given["HF_ENDPOINT"] == hub.url
    assert given["HF_LORAMETA_CACHE"] == str(tmp_path / "cache")
    assert given["HF_HOME"] == str(tmp_path / "home")
    assert "hf_secret" not in given.values()


def test_the_summary_shows_first_what_only_the_adapter_answers_right() -> None:
    scores = {"loss": 1.0, "rouge_l": 0.5, "exact_match": 0.5, "contains": 0.5, "rows": 48}
    answers = {  # of the base model and of the adapter, in the rows' order
        "wrong": ("Yes.", "negative"),
        "both": ("Positive", "positive"),
        "right": ("Yes.", "positive"),
    }
    samples = [
        {
            "input": f"Input: a note, {note}\nOutput:",
            "reference": "positive",
            "outputs": {"base": base, "generated": f" {answer}\n"},
        }
        for note, (base, answer) in answers.items()
    ]
    text = run._summary({"scores": {"base": scores, "generated": scores}, "samples": samples})
    assert "Scores on 48 held-out rows:" in text
    right, both, wrong = (text.index(f"“a note, {note}”") for note in ("right", "both", "wrong"))
    assert right < text.index("'Yes.'") < text.index("'positive'") < both < wrong
