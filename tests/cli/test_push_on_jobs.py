"""``hf-lorameta push --on jobs`` against the loopback Hub's Jobs, which run the command."""

import json
from pathlib import Path

import pytest

from tests.conftest import Account, Built, Shell, rows
from tests.test_environment import COMMIT, install
from tests.training import tiny

pytest.importorskip("torch")
pytest.importorskip("peft")


@pytest.fixture
def installed(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return code that makes a command's package one that was installed from Git."""
    folder = tmp_path_factory.mktemp("installed")
    origin = {"url": "https://x.org/z.git", "vcs_info": COMMIT}
    install(monkeypatch, folder, origin)
    return f"sys.path.insert(0, {str(folder)!r})"


@pytest.fixture
def hub_base(user: Account, tmp_path: Path) -> str:
    folder = tiny.write_base(tmp_path / "tiny")
    return user.adapter("tiny-base", {path.name: path.read_bytes() for path in folder.iterdir()})


def test_an_adapter_is_made_and_published_from_a_token_alone(
    cli: Shell, user: Account, hub_base: str, installed: str
) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in tiny.labeled())
    dataset = user.dataset("labels", {"train.jsonl": lines.encode()})
    push = ("push", dataset, "--base", hub_base, "--on", "jobs", "--private")
    before = len(cli.hub.jobs.jobs)
    dry = cli(*push, "--dry-run", "--json", token=user.token)
    assert (dry.json["flavor"], dry.json["hourly"]) == ("cpu-upgrade", 0.03)
    assert (dry.json["timeout"], dry.json["dollars"]) == (2.0, 0.06)
    assert len(cli.hub.jobs.jobs) == before
    limits = ("--flavor", "cpu-basic", "--timeout", 0.5)
    done = cli(*push, *limits, token=user.token, before=installed)
    repo = f"{user.name}/labels-tiny-base-lorameta"
    assert done.out == f"{cli.hub.url}/{repo}\n"
    assert done.err.index("cpu-basic, for at most 0.5 h") < done.err.index("Started")
    assert "  Trained on" in done.err  # streamed, and without having been asked for
    assert cli.hub.repo(repo).private  # type: ignore[union-attr]
    card = cli.hub.read(repo, "README.md").decode()
    assert f"    --base {hub_base}" in card
    job = cli.hub.jobs.jobs[-1]
    sha = cli.hub.commits(dataset, repo_type="dataset")[0].sha
    assert ["--revision", sha] == job.spec["command"][8:10]
    assert job.spec["secrets"] == {"HF_TOKEN": user.token}
    assert job.spec["command"][3] == "hf-lorameta[eval] @ git+https://x.org/z.git@c0ffee"
    rest = {name: value for name, value in job.spec.items() if name != "secrets"}
    assert user.token not in json.dumps(rest)
    assert job.spec["timeoutSeconds"] == 30 * 60


def test_a_bank_and_the_options_reach_the_job_which_fails_with_an_error_that_names_its_page(
    cli: Shell, user: Account, bank: Built, installed: str
) -> None:
    dataset, repo = user.dataset("new", {"train.jsonl": rows(1, 4)}), f"{user.name}/of-bank"
    user.adapter("of-bank", {"adapter_config.json": b"{}"})
    push = ("push", dataset, "--bank", bank.repo, "--repo-id", repo, "--on", "jobs", "--top-k", 2)
    done = cli(*push, "--train", 16, "--no-check", token=user.token, code=6)
    assert "already holds" in done.err
    jobs = len(cli.hub.jobs.jobs)
    both = ("--train", 16, "--budget", "60s", "--overwrite")
    assert "got both" in cli(*push, *both, token=user.token, code=2, before=installed).err
    assert len(cli.hub.jobs.jobs) == jobs
    options = ("--train", 16, "--no-check", "--overwrite")
    done = cli(*push, *options, token=user.token, code=6, before=installed)
    assert "the job ended as ERROR: Job failed with exit code: 3" in done.err
    assert f"see {cli.hub.url}/jobs/{user.name}/job" in done.err
    command = cli.hub.jobs.jobs[-1].spec["command"]
    assert {"--no-check", "--overwrite"} <= set(command)
    assert command[command.index("--top-k") + 1] == "2"
    assert command[command.index("--bank") + 1] == bank.repo


def test_no_job_installs_what_pypi_has_under_the_package_s_name(
    cli: Shell, user: Account, bank: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job gets the user's token, and a clone without a Repository names no URL."""
    install(monkeypatch, tmp_path, {"url": "file:///z", "dir_info": {"editable": True}})
    dataset, jobs = user.dataset("new", {"train.jsonl": rows(1)}), len(cli.hub.jobs.jobs)
    in_a_clone = f"sys.path.insert(0, {str(tmp_path)!r})"
    push = ("push", dataset, "--bank", bank.repo, "--on", "jobs")
    done = cli(*push, token=user.token, code=2, before=in_a_clone)
    assert "a job has to install hf-lorameta from a URL, and this installation" in done.err
    assert "hf-lorameta @ git+https://HOST/USER/hf-lorameta" in done.err
    assert len(cli.hub.jobs.jobs) == jobs


def test_what_a_job_cannot_see_is_refused(
    cli: Shell, user: Account, bank: Built, tmp_path: Path
) -> None:
    file = tiny.write_task(tmp_path, "labels", tiny.labeled())
    dataset = user.dataset("new", {"train.jsonl": rows(1)})
    base = tiny.write_base(tmp_path / "tiny")
    jobs = len(cli.hub.jobs.jobs)
    for options, message in (
        ((file, "--repo-id", f"{user.name}/x"), "cannot access data on this machine"),
        ((dataset, "--bank", bank.folder), "cannot access a bank on this machine"),
        ((dataset, "--base", base, "--train", 8), "cannot access a base model on this machine"),
        ((dataset, "--flavor", "abacus"), "there is no flavor abacus"),
        (("--from", tmp_path, "--repo-id", "a/b"), "--on needs --dataset"),
    ):
        assert message in cli("push", *options, "--on", "jobs", token=user.token, code=None).err
    assert len(cli.hub.jobs.jobs) == jobs
