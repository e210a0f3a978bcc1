"""Jobs: progress, cancel, time limits, waiting lines, and that the last request wins."""

import sys
import threading
import time
from collections.abc import Callable, Generator
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest

from tests.running_space import SPACE, missing

if why := missing("gradio"):
    pytest.skip(why, allow_module_level=True)

sys.path.insert(0, str(SPACE))
try:
    import jobs
    from actions import Actions
    from adapter_actions import AdapterActions
    from dataset_actions import DatasetActions
    from dataset_request import DatasetRequest
    from settings import Settings
    from visit import Visit
    from waiting_line import BusyError, Lines, WaitingLine
finally:
    sys.path.remove(str(SPACE))

T = TypeVar("T")


def forever(job: jobs.Job) -> None:
    while True:
        job.check()
        time.sleep(0.01)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def stream(work: Callable[[jobs.Job], T], time_limit: float) -> Generator[jobs.Step, None, T]:
    return jobs.stream_job(jobs.Job(time_limit), work, lambda step: step)


def test_a_job_yields_its_steps_and_returns_its_result() -> None:
    seen = threading.Event()

    def work(job: jobs.Job) -> int:
        job.report("halfway", 1, 2)
        seen.wait(60)
        return 7

    def collect() -> Generator[jobs.Step, None, None]:
        results.append((yield from stream(work, 60)))

    results: list[int] = []
    for step in collect():
        if step == jobs.Step("halfway", 1, 2):
            seen.set()
    assert seen.is_set()
    assert results == [7]


def test_a_job_ends_at_its_time_limit() -> None:
    with pytest.raises(jobs.TimeLimitError, match="longer than 1 s"):
        list(stream(forever, 0.6))


def test_closing_the_generator_of_a_job_ends_its_work() -> None:
    ended: list[type[BaseException]] = []

    def work(job: jobs.Job) -> None:
        try:
            forever(job)
        except BaseException as error:
            ended.append(type(error))
            raise

    running = stream(work, 60)
    next(running)
    running.close()
    wait_until(lambda: bool(ended))
    assert ended == [jobs.Canceled]


def test_a_canceled_job_ends_at_once_and_a_committed_one_not_at_all() -> None:
    job, go_on, ended = jobs.Job(60), threading.Event(), threading.Event()

    def work(_: jobs.Job) -> None:
        go_on.wait(60)
        ended.set()

    running = jobs.stream_job(job, work, lambda step: step)
    next(running)
    job.cancel()
    with pytest.raises(jobs.Canceled):
        list(running)
    assert not ended.is_set()
    go_on.set()
    committed = jobs.Job(60)
    committed.commit()
    committed.cancel()
    committed.check()


def test_a_line_runs_jobs_in_order_and_says_each_ones_place() -> None:
    line, order = WaitingLine(running=1, waiting=2), []
    first, *others = [jobs.Job(60) for _ in range(3)]
    with line.turn(first):
        threads = []
        for job in others:
            threads.append(threading.Thread(target=lambda job=job: take_turn(line, job, order)))
            threads[-1].start()
            wait_until(lambda job=job: job.step.text.startswith("Waiting"))  # type: ignore[misc]
        assert [job.step.text for job in others] == [
            "Waiting: place 1 in the line, about 10 s",
            "Waiting: place 2 in the line, about 20 s",
        ]
        with pytest.raises(BusyError), line.turn(jobs.Job(60)):
            pass
    for thread in threads:
        thread.join(60)
    assert order == others


def take_turn(line: WaitingLine, job: jobs.Job, order: list[jobs.Job]) -> None:
    with line.turn(job):
        order.append(job)


def test_the_last_request_of_a_visit_wins() -> None:
    visit = Visit()
    assert [visit.accept(number) for number in (1, 3, 2, 3, 4)] == [True, True, False, False, True]
    first = visit.begin(60)
    second = visit.begin(60)
    assert (first.canceled, second.canceled) == (True, False)
    assert (visit.finish(first), visit.finish(second)) == (False, True)
    assert not visit.cancel()


# --- canceling an action ------------------------------------------------------------------------


class Names:
    """Each component is its name."""

    def __getattr__(self, name: str) -> str:
        return name


COMPONENTS: Any = Names()


@pytest.fixture
def actions() -> Actions:
    return Actions(COMPONENTS, cast(Any, None), Settings(), Lines.of(Settings()))


@pytest.fixture
def visit() -> Visit:
    return Visit()


def run(actions: Actions, visit: Visit, work: Callable[[jobs.Job], int], **options: Any) -> Any:
    """Start an action; return the generator, which has yielded the result."""
    running = actions.run(
        visit, actions.lines.plans, work, lambda result: {"result": result}, "problem", **options
    )
    while "result" not in next(running):
        pass
    return running


def test_a_result_is_taken_back_if_cancel_was_pressed_while_it_was_sent(
    actions: Actions, visit: Visit
) -> None:
    running = run(actions, visit, lambda job: 7, undo=lambda: {"result": ""})
    assert "Canceled" not in str(actions.cancel(visit, 0)), "the action itself shows it"
    updates = next(running)
    assert updates["result"] == ""
    assert "Canceled" in updates["progress"]
    assert next(running) == {"visit": visit}
    with pytest.raises(StopIteration) as ended:
        next(running)
    assert ended.value.value is None, "nothing else begins"


def test_a_result_is_taken_back_if_cancel_was_pressed_before_it_arrived(
    actions: Actions, visit: Visit
) -> None:
    list(run(actions, visit, lambda job: 7, undo=lambda: {"result": ""}))
    updates = actions.cancel(visit, 0)
    assert updates["result"] == ""
    assert "Canceled" in updates["progress"]
    assert "Canceled" not in str(actions.cancel(visit, 0)), "the page shows it already"


def test_nothing_else_begins_if_cancel_was_pressed_between_two_actions(
    actions: Actions, visit: Visit
) -> None:
    running = run(actions, visit, lambda job: 7, undo=lambda: {"result": ""})
    assert next(running) == {"visit": visit}
    assert "Canceled" in actions.cancel(visit, 0)["progress"]
    with pytest.raises(StopIteration) as ended:
        next(running)
    assert ended.value.value is None


def test_cancel_holds_for_a_request_that_arrives_after_it(actions: Actions, visit: Visit) -> None:
    visit.accept(3)
    actions.cancel(visit, 4)
    assert not visit.accept(4)
    assert visit.accept(5)


def test_cancel_holds_for_an_event_that_has_not_begun_its_work(
    actions: Actions, visit: Visit
) -> None:
    at_the_event = visit.cancellations
    assert visit.accept(4)
    actions.cancel(visit, 4)
    assert visit.begin(60, at_the_event).canceled
    shown = list(
        actions.run(
            visit, actions.lines.plans, lambda job: 7, lambda result: {"result": result}, "problem",
            cancellations=at_the_event,
        )
    )  # fmt: skip
    assert "Canceled" in str(shown)
    assert not any("result" in updates for updates in shown)
    assert not visit.begin(60, visit.cancellations).canceled, "Cancel was for the event before"


def test_cancel_does_not_hold_for_a_request_that_was_made_after_it(
    actions: Actions, visit: Visit
) -> None:
    assert visit.accept(2)
    job = visit.begin(60)
    actions.cancel(visit, 1)
    assert not job.canceled
    actions.cancel(visit, 2)
    assert job.canceled


def test_what_was_committed_is_not_called_canceled(actions: Actions, visit: Visit) -> None:
    def save(job: jobs.Job) -> int:
        job.commit()
        return 7

    running = run(actions, visit, save)
    assert "Canceled" not in str(actions.cancel(visit, 0))
    list(running)
    assert "Canceled" not in str(actions.cancel(visit, 0))


def test_the_outcome_of_what_was_committed_is_shown_beside_a_later_job(
    actions: Actions, visit: Visit
) -> None:
    committed, go_on = threading.Event(), threading.Event()

    def save(job: jobs.Job) -> int:
        job.commit()
        committed.set()
        go_on.wait(60)
        return 7

    running = actions.run(
        visit, actions.lines.plans, save, lambda result: {"result": result}, "problem"
    )
    next(running)
    next(running)
    assert committed.wait(60)
    later = visit.begin(60)
    assert next(running) == {"visit": visit}, "the steps of the later job are shown"
    go_on.set()
    shown = list(running)
    assert {"result": 7} in shown
    assert not any("progress" in updates for updates in shown)
    assert visit.job is later


def test_the_last_update_which_gradio_sends_again_changes_nothing(
    actions: Actions, visit: Visit
) -> None:
    assert list(run(actions, visit, lambda job: 7)) == [{"visit": visit}]
    earlier = run(actions, visit, lambda job: 7)
    visit.begin(60)
    assert list(earlier) == [{"visit": visit}]
    replaced = actions.run(visit, actions.lines.plans, lambda job: 1 // 0, lambda _: {}, "problem")
    next(replaced)
    visit.begin(60)
    assert [update for update in replaced if update.keys() != {"progress"}] == [{"visit": visit}]


@pytest.mark.parametrize("handler", ["choose", "choose_columns"])
def test_an_outdated_request_changes_nothing(handler: str, visit: Visit) -> None:
    """Gradio would empty the page if a handler yielded no updates at all."""
    context = (COMPONENTS, cast(Any, None), Settings(), Lines.of(Settings()))
    event: Any = SimpleNamespace(_data={"number": 1, "dataset_number": "1"})
    visit.accept(2)
    visit.choose(DatasetRequest())
    visit.choose(DatasetRequest())
    assert list(getattr(DatasetActions(*context), handler)(visit, event, None)) == [
        {"visit": visit}
    ]


EVENT = SimpleNamespace(_data={})


@pytest.mark.parametrize(
    ("group", "handler", "arguments"),
    [
        (DatasetActions, "choose_columns", [EVENT, None]),
        (AdapterActions, "make", [None]),
        (AdapterActions, "try_out", [EVENT]),
        (AdapterActions, "test", []),
        (AdapterActions, "improve", []),
        (AdapterActions, "save", [EVENT, None]),
    ],
)
def test_a_page_whose_state_was_dropped_says_so(
    group: type[Actions], handler: str, arguments: list[Any], visit: Visit
) -> None:
    loader: Any = SimpleNamespace(bank=None)
    actions = group(COMPONENTS, loader, Settings(), Lines.of(Settings()))
    shown: dict[str, Any] = {}
    for updates in getattr(actions, handler)(visit, *arguments):
        shown |= updates
    assert "This page was idle for an hour" in str(shown)
    assert shown["progress"] == "", "nothing runs"
