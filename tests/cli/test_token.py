"""``--token`` is sent with every command's requests, and is neither shown nor stored."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cli.conftest import fake_evaluator
from tests.conftest import Account, Done, Shell, adapter_files, rows
from tests.support.shell import NO_PACKAGE

RECORD_BASE = """
from hf_lorameta.errors import UsageError
from hf_lorameta.pipeline import evaluate
def open_evaluator(name, revision, token, *_):
    raise UsageError(f"located the adapter of {name}" if token else "no token")
evaluate.open_evaluator = open_evaluator
"""


class Private(NamedTuple):
    """Private repos of one account."""

    token: str
    user: str
    manifest: Path
    folder: Path
    bank: str
    adapter: str
    dataset: str
    base: str


@pytest.fixture(scope="module")
def private(
    world: Shell, enrol: Callable[[], Account], tmp_path_factory: pytest.TempPathFactory
) -> Private:
    """A private bank of private adapters, a private generated adapter and its private dataset.

    All is published with ``--token``, while no token is saved or in the environment.
    """
    owner, folder = enrol(), tmp_path_factory.mktemp("private")
    world.cwd = folder
    for topic in range(4):
        dataset = owner.dataset(f"d{topic}", {"train.jsonl": rows(topic)}, private=True)
        adapter = f"{owner.name}/a{topic}"
        world.hub.create_repo(adapter, private=True)
        world.hub.commit(adapter, dict(adapter_files(topic)))
        owner.entries.append({"adapter": adapter, "dataset": dataset, "license": "mit"})
    base = f"{owner.name}/base"
    world.hub.create_repo(base, private=True)
    world.hub.commit(base, {"config.json": b'{"model_type": "bloom"}'})
    files = {"train.jsonl": rows(1), "test.jsonl": rows(1, 9)}
    dataset = owner.dataset("data", files, private=True)
    bank, adapter = f"{owner.name}/bank", f"{owner.name}/adapter"
    manifest = owner.manifest(folder / "m.yaml")
    token = ("--token", owner.token)
    world("bank", "build", manifest, "-o", "bank", *token)
    world("bank", "push", "bank", bank, *token)
    world("push", "-d", dataset, "--bank", bank, "--repo-id", adapter, *token)
    assert world.hub.repo(bank, "dataset").private  # type: ignore[union-attr]
    assert world.hub.repo(adapter).private  # type: ignore[union-attr]
    return Private(owner.token, owner.name, manifest, folder / "bank", bank, adapter, dataset, base)


class Case(NamedTuple):
    """A command with private repos.

    Attributes:
        command: the command line, without ``--token``; ``{field}`` is a field of `Private`.
        before: Python code that is run before it.
        code: expected exit code with the token.
        message: expected on stderr with the token.
    """

    command: str
    before: str = ""
    code: int = 0
    message: str = ""


CASES = (
    Case("plan -d {dataset} --bank {bank}"),
    Case("generate -d {dataset} --bank {bank} -o out"),
    Case("push -d {dataset} --bank {bank} --repo-id {user}/new"),
    Case("evaluate {adapter} -d {dataset}", fake_evaluator()),
    Case("inspect {adapter}"),
    Case("export {adapter} -o out.gguf"),
    Case("export {adapter} -o out.gguf --base {base}", code=2, message="llama, mistral"),
    Case("try {adapter} --prompt x", RECORD_BASE, code=2, message="located the adapter"),
    Case("bank list {bank}"),
    Case("bank push {folder} {user}/new-bank"),
    Case("space build -o out --bank {bank}", NO_PACKAGE),
    Case("space deploy --repo {user}/new-space --bank {bank}", NO_PACKAGE),
)


def run(cli: Shell, private: Private, case: Case, *options: str, code: int) -> Done:
    if case.command.startswith("export"):
        pytest.importorskip("gguf")
    words = [word.format(**private._asdict()) for word in case.command.split()]
    return cli(*words, *options, before=case.before, code=code)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.command)
def test_every_command_sends_the_token(cli: Shell, private: Private, case: Case) -> None:
    run(cli, private, case, code=6)
    cli.hub.clear_requests()
    done = run(cli, private, case, "--token", private.token, "--debug", code=case.code)
    assert case.message in done.err
    assert cli.hub.requests
    assert private.token not in done.out + done.err
    assert_not_stored(cli, private.token)


def test_bank_build_sends_the_token(cli: Shell, private: Private) -> None:
    build = ("bank", "build", private.manifest, "-o", "out", "--debug")
    assert cli(*build, code=4).err
    done = cli(*build, "--token", private.token)
    assert len(cli("bank", "list", "out", "--json").json["entries"]) == 4
    assert private.token not in done.out + done.err
    assert_not_stored(cli, private.token)


def test_a_failed_push_does_not_show_the_token(cli: Shell, private: Private) -> None:
    push = ("push", "-d", private.dataset, "--bank", private.bank, "--debug")
    done = cli(*push, "--repo-id", private.adapter, "--token", private.token, code=6)
    assert "Traceback" in done.err
    assert private.token not in done.out + done.err
    done = cli(*push, "--repo-id", "nobody/a", token=private.token, code=6)  # of the environment
    assert "resume with" in done.err
    assert_not_stored(cli, private.token)


def test_a_wrong_token_is_refused_and_not_shown(cli: Shell, private: Private) -> None:
    wrong = "hf_" + "w" * 34
    push = ("push", "-d", private.dataset, "--repo-id", f"{private.user}/x", "--debug")
    done = cli(*push, "--token", wrong, code=6)
    assert wrong not in done.out + done.err
    assert_not_stored(cli, wrong)


def assert_not_stored(cli: Shell, token: str) -> None:
    """Check that no file in the caches or in this test's folder contains the token."""
    for folder in (cli.home, cli.cwd):
        for path in folder.rglob("*"):
            if path.is_file():
                assert token.encode() not in path.read_bytes(), path
    assert all(token not in request.path for request in cli.hub.requests)
