"""Publishing from CI as a trusted publisher: a short-lived token for one repo, and no saved one."""

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Account, Built, Shell, touched
from tests.support.local_hub.trusted_publishers import NO_ACCOUNT

ID_TOKEN = "an ID token of a CI job"


def of_job(resource: str, id_token: str = ID_TOKEN) -> dict[str, Any]:
    """Return the variables of a CI job that publishes to a repo."""
    return {"HF_OIDC_RESOURCE": resource, "HF_OIDC_ID_TOKEN": id_token, "GITHUB_ACTIONS": ""}


@pytest.fixture
def adapter(cli: Shell, bank: Built, user: Account, tmp_path: Path) -> str:
    """A finished adapter in the folder ``adapter``; its existing repo, which trusts the job."""
    dataset = user.dataset("rows", {"train.jsonl": (b'{"input": "say a", "output": "b"}\n' * 24)})
    cli("generate", "-d", dataset, "--bank", bank.folder, "-o", "adapter", "-q")
    repo = f"{user.name}/adapter"
    cli.hub.create_repo(repo)
    cli.hub.trust(repo, ID_TOKEN)
    cli.hub.clear_requests()
    return repo


def test_a_job_publishes_an_adapter_without_a_saved_token(cli: Shell, adapter: str) -> None:
    done = cli("push", "--from", "adapter", "--repo-id", adapter, **of_job(adapter))
    assert "adapter_model.safetensors" in cli.hub.files(adapter)
    assert "hf_jwt_" not in done.out + done.err
    assert touched(cli.hub, "/api/whoami-v2") == []


def test_a_job_publishes_a_bank(cli: Shell, bank: Built, user: Account) -> None:
    repo = f"{user.name}/bank"
    cli.hub.create_repo(repo, repo_type="dataset")
    cli.hub.trust(f"datasets/{repo}", ID_TOKEN)
    cli("bank", "push", bank.folder, repo, **of_job(f"datasets/{repo}"))
    assert "README.md" in cli.hub.files(repo, repo_type="dataset")


def test_the_token_of_a_job_is_for_one_repo(cli: Shell, adapter: str) -> None:
    other = f"{adapter}-2"
    cli.hub.create_repo(other)
    refused = cli("push", "--from", "adapter", "--repo-id", other, code=6, **of_job(adapter)).err
    assert "lacks the permission" in refused
    assert set(cli.hub.files(other)) == {".gitattributes"}


def test_a_job_that_is_not_trusted_is_named(cli: Shell, adapter: str) -> None:
    for command in (
        ("push", "--from", "adapter", "--repo-id", adapter),
        ("push", "--from", "adapter", "--repo-id", adapter, "--dry-run"),
    ):
        refused = cli(*command, code=6, **of_job(adapter, "of another job")).err
        assert f"trusted publisher of {adapter}" in refused
        assert f"{cli.hub.url}/{adapter}/settings" in refused
        assert "of another job" not in refused


def test_a_job_without_an_identity_is_told_what_to_set(cli: Shell, adapter: str) -> None:
    command = ("push", "--from", "adapter", "--repo-id", adapter)
    refused = cli(*command, code=6, **of_job(adapter, "")).err
    assert "HF_OIDC_RESOURCE is set" in refused
    assert "id-token: write" in refused


def test_a_repo_named_after_the_account_needs_one(cli: Shell, adapter: str) -> None:
    dataset = f"{adapter.partition('/')[0]}/rows"
    refused = cli("push", dataset, "-q", code=6, **of_job(adapter)).err
    assert NO_ACCOUNT in refused
