"""Commands with the former ids of repos that were moved: the Hub redirects them."""

from pathlib import Path

from huggingface_hub import HfApi

from tests.conftest import Account, Built, Shell, rows


def test_a_moved_dataset_bank_and_adapter_are_found_by_their_former_ids(
    cli: Shell, bank: Built, user: Account, tmp_path: Path
) -> None:
    api = HfApi(endpoint=cli.hub.url, token=user.token)
    dataset = user.dataset("old", {"train.jsonl": rows(1)})
    api.move_repo(dataset, f"{user.name}/new", repo_type="dataset")
    cli("bank", "push", bank.folder, f"{user.name}/bank", "--public", token=user.token)
    api.move_repo(f"{user.name}/bank", f"{user.name}/renamed", repo_type="dataset")
    push = ("push", "-d", dataset, "--bank", f"{user.name}/bank", "--repo-id", f"{user.name}/a")
    cli(*push, token=user.token)
    assert cli.hub.files(f"{user.name}/a")
    recipe = cli.hub.read(f"{user.name}/a", "recipe.json").decode()
    assert f'"id": "{user.name}/new"' in recipe
    assert f'"id": "{user.name}/renamed"' in recipe
    api.move_repo(f"{user.name}/a", f"{user.name}/b")
    cli(*push, "--rank", "2", "-y", token=user.token)
    assert '"rank": 2' in cli.hub.read(f"{user.name}/b", "recipe.json").decode()
    assert "rank" in cli("inspect", f"{user.name}/a").out
