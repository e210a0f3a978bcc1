"""Downloads, range requests, faults, and persistence on disk."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi, HfFileSystem, get_session
from huggingface_hub.errors import RemoteEntryNotFoundError, RevisionNotFoundError
from hypothesis import given
from hypothesis import strategies as st

from hf_lorameta.localhub.errors import HTTPError
from hf_lorameta.localhub.routes import byte_range
from tests.support.fault_hub import Fault, FaultHub
from tests.support.full_hub import LocalHubError

REPO = "alice/m"
TEXT = b"0123456789"
WEIGHTS = hashlib.shake_256(b"weights").digest(5000)


@pytest.fixture
def hub() -> Iterator[FaultHub]:
    with FaultHub() as running:
        running.create_repo(REPO)
        running.commit(REPO, {"a.txt": TEXT, "dir/ü b.txt": b"u", "w.safetensors": WEIGHTS})
        yield running


@pytest.fixture
def api(hub: FaultHub) -> HfApi:
    return HfApi(endpoint=hub.url, token=hub.add_user("alice"))


def get(hub: FaultHub, path: str, method: str = "GET", **headers: str) -> httpx2.Response:
    return get_session().request(
        method, f"{hub.url}/{path}", headers=headers, follow_redirects=False
    )


def head_sha(hub: FaultHub) -> str:
    repo = hub.repo(REPO)
    assert repo is not None
    return repo.sha


def test_regular_file_has_etag_commit_and_length(hub: FaultHub) -> None:
    git_id = hashlib.sha1(b"blob 10\0" + TEXT).hexdigest()
    for method, body in (("GET", TEXT), ("HEAD", b"")):
        answer = get(hub, f"{REPO}/resolve/main/a.txt", method)
        assert (answer.status_code, answer.content) == (200, body)
        assert answer.headers["etag"] == f'"{git_id}"'
        assert answer.headers["x-repo-commit"] == head_sha(hub)
        assert answer.headers["content-length"] == "10"
        assert answer.headers["accept-ranges"] == "bytes"


def test_large_file_is_a_redirect_that_requires_no_token(hub: FaultHub) -> None:
    answer = get(hub, f"{REPO}/resolve/main/w.safetensors", "HEAD")
    assert answer.status_code == 302
    assert answer.headers["x-linked-size"] == "5000"
    assert answer.headers["x-linked-etag"] == f'"{hashlib.sha256(WEIGHTS).hexdigest()}"'
    assert get_session().get(answer.headers["location"]).content == WEIGHTS


def test_snapshot_download_of_regular_and_lfs_files(
    hub: FaultHub, api: HfApi, tmp_path: Path
) -> None:
    folder = Path(api.snapshot_download(REPO, cache_dir=tmp_path))
    assert (folder / "a.txt").read_bytes() == TEXT
    assert (folder / "dir" / "ü b.txt").read_bytes() == b"u"
    assert (folder / "w.safetensors").read_bytes() == WEIGHTS
    assert folder.name == head_sha(hub)


def test_second_download_transfers_no_bytes(hub: FaultHub, api: HfApi, tmp_path: Path) -> None:
    api.hf_hub_download(REPO, "w.safetensors", cache_dir=tmp_path)
    hub.clear_requests()
    api.hf_hub_download(REPO, "w.safetensors", cache_dir=tmp_path)
    assert sum(r.bytes_sent for r in hub.requests) == 0


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_repo_types_have_separate_namespaces(hub: FaultHub, api: HfApi, kind: str) -> None:
    hub.create_repo("alice/same", repo_type=kind)
    hub.commit("alice/same", {"a": kind.encode()}, repo_type=kind)
    prefix = "" if kind == "model" else f"{kind}s/"
    assert get(hub, f"{prefix}alice/same/resolve/main/a").content == kind.encode()


def test_repo_without_a_namespace_can_be_read(hub: FaultHub) -> None:
    hub.create_repo("gpt2")
    hub.commit("gpt2", {"a": b"1"})
    assert get(hub, "gpt2/resolve/main/a").content == b"1"


@pytest.mark.parametrize(
    "revision", ["main", "refs%2Fpr%2F1", "refs/pr/1", "dev%2Fx", "v1", "refs%2Fheads%2Fmain"]
)
def test_revision_in_path_may_be_percent_encoded(hub: FaultHub, api: HfApi, revision: str) -> None:
    api.upload_file(path_or_fileobj=b"1", path_in_repo="new", repo_id=REPO, create_pr=True)
    api.create_branch(REPO, branch="dev/x")
    api.create_tag(REPO, tag="v1")
    for at in (revision, head_sha(hub)):
        assert get(hub, f"{REPO}/resolve/{at}/a.txt").content == TEXT


def test_missing_file_and_revision_have_error_codes(hub: FaultHub, api: HfApi) -> None:
    with pytest.raises(RemoteEntryNotFoundError) as caught:
        api.hf_hub_download(REPO, "none.txt")
    assert caught.value.response.headers["x-repo-commit"] == head_sha(hub)
    with pytest.raises(RevisionNotFoundError):
        api.hf_hub_download(REPO, "a.txt", revision="refs/convert/parquet")


@pytest.mark.parametrize(
    ("range_header", "status", "body", "content_range"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=8-", 206, b"89", "bytes 8-9/10"),
        ("bytes=5-99", 206, b"56789", "bytes 5-9/10"),
        ("bytes=3-2", 200, TEXT, None),
        ("lines=1-2", 200, TEXT, None),
        ("bytes=0-1,4-5", 200, TEXT, None),
    ],
)
def test_range_requests_get_the_requested_bytes(
    hub: FaultHub, range_header: str, status: int, body: bytes, content_range: str | None
) -> None:
    answer = get(hub, f"{REPO}/resolve/main/a.txt", Range=range_header)
    assert (answer.status_code, answer.content) == (status, body)
    assert answer.headers.get("content-range") == content_range


@pytest.mark.parametrize("range_header", ["bytes=10-", "bytes=99-100"])
def test_unsatisfiable_ranges_are_416(hub: FaultHub, range_header: str) -> None:
    answer = get(hub, f"{REPO}/resolve/main/a.txt", Range=range_header)
    assert answer.status_code == 416
    assert answer.headers["content-range"] == "bytes */10"


@given(data=st.binary(min_size=1, max_size=40), first=st.integers(0, 50), last=st.integers(0, 50))
def test_byte_range_equals_slicing(data: bytes, first: int, last: int) -> None:
    header = f"bytes={first}-{last}"
    if last < first:
        assert byte_range(header, len(data)) is None
    elif first >= len(data):
        with pytest.raises(HTTPError, match="not satisfiable"):
            byte_range(header, len(data))
    else:
        bounds = byte_range(header, len(data))
        assert bounds is not None
        assert data[bounds[0] : bounds[1]] == data[first : last + 1]


def test_range_request_follows_the_redirect(hub: FaultHub, api: HfApi) -> None:
    system = HfFileSystem(endpoint=hub.url, token=api.token, skip_instance_cache=True)
    assert system.cat_file(f"{REPO}/w.safetensors", start=100, end=120) == WEIGHTS[100:120]
    stored = [r for r in hub.requests if r.path.startswith("/_lfs/")]
    assert stored[-1].status == 206
    assert str(stored[-1].range).startswith("bytes=100-")


# ---- faults


def test_unknown_fault_kind_is_rejected() -> None:
    with pytest.raises(LocalHubError, match="kind"):
        Fault(kind="explode")  # type: ignore[arg-type]


def test_request_log_has_range_and_bytes(hub: FaultHub) -> None:
    hub.clear_requests()
    get(hub, f"{REPO}/resolve/main/a.txt?download=true", Range="bytes=2-4")
    (record,) = hub.requests
    assert (record.method, record.path) == ("GET", f"/{REPO}/resolve/main/a.txt?download=true")
    assert (record.status, record.range, record.bytes_sent) == (206, "bytes=2-4", 3)
