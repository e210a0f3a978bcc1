"""``token=`` of the public functions is used where no token is saved."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Account, Built, Shell, rows

CALLS = {
    "plan": "data",
    "generate": "data",
    "open_bank": "bank",
    "open_dataset": "data",
    "resolve_target": "adapter",
    "push_to_hub": "adapter",
}
"""Name of the private repo that each call returns."""
SCRIPT = """
import json, sys
from hf_lorameta import Hub, generate, open_bank, open_dataset, plan
from hf_lorameta.errors import HubError
from hf_lorameta.pipeline.publish import resolve_target

dataset, bank_repo, repo, token = sys.argv[1:]
generation = generate(dataset, open_bank(bank_repo, token=token), token=token)
calls = {
    "plan": lambda **options: plan(dataset, **options).dataset.id,
    "generate": lambda **options: generate(dataset, **options).plan.dataset.id,
    "open_bank": lambda **options: open_bank(bank_repo, **options).id,
    "open_dataset": lambda **options: open_dataset(dataset, **options).id,
    "resolve_target": lambda token=None: resolve_target(repo, hub=Hub(token)).repo_id,
    "push_to_hub": lambda **options: generation.push_to_hub(repo, **options),
}
results = {}
for name, call in calls.items():
    try:
        without = call()
    except HubError as error:
        without = type(error).__name__
    results[name] = {"without": without, "with": call(token=token)}
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def results(
    world: Shell, enrol: Any, bank: Built, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, str]]:
    """Results of all calls on private repos without and with a token."""
    owner: Account = enrol()
    dataset = owner.dataset("data", {"train.jsonl": rows(1)}, private=True)
    bank_repo, repo = f"{owner.name}/bank", f"{owner.name}/adapter"
    world("bank", "push", bank.folder, bank_repo, "--private", token=owner.token)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, dataset, bank_repo, repo, owner.token],
        env=world.env(), cwd=tmp_path_factory.mktemp("token"),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert owner.token not in done.stdout + done.stderr
    assert world.hub.repo(repo).private  # type: ignore[union-attr]
    assert_not_stored(world.home, owner.token)
    results: dict[str, dict[str, str]] = json.loads(done.stdout)
    assert results.keys() == CALLS.keys()
    return results


def assert_not_stored(folder: Path, token: str) -> None:
    for path in folder.rglob("*"):
        assert not path.is_file() or token.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(("name", "repo"), CALLS.items())
def test_token_gives_access_to_private_repos(
    name: str, repo: str, results: dict[str, dict[str, str]]
) -> None:
    assert results[name]["without"] in ("AuthError", "NotFoundError")
    assert results[name]["with"].endswith(f"/{repo}")
