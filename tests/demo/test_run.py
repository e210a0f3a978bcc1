"""The demo's messages, its progress and the rows it scores first."""

import importlib.util
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from hf_lorameta.bank.bank import Bank
from hf_lorameta.demo import run
from hf_lorameta.environment import install_hint
from hf_lorameta.errors import LoraMetaError
from hf_lorameta.localhub import LocalHub


def recording_console() -> tuple[run.Console, list[str], list[tuple[str, float]]]:
    messages: list[str] = []
    steps: list[tuple[str, float]] = []
    console = run.Console(messages.append, lambda step, seconds: steps.append((step, seconds)))
    return console, messages, steps


def test_step_reports_its_name_and_seconds_while_it_runs() -> None:
    second_report = threading.Event()
    steps: list[tuple[str, float]] = []

    def progress(step: str, seconds: float) -> None:
        steps.append((step, seconds))
        if seconds:
            second_report.set()

    with run.Console(print, progress).step("scoring"):
        assert second_report.wait(30)
    count = len(steps)
    assert {name for name, _ in steps} == {"scoring"}
    assert steps[0][1] == 0
    assert steps[1][1] >= 1
    time.sleep(1.1)
    assert len(steps) == count  # the thread has ended


def test_run_shows_the_messages_of_a_command_and_returns_its_json() -> None:
    console, messages, steps = recording_console()
    result = run._run(["plan", "--dataset", str(run.DATA_FOLDER / "train.jsonl")], {}, console)
    assert result["recipe"]["metric"]
    assert messages[0].startswith("\n$ hf-lorameta plan --dataset ")
    assert any(f"{len(Bank.embedded())} adapters" in message for message in messages[1:])
    assert steps[0] == ("plan", 0.0)


def test_run_raises_with_the_messages_of_a_failed_command() -> None:
    console, _, _ = recording_console()
    with pytest.raises(LoraMetaError, match=r"inspect failed: .*no-such-adapter"):
        run._run(["inspect", "no-such-adapter"], {}, console)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Records the commands of an evaluation instead of running them."""
    recorded: list[list[str]] = []

    def record(arguments: list[str], _: dict[str, str], __: run.Console) -> dict[str, Any]:
        recorded.append(arguments)
        rows = int(arguments[arguments.index("--max-rows") + 1])
        scores = {"loss": 1.0, "rouge_l": 0.5, "exact_match": 0.5, "contains": 0.5, "rows": rows}
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
        return {"scores": {"base": scores, "generated": scores}, "samples": samples}

    monkeypatch.setattr(run, "_run", record)
    monkeypatch.setattr(run, "_engine_options", lambda base_model: ["--base", "folder"])
    return recorded


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


def test_first_result_is_on_few_rows_and_the_last_on_all(commands: list[list[str]]) -> None:
    console, messages, _ = recording_console()
    result = run._evaluate("org/base", 8, 48, {}, console)
    first, last = commands
    assert first[-4:] == ["--max-rows", "8", "--shots", "0"]
    assert last[-2:] == ["--max-rows", "48"]
    assert "--shots" not in last  # compares with a 3-shot prompt
    assert "Scores on 8 held-out rows:" in messages[0]
    assert "Scores on 48 held-out rows:" in result["summary"]
    for text in (messages[0], result["summary"]):  # with answers before and after
        right, both, wrong = (text.index(f"“a note, {n}”") for n in ("right", "both", "wrong"))
        assert right < text.index("'Yes.'") < text.index("'positive'") < both < wrong


@pytest.mark.parametrize(("first_rows", "max_rows"), [(0, 48), (8, 8), (8, 2)])
def test_rows_are_scored_once_when_silent_or_few(
    commands: list[list[str]], first_rows: int, max_rows: int
) -> None:
    console, messages, _ = recording_console()
    run._evaluate("org/base", first_rows, max_rows, {}, console)
    assert [command[-2:] for command in commands] == [["--max-rows", str(max_rows)]]
    assert messages == []


def test_missing_engines_are_reported_with_the_command_that_installs_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find = importlib.util.find_spec
    gone = ("torch", "xllamacpp")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in gone else find(name, *a)
    )
    result = run._evaluate("org/base", 8, 48, {}, recording_console()[0])
    assert result["scores"] is None
    assert result["missing"] == [
        "Not evaluated: torch is not installed.",
        f"To see scores: {install_hint('eval')}, then run hf-lorameta demo again.",
    ]
