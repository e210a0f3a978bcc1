"""Files in Xet storage, with the real hf_xet; its storage is a folder, or a server that fails."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from starlette.responses import JSONResponse, Response

from hf_lorameta import Hub
from hf_lorameta.errors import ConnectionLostError
from hf_lorameta.hub.publish import Upload
from tests.conftest import touched
from tests.hub.conftest import use_endpoint
from tests.support.codes import raises_code
from tests.support.fault_hub import FaultHub
from tests.support.local_hub import lfs
from tests.support.local_hub.routing import Call

hf_xet = pytest.importorskip("hf_xet")

REPO, NAME = "alice/m", "w.safetensors"
WEIGHTS = hashlib.shake_256(b"weights").digest(100_000)
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "files" / NAME
    path.parent.mkdir()
    path.write_bytes(WEIGHTS)
    return path


class XetHub(FaultHub):
    """A Hub whose clients use a Xet storage; what they upload is known to it beforehand."""

    storage = ""

    def token_for_storage(self, call: Call) -> Response:
        answer = {"casUrl": self.storage, "exp": int(time.time()) + 3600, "accessToken": "xet"}
        names = ("X-Xet-Cas-Url", "X-Xet-Token-Expiration", "X-Xet-Access-Token")
        values = map(str, answer.values())
        return JSONResponse(answer, headers=dict(zip(names, values, strict=True)))


@pytest.fixture
def hub(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[XetHub]:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setenv("HF_XET_CACHE", str(tmp_path / "xet"))
    [info] = hf_xet.hash_files([str(file)])
    with XetHub(always_lfs=True) as running:
        running.create_repo(REPO)
        running.storage = f"local://{tmp_path / 'storage'}"
        state: Any = running._hub
        state.blobs[DIGEST] = WEIGHTS
        state.repos["model", REPO].objects.add(DIGEST)

        def resolve(call: Call) -> Response:
            answer = lfs.resolve(call)
            route = f"{running.url}/api/models/{REPO}/xet-read-token/main"
            answer.headers.update({"X-Xet-Hash": info.hash, "X-Xet-Refresh-Route": route})
            return answer

        others: dict[Any, Any]
        others = {lfs.xet_token: running.token_for_storage, lfs.resolve: resolve}
        for route in lfs.ROUTES:
            monkeypatch.setattr(route, "handler", others.get(route.handler, route.handler))
        use_endpoint(monkeypatch, running.url)
        monkeypatch.setenv("HF_TOKEN", running.add_user("alice"))
        yield running


def publish(file: Path) -> None:
    client = Hub()
    parent = client.resolve(REPO, "model")
    client.publish(Upload(file.parent), REPO, message="x", private=None, parent=parent)


def test_weights_go_to_xet_storage_and_come_from_it(hub: XetHub, file: Path) -> None:
    publish(file)
    pinned = Hub().resolve(REPO, "model", blobs=True)
    assert Hub().download(pinned, NAME).read_bytes() == WEIGHTS
    assert touched(hub, "xet-write-token")
    assert touched(hub, "xet-read-token")
    assert not touched(hub, "/_lfs/")


def test_a_storage_that_fails_is_a_lost_connection(hub: XetHub, file: Path) -> None:
    publish(file)
    hub.storage = hub.url  # which is none
    pinned = Hub().resolve(REPO, "model", blobs=True)
    with raises_code("hub.no-answer", match="404"):
        Hub().download(pinned, NAME)


def test_a_refused_upload_is_a_lost_connection(hub: XetHub, file: Path) -> None:
    for route in lfs.ROUTES:
        if route.handler == hub.token_for_storage:
            route.handler = lfs.xet_token
    with pytest.raises(ConnectionLostError, match="404 Not Found"):
        publish(file)
    assert len(hub.commits(REPO)) == 1
