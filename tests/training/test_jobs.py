"""Submitting ``bank train`` to Hugging Face Jobs, with a client that records the request."""

import json
import logging
from types import SimpleNamespace
from typing import Any

import httpx2
import huggingface_hub
import pytest

from hf_lorameta.cli.app import app
from hf_lorameta.demo import TRAIN_FILE
from hf_lorameta.errors import ConnectionLostError, LoraMetaError, UsageError
from tests.test_environment import REPOSITORY, install

TOKEN = "hf_secret"
TRAIN = ("-o", "x", "--on", "jobs", "--base", "org/base", "--push-to", "user/bank")


class Client:
    """Stands for the Hub's Jobs API."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.jobs: list[dict[str, Any]] = []
        for name in ("run_uv_job", "fetch_job_logs", "inspect_job", "list_jobs_hardware"):
            monkeypatch.setattr(huggingface_hub, name, getattr(self, name))
        monkeypatch.setattr(huggingface_hub, "get_token", lambda: TOKEN)

    def run_uv_job(self, script: str, **options: Any) -> Any:
        self.jobs.append({"script": script, **options})
        owner = SimpleNamespace(name="user")
        return SimpleNamespace(url="https://huggingface.co/jobs/user/1", id="1", owner=owner)

    def fetch_job_logs(self, **_: object) -> Any:
        yield "trained"

    def inspect_job(self, **_: object) -> Any:
        return SimpleNamespace(status=SimpleNamespace(stage="COMPLETED", message=None))

    def list_jobs_hardware(self, token: str | None = None) -> list[Any]:
        prices = {"a10g-large": 0.025, "free": None}
        return [
            SimpleNamespace(name=name, unit_cost_usd=price, unit_label="minute")
            for name, price in prices.items()
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


def test_the_price_is_printed_before_the_same_command_is_submitted(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hf_lorameta")
    options = {"--rank": "8", "--template": "chat", "--instruction": "Say.", "--dtype": "float32"}
    given = [word for pair in options.items() for word in pair]
    flags = ["--no-forms", "--general-only"]
    code, out, err = run("org/one", "org/two", *TRAIN, "--timeout", "3", *given, *flags)
    assert (code, out) == (0, "https://huggingface.co/datasets/user/bank\n")
    price, started, line = caplog.messages
    assert price == "a10g-large, for at most 3 h at $1.50 per hour: at most $4.50"
    assert started.startswith("Started https://huggingface.co/jobs/user/1")
    assert line == "  trained"
    [job] = client.jobs
    assert (job["script"], job["flavor"], job["timeout"]) == ("hf-lorameta", "a10g-large", "180m")
    assert job["dependencies"] == ["hf-lorameta[eval] @ git+https://x.org/y"]
    assert job["secrets"] == {"HF_TOKEN": TOKEN}
    words = [word for word in job["script_args"] if word not in flags]
    assert len(words) == len(job["script_args"]) - 2
    assert words[:4] == ["bank", "train", "org/one", "org/two"]
    sent = dict(zip(words[4::2], words[5::2], strict=True))
    assert options.items() <= sent.items()
    assert sent["--push-to"] == "user/bank"
    assert TOKEN not in out + err + caplog.text + " ".join(words)
    again = run(*job["script_args"][2:], "--on", "jobs", "--dry-run")  # the job's command parses
    assert (again[0], len(client.jobs)) == (0, 1)


@pytest.mark.parametrize(("flavor", "dollars"), [("a10g-large", 36.0), ("free", None)])
def test_a_dry_run_states_the_price_alone(
    client: Client, flavor: str, dollars: float | None
) -> None:
    options = ("--base", "org/base", "--on", "jobs", "--dry-run", "--json", "--flavor", flavor)
    code, out, err = run("org/one", "-o", "x", *options)
    assert (code, err, client.jobs) == (0, "", [])
    assert json.loads(out)["dollars"] == dollars


def test_a_dry_run_without_jobs_says_what_is_trained_here(client: Client) -> None:
    command = ("org/one", "org/two", "-o", "bank", "--dry-run", "--steps", "5", "--json")
    planned = json.loads(run(*command, "--base", "org/base")[1])
    assert planned == {
        "tasks": 2, "base_model": "org/base", "folder": "bank", "steps": 5, "general_steps": 10,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("org/a", *TRAIN[:-2]), "files are lost when it ends"),
        (("org/a", *TRAIN, "--base", "."), "cannot access the folder"),
        ((str(TRAIN_FILE), *TRAIN), "a job cannot access"),
    ],
)
def test_what_a_job_cannot_do_is_refused(
    client: Client, options: tuple[str, ...], message: str
) -> None:
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
