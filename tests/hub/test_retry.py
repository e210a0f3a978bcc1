"""The retry policy: numbers of requests and waits, by a fake clock."""

import gzip
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import huggingface_hub as hfh
import pytest

from hf_lorameta.environment import hub_url
from hf_lorameta.errors import ConnectionLostError, HubError
from hf_lorameta.hub import retry
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.errors import ForbiddenError, UnexpectedAnswerError, translated
from hf_lorameta.hub.repo import PinnedRepo
from tests.hub.conftest import serving, use_endpoint
from tests.support.fault_hub import Fault, FaultHub

Handle = Callable[[BaseHTTPRequestHandler], object]
REPO = "alice/m"
FILE = "notes.txt"


class FakeClock:
    """Stands in for the module `time`: a sleep advances the clock at once."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    fake = FakeClock()
    monkeypatch.setattr(retry, "time", fake)
    return fake


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultHub]:
    with FaultHub() as running:
        monkeypatch.setenv("HF_TOKEN", running.add_user("alice"))
        running.create_repo(REPO)
        running.commit(REPO, {FILE: b"weights"})
        use_endpoint(monkeypatch, running.url)
        yield running


@pytest.fixture
def repo(server: FaultHub) -> PinnedRepo:
    pinned = Hub().resolve(REPO, "model", blobs=True)
    server.clear_requests()
    return pinned


OPERATIONS: dict[str, Callable[[Hub, PinnedRepo], object]] = {
    "resolve": lambda hub, repo: hub.resolve(REPO, "model"),
    "user": lambda hub, repo: hub.user(),
    "read": lambda hub, repo: hub.read_range(repo, FILE, 0, 3),
    "download": lambda hub, repo: hub.download(repo, FILE),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("status", [429, 503])
def test_an_operation_makes_six_requests_with_exponential_waits(
    server: FaultHub, repo: PinnedRepo, clock: FakeClock, name: str, status: int
) -> None:
    server.add_fault(Fault("status", status=status))
    with pytest.raises(ConnectionLostError, match=f"HTTP {status}"):
        OPERATIONS[name](Hub(), repo)
    assert clock.waits == [1, 2, 4, 8, 16]
    assert len(server.requests) == 6


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_succeeds_after_transient_errors(
    server: FaultHub, repo: PinnedRepo, clock: FakeClock, name: str
) -> None:
    server.add_fault(Fault("status", status=503, times=2))
    OPERATIONS[name](Hub(), repo)
    assert clock.waits == [1, 2]


def test_lost_connections_are_retried(server: FaultHub, repo: PinnedRepo, clock: FakeClock) -> None:
    server.add_fault(Fault("cut", times=2))
    assert Hub().read_range(repo, FILE, 0, 3) == b"wei"
    assert clock.waits == [1, 2]
    assert len(server.requests) == 3


def refusal(status: int, retry_after: int | None = None) -> httpx2.Response:
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return httpx2.Response(status, headers=headers)


UNREACHABLE, TIMEOUT = httpx2.ConnectTimeout("no answer"), httpx2.ReadTimeout("no answer")


@pytest.mark.parametrize(
    ("seconds", "errors", "waits", "message"),
    [
        (0, [refusal(429, 40)] * 2, [40.5, 40.5], None),
        (0, [refusal(429, 600)], [], "requests a pause of 600 s"),  # beyond the budget
        (0, [refusal(503, 70)] * 3, [70.5, 70.5], "requests a pause"),  # all together
        (100, [refusal(503), TIMEOUT], [1], "ReadTimeout"),  # slow requests use up the budget
        (60, [TIMEOUT], [], "ReadTimeout"),  # a server that never answered
        (retry.CONNECT_SECONDS, [UNREACHABLE] * 2, [1], "ConnectTimeout"),
        (0, [refusal(400)], [], "HTTP 400"),
    ],
)
def test_waits_are_as_asked_for_and_fit_the_budget(
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    errors: list[httpx2.Response | Exception],
    waits: list[float],
    message: str | None,
) -> None:
    left = iter(errors)

    def send(_: object, request: httpx2.Request, **options: object) -> httpx2.Response:
        clock.now += seconds
        failure = next(left, None)
        if isinstance(failure, Exception):
            raise failure
        answer = failure or httpx2.Response(200, content=b"done")
        answer.request = request
        return answer

    monkeypatch.setattr(httpx2.Client, "send", send)
    url = f"http://host{id(errors)}/x"
    if message is None:
        assert retry.Client().get(url).text == "done"
    else:
        with pytest.raises(HubError, match=message), translated("x"):
            hfh.hf_raise_for_status(retry.Client().get(url))
    assert (clock.waits, next(left, None)) == (waits, None)


def test_an_unreachable_server_is_said_soon_unless_it_answered_before(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for reached, waits in ((False, [1, 2]), (True, [1, 2, 4, 8, 16])):
        monkeypatch.setattr(retry, "_hosts", {"127.0.0.1:9": retry.Host(reached)})
        clock.waits.clear()
        with pytest.raises(ConnectionLostError, match="GET /api/models/alice/m"):
            Hub().resolve(REPO, "model")
        assert clock.waits == waits


@pytest.mark.parametrize("name", ["resolve", "user"])
@pytest.mark.parametrize(
    "content",
    [b"<html>", b"[]", b"{}", b"7", b'"text"', b"\xff\xfe", b"[" * 100_000],
    ids=["page", "list", "object", "number", "text", "bytes", "deep"],
)
def test_an_answer_of_another_form_is_no_bug(
    server: FaultHub, repo: PinnedRepo, name: str, content: bytes
) -> None:
    server.add_fault(Fault("answer", content=content))
    with pytest.raises(UnexpectedAnswerError):
        OPERATIONS[name](Hub(), repo)


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Handle], list[str]]]:
    """A function that starts a server whose answers a function writes; returns paths asked for."""
    with ExitStack() as running:

        def start(handle: Handle) -> list[str]:
            asked = list[str]()

            class Handler(BaseHTTPRequestHandler):
                def do_GET(self) -> None:
                    asked.append(self.path)
                    handle(self)

                def log_message(self, *_: object) -> None:
                    pass

            server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            server.daemon_threads, server.block_on_close = True, False
            running.enter_context(serving(server))
            use_endpoint(monkeypatch, f"http://127.0.0.1:{server.server_port}")
            monkeypatch.setenv("HF_TOKEN", "hf_x")
            return asked

        yield start


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    handler.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def test_a_server_that_accepts_and_never_answers_is_said_after_one_wait(
    odd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(retry, "UNREACHABLE_SECONDS", 0.6)
    hfh.close_session()
    done = threading.Event()
    asked = odd(lambda handler: done.wait(60))
    with pytest.raises(ConnectionLostError):
        Hub().user()
    done.set()
    hfh.close_session()
    assert len(asked) == 1


def test_a_compressed_answer_is_decoded_up_to_a_limit(
    odd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = gzip.compress(b'{"name": "ann"}' + b" " * (1 << 20))
    odd(lambda handler: send(handler, 200, packed, Content_Encoding="gzip"))
    assert Hub().user() == "ann"
    monkeypatch.setattr(retry, "_MOST_DECODED", 1 << 19)
    with pytest.raises(UnexpectedAnswerError):
        Hub().user()


def test_redirects_in_a_circle_are_no_lost_connection(odd: Any) -> None:
    odd(lambda handler: send(handler, 302, Location="/api/whoami-v2"))
    with pytest.raises(UnexpectedAnswerError):
        Hub().user()


@pytest.mark.parametrize(
    ("kind", "forbidden", "advice"),
    [("text/html", False, hub_url), ("application/json", True, lambda: "read access")],
)
def test_a_web_page_that_forbids_is_of_the_network_and_not_of_the_token(
    odd: Any, kind: str, forbidden: bool, advice: Callable[[], str]
) -> None:
    odd(lambda handler: send(handler, 403, b"{}", Content_Type=kind))
    with pytest.raises(HubError) as caught:
        Hub().resolve(REPO, "model")
    assert isinstance(caught.value, ForbiddenError) is forbidden
    assert advice() in caught.value.hint
    assert "write" not in caught.value.hint


def test_what_does_not_speak_tls_is_asked_once_and_named(
    odd: Any, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd(lambda handler: send(handler, 200))
    plain = hub_url()
    use_endpoint(monkeypatch, plain.replace("http", "https"))
    with pytest.raises(HubError) as caught:
        Hub().user()
    assert not isinstance(caught.value, ConnectionLostError)
    assert plain in caught.value.hint
    assert clock.waits == []


def test_what_can_be_done_otherwise_is_not_waited_for(
    server: FaultHub, repo: PinnedRepo, clock: FakeClock
) -> None:
    server.add_fault(Fault("status", status=503))
    with retry.patience(2.0), pytest.raises(ConnectionLostError):
        Hub().resolve(REPO, "model")
    assert clock.waits == [1]


def test_only_requests_without_effects_are_repeated(
    server: FaultHub, repo: PinnedRepo, clock: FakeClock
) -> None:
    server.add_fault(Fault("status", status=500, times=2))
    client = hfh.get_session()
    url = f"{server.url}/api/models/{REPO}/commit/main"
    assert client.post(url, json={}).status_code == 500
    assert client.delete(url).status_code == 500
    server.add_fault(Fault("status", status=500, times=1))
    assert client.post(f"{server.url}/api/validate-yaml", json={}).status_code == 200
    assert clock.waits == [1]


def test_a_client_that_another_thread_closes_is_replaced(
    server: FaultHub, repo: PinnedRepo, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "sleep", lambda _: hfh.close_session())
    server.add_fault(Fault("status", status=503, times=1))
    assert Hub().resolve(REPO, "model").sha == repo.sha


def test_other_kinds_of_authorization_are_left_alone(server: FaultHub) -> None:
    kept = retry.Client().build_request("GET", server.url, headers={"authorization": "Key a b"})
    assert kept.headers["authorization"] == "Key a b"


def test_the_user_keeps_an_own_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hfh.utils._http, "_GLOBAL_CLIENT_FACTORY", httpx2.Client)
    retry.use_client()
    assert hfh.utils._http._GLOBAL_CLIENT_FACTORY is httpx2.Client


def test_an_uploaded_file_is_sent_from_its_start_again(
    server: FaultHub, clock: FakeClock, tmp_path: Path
) -> None:
    (tmp_path / "f").write_bytes(b"x" * 100_000)
    server.add_fault(Fault("status", status=503, times=1))
    with (tmp_path / "f").open("rb") as file:
        hfh.get_session().put(f"{server.url}/none", content=file)
    assert [r.bytes_received for r in server.requests] == [100_000, 100_000]


def test_all_operations_of_a_command_share_the_budget(
    server: FaultHub, repo: PinnedRepo, clock: FakeClock
) -> None:
    fault = Fault("status", status=503)
    server.add_fault(fault)
    hub = Hub()
    for _ in range(20):
        with pytest.raises(ConnectionLostError, match="HTTP 503"):
            hub.resolve(REPO, "model")
    assert sum(clock.waits) <= retry.BUDGET_SECONDS
    assert len(server.requests) == 25  # each further operation makes a single attempt
    server.clear_faults()
    hub.resolve(REPO, "model")
    server.add_fault(Fault("status", status=503, times=1))
    hub.resolve(REPO, "model")  # the Hub answered meanwhile, which renews the budget


def test_an_outage_long_ago_does_not_count(
    server: FaultHub, repo: PinnedRepo, clock: FakeClock
) -> None:
    hub = Hub()
    server.add_fault(Fault("status", status=503, times=7))
    with pytest.raises(ConnectionLostError, match="HTTP 503"):
        hub.resolve(REPO, "model")
    clock.now += 3600
    hub.resolve(REPO, "model")
    assert clock.waits[5:] == [1]


# --- downloads ----------------------------------------------------------------------------------


def test_a_download_is_not_repeated(server: FaultHub, repo: PinnedRepo) -> None:
    path = Hub().download(repo, FILE)
    assert path.read_bytes() == b"weights"
    server.clear_requests()
    assert Hub().download(repo, FILE) == path
    assert server.requests == []


def test_a_damaged_local_file_is_downloaded_again(repo: PinnedRepo) -> None:
    Hub().download(repo, FILE).write_bytes(b"WEIGHTS")
    assert Hub().download(repo, FILE).read_bytes() == b"weights"


def test_a_connection_lost_in_a_download_is_retried_by_the_client(
    server: FaultHub, repo: PinnedRepo, clock: FakeClock
) -> None:
    server.add_fault(Fault("cut", method="GET", after_bytes=3, times=1))
    assert Hub().download(repo, FILE).read_bytes() == b"weights"
    assert [r.method for r in server.requests] == ["HEAD", "GET", "GET"]
    assert clock.waits == []
