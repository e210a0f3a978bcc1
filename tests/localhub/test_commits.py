"""Commits, pull requests, card validation and Git LFS uploads with the real client."""

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    get_session,
)
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from huggingface_hub.hf_api import RepoFile

from tests.support.fault_hub import FaultHub
from tests.support.full_hub import LocalHubError

REPO = "alice/m"
HEADER = {"key": "header", "value": {"summary": "x"}}

# huggingface_hub 2.4 passes `data=` to httpx2 when it sends a large file, which httpx2 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub() -> Iterator[FaultHub]:
    with FaultHub() as running:
        running.create_repo(REPO)
        yield running


@pytest.fixture
def api(hub: FaultHub) -> HfApi:
    return HfApi(endpoint=hub.url, token=hub.add_user("alice"))


@pytest.fixture
def bob(hub: FaultHub) -> HfApi:
    return HfApi(endpoint=hub.url, token=hub.add_user("bob"))


@pytest.fixture
def classic_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultHub]:
    """A hub that uses Git LFS, with this process's client without Xet."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with FaultHub(always_lfs=True) as running:
        running.create_repo(REPO)
        yield running


@pytest.fixture
def classic(classic_hub: FaultHub) -> HfApi:
    return HfApi(endpoint=classic_hub.url, token=classic_hub.add_user("alice"))


def add(path: str, data: bytes) -> CommitOperationAdd:
    return CommitOperationAdd(path, data)


def test_one_commit_adds_and_deletes(hub: FaultHub, api: HfApi) -> None:
    hub.commit(REPO, {"old": b"1", "w.safetensors": b"w"})
    new = api.create_commit(
        REPO,
        operations=[add("new.txt", b"new"), CommitOperationDelete("old")],
        commit_message="all at once",
    )
    assert set(hub.files(REPO)) == {".gitattributes", "new.txt", "w.safetensors"}
    newest = hub.commits(REPO)[0]
    assert (newest.sha, newest.title) == (new.oid, "all at once")


def test_deleting_a_missing_file_is_entry_not_found(api: HfApi) -> None:
    with pytest.raises(EntryNotFoundError, match="A file with this name doesn't exist"):
        api.delete_file("none", REPO)


def test_unknown_branch_is_404(api: HfApi) -> None:
    with pytest.raises(HfHubHTTPError, match="404"):
        api.create_commit(REPO, operations=[add("a", b"1")], commit_message="x", revision="nowhere")


def test_paths_with_parent_folders_are_rejected(hub: FaultHub, api: HfApi) -> None:
    for path in ("../a", "..\\a"):
        value = {"content": "YQ==", "path": path, "encoding": "base64"}
        body = [HEADER, {"key": "file", "value": value}]
        assert post_commit(hub, api, body) == (422, f"Invalid path in repo: {path!r}")


def post_commit(hub: FaultHub, api: HfApi, lines: Sequence[object]) -> tuple[int, str]:
    content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    url = f"{hub.url}/api/models/{REPO}/commit/main"
    headers = {"Authorization": f"Bearer {api.token}", "Content-Type": "application/x-ndjson"}
    answer = get_session().post(url, content=content, headers=headers)
    return answer.status_code, answer.json().get("error", "")


@pytest.mark.parametrize(
    "lines",
    [
        [{"key": "deletedFile", "value": {"path": "a"}}],  # without a header
        [["not", "an", "object"]],
        [{"key": "header", "value": "x"}],
        [HEADER, {"key": "odd", "value": {"path": "a"}}],
        [HEADER, {"key": "file", "value": {"content": "!!", "path": "a"}}],
        [HEADER, {"key": "lfsFile", "value": {"path": "a", "oid": "0" * 64}}],  # not uploaded
    ],
)
def test_malformed_commits_are_400(hub: FaultHub, api: HfApi, lines: list[object]) -> None:
    before = hub.repo(REPO)
    assert post_commit(hub, api, lines)[0] == 400
    assert hub.repo(REPO) == before


def test_wrong_parent_commit_is_412(hub: FaultHub, api: HfApi) -> None:
    first = hub.commit(REPO, {"a": b"1"})
    hub.commit(REPO, {"a": b"2"})
    with pytest.raises(HfHubHTTPError, match="The branch was updated since") as caught:
        api.create_commit(
            REPO, operations=[add("a", b"3")], commit_message="x", parent_commit=first
        )
    assert caught.value.response.status_code == 412
    assert hub.read(REPO, "a") == b"2"


def test_matching_parent_commit_is_accepted(hub: FaultHub, api: HfApi) -> None:
    head = hub.commit(REPO, {"a": b"1"})
    api.create_commit(REPO, operations=[add("a", b"3")], commit_message="x", parent_commit=head)
    assert hub.read(REPO, "a") == b"3"


def test_unchanged_files_make_no_commit(hub: FaultHub, api: HfApi) -> None:
    sha = hub.commit(REPO, {"a": b"1", "w.safetensors": b"w"})
    new = api.create_commit(
        REPO, operations=[add("a", b"1"), add("w.safetensors", b"w")], commit_message="again"
    )
    assert new.oid == sha
    assert hub.commit(REPO, {"a": b"1"}) == sha


def test_upload_folder_is_one_commit(hub: FaultHub, api: HfApi, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("a")
    (tmp_path / "w.safetensors").write_bytes(bytes(3000))
    api.upload_folder(repo_id=REPO, folder_path=tmp_path, commit_message="folder")
    assert [c.title for c in hub.commits(REPO)] == ["folder", "initial commit"]
    assert hub.read(REPO, "sub/a.txt") == b"a"
    assert hub.read(REPO, "w.safetensors") == bytes(3000)


def test_files_uploaded_inline_are_stored_in_lfs(hub: FaultHub, api: HfApi) -> None:
    api.upload_file(path_or_fileobj=b"w" * 50, path_in_repo="w.safetensors", repo_id=REPO)
    (info,) = api.get_paths_info(REPO, "w.safetensors")
    assert isinstance(info, RepoFile)
    assert info.lfs is not None
    assert info.lfs.sha256 == hashlib.sha256(b"w" * 50).hexdigest()


def test_text_that_resembles_the_commit_format_is_stored_unchanged(
    hub: FaultHub, api: HfApi
) -> None:
    tricky = '"file" "content": "x" \\" \n'
    api.create_commit(
        REPO,
        operations=[add("a", tricky.encode())],
        commit_message=tricky,
    )
    assert hub.read(REPO, "a") == tricky.encode()
    assert hub.commits(REPO)[0].title == tricky


def test_upload_folder_from_python_commits_all_files(hub: FaultHub, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x.txt").write_text("x")
    hub.upload_folder(REPO, tmp_path)
    assert hub.commits(REPO)[0].title == "Upload folder"
    assert hub.files(REPO)["d/x.txt"] == 1
    hub.commit(REPO, {"d/x.txt": None})
    assert "d/x.txt" not in hub.files(REPO)


# ---- card metadata


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("---\nlicense: mine\n---\n", '"license" must be one of'),
        ("---\nbase_model: ./local/dir\n---\n", "Use a model id from https://hf.co/models"),
        ("---\ndatasets:\n- /tmp/x\n---\n", r"datasets\[0\].*Use a dataset id"),
        ("---\ntags: lora\n---\n", '"tags" must be an array'),
        ("---\na: [1\n---\n", "Invalid YAML"),
    ],
)
def test_invalid_metadata_is_rejected_before_and_at_commit(
    hub: FaultHub, api: HfApi, card: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        api.upload_file(path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id=REPO)
    with pytest.raises(LocalHubError, match="Invalid metadata in README"):
        hub.commit(REPO, {"README.md": card.encode()})
    assert "README.md" not in hub.files(REPO)


def test_invalid_metadata_at_commit_is_a_400(hub: FaultHub, api: HfApi) -> None:
    lines: list[object] = [
        {"key": "header", "value": {"summary": "x"}},
        {
            "key": "file",
            "value": {
                "content": "LS0tCmxpY2Vuc2U6IG5vCi0tLQo=",
                "path": "README.md",
                "encoding": "base64",
            },
        },
    ]
    status, error = post_commit(hub, api, lines)
    assert status == 400
    assert error.startswith('Invalid metadata in README.md. "license" must be one of')


def test_missing_metadata_is_a_warning(hub: FaultHub, api: HfApi) -> None:
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        api.upload_file(path_or_fileobj=b"# hi", path_in_repo="README.md", repo_id=REPO)
    assert hub.read(REPO, "README.md") == b"# hi"


def test_valid_metadata_gives_no_warning(api: HfApi) -> None:
    card = b"---\nlicense: apache-2.0\nbase_model: a/b\ndatasets: [c/d]\nlanguage: en\n---\n"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id=REPO)


# ---- pull requests


def test_create_pr_does_not_change_main(hub: FaultHub, bob: HfApi) -> None:
    new = bob.create_commit(
        REPO, operations=[add("a", b"1")], commit_message="please", create_pr=True
    )
    assert new.pr_revision == "refs/pr/1"
    assert "a" not in hub.files(REPO)
    assert hub.read(REPO, "a", revision="refs/pr/1") == b"1"
    assert bob.file_exists(REPO, "a", revision="refs/pr/1")


def test_a_pull_request_is_for_a_branch(hub: FaultHub, bob: HfApi) -> None:
    head = hub.commits(REPO)[0].sha
    with pytest.raises(HfHubHTTPError, match="Invalid rev id"):
        bob.create_commit(
            REPO, operations=[add("a", b"1")], commit_message="x", revision=head, create_pr=True
        )


def test_a_refused_commit_opens_no_pull_request(
    hub: FaultHub, bob: HfApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HfApi, "_validate_yaml", lambda *_, **__: None)  # the client asks first
    card = add("README.md", b"---\nlicense: [\n---\n")
    with pytest.raises(HfHubHTTPError):
        bob.create_commit(REPO, operations=[card], commit_message="bad", create_pr=True)
    assert list(hub.repo(REPO).refs) == ["main"]  # type: ignore[union-attr]


# ---- Git LFS


def test_lfs_upload_sends_the_object_and_commits_a_pointer(
    classic_hub: FaultHub, classic: HfApi
) -> None:
    classic.upload_file(path_or_fileobj=b"w" * 99, path_in_repo="w.safetensors", repo_id=REPO)
    oid = hashlib.sha256(b"w" * 99).hexdigest()
    assert classic_hub.read(REPO, "w.safetensors") == b"w" * 99
    requests = [(r.method, r.path.partition("?")[0]) for r in classic_hub.requests]
    assert ("POST", f"/{REPO}.git/info/lfs/objects/batch") in requests
    assert ("PUT", f"/_lfs/{oid}") in requests
    assert ("POST", f"/_lfs/{oid}/verify") in requests


def test_stored_lfs_object_is_not_uploaded_again(classic_hub: FaultHub, classic: HfApi) -> None:
    classic_hub.commit(REPO, {"w.safetensors": b"w"})
    classic.upload_file(path_or_fileobj=b"w", path_in_repo="v.safetensors", repo_id=REPO)
    assert classic_hub.read(REPO, "v.safetensors") == b"w"
    assert not [r for r in classic_hub.requests if r.method == "PUT"]


def test_lfs_upload_to_a_dataset_pr(classic_hub: FaultHub, classic: HfApi) -> None:
    classic_hub.create_repo("alice/d", repo_type="dataset")
    classic.upload_file(
        path_or_fileobj=b"PAR1", path_in_repo="x.parquet", repo_id="alice/d",
        repo_type="dataset", create_pr=True,
    )  # fmt: skip
    read = classic_hub.read("alice/d", "x.parquet", repo_type="dataset", revision="refs/pr/1")
    assert read == b"PAR1"


def upload_link(hub: FaultHub, api: HfApi, oid: str, size: int) -> str:
    batch = get_session().post(
        f"{hub.url}/{REPO}.git/info/lfs/objects/batch",
        json={"operation": "upload", "objects": [{"oid": oid, "size": size}]},
        headers={"Authorization": f"Bearer {api.token}"},
    )
    return str(batch.json()["objects"][0]["actions"]["upload"]["href"])


@pytest.mark.parametrize("sent", [b"wrong", b"right and more"])
def test_lfs_object_with_other_bytes_is_rejected(
    classic_hub: FaultHub, classic: HfApi, sent: bytes
) -> None:
    oid = hashlib.sha256(b"right").hexdigest()
    link = upload_link(classic_hub, classic, oid, 5)
    answer = get_session().put(link, content=sent)
    assert answer.status_code == 400
    assert "not the one announced" in answer.json()["error"]
    assert get_session().put(link, content=b"right").status_code == 200


# ---- concurrency


def test_concurrent_uploads_are_all_committed(hub: FaultHub, api: HfApi) -> None:
    def upload(number: int) -> None:
        api.upload_file(path_or_fileobj=b"%d" % number, path_in_repo=f"f{number}.bin", repo_id=REPO)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(upload, range(24)))
    assert {hub.read(REPO, f"f{n}.bin") for n in range(24)} == {b"%d" % n for n in range(24)}
    assert len(hub.commits(REPO)) == 25


def test_listing_succeeds_while_repos_are_created(hub: FaultHub, api: HfApi) -> None:
    def make(number: int) -> None:
        hub.create_repo(f"alice/n{number}")

    with ThreadPoolExecutor(6) as pool:
        created = pool.map(make, range(20))
        for _ in range(15):
            list(api.list_models())
        list(created)
    assert len(list(api.list_models())) == 21


def test_one_of_several_commits_on_the_same_parent_succeeds(hub: FaultHub, api: HfApi) -> None:
    repo = hub.repo(REPO)
    assert repo is not None

    def push(number: int) -> int:
        lines = [
            {"key": "header", "value": {"summary": "x", "parentCommit": repo.sha}},
            {"key": "file", "value": {"content": "YQ==", "path": "a", "encoding": "base64"}},
        ]
        return post_commit(hub, api, lines)[0]

    with ThreadPoolExecutor(6) as pool:
        statuses = list(pool.map(push, range(6)))
    assert sorted(statuses) == [200, 412, 412, 412, 412, 412]


def test_a_body_that_is_not_json_is_400(hub: FaultHub, api: HfApi) -> None:
    headers = {"Authorization": f"Bearer {api.token}"}
    answer = get_session().post(f"{hub.url}/api/repos/create", content=b"{", headers=headers)
    assert answer.status_code == 400
    assert "Malformed request" in answer.json()["error"]
