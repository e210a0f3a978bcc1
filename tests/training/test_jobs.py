"""Submitting ``bank train`` to Hugging Face Jobs, with a client that records the request."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import huggingface_hub
import pytest
import typer

from hf_lorameta.cli.app import app
from hf_lorameta.errors import ConnectionLostError, LoraMetaError, UsageError
from hf_lorameta.hub import base_model
from hf_lorameta.pipeline import budget
from hf_lorameta.training.settings import Settings
from tests.test_environment import REPOSITORY, install

TOKEN = "hf_secret"
CONFIG = {"num_hidden_layers": 30, "hidden_size": 576}


class Client:
    """Stands for the Hub's Jobs API."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.jobs: list[dict[str, Any]] = []
        for name in ("run_uv_job", "fetch_job_logs", "inspect_job", "list_jobs_hardware"):
            monkeypatch.setattr(huggingface_hub, name, getattr(self, name))
        monkeypatch.setattr(huggingface_hub, "get_token", lambda: TOKEN)
        monkeypatch.setattr(base_model, "config_json", lambda *_: CONFIG)

    def run_uv_job(self, script: str, **options: Any) -> Any:
        self.jobs.append({"script": script, **options})
        owner = SimpleNamespace(name="user")
        return SimpleNamespace(url="https://huggingface.co/jobs/user/1", id="1", owner=owner)

    def fetch_job_logs(self, **_: object) -> Any:
        yield "trained"

    def inspect_job(self, **_: object) -> Any:
        return SimpleNamespace(status=SimpleNamespace(stage="COMPLETED", message=None))

    def list_jobs_hardware(self, token: str | None = None) -> list[Any]:
        return [
            SimpleNamespace(name="a10g-large", unit_cost_usd=0.025, unit_label="minute"),
            SimpleNamespace(name="new-flavor", unit_cost_usd=0.1, unit_label="minute"),
        ]


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Client:
    install(monkeypatch, tmp_path_factory.mktemp("installed"), headers=REPOSITORY)
    return Client(monkeypatch)


def run(*arguments: str) -> tuple[int, str, str]:
    """Run ``bank train`` in this process: exit code, stdout, stderr."""
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, ["bank", "train", *arguments])
    if isinstance(result.exception, LoraMetaError):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_the_cost_is_printed_before_the_same_command_is_submitted(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hf_lorameta")
    code, out, err = run(
        "org/one", "org/two", "-o", "ignored", "--base", "org/base", "--rank", "8", "--on", "jobs",
        "--push-to", "user/bank", "--template", "chat", "--instruction", "Say.",
        "--dtype", "float32", "--no-forms", "--general-only",
    )  # fmt: skip
    assert code == 0
    price, started, line = caplog.messages
    assert price.startswith("At most, on a10g-large: about")
    assert "at $1.50 per hour" in price
    assert started.startswith("Started https://huggingface.co/jobs/user/1")
    assert (line, out) == ("  trained", "https://huggingface.co/datasets/user/bank\n")
    [job] = client.jobs
    words = [word for word in job["script_args"] if word not in ("--no-forms", "--general-only")]
    assert len(words) == len(job["script_args"]) - 2
    assert job["script"] == "hf-lorameta"
    assert words[:4] == ["bank", "train", "org/one", "org/two"]
    options = dict(zip(words[4::2], words[5::2], strict=True))
    assert options["--rank"] == "8"
    assert options["--template"] == "chat"
    assert options["--instruction"] == "Say."
    assert options["--dtype"] == "float32"
    assert options["--push-to"] == "user/bank"
    assert job["dependencies"] == ["hf-lorameta[eval] @ git+https://x.org/y"]
    assert (job["flavor"], job["secrets"]) == ("a10g-large", {"HF_TOKEN": TOKEN})
    assert job["timeout"].endswith("m")
    assert TOKEN not in out + err + caplog.text + " ".join(words)
    typer.main.get_command(app)  # the job's command parses
    assert run(*job["script_args"][2:], "--on", "jobs", "--dry-run")[0] == 0


def test_a_dry_run_submits_nothing(client: Client) -> None:
    code, out, err = run(
        "org/one", "-o", "x", "--base", "org/base", "--on", "jobs", "--dry-run", "--json"
    )
    assert code == 0
    assert '"hourly": 1.5' in out
    assert err == ""
    assert client.jobs == []


def test_a_dry_run_without_jobs_says_what_is_trained_here_and_asks_nothing(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: object, **__: object) -> None:
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr(huggingface_hub, "list_jobs_hardware", asked)
    command = ("org/one", "org/two", "-o", "bank", "--dry-run", "--steps", "5", "--base")
    code, out, _ = run(*command, "org/base")
    assert code == 0
    assert "would train for org/base, into bank" in out
    assert "a general adapter, 10 steps of 16 rows" in out
    assert "2 adapters, at most 5 steps of 8 rows each" in out
    assert "time unknown: the base model is not on this machine" in out
    assert "a10g" not in out
    monkeypatch.setattr(base_model, "find_at_hand", lambda *_: Path("base.gguf"))
    metadata = {"general.architecture": "llama", "llama.block_count": 30}
    metadata["llama.embedding_length"] = 576
    monkeypatch.setattr(base_model, "read_metadata", lambda path: metadata)
    monkeypatch.setattr(budget, "measure_operations", lambda: 1e12)
    seconds = json.loads(run(*command, "org/base", "--json")[1])["seconds"]
    expected = Settings(steps=5).operations(2, 12 * 30 * 576**2) / 1e12
    assert seconds == pytest.approx(expected)
    assert "at most about" in run(*command, "org/base")[1]


def test_the_estimate_grows_with_the_work(client: Client) -> None:
    def estimate(*options: str) -> Any:
        train = ("-o", "x", "--base", "org/base", "--on", "jobs", "--dry-run", "--json")
        return json.loads(run(*options, *train)[1])

    one, many = estimate("org/a"), estimate(*(f"org/a{i}" for i in range(101)))
    assert 0 < one["hours"] < many["hours"]
    assert many["dollars"] == pytest.approx(many["hours"] * 1.5, abs=0.01)
    unknown = estimate("org/a", "--flavor", "new-flavor")
    assert (unknown["hours"], unknown["hourly"], unknown["dollars"]) == (None, 6.0, None)


TRAIN = ("-o", "x", "--on", "jobs", "--base", "org/base", "--push-to", "user/bank")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("org/a", *TRAIN, "--flavor", "abacus"), "there is no flavor abacus"),
        (("org/a", *TRAIN[:-2]), "files are lost when it ends"),
        (("org/a", *TRAIN, "--base", "."), "cannot access the folder"),
        (("rows.jsonl", *TRAIN), "a job cannot access"),
    ],
)
def test_what_a_job_cannot_do_is_refused(
    client: Client,
    options: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"input": "a", "output": "b"}\n')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        run(*options)
    assert client.jobs == []


def test_a_hub_that_does_not_answer_is_our_error(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise httpx2.ConnectError("no route")

    monkeypatch.setattr(huggingface_hub, "run_uv_job", fail)
    with pytest.raises(ConnectionLostError):
        run("org/a", *TRAIN)
