"""On one's own machine, only the page with the key acts with the token saved there."""

import base64
import hashlib
import json
import time
import urllib.error
import urllib.request
from http.client import IncompleteRead
from typing import Any

import pytest

from tests.conftest import Shell, Web, touched
from tests.space.datasets import TRAIN
from tests.support.running_space import RunningSpace, missing

if why := missing("gradio"):
    pytest.skip(why, allow_module_level=True)

MOCK = "mock-oauth-token-for-local-dev"
"""Gradio's own token of a sign-in outside Spaces."""


def forged_cookie() -> str:
    """Return a cookie as Gradio signs it outside Spaces, with a secret that everybody knows."""
    signing = pytest.importorskip("itsdangerous")
    profile = {"name": "x", "preferred_username": "x", "profile": "", "picture": ""}
    info = {"access_token": MOCK, "scope": "", "expires_at": time.time() + 999, "userinfo": profile}
    signer = signing.TimestampSigner(hashlib.sha256(b"-v4").hexdigest())
    return str(signer.sign(base64.b64encode(json.dumps({"oauth_info": info}).encode())).decode())


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

    def publish_by_program(self, dataset: str, repo: str, token: str) -> None:
        """Call /push with a token."""
        inputs = {"dataset": dataset, "repo_id": repo, "visibility": "public"}
        answer = self.send("/gradio_api/call/v2/push", inputs | {"oauth_token": token})
        if answer:
            self.send(f"/gradio_api/call/push/{json.loads(answer)['event_id']}")


@pytest.mark.parametrize("host", ["evil.example:7861", ""])
def test_strangers_publish_nothing_with_the_token_of_this_machine(
    host: str, web: Web, cli: Shell
) -> None:
    dataset = web.owner.dataset(f"bait{len(host)}", {"train.jsonl": TRAIN})
    repo = f"{web.owner.name}/stolen"
    hosts = {"Host": host} if host else {}
    stranger = Stranger(web.space, **hosts, Cookie=f"session={forged_cookie()}")
    stranger.publish_by_page(dataset, repo)
    stranger.publish_by_program(dataset, repo, MOCK)
    assert cli.hub.repo(repo) is None
    assert not touched(cli.hub, "api/repos/create")


def test_the_page_with_the_key_publishes_but_not_for_other_sites(web: Web, cli: Shell) -> None:
    dataset, prefix = web.owner.dataset("mine", {"train.jsonl": TRAIN}), saving_path(web)
    for number, headers in enumerate((
        {"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"},
        {"Referer": "http://127.0.0.1:9/"}, {"Sec-Fetch-Site": "same-site"},
    )):  # fmt: skip
        other = f"{web.owner.name}/other-{number}"
        Stranger(web.space, prefix, **headers).publish_by_page(dataset, other)
        assert cli.hub.repo(other) is None
    for number, user in enumerate((Stranger(web.space, prefix), Stranger(web.space))):
        repo = f"{web.owner.name}/mine-{number}"
        if number:
            user.publish_by_program(dataset, repo, prefix[1:])
        else:
            user.publish_by_page(dataset, repo)
        assert cli.hub.repo(repo) is not None


def saving_path(web: Web) -> str:
    return "/" + web.space.saving_url.removeprefix(f"{web.space.url}/").rstrip("/")
