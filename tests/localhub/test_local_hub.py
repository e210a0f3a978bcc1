"""The loopback Hub of the demo alone, without what the tests' Hub adds to it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, get_session
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from hf_lorameta.localhub import LocalHub

SECRET = "alice/secret"


def headers(api: HfApi) -> dict[str, str]:
    return {"Authorization": f"Bearer {api.token}"} if api.token else {}


def post_commit(api: HfApi) -> None:
    lines = b'{"key": "header", "value": {"summary": "x"}}\n'
    lines += b'{"key": "file", "value": {"path": "a.txt", "content": "eQ=="}}\n'
    url = f"{api.endpoint}/api/models/{SECRET}/commit/main"
    get_session().post(url, content=lines, headers=headers(api)).raise_for_status()


USES: dict[str, Callable[[HfApi], object]] = {
    "info": lambda api: api.model_info(SECRET),
    "tree": lambda api: list(api.list_repo_tree(SECRET)),
    "file": lambda api: (
        get_session()
        .get(f"{api.endpoint}/{SECRET}/resolve/main/a.txt", headers=headers(api))
        .raise_for_status()
    ),
    "commit": lambda api: api.upload_file(
        path_or_fileobj=b"y", path_in_repo="a.txt", repo_id=SECRET
    ),
    "commit without asking": post_commit,
}


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    with LocalHub() as running:
        yield running


def client(hub: LocalHub, token: str | bool) -> HfApi:
    return HfApi(endpoint=hub.url, token=token)


@pytest.fixture
def alice(hub: LocalHub) -> HfApi:
    api = client(hub, hub.add_user("alice"))
    api.create_repo(SECRET, private=True)
    api.upload_file(path_or_fileobj=b"x", path_in_repo="a.txt", repo_id=SECRET)
    return api


@pytest.mark.parametrize("use", USES)
def test_a_private_repo_does_not_exist_for_others(hub: LocalHub, alice: HfApi, use: str) -> None:
    for other, status in ((client(hub, hub.add_user("bob")), 404), (client(hub, False), 401)):
        with pytest.raises(Exception) as caught:  # noqa: PT011
            USES[use](other)
        assert getattr(caught.value, "response").status_code == status  # noqa: B009
    assert hub.read(SECRET, "a.txt") == b"x"
    assert alice.model_info(SECRET).private
    USES[use](alice)


def test_only_its_owner_writes_to_a_public_repo(hub: LocalHub) -> None:
    hub.add_user("alice")
    hub.create_repo("alice/open")
    bob = client(hub, hub.add_user("bob"))
    assert not bob.model_info("alice/open").private
    with pytest.raises(HfHubHTTPError, match="no rights") as caught:
        bob.upload_file(path_or_fileobj=b"x", path_in_repo="a", repo_id="alice/open")
    assert caught.value.response.status_code == 403
    with pytest.raises(HfHubHTTPError, match="rights to create"):
        bob.create_repo("alice/other")
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        client(hub, "hf_wrong").model_info("alice/open")


def test_all_files_in_a_folder_are_uploaded(hub: LocalHub, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.txt").write_text("a")
    hub.create_repo("alice/data", repo_type="dataset")
    hub.upload_folder("alice/data", tmp_path, repo_type="dataset")
    found = client(hub, False).dataset_info("alice/data")
    assert [file.rfilename for file in found.siblings or ()] == ["d/a.txt"]


def test_what_it_lacks_is_not_found(hub: LocalHub) -> None:
    with pytest.raises(RepositoryNotFoundError):
        client(hub, False).model_info("alice/none")
    with pytest.raises(HfHubHTTPError, match="can't find the page"):
        list(client(hub, False).list_models())
