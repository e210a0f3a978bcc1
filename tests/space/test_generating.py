"""A Space with a tiny base model: what a program makes is trained and checked, as on the page."""

import json
import re
import subprocess
import time
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import pytest

from hf_lorameta.cards.confusion import CONFUSION_FILE
from tests.conftest import Shell, Web
from tests.space.datasets import LABELED, lines
from tests.support.running_space import SPACE, missing

if why := missing("gradio", "gradio_client", "torch", "transformers", "peft"):
    pytest.skip(why, allow_module_level=True)

from gradio_client import Client

README = (SPACE / "README.md").read_text("utf-8")
CALLS = re.search(r"```bash\n(curl .*?)```", README, re.DOTALL)
PREDICT = re.search(r"```bash\n(adapter=.*?)```", README, re.DOTALL)


def questions() -> list[dict[str, str]]:
    """Return rows with odd names of columns."""
    return [{"question": row["input"], "answer": row["output"]} for row in LABELED]


@pytest.fixture(scope="module")
def made(tiny_space: Web, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the calls of the README have been made, as they stand there."""
    assert CALLS
    folder = tmp_path_factory.mktemp("made")
    rows = "".join(f"{row['question']},{row['answer']}\n" for row in questions())
    (folder / "rows.csv").write_text(f"question,answer\n{rows}")
    run_in(folder, tiny_space.space.url, CALLS[1])
    return folder


def run_in(folder: Path, url: str, commands: str) -> None:
    environment = {"SPACE": url, "PATH": "/usr/bin:/bin"}
    run = ["bash", "-euo", "pipefail", "-c", commands]
    subprocess.run(run, cwd=folder, env=environment, check=True, timeout=300)


def events(folder: Path, name: str = "events.txt") -> list[tuple[str, Any]]:
    found = re.findall(r"event: (\w+)\ndata: (.*)", (folder / name).read_text())
    return [(event, json.loads(data)) for event, data in found]


def test_five_calls_of_curl_make_a_trained_adapter(made: Path) -> None:
    assert CALLS
    assert len(re.findall(r"\bcurl\b", CALLS[1])) == 5
    with zipfile.ZipFile(made / "adapter.zip") as archive:
        recipe = json.loads(archive.read("recipe.json"))
        card, picture = (archive.read(f).decode() for f in ("README.md", CONFUSION_FILE))
    assert f"]({CONFUSION_FILE})" in card
    assert "- decision-model\n" in card
    assert picture.startswith("<svg ")
    _, (_, result) = events(made)[-1]
    assert recipe["training"]["steps"] > 0
    assert recipe["check"] == result["check"]
    assert recipe["recipe"] == result["recipe"]
    assert recipe["remarks"][-1] == result["verdict"]
    assert result["said"].startswith("Trained on ")
    assert "published" not in result


def test_two_more_calls_answer_with_it(made: Path, tiny_space: Web) -> None:
    assert PREDICT
    assert len(re.findall(r"\bcurl\b", PREDICT[1])) == 2
    run_in(made, tiny_space.space.url, PREDICT[1])
    last, [result] = events(made, "answers.txt")[-1]
    assert last == "complete"
    assert len(result["answers"]) == 2
    for one in result["answers"]:
        assert bool(one["answer"]) == (one["probability"] >= 0.5)


@pytest.mark.parametrize("name", ["agents.md", "llms.txt"])
def test_agents_read_calls_that_work_as_they_stand(tiny_space: Web, name: str) -> None:
    url = tiny_space.space.url
    with urllib.request.urlopen(f"{url}/{name}", timeout=60) as answer:
        text = answer.read().decode()
    assert answer.headers.get_content_type() == "text/markdown"
    address, calls, predict = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    assert address == f"SPACE={url}\n"
    assert CALLS
    assert PREDICT
    assert (calls, predict) == (CALLS[1], PREDICT[1])
    assert "\n## " not in text


def test_the_stream_states_the_progress_and_ends_with_the_result(made: Path) -> None:
    *before, (last, (archive, _)) = events(made)
    assert last == "complete"
    assert archive["path"].endswith(".zip")
    assert {event for event, _ in before} <= {"generating", "heartbeat"}
    shown = [data[1] for event, data in before if event == "generating" and data[0] is None]
    training = [step for step in shown if "on your rows" in step["progress"]]
    assert training
    assert all(0 < step["seconds_left"] <= 120 for step in training)
    assert any(step.get("steps") for step in training)


def test_a_call_waits_in_the_line_of_the_page_and_with_a_token_publishes_in_one_commit(
    tiny_space: Web, holds: tuple[Path, Path], cli: Shell
) -> None:
    owner, url = tiny_space.owner, tiny_space.space.url
    dataset = owner.dataset("quiz", {"train.jsonl": lines(questions())})
    clients = [Client(url, oauth_token=token, verbose=False) for token in (None, owner.token)]
    inputs = {"dataset": dataset, "columns": "input=question,output=answer"}
    inputs |= {"publish": "anyway"}  # a tiny model's answers may be worse than the base model's
    _, hold_training = holds
    hold_training.touch()
    jobs = [client.submit(**inputs, api_name="/generate") for client in clients]
    while not any(step[1].get("place") == 1 for job in jobs for step in job.outputs()):
        time.sleep(0.05)  # one training at a time
    hold_training.unlink()
    results = [job.result() for job in jobs]
    assert [result["training"]["steps"] > 0 for _, result in results] == [True, True]
    archive, result = results[1]
    repo = result["published"]["repo_id"]
    with zipfile.ZipFile(archive) as opened:
        for name in ("adapter_model.safetensors", "recipe.json"):
            assert cli.hub.read(repo, name) == opened.read(name)
    assert json.loads(cli.hub.read(repo, "recipe.json"))["training"]["steps"] > 0
    assert result["published"]["private"] is True
    assert len(cli.hub.commits(repo)) == 2, "the first creates the repo"
