"""Jobs: progress, cancel, time limits, and that the last request of a page wins."""

import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

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


def test_a_job_yields_its_results_and_a_few_of_many_steps_with_one_text() -> None:
    seen = threading.Event()

    def work(job: jobs.Job) -> None:
        job.report("before", 1, 2)
        job.show(lambda: {"first": 1})
        for number in range(10_000):
            job.report("halfway", number, 10_000)
        seen.wait(60)
        job.show(lambda: {"second": 2})

    results: list[Any] = []
    for news in jobs.Job(60).run(work):
        results.append(news if isinstance(news, jobs.Step) else news())
        if news == jobs.Step("halfway", 0, 10_000):
            seen.set()
    assert results[:2] == [jobs.Step("before", 1, 2), {"first": 1}]
    assert results[-1] == {"second": 2}
    assert 1 <= results.count(jobs.Step("halfway", 0, 10_000)) < len(results) < 100


def test_a_job_ends_at_its_time_limit_without_its_time_in_the_queue() -> None:
    job = jobs.Job(0.6)
    time.sleep(0.7)
    assert list(job.run(lambda job: job.check())) == []
    with pytest.raises(jobs.SpaceError, match="longer than 1 s"):
        list(jobs.Job(0.6).run(forever))


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


def test_a_canceled_job_ends_at_once() -> None:
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


# --- requests of a page -------------------------------------------------------------------------


class Names:
    """Each component is its name."""

    def __getattr__(self, name: str) -> str:
        return name


COMPONENTS: Any = Names()
BANK: Any = SimpleNamespace(bank=None)


@pytest.fixture
def visit() -> Visit:
    return Visit()


def plan_with(verdict: Remark) -> Any:
    said = SimpleNamespace(verdict=verdict, remarks=[verdict])
    return SimpleNamespace(name="u/d", plan=said, generation=said)


PLAN = plan_with(verdict_on(None))


def shown(updates: Iterator[jobs.Updates]) -> jobs.Updates:
    """Return what the page shows after all updates."""
    page: jobs.Updates = {}
    for update in updates:
        page |= update
    return page


def is_visible(component: Any) -> bool:
    return bool(component["visible"] if isinstance(component, dict) else component.visible)


class Page(RuleBasedStateMachine):
    """Requests, Cancel and results of a page, in any order: the last request wins.

    Each request has a number, which is what its work shows: a plan, or something saved, which can
    no longer be canceled. Other work fails, or never ends.
    """

    def __init__(self) -> None:
        super().__init__()
        self.visit: Any = Visit()
        self.actions, self.page = Actions(COMPONENTS, BANK, Settings()), dict[Any, Any]()
        self.sent, self.current, self.kind = 0, 0, ""
        self.late, self.saved = list[int](), list[int]()  # not yet received, not yet shown
        self.running = dict[Iterator[jobs.Updates], jobs.Updates]()
        self.plan: int | None = None
        self.before: int | None = None
        self.in_time, self.canceled = False, False

    def work(self, job: jobs.Job, kind: str, number: int) -> None:
        def show() -> jobs.Updates:
            self.visit.plan_result = number
            return {"result": number}

        if kind == "plan":
            job.show(show)
        elif kind == "save":
            job.commit()
            self.saved.append(number)
            job.show(lambda: {"saved": number})
        elif kind == "fail":
            raise ZeroDivisionError
        for step in itertools.count() if kind == "endless" else ():
            job.report(f"step {step}")
            time.sleep(0.001)

    def accepted(self, number: int, kind: str) -> None:
        self.current, self.kind, self.canceled = number, kind, False
        self.before, self.in_time = self.plan, True
        self.page |= self.actions.begin(
            self.visit, "plan", lambda job: self.work(job, kind, number), "problem",
            restores=kind == "plan",
        )  # fmt: skip
        assert self.visit.take("model") is None, "it waits in another line"
        self.running[self.actions.run(self.visit, "plan")] = {}

    @rule(kind=st.sampled_from(("plan", "plan", "save", "fail", "endless")))
    def ask(self, kind: str) -> None:
        self.sent += 1
        assert self.visit.accept(self.sent)
        self.accepted(self.sent, kind)

    @rule()
    def ask_by_a_slow_connection(self) -> None:
        self.sent += 1
        self.late.append(self.sent)

    @precondition(lambda self: self.late)
    @rule()
    def arrive_late(self) -> None:
        number = self.late.pop()
        is_last = number > self.visit.number
        assert self.visit.accept(number) == is_last
        if is_last:
            self.accepted(number, "plan")

    @rule(after_others=st.booleans())
    def cancel(self, after_others: bool) -> None:
        number = self.sent + 1 if after_others else self.visit.number
        self.sent += after_others
        task = self.visit.task
        in_time = after_others and self.in_time and not (task and task.job.committed)
        update = self.actions.cancel(self.visit, number)
        assert ("Canceled" in str(update.get("progress"))) == in_time
        self.page |= update
        if in_time:
            self.plan, self.canceled, self.in_time = self.before, True, False
            assert task is None or task.job.canceled

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def receive(self, data: st.DataObject) -> None:
        self.receive_from(data.draw(st.sampled_from([*self.running])))

    def receive_from(self, running: Iterator[jobs.Updates]) -> None:
        """Show what a request yields next."""
        update = next(running, None)
        if update is None:
            assert self.running.pop(running) in ({}, {"visit": self.visit}), "it is sent again"
        else:
            self.running[running] = update
            self.page |= update
            if "result" in update:
                self.plan = update["result"]
                assert (self.plan, self.canceled) == (self.current, False), "the last wins"
            if "saved" in update:
                self.saved.remove(update["saved"])
        self.note_end()

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def be_closed_by_gradio(self, data: st.DataObject) -> None:
        running = data.draw(st.sampled_from([*self.running]))
        del self.running[running]
        running.close()  # type: ignore[attr-defined]
        self.saved.clear()
        self.note_end()

    def note_end(self) -> None:
        self.in_time &= self.visit.task is not None or self.kind == "plan"

    @invariant()
    def visit_is_as_the_page_was_told(self) -> None:
        assert self.visit.plan_result == self.plan
        assert self.visit.canceled == self.canceled

    def teardown(self) -> None:
        if self.kind == "endless" or not self.running:
            self.cancel(after_others=True)
        while self.running:
            self.receive_from(next(iter(self.running)))
        page = self.page | self.actions.settle(self.visit)
        assert self.visit.task is None
        assert self.saved == [], "the outcome of each is shown"
        assert not is_visible(page["cancel"])
        assert is_visible(page["verdict_step"]) == (self.plan is not None)
        assert ("Canceled" in page["progress"]) == self.canceled


Page.TestCase.settings = hypothesis_settings(max_examples=40, stateful_step_count=25, deadline=None)
TestPage = Page.TestCase


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


def shown_adapter(visit: Visit, *, trained: bool = False, no_model: str = "") -> jobs.Updates:
    rows = [(f"note {i}", "kind") for i in range(120)]
    result = PlanResult(plan(DATA_FOLDER / "train.jsonl"), rows, "book")
    loader: Any = SimpleNamespace(bank=result.plan.bank, no_model=no_model)
    adapter: Any = SimpleNamespace(
        archive=Path("book.zip"), trained=trained, seconds=1.0, plan=result.plan, read=str
    )
    visit.request = DatasetRequest("u/d")
    page = AdapterActions(COMPONENTS, loader, Settings())
    return page.show_result(visit, result, adapter, None)


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


def test_a_test_that_nobody_asked_for_fails_in_silence_and_ends_with_the_next_request(
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
    actions.test_unasked(untested)
    unasked = untested.task
    page = actions.test(untested, 1) | shown(actions.run(untested, "model"))
    assert unasked
    assert unasked.job.canceled
    assert "No time left" in page["report"]


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
    untested.adapter = SimpleNamespace(generation=SimpleNamespace(verdict=verdict))  # type: ignore
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
