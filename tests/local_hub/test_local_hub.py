"""The tests' Hub with the real client: who may do what, commits, files.

The tests of huggingface_hub (`tests.benchmarks.official_hub_tests`) cover its API.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_session
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoFile
from hypothesis import given
from hypothesis import strategies as st

from hf_lorameta.hub import retry
from tests.support import local_hub
from tests.support.fault_hub import Fault, FaultHub
from tests.support.local_hub import LocalHubError
from tests.support.local_hub.errors import HTTPError
from tests.support.local_hub.lfs import byte_range

REPO, SECRET, GATED = "alice/m", "alice/secret", "alice/gated"
TEXT, WEIGHTS = b"0123456789", hashlib.shake_256(b"weights").digest(5000)
CARD = b"---\nlicense: mit\nlibrary_name: peft\nbase_model: org/base\ntags: [lora]\n---\n"
HEADER = {"key": "header", "value": {"summary": "x"}}

# huggingface_hub 2.4 passes `data=` to httpx2 when it sends a large file, which httpx2 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub() -> Iterator[FaultHub]:
    """A hub with a public, a private and a gated repo of alice."""
    with FaultHub(page_size=3) as running:
        running.create_repo(REPO)
        running.create_repo(SECRET, private=True)
        running.create_repo(GATED, gated=True)
        for repo in (REPO, SECRET, GATED):
            running.commit(repo, {"a.txt": TEXT})
        yield running


@pytest.fixture
def clients(hub: FaultHub) -> dict[str, HfApi]:
    """Clients of several accounts, by name."""
    tokens: dict[str, str | bool] = {
        "alice": hub.add_user("alice", orgs=["acme"]),
        "reader": hub.add_user("alice", role="read"),
        "bob": hub.add_user("bob"),
        "granted": hub.add_user("granted"),
        "revoked": (revoked := hub.add_user("carol")),
        "anonymous": False,
    }
    hub.revoke(revoked)
    hub.grant_access(GATED, "granted")
    return {name: HfApi(endpoint=hub.url, token=token) for name, token in tokens.items()}


@pytest.fixture
def alice(clients: dict[str, HfApi]) -> HfApi:
    return clients["alice"]


def get(hub: FaultHub, path: str, method: str = "GET", **headers: str) -> Any:
    url = f"{hub.url}/{path}"
    return get_session().request(method, url, headers=headers, follow_redirects=False)


def post_commit(hub: FaultHub, api: HfApi, lines: Sequence[object]) -> int:
    content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    headers = {"Authorization": f"Bearer {api.token}", "Content-Type": "application/x-ndjson"}
    url = f"{hub.url}/api/models/{REPO}/commit/main"
    return int(get_session().post(url, content=content, headers=headers).status_code)


def line(path: str, content: str = "YQ==") -> dict[str, object]:
    return {"key": "file", "value": {"content": content, "path": path, "encoding": "base64"}}


# --- who may do what ----------------------------------------------------------------------------


def _write(repo: str, **options: Any) -> Callable[[HfApi], object]:
    return lambda api: api.upload_file(
        path_or_fileobj=b"x", path_in_repo="new", repo_id=repo, **options
    )


def _metadata(repo: str) -> Callable[[HfApi], object]:
    return lambda api: api.get_hf_file_metadata(url=f"{api.endpoint}/{repo}/resolve/main/a.txt")


Operation = Callable[[HfApi], object]
OPERATIONS: dict[str, tuple[Operation, str, dict[str, int]]] = {
    "ask who one is": (lambda api: api.whoami(), "alice", {"revoked": 401}),
    "see": (lambda api: api.model_info(REPO), "anonymous bob", {"revoked": 401}),
    "see a private repo": (
        lambda api: api.model_info(SECRET), "alice", {"bob": 404, "anonymous": 401},
    ),
    "read a private file": (_metadata(SECRET), "alice", {"bob": 404, "anonymous": 401}),
    "see a gated repo": (lambda api: api.model_info(GATED), "anonymous bob", {"revoked": 401}),
    "read a gated file": (_metadata(GATED), "alice granted", {"bob": 403, "anonymous": 401}),
    "create": (
        lambda api: api.create_repo("alice/new"), "alice",
        {"reader": 403, "bob": 403, "anonymous": 401},
    ),
    "create for an organization": (
        lambda api: api.create_repo("acme/new"), "alice", {"bob": 403, "anonymous": 401},
    ),
    "write": (_write(REPO), "alice", {"reader": 403, "bob": 403, "revoked": 401}),
    "propose": (_write(REPO, create_pr=True), "bob", {"reader": 403, "anonymous": 401}),
}  # fmt: skip
"""Operations, accounts that may do them, and the statuses of those that may not."""


@pytest.mark.parametrize("name", OPERATIONS)
def test_who_may_do_what(clients: dict[str, HfApi], name: str) -> None:
    operation, allowed, refused = OPERATIONS[name]
    for caller, status in refused.items():
        with pytest.raises(HfHubHTTPError) as caught:
            operation(clients[caller])
        assert caught.value.response.status_code == status, caller
    for caller in allowed.split():
        operation(clients[caller])


def test_the_hub_listens_on_loopback_and_logs_no_token(hub: FaultHub, alice: HfApi) -> None:
    assert hub.url.startswith("http://127.0.0.1:")
    assert isinstance(alice.token, str)
    get_session().get(f"{hub.url}/api/models?token={alice.token}&search=x")
    alice.whoami()
    assert [r.authenticated for r in hub.requests[-2:]] == [False, True]
    assert hub.requests[-2].path == "/api/models?search=x"
    assert alice.token not in repr(hub.requests)


def test_env_replaces_the_settings_of_this_process(
    hub: FaultHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_real")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    env = hub.env(home=tmp_path)
    assert (env["HF_ENDPOINT"], env["HF_HOME"]) == (hub.url, str(tmp_path))
    assert not {"HF_TOKEN", "HF_HUB_OFFLINE"} & set(env)
    assert hub.env("hf_x", home=tmp_path)["HF_TOKEN"] == "hf_x"


# --- commits ------------------------------------------------------------------------------------


def test_a_commit_adds_and_deletes_on_its_parent(hub: FaultHub, alice: HfApi) -> None:
    head = hub.commits(REPO)[0].sha

    def commit(parent: str, *deleted: str, content: bytes = b"new") -> str:
        add, delete = CommitOperationAdd("new.txt", content), map(CommitOperationDelete, deleted)
        done = alice.create_commit(
            REPO, operations=[add, *delete], commit_message="new", parent_commit=parent
        )
        return str(done.oid)

    newest = commit(head, "a.txt")
    assert set(hub.files(REPO)) == {".gitattributes", "new.txt"}
    assert (hub.commits(REPO)[0].sha, hub.commits(REPO)[0].title) == (newest, "new")
    assert commit(newest) == newest  # nothing changes
    with pytest.raises(HfHubHTTPError, match="branch was updated"):
        commit(head, content=b"newer")


def test_one_of_several_commits_on_the_same_parent_succeeds(hub: FaultHub, alice: HfApi) -> None:
    value = {"summary": "x", "parentCommit": hub.commits(REPO)[0].sha}
    with ThreadPoolExecutor(6) as pool:
        sent = [({"key": "header", "value": value}, line("b")) for _ in range(6)]
        statuses = list(pool.map(lambda lines: post_commit(hub, alice, lines), sent))
    assert sorted(statuses) == [200, 412, 412, 412, 412, 412]


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([{"key": "deletedFile", "value": {"path": "a"}}], 400),  # without a header
        ([["not", "an", "object"]], 400),
        ([{"key": "header", "value": "x"}], 400),
        ([HEADER, {"key": "odd", "value": {"path": "a"}}], 400),
        ([HEADER, line("a", "!!")], 400),
        ([HEADER, {"key": "lfsFile", "value": {"path": "a", "oid": "0" * 64}}], 400),  # not there
        ([HEADER, line("README.md", "LS0tCmxpY2Vuc2U6IG5vCi0tLQo=")], 400),  # an unknown license
        ([HEADER, line("../a")], 422),
        ([HEADER, line("..\\a")], 422),
    ],
)
def test_malformed_commits_change_nothing(
    hub: FaultHub, alice: HfApi, lines: list[object], status: int
) -> None:
    before = hub.repo(REPO)
    assert post_commit(hub, alice, lines) == status
    assert hub.repo(REPO) == before


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("license: mine", '"license" must be one of'),
        ("base_model: ./local/dir", "Use a model id from https://hf.co/models"),
        ("datasets:\n- /tmp/x", r"datasets\[0\].*Use a dataset id"),
        ("tags: lora", '"tags" must be an array'),
        ("a: [1", "Invalid YAML"),
    ],
)
def test_invalid_metadata_is_rejected_before_and_at_commit(
    hub: FaultHub, alice: HfApi, metadata: str, message: str
) -> None:
    card = f"---\n{metadata}\n---\n".encode()
    with pytest.raises(ValueError, match=message):
        alice.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id=REPO)
    with pytest.raises(LocalHubError, match="Invalid metadata in README"):
        hub.commit(REPO, {"README.md": card})
    assert "README.md" not in hub.files(REPO)


def test_a_pull_request_does_not_change_main(
    hub: FaultHub, clients: dict[str, HfApi], monkeypatch: pytest.MonkeyPatch
) -> None:
    def propose(path: str, content: bytes) -> Any:
        return clients["bob"].create_commit(
            REPO, [CommitOperationAdd(path, content)], commit_message="x", create_pr=True
        )

    assert propose("b", b"1").pr_revision == "refs/pr/1"
    assert "b" not in hub.files(REPO)
    assert hub.read(REPO, "b", revision="refs/pr/1") == b"1"
    monkeypatch.setattr(HfApi, "_validate_yaml", lambda *_, **__: None)  # the client asks first
    with pytest.raises(HfHubHTTPError):
        propose("README.md", b"---\nlicense: [\n---\n")
    assert list(hub.repo(REPO).refs) == ["main", "refs/pr/1"]  # type: ignore[union-attr]


# --- Git LFS ------------------------------------------------------------------------------------


def test_a_large_file_is_uploaded_once_as_it_was_announced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    with FaultHub(always_lfs=True) as hub:
        hub.create_repo(REPO)
        api = HfApi(endpoint=hub.url, token=hub.add_user("alice"))
        batch = get_session().post(
            f"{hub.url}/{REPO}.git/info/lfs/objects/batch",
            json={"objects": [{"oid": hashlib.sha256(WEIGHTS).hexdigest(), "size": len(WEIGHTS)}]},
            headers={"Authorization": f"Bearer {api.token}"},
        )
        link = batch.json()["objects"][0]["actions"]["upload"]["href"]
        for wrong in (WEIGHTS[:-1] + b"x", WEIGHTS + b"x"):
            assert get_session().put(link, content=wrong).status_code == 400
        for name in ("w.safetensors", "v.safetensors"):
            api.upload_file(path_or_fileobj=WEIGHTS, path_in_repo=name, repo_id=REPO)
        assert hub.read(REPO, "v.safetensors") == WEIGHTS
        assert [r.status for r in hub.requests if r.method == "PUT"] == [400, 400, 200]


def test_a_large_file_is_a_redirect_that_requires_no_token(hub: FaultHub, alice: HfApi) -> None:
    hub.commit(REPO, {"w.safetensors": WEIGHTS})
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    answer = get(hub, f"{REPO}/resolve/main/w.safetensors", "HEAD")
    assert (answer.status_code, answer.headers["x-linked-size"]) == (302, "5000")
    assert answer.headers["x-linked-etag"] == f'"{digest}"'
    assert get_session().get(answer.headers["location"]).content == WEIGHTS
    siblings = alice.model_info(REPO, files_metadata=True).siblings or ()
    sizes = {file.rfilename: (file.size, file.lfs and file.lfs.sha256) for file in siblings}
    assert sizes["a.txt"] == (10, None)
    assert sizes["w.safetensors"] == (5000, digest)
    items = alice.get_paths_info(REPO, ["w.safetensors", "none"])
    assert [(i.path, i.size) for i in items if isinstance(i, RepoFile)] == [("w.safetensors", 5000)]


# --- files and lists ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "status", "body", "stated"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=8-", 206, b"89", "bytes 8-9/10"),
        ("bytes=5-99", 206, b"56789", "bytes 5-9/10"),
        ("bytes=3-2", 200, TEXT, None),
        ("lines=1-2", 200, TEXT, None),
        ("bytes=0-1,4-5", 200, TEXT, None),
        ("bytes=10-", 416, None, "bytes */10"),
    ],
)
def test_range_requests_get_the_requested_bytes(
    hub: FaultHub, asked: str, status: int, body: bytes | None, stated: str | None
) -> None:
    answer = get(hub, f"{REPO}/resolve/main/a.txt", Range=asked)
    assert (answer.status_code, answer.headers.get("content-range")) == (status, stated)
    assert body in (None, answer.content)
    record = hub.requests[-1]
    assert (record.status, record.range, record.bytes_sent) == (status, asked, len(answer.content))


@given(data=st.binary(min_size=1, max_size=40), first=st.integers(0, 50), last=st.integers(0, 50))
def test_byte_range_equals_slicing(data: bytes, first: int, last: int) -> None:
    header = f"bytes={first}-{last}"
    if last < first:
        assert byte_range(header, len(data)) is None
    elif first >= len(data):
        with pytest.raises(HTTPError, match="not satisfiable"):
            byte_range(header, len(data))
    else:
        start, stop = byte_range(header, len(data)) or (0, 0)
        assert data[start:stop] == data[first : last + 1]


@pytest.mark.parametrize(
    "revision", ["main", "refs%2Fpr%2F1", "refs/pr/1", "dev%2Fx", "v1", "refs%2Fheads%2Fmain"]
)
def test_revision_in_path_may_be_percent_encoded(
    hub: FaultHub, alice: HfApi, revision: str
) -> None:
    _write(REPO, create_pr=True)(alice)
    alice.create_branch(REPO, branch="dev/x")
    alice.create_tag(REPO, tag="v1")
    answer = get(hub, f"{REPO}/resolve/{revision}/a.txt")
    assert answer.content == TEXT
    git_id = hashlib.sha1(b"blob 10\0" + TEXT).hexdigest()
    assert answer.headers["etag"] == f'"{git_id}"'


def test_lists_have_filters_fields_and_pages(hub: FaultHub, alice: HfApi) -> None:
    for name in ("alice/one", "bob/two", "bob/three", "bob/four"):
        hub.create_repo(name)
    shas = {name: hub.commit(name, {"README.md": CARD}) for name in ("alice/one", "bob/two")}

    def ids(**query: Any) -> set[str]:
        return {model.id for model in alice.list_models(**query)}

    assert ids(filter="base_model:adapter:org/base") == set(shas)
    assert ids(filter=["lora", "peft"], author="bob") == {"bob/two"}
    assert ids(search="THREE") == {"bob/three"}
    assert ids() == {REPO, SECRET, GATED, *shas, "bob/three", "bob/four"}
    [found] = alice.list_models(filter="lora", author="bob", expand=["sha", "cardData"])
    assert (found.sha, found.card_data and found.card_data.license) == (shas["bob/two"], "mit")
    hub.commit(REPO, {f"d/{n}.txt": b"x" for n in range(7)})
    listed = [item.path for item in alice.list_repo_tree(REPO, "d")]
    assert listed == [f"d/{n}.txt" for n in range(7)]


def test_an_injected_fault_has_the_hubs_message(
    hub: FaultHub, alice: HfApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "ATTEMPTS", 1)  # tests before may have set our client
    hub.add_fault(Fault(kind="status", status=500, path=f"/api/models/{REPO}"))
    with pytest.raises(HfHubHTTPError, match="Internal Error"):
        alice.model_info(REPO)
    with pytest.raises(LocalHubError, match="kind"):
        Fault(kind="explode")  # type: ignore[arg-type]


def test_a_held_request_does_not_keep_the_hub_from_stopping() -> None:
    with ThreadPoolExecutor() as threads, httpx2.Client(trust_env=False) as client:
        with FaultHub() as hub:
            hub.add_fault(Fault("hold"))
            held = threads.submit(client.get, hub.url)
            while not hub.requests:
                time.sleep(0.01)
        assert not hub._thread.is_alive()
        assert held.result().status_code == 500


def test_examples_of_the_readme_run() -> None:
    readme = Path(local_hub.__file__).with_name("README.md").read_text("utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    exec(example, {})
