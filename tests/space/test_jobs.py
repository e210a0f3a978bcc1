"""Jobs: progress, cancel, time limits, and that the last request of a page wins."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hf_lorameta import plan
from hf_lorameta.bank.bank import Bank
from hf_lorameta.demo.run import DATA_FOLDER
from hf_lorameta.errors import LoraMetaError
from hf_lorameta.pipeline.remarks import verdict_on
from hf_lorameta.pipeline.resolve import NO_BASE
from hf_lorameta.pipeline.rows import Rows
from hf_lorameta.remarks import Remark
from tests.support.running_space import SPACE, missing

if why := missing("gradio"):
    pytest.skip(why, allow_module_level=True)

sys.path.insert(0, str(SPACE))
try:
    import adapter_actions
    import dataset_actions
    from actions import Actions
    from adapter_actions import AdapterActions
    from dataset_actions import DatasetActions
    from settings import Settings
    from work import jobs, trying
    from work.bank_loader import fetch_base_model
    from work.planning import DatasetRequest, PlanResult
    from work.visit import Visit
finally:
    sys.path.remove(str(SPACE))


def forever(job: jobs.Job) -> None:
    while True:
        job.check()
        time.sleep(0.01)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_job_yields_its_steps_and_results() -> None:
    seen = threading.Event()

    def work(job: jobs.Job) -> None:
        job.report("before", 1, 2)
        job.show(lambda: {"first": 1})
        job.report("halfway", 1, 2)
        seen.wait(60)
        job.show(lambda: {"second": 2})

    results: list[Any] = []
    for news in jobs.Job(60).run(work):
        results.append(news if isinstance(news, jobs.Step) else news())
        if news == jobs.Step("halfway", 1, 2):
            seen.set()
    assert seen.is_set()
    assert results == [
        jobs.Step("before", 1, 2), {"first": 1}, jobs.Step("halfway", 1, 2), {"second": 2}
    ]  # fmt: skip


def test_of_many_steps_with_one_text_a_few_are_yielded() -> None:
    def work(job: jobs.Job) -> None:
        for number in range(10_000):
            job.report("row", number)

    assert 1 <= len(list(jobs.Job(60).run(work))) < 100


def test_a_job_ends_at_its_time_limit() -> None:
    with pytest.raises(jobs.SpaceError, match="longer than 1 s"):
        list(jobs.Job(0.6).run(forever))


def test_time_in_the_queue_does_not_count() -> None:
    job = jobs.Job(0.2)
    time.sleep(0.3)
    assert list(job.run(lambda job: job.check())) == []


def test_closing_the_generator_of_a_job_ends_its_work() -> None:
    ended: list[type[BaseException]] = []

    def work(job: jobs.Job) -> None:
        job.report("working")
        try:
            forever(job)
        except BaseException as error:
            ended.append(type(error))
            raise

    running = jobs.Job(60).run(work)
    next(running)
    running.close()
    wait_until(lambda: bool(ended))
    assert ended == [jobs.Canceled]


def test_a_canceled_job_ends_at_once_and_a_committed_one_not_at_all() -> None:
    job, go_on, ended = jobs.Job(60), threading.Event(), threading.Event()

    def work(job: jobs.Job) -> None:
        job.report("waiting for a slow server")
        go_on.wait(60)
        ended.set()

    running = job.run(work)
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


# --- requests of a page -------------------------------------------------------------------------


class Names:
    """Each component is its name."""

    def __getattr__(self, name: str) -> str:
        return name


COMPONENTS: Any = Names()
BANK: Any = SimpleNamespace(bank=None)


@pytest.fixture
def actions() -> Actions:
    return Actions(COMPONENTS, BANK, Settings())


@pytest.fixture
def visit() -> Visit:
    return Visit()


def begin(actions: Actions, visit: Visit, number: int, work: Callable[[jobs.Job], None]) -> None:
    """Request work whose result Cancel takes back."""
    assert visit.accept(number)
    actions.begin(visit, "plan", work, "problem", restores=True)


def planning(visit: Visit) -> Callable[[jobs.Job], None]:
    """Return work whose result is a plan."""

    def show() -> jobs.Updates:
        visit.plan_result = PLAN
        return {"result": 7}

    return lambda job: job.show(show)


def plan_with(verdict: Remark) -> Any:
    return SimpleNamespace(name="u/d", plan=SimpleNamespace(verdict=verdict, remarks=[verdict]))


PLAN = plan_with(verdict_on(None))


def shown(updates: Iterator[jobs.Updates]) -> jobs.Updates:
    """Return what the page shows after all updates."""
    page: jobs.Updates = {}
    for update in updates:
        page |= update
    return page


def is_visible(component: Any) -> bool:
    return bool(component["visible"] if isinstance(component, dict) else component.visible)


def test_the_last_request_of_a_visit_wins(actions: Actions, visit: Visit) -> None:
    accepted = [visit.accept(number) for number in (1, 3, 2, 3, 4)]
    assert accepted == [True, True, False, False, True]
    begin(actions, visit, 5, forever)
    first = visit.take("plan")
    begin(actions, visit, 6, forever)
    second = visit.take("plan")
    assert first is not None
    assert second is not None
    assert (first.job.canceled, second.job.canceled) == (True, False)
    visit.finish(first)
    assert visit.task is second


def test_a_task_is_run_once_and_by_its_own_line(actions: Actions, visit: Visit) -> None:
    begin(actions, visit, 1, forever)
    assert visit.take("model") is None
    assert visit.take("plan") is not None
    assert visit.take("plan") is None
    assert list(actions.run(visit, "plan")) == [{"visit": visit}]


def test_a_result_is_shown(actions: Actions, visit: Visit) -> None:
    begin(actions, visit, 1, planning(visit))
    page = shown(actions.run(visit, "plan"))
    assert page["result"] == 7
    assert page["progress"] == ""
    assert is_visible(page["verdict_step"])
    assert not is_visible(page["cancel"])


def test_a_result_is_taken_back_if_cancel_was_pressed_while_it_was_sent(
    actions: Actions, visit: Visit
) -> None:
    begin(actions, visit, 1, planning(visit))
    running = actions.run(visit, "plan")
    next(running)
    assert next(running)["result"] == 7
    assert "Canceled" in actions.cancel(visit, 2)["progress"]
    page = shown(running)
    assert "Canceled" in page["progress"]
    assert not is_visible(page["verdict_step"])
    assert visit.plan_result is None


def test_a_result_is_taken_back_if_cancel_was_pressed_before_it_arrived(
    actions: Actions, visit: Visit
) -> None:
    begin(actions, visit, 1, planning(visit))
    list(actions.run(visit, "plan"))
    page = actions.cancel(visit, 2)
    assert "Canceled" in page["progress"]
    assert not is_visible(page["verdict_step"])
    assert visit.plan_result is None
    assert "Canceled" not in str(actions.cancel(visit, 3)), "the page shows it already"


def test_cancel_holds_for_a_request_that_arrives_after_it(actions: Actions, visit: Visit) -> None:
    begin(actions, visit, 3, forever)
    assert "Canceled" in actions.cancel(visit, 5)["progress"]
    assert not visit.accept(4)
    assert visit.accept(6)


def test_cancel_holds_for_a_task_that_waits_in_the_queue(actions: Actions, visit: Visit) -> None:
    begin(actions, visit, 1, planning(visit))
    assert "Canceled" in actions.cancel(visit, 2)["progress"]
    page = shown(actions.run(visit, "plan"))
    assert "Canceled" in page["progress"]
    assert not is_visible(page["cancel"])
    assert visit.plan_result is None


def test_cancel_does_not_hold_for_a_request_that_was_made_after_it(
    actions: Actions, visit: Visit
) -> None:
    begin(actions, visit, 2, forever)
    assert actions.cancel(visit, 1) == {"visit": visit}
    task = visit.task
    assert task is not None
    assert not task.job.canceled
    actions.cancel(visit, 3)
    assert task.job.canceled


def test_what_was_committed_is_not_called_canceled(actions: Actions, visit: Visit) -> None:
    def save(job: jobs.Job) -> None:
        job.commit()
        job.show(lambda: {"result": 7})

    visit.accept(1)
    actions.begin(visit, "adapter", save, "problem")
    running = actions.run(visit, "adapter")
    next(running)
    next(running)
    assert "Canceled" not in str(actions.cancel(visit, 2))
    list(running)
    assert "Canceled" not in str(actions.cancel(visit, 3))


def test_the_outcome_of_what_was_committed_is_shown_beside_a_later_job(
    actions: Actions, visit: Visit
) -> None:
    committed, go_on = threading.Event(), threading.Event()

    def save(job: jobs.Job) -> None:
        job.report("saving")
        job.commit()
        committed.set()
        go_on.wait(60)
        job.show(lambda: {"result": 7})

    begin(actions, visit, 1, save)
    running = actions.run(visit, "plan")
    next(running)
    assert "saving" in next(running)["progress"]
    assert committed.wait(60)
    begin(actions, visit, 2, forever)
    later = visit.task
    go_on.set()
    page = shown(running)
    assert page == {"visit": visit, "result": 7}
    assert visit.task is later


def test_the_last_update_which_gradio_sends_again_changes_nothing(
    actions: Actions, visit: Visit
) -> None:
    def fail(job: jobs.Job) -> None:
        raise ZeroDivisionError

    for number, work in enumerate((planning(visit), fail), 1):
        begin(actions, visit, number, work)
        assert list(actions.run(visit, "plan"))[-1] == {"visit": visit}
    begin(actions, visit, 3, report_forever)
    replaced = actions.run(visit, "plan")
    next(replaced)
    next(replaced)
    begin(actions, visit, 4, forever)
    assert shown(replaced) == {"visit": visit}


@pytest.mark.parametrize("steps", [1, 2])
def test_a_task_ends_if_gradio_closes_its_generator(
    actions: Actions, visit: Visit, steps: int
) -> None:
    begin(actions, visit, 1, report_forever)
    running = actions.run(visit, "plan")
    for _ in range(steps):
        next(running)
    running.close()
    assert visit.task is None
    assert "cancel" in actions.settle(visit), "the page is told that nothing runs"


def report_forever(job: jobs.Job) -> None:
    while True:
        job.report("working")
        time.sleep(0.01)


@pytest.mark.parametrize("handler", ["choose", "choose_columns"])
def test_an_outdated_request_changes_nothing(handler: str, visit: Visit) -> None:
    """Gradio would empty the page if a handler returned no updates at all."""
    event: Any = SimpleNamespace(_data={"dataset_number": "1"})
    visit.accept(2)
    visit.choose(DatasetRequest())
    visit.choose(DatasetRequest())
    actions = DatasetActions(COMPONENTS, BANK, Settings())
    signed_out = [None] * (1 + (handler == "choose"))
    assert getattr(actions, handler)(visit, 1, event, *signed_out) == {"visit": visit}


EVENT: Any = SimpleNamespace(_data={}, target=None)


@pytest.mark.parametrize(
    ("group", "handler", "arguments"),
    [
        (DatasetActions, "choose_columns", [EVENT, None]),
        (DatasetActions, "choose_prompt", ["", "", None]),
        (AdapterActions, "make", [None]),
        (AdapterActions, "try_out", ["prompt"]),
        (AdapterActions, "test", []),
        (AdapterActions, "improve", [None]),
        (AdapterActions, "save", ["name", "public", False, EVENT, None]),
    ],
)
def test_a_page_whose_state_was_dropped_says_so(
    group: type[Actions], handler: str, arguments: list[Any], visit: Visit
) -> None:
    actions = group(COMPONENTS, BANK, Settings())
    page = getattr(actions, handler)(visit, 1, *arguments)
    if visit.task:
        page |= shown(actions.run(visit, visit.task.line))
    assert "The plan of this page is kept no longer" in str(page)
    assert page["progress"] == "", "nothing runs"


def test_cancel_holds_for_a_request_that_is_being_answered(
    visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel: list[threading.Thread] = []

    def validated(request: DatasetRequest) -> DatasetRequest:
        cancel.append(threading.Thread(target=page.cancel, args=(visit, 2)))
        cancel[0].start()
        cancel[0].join(timeout=0.1)
        return request

    monkeypatch.setattr(dataset_actions, "validated", validated)
    page = DatasetActions(COMPONENTS, BANK, Settings())
    page.choose(visit, 1, EVENT, None, None)
    cancel[0].join()
    assert visit.canceled
    assert visit.task is None


def test_a_path_of_this_machine_is_not_an_uploaded_file(visit: Visit) -> None:
    event: Any = SimpleNamespace(_data={"file": str(DATA_FOLDER / "train.jsonl")}, target=None)
    page = DatasetActions(COMPONENTS, BANK, Settings()).choose(visit, 1, event, None, None)
    assert "The uploaded file is no longer there: choose it again" in page["status"]
    assert visit.task is None


def is_free(lock: Any) -> bool:
    """Whether another thread could hold a lock."""
    taken: list[bool] = []

    def take() -> None:
        taken.append(lock.acquire(blocking=False))
        if taken[0]:
            lock.release()

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return taken[0]


def test_requests_are_answered_while_the_base_model_is_looked_for(
    visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    free: list[bool] = []

    def can_improve(*_: object) -> bool:
        free.append(is_free(visit.lock))
        return True

    def show(self: object, visit: Visit, *details: object) -> jobs.Updates:
        assert details[-1] is True
        return {"result": 7}

    monkeypatch.setattr(adapter_actions, "make_adapter", lambda *_: SimpleNamespace())
    monkeypatch.setattr(AdapterActions, "can_improve", can_improve)
    monkeypatch.setattr(AdapterActions, "show_result", show)
    visit.plan_result = PLAN
    actions = AdapterActions(COMPONENTS, BANK, Settings())
    page = actions.make(visit, 1, None)
    page |= shown(actions.run(visit, "adapter"))
    assert page["result"] == 7
    assert free == [True]


def shown_adapter(visit: Visit, *, trained: bool = False, no_model: str = "") -> jobs.Updates:
    result = PlanResult(plan(DATA_FOLDER / "train.jsonl"), [], "book")
    loader: Any = SimpleNamespace(bank=result.plan.bank, no_model=no_model)
    adapter: Any = SimpleNamespace(
        archive=Path("book.zip"), trained=trained, seconds=1.0, plan=result.plan, read=str
    )
    visit.request = DatasetRequest("u/d")
    page = AdapterActions(COMPONENTS, loader, Settings())
    return page.show_result(visit, result, adapter, None, improvable=True)


@pytest.mark.parametrize("trained", [False, True])
def test_an_adapter_that_was_trained_is_not_offered_to_be_trained_again(
    visit: Visit, trained: bool
) -> None:
    assert is_visible(shown_adapter(visit, trained=trained)["improve_form"]) is not trained


@pytest.mark.parametrize("missing", [True, False])
def test_where_the_base_model_cannot_be_run_the_page_says_why_and_gives_the_command(
    visit: Visit, monkeypatch: pytest.MonkeyPatch, missing: bool
) -> None:
    if missing:
        monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setattr("work.bank_loader.available_memory", lambda: 100 << 20)
    page = shown_adapter(visit, no_model=fetch_base_model(Bank.embedded()))
    reason = "cannot be run on" if missing else "is too large for"
    assert f"The base model {reason} this machine" in page["no_model"]
    assert "“Use it” below has the commands" in page["no_model"]
    assert not is_visible(page["try_form"])


@pytest.mark.parametrize(("of_draft", "kept"), [(True, True), (False, False)])
def test_beside_the_adapter_that_was_tested_first_no_report_of_a_trained_one_is_shown(
    visit: Visit, of_draft: bool, kept: bool
) -> None:
    tested, trained = plan_with(verdict_on(None)), plan_with(verdict_on(None))
    trained.name = "trained"
    report: Any = "a report"
    visit.plan_result, visit.draft, visit.report = PLAN, tested, report
    visit.adapter = tested if of_draft else trained
    AdapterActions(COMPONENTS, BANK, Settings()).make(visit, 1, None)
    assert (visit.report == report) == kept


def test_a_job_uses_the_base_model_after_a_canceled_one_has_ended() -> None:
    used: list[object] = []
    go_on, most = threading.Event(), 0
    columns = SimpleNamespace(prompt_of=str)
    planned = SimpleNamespace(dataset=SimpleNamespace(columns=columns))
    adapter: Any = SimpleNamespace(folder=SPACE, plan=planned)

    class SlowModel:
        def answer(self, prompt: str, adapter: object = None) -> str:
            nonlocal most
            used.append(self)
            most = max(most, len(used))
            go_on.wait(60)  # cannot be interrupted
            used.pop()
            return prompt

    session: Any = SimpleNamespace(evaluator=SlowModel())

    def work(job: jobs.Job) -> None:
        both = trying.answers(adapter, session, "prompt", job)
        job.show(lambda: {"answers": both})

    for _ in range(5):
        job = jobs.Job(60)
        running = job.run(work)
        next(running)
        job.cancel()
        with pytest.raises(jobs.Canceled):
            list(running)
    last = jobs.Job(60).run(work)
    assert next(last) == jobs.Step("Waiting for another request to end")
    go_on.set()
    results = [news() for news in last if not isinstance(news, jobs.Step)]
    assert results == [{"answers": ("prompt", "prompt")}]
    assert (most, used) == (1, [])


# --- tests that nobody asked for ----------------------------------------------------------------


@pytest.fixture
def untested(visit: Visit, monkeypatch: pytest.MonkeyPatch) -> Visit:
    """A visit with a plan that can be tested here."""
    monkeypatch.delenv(NO_BASE, raising=False)
    monkeypatch.setattr(trying, "rows_of", lambda _: Rows(check=(("a", "b"),)))
    visit.plan_result = PLAN
    return visit


def page_with(no_model: str = "") -> AdapterActions:
    loader: Any = SimpleNamespace(bank=None, no_model=no_model, session=None)
    return AdapterActions(COMPONENTS, loader, Settings())


def test_answers_are_counted_unasked_where_the_base_model_can_be_run(
    untested: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = plan_with(Remark("likely", "Likely to help. 16 of 16."))
    monkeypatch.setattr(adapter_actions, "make_adapter", lambda *_: draft)
    monkeypatch.setattr(trying, "test", lambda *_, asked: f"a report, {asked=}")
    monkeypatch.setattr(AdapterActions, "_show_report", lambda page, visit, _: page.verdict(visit))
    actions = page_with()
    page = actions.test_unasked(untested)
    assert "until right answers are counted" in page["verdict"]
    assert is_visible(page["make"]), "it can be made meanwhile"
    assert actions.test_unasked(untested) == {"visit": untested}, "only once"
    page |= shown(actions.run(untested, "test"))
    assert "Likely to help" in page["verdict"]
    assert untested.draft is draft
    assert str(untested.report) == "a report, asked=False"
    assert untested.adapter is None
    assert not is_visible(page["result_step"])
    assert actions.test_unasked(untested) == {"visit": untested}, "it was tested"


def test_answers_are_not_counted_unasked_without_a_model_a_plan_or_after_cancel(
    untested: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = {"visit": untested}
    assert page_with("no file").test_unasked(untested) == nothing
    untested.canceled = True
    assert page_with().test_unasked(untested) == nothing
    untested.canceled = False
    with monkeypatch.context() as patch:
        patch.setenv(NO_BASE, "1")
        assert page_with().test_unasked(untested) == nothing
    untested.plan_result = None
    assert page_with().test_unasked(untested) == nothing


def test_a_test_that_nobody_asked_for_fails_in_silence(
    untested: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise LoraMetaError("no time left")

    monkeypatch.setattr(adapter_actions, "make_adapter", fail)
    actions = page_with()
    page = actions.test_unasked(untested) | shown(actions.run(untested, "test"))
    assert "no time left" not in str(page)
    assert page["report"] == page["progress"] == ""
    assert "nobody counted its right answers" in page["verdict"]
    page = actions.test(untested, 1) | shown(actions.run(untested, "model"))
    assert "No time left" in page["report"]


def test_a_request_ends_a_test_that_nobody_asked_for(untested: Visit) -> None:
    actions = page_with()
    actions.test_unasked(untested)
    task = untested.task
    assert task is not None
    assert untested.accept(1)
    assert task.job.canceled


def test_a_test_that_nobody_asked_for_ends_when_somebody_waits_for_the_model() -> None:
    model, waits, got = trying._Model(), threading.Event(), threading.Event()

    def ask(job: jobs.Job) -> None:
        with model.turn(job, asked=True):
            got.set()

    with model.turn(jobs.Job(60), asked=False):
        asking = threading.Thread(target=ask, args=(jobs.Job(60),))
        asking.start()
        wait_until(lambda: len(model.waiting) == 1)
        waits.set()
    asking.join()
    assert got.is_set()
    assert not model.waiting


def test_saving_an_adapter_that_does_not_help_is_asked_twice(untested: Visit) -> None:
    verdict = SimpleNamespace(level="unlikely")
    untested.adapter = SimpleNamespace(plan=SimpleNamespace(verdict=verdict))  # type: ignore
    first: Any = SimpleNamespace(target=None, _data=None)
    anyway: Any = SimpleNamespace(target=SimpleNamespace(elem_id="x"), _data=None)
    names: Any = SimpleNamespace(
        save_anyway=anyway.target, **{n: n for n in ("ask_again", "saved", "visit", "progress",
        "bar", "make", "cancel", "run_timer", "verdict_step", "details_step", "result_step")}
    )  # fmt: skip
    actions = AdapterActions(names, BANK, Settings())
    asked = actions.save(untested, 1, "name", "public", False, first, None)
    assert is_visible(asked["ask_again"])
    assert untested.task is None
    actions.save(untested, 2, "name", "public", False, anyway, None)
    assert untested.task is not None


# --- the same tab after signing in --------------------------------------------------------------


def test_a_visit_is_taken_over_only_with_its_key(visit: Visit) -> None:
    visit.choose(DatasetRequest("user/name"))
    visit.plan_result, visit.adapter = PLAN, PLAN
    later = Visit()
    assert not later.resume("")
    assert not later.resume(later.key)
    assert not later.resume(visit.key + "x")
    assert later.adapter is None
    assert later.resume(visit.key)
    assert (later.plan_result, later.adapter, later.request) == (PLAN, PLAN, visit.request)
    assert later.key != visit.key


def test_a_key_that_is_no_longer_known_reads_the_dataset_of_the_link_if_there_is_one(
    visit: Visit,
) -> None:
    actions = DatasetActions(COMPONENTS, BANK, Settings())
    event: Any = SimpleNamespace(_data={"resume": "gone"}, target=None)
    page = actions.choose(visit, 1, event, None, None)
    assert visit.task is None
    assert "status" not in page, "no error"
    event._data["dataset"] = "user/name"
    actions.choose(visit, 2, event, None, None)
    assert visit.task is not None
    assert visit.request == DatasetRequest("user/name")
