"""Moving, duplicating, squashing and listing whole repos; what is refused, and ids' case."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from tests.support.full_hub import FullHub

FILES = {"a.txt": b"a", "x/b.bin": b"\0b", "x/c.txt": b"c"}


@pytest.fixture
def hub() -> Iterator[FullHub]:
    with FullHub() as running:
        yield running


@pytest.fixture
def api(hub: FullHub) -> HfApi:
    api = HfApi(endpoint=hub.url, token=hub.add_user("alice", orgs=["team"]))
    api.create_repo("alice/Mine", private=True)
    hub.commit("alice/Mine", FILES)
    return api


def test_a_moved_repo_keeps_its_files_and_history(hub: FullHub, api: HfApi) -> None:
    before = hub.commits("alice/Mine")
    api.move_repo("alice/Mine", "team/ours")
    assert hub.commits("team/ours") == before
    api.create_repo("alice/other")
    with pytest.raises(HfHubHTTPError, match=r"A model repository called .* already exists"):
        api.move_repo("team/ours", "alice/other")
    with pytest.raises(HfHubHTTPError, match="403"):
        api.move_repo("team/ours", "bob/ours")


def test_a_moved_repo_is_found_by_its_former_id(hub: FullHub, api: HfApi, tmp_path: Path) -> None:
    api.move_repo("alice/Mine", "team/ours")
    assert api.repo_info("alice/Mine").id == "team/ours"
    path = api.hf_hub_download("alice/Mine", "x/b.bin", cache_dir=tmp_path)
    assert Path(path).read_bytes() == b"\0b"
    api.upload_file(path_or_fileobj=b"new", path_in_repo="n.txt", repo_id="alice/Mine")
    assert hub.read("team/ours", "n.txt") == b"new"
    with pytest.raises(RepositoryNotFoundError):
        HfApi(endpoint=hub.url, token=hub.add_user("bob")).repo_info("alice/Mine")
    api.create_repo("alice/Mine")
    assert api.repo_info("alice/Mine").id == "alice/Mine"


def test_a_duplicate_has_the_files_and_the_requested_visibility(hub: FullHub, api: HfApi) -> None:
    url = api.duplicate_repo("alice/Mine", "team/copy", visibility="public")
    assert url.repo_id == "team/copy"
    assert hub.files("team/copy") == hub.files("alice/Mine")
    assert hub.read("team/copy", "x/b.bin") == b"\0b"
    assert not api.model_info("team/copy").private
    assert api.model_info(api.duplicate_repo("alice/Mine", "team/kept").repo_id).private
    with pytest.raises(HfHubHTTPError, match="409"):
        api.duplicate_repo("alice/Mine", "team/copy")


def test_a_squashed_branch_has_one_commit_with_the_same_files(hub: FullHub, api: HfApi) -> None:
    api.create_branch("alice/Mine", branch="v1")
    files = hub.files("alice/Mine")
    api.super_squash_history("alice/Mine", commit_message="one")
    assert [commit.title for commit in hub.commits("alice/Mine")] == ["one"]
    assert hub.files("alice/Mine") == files
    assert len(hub.commits("alice/Mine", revision="v1")) == 2


def test_own_repos_are_listed_with_their_storage(api: HfApi) -> None:
    api.create_repo("team/data", repo_type="dataset")
    (mine,) = api.list_user_repos()
    assert (mine.id, mine.type, mine.visibility) == ("alice/Mine", "model", "private")
    assert mine.storage >= sum(map(len, FILES.values()))
    assert [repo.id for repo in api.list_user_repos("team")] == ["team/data"]
    with pytest.raises(HfHubHTTPError, match="403"):
        list(api.list_user_repos("bob"))


def test_nobody_likes_anything(api: HfApi) -> None:
    assert api.list_liked_repos().total == 0
    assert list(api.list_repo_likers("alice/Mine")) == []
    api.unlike("alice/Mine")
    with pytest.raises(RepositoryNotFoundError):
        api.unlike("alice/none")


def test_case_does_not_matter_in_ids(hub: FullHub, api: HfApi) -> None:
    assert api.model_info("ALICE/mine").id == "alice/Mine"
    api.upload_file(path_or_fileobj=b"new", path_in_repo="new.txt", repo_id="alice/mine")
    assert hub.read("alice/Mine", "new.txt") == b"new"
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("alice/MINE")


@pytest.mark.parametrize("tag", ["a b", "a..b", "a~1", ".a", "a.lock", "a\\b", "a/"])
def test_tags_that_git_refuses_are_refused(api: HfApi, tag: str) -> None:
    with pytest.raises(HfHubHTTPError, match="Invalid tag name"):
        api.create_tag("alice/Mine", tag=tag)


def test_paths_that_leave_the_folder_on_windows_are_refused(api: HfApi) -> None:
    with pytest.raises(HfHubHTTPError, match="Invalid path"):
        api.upload_file(path_or_fileobj=b"", path_in_repo="..\\a", repo_id="alice/Mine")


def test_a_folder_is_deleted_although_it_is_named_like_a_file(hub: FullHub, api: HfApi) -> None:
    deletion = CommitOperationDelete("x", is_folder=False)
    api.create_commit("alice/Mine", [deletion], commit_message="delete x")
    assert set(hub.files("alice/Mine")) == {".gitattributes", "a.txt"}


def test_every_answer_has_a_request_id(api: HfApi) -> None:
    with pytest.raises(RepositoryNotFoundError, match=r"\(Request ID: Root=.+\)"):
        api.model_info("alice/none")


def test_own_comments_can_be_edited(hub: FullHub, api: HfApi) -> None:
    discussion = api.create_discussion("alice/Mine", title="A question", description="old")
    comment = discussion.events[0].id
    edited = api.edit_discussion_comment("alice/Mine", discussion.num, comment, "new")
    details = api.get_discussion_details("alice/Mine", discussion.num)
    assert details.events[0] == edited
    api.update_repo_settings("alice/Mine", private=False)
    other = HfApi(endpoint=hub.url, token=hub.add_user("bob"))
    with pytest.raises(HfHubHTTPError, match="not allowed to edit"):
        other.edit_discussion_comment("alice/Mine", discussion.num, comment, "mine")
