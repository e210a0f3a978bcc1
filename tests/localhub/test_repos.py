"""Creating, changing, listing and reading repos with the real client."""

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from tests.support.fault_hub import FaultHub
from tests.support.full_hub import LocalHubError

CARD = b"""---
license: mit
library_name: peft
base_model: org/base
tags: [lora]
date: 2024-01-01
---
# Card
"""


@pytest.fixture
def hub() -> Iterator[FaultHub]:
    with FaultHub(page_size=3) as running:
        yield running


@pytest.fixture
def api(hub: FaultHub) -> HfApi:
    return HfApi(endpoint=hub.url, token=hub.add_user("alice"))


def test_created_repo_contains_gitattributes(hub: FaultHub, api: HfApi) -> None:
    url = api.create_repo("alice/data", repo_type="dataset", private=True)
    assert (url.repo_id, url.repo_type) == ("alice/data", "dataset")
    repo = hub.repo("alice/data", repo_type="dataset")
    assert repo is not None
    assert (repo.private, repo.gated) == (True, False)
    assert list(hub.files("alice/data", repo_type="dataset")) == [".gitattributes"]


def test_create_without_a_namespace_uses_the_user(hub: FaultHub, api: HfApi) -> None:
    assert api.create_repo("mine").repo_id == "alice/mine"


def test_create_twice_is_409_unless_exist_ok(api: HfApi) -> None:
    api.create_repo("alice/m")
    with pytest.raises(HfHubHTTPError, match="You already created this model repo") as caught:
        api.create_repo("alice/m")
    assert caught.value.response.status_code == 409
    assert api.create_repo("alice/m", exist_ok=True).repo_id == "alice/m"


def test_exist_ok_does_not_change_private(hub: FaultHub, api: HfApi) -> None:
    api.create_repo("alice/m")
    api.create_repo("alice/m", private=True, exist_ok=True)
    repo = hub.repo("alice/m")
    assert repo is not None
    assert repo.private is False


def test_created_space_has_its_sdk(api: HfApi) -> None:
    api.create_repo("alice/app", repo_type="space", space_sdk="gradio")
    info = api.space_info("alice/app")
    assert info.sdk == "gradio"
    assert info.card_data
    assert info.card_data.sdk == "gradio"


def test_invalid_names_are_rejected(hub: FaultHub) -> None:
    with pytest.raises(LocalHubError, match="Invalid repo name"):
        hub.create_repo("a/b/c")


def test_listing_filters_by_tag_author_and_search(hub: FaultHub, api: HfApi) -> None:
    for name in ("alice/one", "bob/two"):
        hub.create_repo(name)
        hub.commit(name, {"README.md": CARD})
    hub.create_repo("bob/three")

    def ids(**query: Any) -> set[str]:
        return {m.id for m in api.list_models(**query)}

    assert ids(filter="base_model:adapter:org/base") == {"alice/one", "bob/two"}
    assert ids(filter=["lora", "peft"], author="bob") == {"bob/two"}
    assert ids(search="THREE") == {"bob/three"}
    assert ids(filter="license:apache-2.0") == set()


def test_listing_expands_the_requested_fields(hub: FaultHub, api: HfApi) -> None:
    hub.create_repo("alice/one")
    sha = hub.commit("alice/one", {"README.md": CARD})
    (model,) = api.list_models(filter="lora", expand=["sha", "cardData", "gated"])
    assert (model.sha, model.gated, model.tags) == (sha, False, None)
    assert model.card_data is not None
    assert model.card_data.license == "mit"


def test_listing_follows_pages_and_stops_at_limit(hub: FaultHub, api: HfApi) -> None:
    for number in range(8):
        hub.create_repo(f"alice/d{number}", repo_type="dataset")
    assert len({d.id for d in api.list_datasets()}) == 8
    pages = [r for r in hub.requests if r.path.startswith("/api/datasets")]
    assert len(pages) == 3
    assert len(list(api.list_datasets(limit=2))) == 2


def test_listing_sorts_newest_first(hub: FaultHub, api: HfApi) -> None:
    for name in ("a", "b", "c"):
        hub.create_repo(f"alice/{name}")
    hub.commit("alice/b", {"x": b"1"})
    ids = [m.id for m in api.list_models(sort="last_modified")]
    assert ids == ["alice/b", "alice/c", "alice/a"]


def test_info_has_sha_card_and_tags(hub: FaultHub, api: HfApi) -> None:
    hub.create_repo("alice/m")
    sha = hub.commit("alice/m", {"README.md": CARD, "w.safetensors": b"w"})
    info = api.model_info("alice/m")
    assert (info.sha, info.library_name) == (sha, "peft")
    assert info.card_data is not None
    assert info.card_data["date"] == "2024-01-01"
    assert {"lora", "safetensors", "base_model:adapter:org/base"} <= set(info.tags or [])
    assert info.siblings is not None
    assert info.siblings[-1].size is None


def test_info_with_blobs_has_sizes_and_lfs(hub: FaultHub, api: HfApi) -> None:
    hub.create_repo("alice/m")
    hub.commit("alice/m", {"w.safetensors": b"weights", "a.txt": b"abc"})
    files = {s.rfilename: s for s in api.model_info("alice/m", files_metadata=True).siblings or []}
    assert files["a.txt"].size == 3
    assert files["a.txt"].lfs is None
    lfs = files["w.safetensors"].lfs
    assert lfs is not None
    assert (lfs.sha256, lfs.size) == (hashlib.sha256(b"weights").hexdigest(), 7)


def test_info_at_branch_tag_sha_and_pull_request(hub: FaultHub, api: HfApi) -> None:
    hub.create_repo("alice/m")
    first = hub.commit("alice/m", {"a": b"1"})
    api.create_tag("alice/m", tag="v1/rc")
    api.create_branch("alice/m", branch="dev/x")
    second = hub.commit("alice/m", {"a": b"2"})
    pull = api.upload_file(
        path_or_fileobj=b"3", path_in_repo="a", repo_id="alice/m", create_pr=True
    )
    for revision, sha in (("v1/rc", first), ("dev/x", first), (first, first), ("main", second)):
        assert api.model_info("alice/m", revision=revision).sha == sha
    assert pull.pr_revision == "refs/pr/1"
    assert api.model_info("alice/m", revision="refs/pr/1").sha == pull.oid


@pytest.mark.parametrize("revision", ["nope", "refs/convert/parquet", "0" * 40])
def test_missing_revision_is_revision_not_found(hub: FaultHub, api: HfApi, revision: str) -> None:
    hub.create_repo("alice/m")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("alice/m", revision=revision)


def test_tree_lists_files_and_folders_over_pages(hub: FaultHub, api: HfApi) -> None:
    hub.create_repo("alice/m")
    hub.commit("alice/m", {f"d/e/{n}.txt": b"x" * n for n in range(1, 6)})
    flat = [item.path for item in api.list_repo_tree("alice/m")]
    assert flat == [".gitattributes", "d"]
    deep = [item.path for item in api.list_repo_tree("alice/m", recursive=True)]
    assert deep == [".gitattributes", "d", "d/e", *(f"d/e/{n}.txt" for n in range(1, 6))]
    under = [item.path for item in api.list_repo_tree("alice/m", "d/e")]
    assert under == [f"d/e/{n}.txt" for n in range(1, 6)]


def test_tree_of_a_missing_folder_is_entry_not_found(hub: FaultHub, api: HfApi) -> None:
    hub.create_repo("alice/m")
    with pytest.raises(RemoteEntryNotFoundError):
        list(api.list_repo_tree("alice/m", "nowhere"))


def test_paths_info_omits_missing_paths(hub: FaultHub, api: HfApi) -> None:
    hub.create_repo("alice/m")
    hub.commit("alice/m", {"d/a.txt": b"1", "w.bin": b"22"})
    items = api.get_paths_info("alice/m", ["w.bin", "d", "none"])
    assert [item.path for item in items] == ["w.bin", "d"]
    assert isinstance(items[0], RepoFile)
    assert items[0].lfs is not None
    assert items[0].size == 2


def test_unknown_page_is_404(hub: FaultHub, api: HfApi) -> None:
    with pytest.raises(HfHubHTTPError, match="can't find the page"):
        list(api.list_lfs_files("alice/m"))


def test_python_api_names_the_missing_repo_revision_or_file(hub: FaultHub) -> None:
    hub.create_repo("alice/m")
    with pytest.raises(LocalHubError, match="there is no dataset alice/m"):
        hub.files("alice/m", repo_type="dataset")
    with pytest.raises(LocalHubError, match="Invalid rev id"):
        hub.files("alice/m", revision="dev")
    with pytest.raises(LocalHubError, match=r"has no file a\.txt"):
        hub.read("alice/m", "a.txt")


def test_every_answer_has_a_request_id(api: HfApi) -> None:
    with pytest.raises(RepositoryNotFoundError, match=r"\(Request ID: Root=.+\)"):
        api.model_info("alice/none")
