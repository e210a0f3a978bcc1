"""Requests that no page sends: each is refused or harmless, and hardly fills the log."""

import http.client
import json
from collections.abc import Iterator
from itertools import count
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.conftest import Shell, Web, touched
from tests.support.running_space import missing

if why := missing("gradio"):
    pytest.skip(why, allow_module_level=True)

API = "/gradio_api"
LINES = 10
"""Most lines of the log for one request; a traceback of Gradio has 20 to 90."""
OUTSIDE = (
    "/etc/passwd", "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "//etc/passwd", "app.py",
    "/proc/self/environ", "/proc/self/cwd/settings.py", "file:///etc/passwd", "~/.netrc",
    "UPLOAD/../../../space.log", "UPLOAD%00", "UPLOAD%00.png", "http://127.0.0.1:1/x",
    "%68ttp://127.0.0.1:1/x", "C:/x", "a" * 7000,
)  # fmt: skip
"""Files that nobody uploaded; UPLOAD is the path of one that somebody did."""
NAMES = ("../../../../evil.csv", "/etc/evil.csv", "a\\..\\..\\evil.csv", "%2e%2e%2fevil.csv")
GETS = (
    *(f"{API}/file={path}" for path in OUTSIDE),
    "/static/../../../../etc/passwd", "/static/..%2f..%2f..%2fetc%2fpasswd", "/assets/%00",
    "/static/%2e%2e/%2e%2e/routes.py", "/assets//etc/passwd", f"{API}/queue/data?session_hash=zz",
    f"{API}/call/plan/zz", f"{API}/queue/data", "/login/callback?_target_url=////evil.example",
)  # fmt: skip
FILE = {"path": "UPLOAD", "meta": {"_type": "gradio.FileData"}}
URL = {"url": "HUB/fetched"}
FILES: tuple[dict[str, Any], ...] = (
    FILE | URL, {"meta": FILE["meta"]} | URL, FILE | URL | {"path": None},
    FILE | {"orig_name": "../../evil.csv"}, FILE | {"path": "UPLOAD/../../space.log"},
)  # fmt: skip


def nested(depth: int) -> list[Any]:
    """Return lists within each other."""
    return [nested(depth - 1)] if depth else []


JOINS: tuple[Any, ...] = (
    [], None, "a", 1, {"data": "\ud800"}, {"fn_index": -1}, {"fn_index": 1e999},
    {"fn_index": "__class__"}, {"session_hash": ["a"]}, {"data": {}}, {"data": [None] * 100},
    {"event_data": {"__proto__": 1}}, {"data": nested(900)}, {"fn_index": 10**18},
    {"trigger_id": {"a": 1}},
)  # fmt: skip
EVENTS: tuple[tuple[str, list[Any], Any], ...] = (
    ("choose", [None, 1], "x"), ("choose", [None, 1], [1]), ("choose", ["x", 1], {"dataset": {}}),
    ("choose", [None, 1], {"dataset": "\ud800"}), ("choose", [None, 1], {"file": "/etc/passwd"}),
    ("choose", [None, "x"], None), ("choose", [None, None], None),
    ("choose", [None, 10**400], None),
    ("choose", [None, 2], {"resume": "a" * 22}), ("choose_columns", [None, 2], {"role-0": {}}),
    ("choose_prompt", [None, 4, 5, {}], None), ("try_out", [None, 5, None], None),
    ("save", [None, 7, {}, "x", "y"], None), ("make", [], None), ("more_time", [None], None),
    ("refresh", [None, "x"], None), ("cancel", [None, None], None),
)  # fmt: skip
FUNCTIONS = ("__init__", "preprocess", "js_fn")
CALLS: tuple[Any, ...] = (
    {}, [], {"method": "tools/call", "params": {"name": "plan", "arguments": []}},
    {"method": "resources/read", "params": {"uri": "file:///etc/passwd"}},
    {"method": "x", "id": {}},
)  # fmt: skip
MALFORMED: tuple[dict[str, Any], ...] = (
    {"oauth_token": ["x"]}, {"oauth_token": 5}, {"file": "/etc/passwd"}, {"file": ["/etc/passwd"]},
    {"": "a"}, {"unknown": "a"}, {"top_k": float("nan")},
)  # fmt: skip
CLOSED = (
    ("GET", f"{API}/deep_link?session_hash=a"), ("GET", f"{API}/runs"),
    ("GET", f"{API}/proxy=https://example.com/x"), ("GET", f"{API}/file=https://example.com/x"),
    ("GET", f"{API}/dev/reload"), ("GET", f"{API}/openapi.json"), ("GET", "/monitoring"),
    ("GET", "/monitoring/key"), ("POST", f"{API}/process_recording"), ("POST", f"{API}/vibe-edit"),
    ("POST", f"{API}/stream/a"), ("POST", "/login"), ("OPTIONS", "/"), ("TRACE", "/"),
    ("PUT", f"{API}/upload"), ("BREW", "/"),
)  # fmt: skip
"""Routes and methods that the page does not use."""
HEADERS = (
    {"Host": 'a"><script>alert(1)</script>'}, {"Host": "evil.example"}, {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}, {"Host": "a" * 8000},
    {"X-Gradio-Server": "http://[::"},
)  # fmt: skip


def attacks(upload: str, hub: str, config: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Yield method, path, body and headers of requests, and the status if it is one alone."""
    events = {event["api_name"]: event["id"] for event in config["dependencies"]}
    form = next(
        c["id"] for c in config["components"] if "search" in c["props"].get("server_fns", ())
    )
    for path in GETS:
        yield "GET", path.replace("UPLOAD", upload), None, {}, 0
    for file in FILES:
        text = json.dumps({"dataset": "", "file": file})
        yield (
            "POST",
            f"{API}/call/v2/plan",
            text.replace("UPLOAD", upload).replace("HUB", hub),
            {},
            0,
        )
    for join in JOINS:
        right = {"fn_index": events["run"], "session_hash": "s", "data": [None]}
        body = right | join if isinstance(join, dict) else join
        yield "POST", f"{API}/queue/join", json.dumps(body), {}, 0
    for name, data, values in EVENTS:
        body = {"fn_index": events[name], "session_hash": "s", "data": data, "event_data": values}
        yield "POST", f"{API}/run/{name}", json.dumps(body), {}, 0
    for name in FUNCTIONS:
        body = {"data": "x", "component_id": form, "session_hash": "s", "fn_name": name}
        yield "POST", f"{API}/component_server", json.dumps(body), {}, 0
    for call in CALLS:
        body = {"jsonrpc": "2.0", "id": 1} | call if isinstance(call, dict) else call
        accepted = {"Accept": "application/json, text/event-stream"}
        yield "POST", f"{API}/mcp/", json.dumps(body), accepted, 0
    for headers in HEADERS:
        yield "GET", "/config", None, headers, 0
    for inputs in MALFORMED:
        body = {"dataset": "a/b", **inputs}
        yield "POST", f"{API}/call/v2/plan", json.dumps(body), {}, 400
    for method, path in CLOSED:
        yield method, path, None if method == "GET" else "{}", {}, 404


def test_malformed_and_hostile_requests(web: Web, cli: Shell) -> None:
    numbers = count()

    def ask(method: str, path: str, body: str | None, headers: dict[str, str]) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(urlsplit(web.space.url).netloc, timeout=60)
        connection.putrequest(method, path, skip_host="Host" in headers)
        sent = None if body is None else body.encode()
        fields = {"X-Forwarded-For": f"203.0.{next(numbers)}.9", "Content-Type": "application/json"}
        fields |= {} if sent is None else {"Content-Length": str(len(sent))}
        for name, value in (fields | headers).items():
            connection.putheader(name, value)
        connection.endheaders(sent)
        answer = connection.getresponse()
        leads_to = answer.headers.get("Location", "/")
        assert leads_to.startswith("/"), "it stays on this site"
        assert leads_to[1:2] not in ("/", "\\")
        try:
            return answer.status, answer.read()
        except http.client.IncompleteRead as cut:
            return answer.status, cut.partial
        finally:
            connection.close()

    def upload(name: str) -> str:
        head = f'--b\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        form = {"Content-Type": "multipart/form-data; boundary=b"}
        return str(json.loads(ask("POST", f"{API}/upload", f"{head}a,b\r\n--b--\r\n", form)[1])[0])

    home = web.space.log.parent
    for name in NAMES:
        upload(name)
    folders = {path.parent.parent for path in home.parent.rglob("*evil.csv")}
    assert folders == {home / "gradio"}
    config = json.loads(ask("GET", "/config", None, {})[1])
    _, page = ask("GET", "/", None, {"X-Forwarded-Host": 'a"><script>alert(1)</script>'})
    assert b"<script>alert(1)" not in page
    for *asked, expected in attacks(upload("rows.csv"), cli.hub.url, config):
        before = len(web.space.log.read_text())
        status, answer = ask(*asked)
        assert status in ([expected] if expected else [200, 202, 307, *range(400, 429)]), asked
        assert not any(word in answer for word in (b"root:", b"PATH=", b"import ", b"Running on"))
        log = web.space.log.read_text()[before:]
        assert log.count("\n") <= LINES, asked
        assert "Traceback" not in log, asked
    assert not touched(cli.hub, "fetched")
    assert web.owner.token not in web.space.log.read_text()
