"""Servers that answer as HTTP and the Hub's API allow, yet not as the loopback Hub does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_lorameta.pipeline.adapter_folder import FILES
from tests.benchmarks.fault_scenarios import RECORD_SLEEP
from tests.conftest import Account, Built, Shell, rows, tree
from tests.hub.foreign_server import ForeignServer, serving

MAIN = "\nimport sys\nfrom hf_lorameta.cli.app import main\nmain(sys.argv[1:])"
BEHAVIORS = {
    "compressed in chunks": {"compress": True},
    "redirects to another host, weak ETags": {"redirect": True, "weak_etags": True},
    "429 with a date": {"busy": True},
}


@pytest.mark.parametrize("behavior", BEHAVIORS)
def test_what_is_built_planned_and_pushed_is_the_same(
    cli: Shell, bank: Built, user: Account, tmp_path: Path, behavior: str
) -> None:
    dataset = user.dataset(
        "d", {"data/train.jsonl": rows(1), "README.md": b"---\nlicense: mit\n---\n"}
    )

    slept, busy = tmp_path / "slept", behavior.startswith("429")
    code = f"{RECORD_SLEEP}{MAIN}" if busy else MAIN

    def run(*words: object) -> str:
        env = os.environ | cli.env(user.token)
        env |= {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"), "SLEPT": str(slept)}
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, words)],
            env=env, cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert user.token not in done.stdout + done.stderr
        return done.stdout

    with serving(ForeignServer(cli.hub.url, **BEHAVIORS[behavior])) as server:
        run("bank", "build", bank.owner.manifest(tmp_path / "m.yaml"), "-o", "b")
        repo = f"{user.name}/a"
        url = run("push", "-d", dataset, "--bank", bank.repo, "--repo-id", repo, "--public")
        assert url == f"{server.url}/{repo}\n"
    expected = {k: v for k, v in tree(bank.folder).items() if k != "README.md"}
    assert tree(tmp_path / "b") == expected
    cli("push", "-d", dataset, "--bank", bank.repo, "--repo-id", f"{user.name}/b", "--public",
        token=user.token)  # fmt: skip
    for name in FILES:
        if name != "README.md":
            assert cli.hub.read(f"{user.name}/a", name) == cli.hub.read(f"{user.name}/b", name)
    if busy:
        waits = list(map(float, slept.read_text().split()))
        assert waits
        assert all(0.5 <= wait <= 1.5 for wait in waits)
    if behavior.startswith("redirects"):
        others = server.on_other_host()
        assert others
        assert not any("authorization" in headers for headers in others)


def test_listings_have_pages(cli: Shell, user: Account, tmp_path: Path) -> None:
    """The Hub lists 1000 files a page; here the data files are beyond the first."""
    other = {f"a/{i:04}.png": b"x" for i in range(1005)}
    dataset = user.dataset("d", other | {"z/train.jsonl": rows(1), "z/test.jsonl": rows(2)})
    planned = cli("plan", "-d", dataset, "--json").json
    assert planned["dataset"]["split"] == "train"


def test_case_does_not_matter_in_ids(cli: Shell, bank: Built, user: Account) -> None:
    dataset = user.dataset("Data", {"train.jsonl": rows(1)})
    plan = ("plan", "--bank", bank.repo.upper(), "--json", "-d")
    assert cli(*plan, dataset.lower()).json["dataset"]["id"] == dataset
