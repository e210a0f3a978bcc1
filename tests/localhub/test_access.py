"""Users, tokens, private and gated repos with the real client."""

from collections.abc import Iterator

import pytest
from huggingface_hub import HfApi, get_session
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from tests.support.fault_hub import FaultHub
from tests.support.full_hub import LocalHubError


@pytest.fixture
def hub() -> Iterator[FaultHub]:
    with FaultHub() as running:
        yield running


def api(hub: FaultHub, token: str | bool) -> HfApi:
    return HfApi(endpoint=hub.url, token=token)


@pytest.fixture
def alice(hub: FaultHub) -> HfApi:
    return api(hub, hub.add_user("alice", orgs=["acme"]))


@pytest.fixture
def bob(hub: FaultHub) -> HfApi:
    return api(hub, hub.add_user("bob"))


def test_whoami_names_user_orgs_and_token_role(hub: FaultHub, alice: HfApi) -> None:
    me = alice.whoami()
    assert me["name"] == "alice"
    assert [org["name"] for org in me["orgs"]] == ["acme"]
    assert me["auth"]["accessToken"]["role"] == "write"


def test_add_user_uses_the_given_token_and_rejects_a_duplicate(hub: FaultHub) -> None:
    assert hub.add_user("carol", token="hf_mine", role="read") == "hf_mine"
    assert api(hub, "hf_mine").whoami()["auth"]["accessToken"]["role"] == "read"
    with pytest.raises(LocalHubError, match="already in use"):
        hub.add_user("dave", token="hf_mine")


def test_add_user_rejects_an_unknown_role(hub: FaultHub) -> None:
    with pytest.raises(LocalHubError, match="role"):
        hub.add_user("carol", role="admin")


def test_revoked_token_gets_401_with_the_hubs_message(hub: FaultHub) -> None:
    token = hub.add_user("carol")
    hub.create_repo("carol/open")
    hub.revoke(token)
    with pytest.raises(HfHubHTTPError, match="Invalid credentials in Authorization") as caught:
        api(hub, token).model_info("carol/open")
    assert caught.value.response.status_code == 401
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        api(hub, token).whoami()


def test_private_repo_is_not_found_for_other_users(hub: FaultHub, alice: HfApi, bob: HfApi) -> None:
    hub.create_repo("alice/secret", repo_type="dataset", private=True)
    assert alice.dataset_info("alice/secret").private is True
    for other, status in ((bob, 404), (api(hub, False), 401)):
        with pytest.raises(RepositoryNotFoundError) as caught:
            other.dataset_info("alice/secret")
        assert caught.value.response.status_code == status
        assert not list(other.list_datasets(author="alice"))
    assert [d.id for d in alice.list_datasets(author="alice")] == ["alice/secret"]


def test_file_of_a_private_repo_is_not_found_for_other_users(hub: FaultHub, bob: HfApi) -> None:
    hub.create_repo("alice/secret", private=True)
    hub.commit("alice/secret", {"a.txt": b"x"})
    with pytest.raises(RepositoryNotFoundError):
        bob.hf_hub_download("alice/secret", "a.txt")


def test_org_members_can_write_to_repos_of_the_org(hub: FaultHub, alice: HfApi, bob: HfApi) -> None:
    alice.create_repo("acme/tool", private=True)
    assert alice.model_info("acme/tool").id == "acme/tool"
    with pytest.raises(RepositoryNotFoundError):
        bob.model_info("acme/tool")


def test_gated_repo_has_public_info_but_restricted_files(
    hub: FaultHub, alice: HfApi, bob: HfApi
) -> None:
    hub.create_repo("alice/gate", gated=True)
    hub.commit("alice/gate", {"a.txt": b"x"})
    assert bob.model_info("alice/gate").gated == "auto"
    for other, status in ((bob, 403), (api(hub, False), 401)):
        with pytest.raises(GatedRepoError) as caught:
            other.get_hf_file_metadata(url=hf_url(hub, "alice/gate/resolve/main/a.txt"))
        assert caught.value.response.status_code == status
    assert alice.get_hf_file_metadata(url=hf_url(hub, "alice/gate/resolve/main/a.txt")).size == 1


def hf_url(hub: FaultHub, path: str) -> str:
    return f"{hub.url}/{path}"


def test_granted_user_can_access_a_gated_repo(hub: FaultHub, bob: HfApi) -> None:
    hub.create_repo("alice/gate", gated="manual")
    with pytest.raises(GatedRepoError):
        bob.auth_check("alice/gate")
    hub.grant_access("alice/gate", "bob")
    bob.auth_check("alice/gate")


def test_read_token_cannot_write(hub: FaultHub) -> None:
    reader = api(hub, hub.add_user("alice", role="read"))
    hub.create_repo("alice/open")
    with pytest.raises(HfHubHTTPError, match="you must use a write token"):
        reader.upload_file(path_or_fileobj=b"x", path_in_repo="a", repo_id="alice/open")
    with pytest.raises(HfHubHTTPError, match="write token"):
        reader.create_repo("alice/new")


def test_create_in_the_namespace_of_another_user_is_403(hub: FaultHub, bob: HfApi) -> None:
    with pytest.raises(HfHubHTTPError, match='rights to create a model under the namespace "x"'):
        bob.create_repo("x/model")
    assert hub.repo("x/model") is None


def test_anonymous_create_is_401(hub: FaultHub) -> None:
    with pytest.raises(HfHubHTTPError) as caught:
        api(hub, False).create_repo("x/model")
    assert caught.value.response.status_code == 401


def test_commit_to_a_repo_of_another_user_is_403(hub: FaultHub, bob: HfApi) -> None:
    hub.create_repo("alice/open")
    with pytest.raises(HfHubHTTPError, match="pass `create_pr=1`"):
        bob.upload_file(path_or_fileobj=b"x", path_in_repo="a", repo_id="alice/open")
    assert hub.files("alice/open") == {".gitattributes": hub.files("alice/open")[".gitattributes"]}


def test_the_hub_listens_on_loopback_only(hub: FaultHub) -> None:
    assert hub.url.startswith("http://127.0.0.1:")


def test_request_log_contains_no_token(hub: FaultHub, alice: HfApi) -> None:
    alice.whoami()
    assert isinstance(alice.token, str)
    get_session().get(f"{hub.url}/api/models?token={alice.token}&search=x")
    assert hub.requests[0].authenticated
    assert hub.requests[-1].path == "/api/models?search=x"
    assert alice.token not in repr(hub.requests)
