"""Repos by their names, and listings of several pages."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, ModelInfo

from hf_lorameta import Hub
from hf_lorameta.errors import HubError
from hf_lorameta.hub.repo_info import list_adapters, list_banks
from tests.conftest import BASE, Account, Built, Shell, rows
from tests.hub.conftest import use_endpoint


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
    cli(*push, "--rank", "2", "--overwrite", token=user.token)
    assert '"rank": 2' in cli.hub.read(f"{user.name}/b", "recipe.json").decode()
    assert "rank" in cli("inspect", f"{user.name}/a").out


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


def test_an_adapter_on_two_pages_is_listed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    requested: list[dict[str, Any]] = []

    def list_models(self: HfApi, **options: Any) -> Any:
        requested.append(options)
        card = {"datasets": "o/d", "license": "mit"}
        for name, sha in (("a", "1"), ("b", "2"), ("b", "2"), ("no commit", None), ("c", "3")):
            yield ModelInfo(id=name, sha=sha, cardData=card, siblings=[{"rfilename": "x"}])  # type: ignore[no-untyped-call]

    monkeypatch.setattr(HfApi, "list_models", list_models)
    found = list(list_adapters(Hub(False), "o/base", 5))
    assert [adapter.repo_id for adapter in found] == ["a", "b", "c"]
    assert (found[0].datasets, found[0].license, found[0].files) == (("o/d",), "mit", ("x",))
    assert requested[0]["filter"] == "base_model:adapter:o/base"
    assert requested[0]["limit"] == 5


def test_languages_that_the_hub_refuses_on_cards_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stated = {"language": ["en", "zh-CN", "pt_pt", "English", False, "nob", "code"]}
    found = ModelInfo(id="o/a", sha="1", cardData=stated)  # type: ignore[no-untyped-call]
    monkeypatch.setattr(HfApi, "repo_info", lambda *_, **__: found)
    assert Hub(False).resolve("o/a", "model").languages == ("en", "nob", "code")


def test_a_server_that_ignores_filters_does_not_list_banks(
    cli: Shell, bank: Built, user: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_endpoint(monkeypatch, cli.hub.url)
    user.dataset("no-bank", {"train.jsonl": rows(1)})
    assert bank.repo in {found.repo_id for found in list_banks(Hub(), BASE)}
    listed = HfApi.list_datasets
    monkeypatch.setattr(HfApi, "list_datasets", lambda self, **asked: listed(self))
    with pytest.raises(HubError, match="ignores the filter"):
        list(list_banks(Hub(), BASE))
