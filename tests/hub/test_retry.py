"""The retry policy: numbers of requests and waits, by a fake clock."""

from collections.abc import Callable, Iterator

import httpx2
import pytest
from huggingface_hub import errors as hf

from hf_lorameta.errors import ConnectionLostError, HubError
from hf_lorameta.hub import retry
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.repo import PinnedRepo
from tests.hub.conftest import use_endpoint
from tests.support.fault_hub import Fault, FaultHub

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


def refusal(status: int, retry_after: int | None = None) -> hf.HfHubHTTPError:
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    request = httpx2.Request("GET", "http://127.0.0.1/x")
    response = httpx2.Response(status, headers=headers, request=request)
    return hf.HfHubHTTPError(f"HTTP {status}", response=response)


UNREACHABLE, TIMEOUT = httpx2.ConnectTimeout("no answer"), httpx2.ReadTimeout("no answer")


@pytest.mark.parametrize(
    ("seconds", "errors", "waits", "message"),
    [
        (0, [refusal(429, 40)] * 2, [40.5, 40.5], None),
        (0, [refusal(429, 600)], [], "requests a pause of 600 s"),  # beyond the budget
        (0, [refusal(503, 70)] * 3, [70.5, 70.5], "requests a pause"),  # all together
        (100, [TIMEOUT] * 2, [1], "ReadTimeout"),  # slow requests use up the budget
        (retry.CONNECT_SECONDS, [UNREACHABLE] * 2, [1], "ConnectTimeout"),
        (0, [refusal(400)], [], "HTTP 400"),
    ],
)
def test_waits_are_as_asked_for_and_fit_the_budget(
    clock: FakeClock,
    seconds: float,
    errors: list[Exception],
    waits: list[float],
    message: str | None,
) -> None:
    left = iter(errors)

    def request() -> str:
        clock.now += seconds
        if error := next(left, None):
            raise error
        return "done"

    if message is None:
        assert retry.Retries()("x", request) == "done"
    else:
        with pytest.raises(HubError, match=message):
            retry.Retries()("x", request)
    assert (clock.waits, next(left, None)) == (waits, None)


def test_an_unreachable_server_is_said_soon_unless_it_answered_before(
    server: FaultHub, repo: PinnedRepo, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, known = Hub(), Hub()
    known.resolve(REPO, "model")
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    for hub, waits in ((new, [1, 2]), (known, [1, 2, 4, 8, 16])):
        clock.waits.clear()
        with pytest.raises(ConnectionLostError):
            hub.resolve(REPO, "model")
        assert clock.waits == waits


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
    assert len(server.requests) < 60  # in the end, each operation makes a single attempt
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
