"""On one's own machine, nobody acts with the token saved there, and other sites are refused."""

import json
import time
import urllib.error
import urllib.request
import zipfile
from http.client import IncompleteRead
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Shell, Web, touched
from tests.space.datasets import TRAIN
from tests.support.running_space import RunningSpace, missing, session_cookie

if why := missing("gradio", "itsdangerous"):
    pytest.skip(why, allow_module_level=True)

MOCK = "mock-oauth-token-for-local-dev"
"""Gradio's own token of a sign-in outside Spaces."""


class Stranger:
    """Somebody who sends requests that no browser would check.

    Args:
        space: the server.
        prefix: of all paths.
        headers: of all requests.
    """

    def __init__(self, space: RunningSpace, prefix: str = "", **headers: str) -> None:
        self._url, self._headers = f"{space.url}{prefix}", headers
        self._session = f"s{time.monotonic_ns()}"

    def send(self, path: str, value: Any = None) -> str:
        """Return the answer; empty if it is refused."""
        body = None if value is None else json.dumps(value).encode()
        headers = {"Content-Type": "application/json"} | self._headers
        try:
            request = urllib.request.Request(self._url + path, body, headers)
            with urllib.request.urlopen(request, timeout=300) as answer:
                return str(answer.read().decode())
        except (urllib.error.HTTPError, IncompleteRead):  # a stream of a session that has none
            return ""

    def publish_by_page(self, dataset: str, repo: str) -> None:
        """Press all buttons of the page that lead to a public repo."""
        config = json.loads(self.send("/config") or '{"dependencies": []}')
        events = {event["api_name"]: event["id"] for event in config["dependencies"]}
        after = {event["trigger_after"]: event["id"] for event in config["dependencies"]}
        for name, data, values in (
            ("choose", [None, 1], {"dataset": dataset}),
            ("make", [None, 2], None),
            ("save", [None, 3, repo, "public", False], None),
        ):
            body = {"session_hash": self._session, "data": data, "event_data": values}
            body |= {"fn_index": events.get(name), "trigger_id": None}
            self.send(f"/gradio_api/run/{name}", body)
            waits = {"fn_index": after.get(events.get(name)), "data": [None]}
            self.send("/gradio_api/queue/join", waits | {"session_hash": self._session})
            self.send(f"/gradio_api/queue/data?session_hash={self._session}")

    def publish_by_program(self, dataset: str, repo: str, token: str) -> str:
        """Call /generate with a token; return the events."""
        inputs = {"dataset": dataset, "repo_id": repo, "visibility": "public"}
        answer = self.send("/gradio_api/call/v2/generate", inputs | {"oauth_token": token})
        event = json.loads(answer)["event_id"] if answer else ""
        return event and self.send(f"/gradio_api/call/generate/{event}")


def test_nobody_publishes_with_the_token_of_this_machine(own_space: Web, cli: Shell) -> None:
    dataset = own_space.owner.dataset("bait", {"train.jsonl": TRAIN})
    repo = f"{own_space.owner.name}/stolen"
    cookie = session_cookie(own_space.owner.name, MOCK, secret="")
    stranger = Stranger(own_space.space, Cookie=f"session={cookie}")
    stranger.publish_by_page(dataset, repo)
    assert "error" in stranger.publish_by_program(dataset, repo, MOCK)
    assert cli.hub.repo(repo) is None
    assert not touched(cli.hub, "api/repos/create")


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"}, {"Host": "evil.example:7861", "Origin": "http://evil.example:7861"},
        {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Referer": "http://127.0.0.1:9/"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
    ],
)  # fmt: skip
def test_other_hosts_and_sites_upload_and_train_nothing(
    own_space: Web, headers: dict[str, str]
) -> None:
    inputs, generate = {"dataset": "a/b"}, "/gradio_api/call/v2/generate"
    assert Stranger(own_space.space).send(generate, inputs)
    stranger = Stranger(own_space.space, **headers)
    assert stranger.send(generate, inputs) == ""
    assert stranger.send("/gradio_api/upload", {}) == ""
    if "Host" in headers:  # else no page of another site can read the answer
        assert stranger.send("/config") == ""


def test_a_download_is_published_by_the_commands_that_the_page_shows(
    own_space: Web, cli: Shell, tmp_path: Path
) -> None:
    gradio_client = pytest.importorskip("gradio_client")
    dataset = own_space.owner.dataset("notes", {"train.jsonl": TRAIN})
    client = gradio_client.Client(own_space.space.url, verbose=False, download_files=str(tmp_path))
    archive, _ = client.predict(dataset=dataset, api_name="/generate")
    folder, repo = Path(archive).stem, f"{own_space.owner.name}/notes-lorameta"
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path / folder)
    cli("push", "--from", tmp_path / folder, "--repo-id", repo, token=own_space.owner.token)
    assert cli.hub.read(repo, "recipe.json") == (tmp_path / folder / "recipe.json").read_bytes()
