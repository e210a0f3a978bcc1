"""Jobs: progress, cancel, time limits, and that the last request of a page wins."""

import itertools
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hf_lorameta import plan
from hf_lorameta.bank.open_bank import embedded_bank
from hf_lorameta.cards.model_card import CARD_FILE
from hf_lorameta.cards.results import Outcome, Training
from hf_lorameta.demo.run import DATA_FOLDER
from hf_lorameta.errors import AdapterError, LoraMetaError
from hf_lorameta.pipeline.publish import Published, Target
from hf_lorameta.pipeline.resolve import NO_BASE
from hf_lorameta.pipeline.rows import Rows
from hf_lorameta.pipeline.save import Generation
from hf_lorameta.pipeline.verdict import verdict_on
from hf_lorameta.remarks import Remark
from tests.cards.examples import checked
from tests.support.codes import raises_code
from tests.support.running_space import SPACE, missing

if why := missing("gradio"):
    pytest.skip(why, allow_module_level=True)

import adapter_actions
import dataset_actions
from actions import Actions
from adapter_actions import AdapterActions
from dataset_actions import DatasetActions
from settings import SpaceSettings
from visitors.callers import Call
from visitors.lines import Line
from work import jobs, trying
from work.bank_loader import BankLoader, fetch_base_model
from work.generating import Saved
from work.planning import PageRequest, PlanResult
from work.visit import Visit, earlier_visit


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
    with raises_code("page.time-limit", match="1 s"):
        list(jobs.Job(0.6).run(forever))


@pytest.mark.parametrize(
    ("line", "limit", "advice"),
    [
        ("plan", 0.1, "Use a smaller dataset or file"),
        ("adapter", 0.1, "Try again"),
        ("model", 0.1, "Try a shorter text"),
        ("training", 0.2, "Try again"),
    ],
)
def test_a_job_that_waits_for_others_has_its_time_after_that_and_advice_that_fits(
    line: jobs.LineName, limit: float, advice: str
) -> None:
    job = jobs.Job(0.1, line)
    for _ in range(3):
        job.wait(0.1)
    assert (job.waited >= 0.3, job.time_limit) == (True, limit)
    with raises_code("page.time-limit", match="0 s") as caught:
        forever(job)
    assert caught.value.hint.startswith(advice)


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
        self.actions, self.page = Actions(COMPONENTS, BANK, SpaceSettings()), dict[Any, Any]()
        self.sent, self.current, self.kind = 0, 0, ""
        self.late, self.saved = list[int](), list[int]()  # not yet received, not yet shown
        self.running = dict[Iterator[jobs.Updates], jobs.Updates]()
        self.plan: int | None = None
        self.canceled = False

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
        self.page |= self.actions.begin(
            self.visit, "plan", lambda job: self.work(job, kind, number), "problem"
        )
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
        in_time = after_others and task is not None and not task.job.committed
        update = self.actions.cancel(self.visit, number)
        assert ("Canceled" in str(update.get("progress"))) == in_time
        self.page |= update
        if in_time:
            self.canceled = True
            assert task.job.canceled

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

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def be_closed_by_gradio(self, data: st.DataObject) -> None:
        running = data.draw(st.sampled_from([*self.running]))
        del self.running[running]
        running.close()  # type: ignore[attr-defined]
        self.saved.clear()

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
    visit.choose(PageRequest())
    visit.choose(PageRequest())
    actions = DatasetActions(COMPONENTS, BANK, SpaceSettings())
    signed_out = [None] * (1 + (handler == "choose"))
    assert getattr(actions, handler)(visit, 1, event, *signed_out) == {"visit": visit}


EVENT: Any = SimpleNamespace(_data={}, target=None)


@pytest.mark.parametrize(
    ("group", "handler", "arguments"),
    [
        (DatasetActions, "choose_columns", [EVENT, None]),
        (DatasetActions, "choose_prompt", ["", "", None]),
        (AdapterActions, "make", [None, None]),
        (AdapterActions, "more_time", []),
        (AdapterActions, "try_out", ["prompt"]),
        (AdapterActions, "save", ["name", "public", False, EVENT, None]),
    ],
)
def test_a_page_whose_state_was_dropped_says_so(
    group: type[Actions], handler: str, arguments: list[Any], visit: Visit
) -> None:
    actions = group(COMPONENTS, BANK, SpaceSettings())
    page = getattr(actions, handler)(visit, 1, *arguments)
    if visit.task:
        page |= shown(actions.run(visit, visit.task.job.line))
    assert "no longer kept" in str(page)
    assert page["progress"] == "", "nothing runs"


def test_cancel_holds_for_a_request_that_is_being_answered(
    visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel: list[threading.Thread] = []

    def validated(request: PageRequest) -> PageRequest:
        cancel.append(threading.Thread(target=page.cancel, args=(visit, 2)))
        cancel[0].start()
        cancel[0].join(timeout=0.1)
        return request

    monkeypatch.setattr(dataset_actions, "validated", validated)
    page = DatasetActions(COMPONENTS, BANK, SpaceSettings())
    page.choose(visit, 1, EVENT, None, None)
    cancel[0].join()
    assert visit.canceled
    assert visit.task is None


def test_a_path_of_this_machine_is_not_an_uploaded_file(visit: Visit) -> None:
    event: Any = SimpleNamespace(_data={"file": str(DATA_FOLDER / "train.jsonl")}, target=None)
    page = DatasetActions(COMPONENTS, BANK, SpaceSettings()).choose(visit, 1, event, None, None)
    assert "no longer there" in page["status"]
    assert visit.task is None


def make_for_real(visit: Visit, folder: Path) -> None:
    """Plan in a visit, and give it an adapter of 2 MB."""
    archive = folder / "book.zip"
    archive.write_bytes(b"x" * 2_000_000)
    (folder / CARD_FILE).write_text("A card.")
    made = plan(DATA_FOLDER / "train.jsonl")
    generation = Generation(made, made.layout, 16, (), 1.0)
    visit.adapter = SimpleNamespace(  # type: ignore[assignment]
        archive=archive, gguf=None, folder=folder, generation=generation
    )  # fmt: skip
    visit.plan_result = PlanResult(
        made, [(f"note {i}", "kind") for i in range(120)], PageRequest(file="book")
    )
    visit.request = PageRequest(dataset="u/d")


@pytest.mark.parametrize("missing", [True, False])
def test_where_the_base_model_cannot_be_run_the_page_says_why_and_gives_the_command(
    visit: Visit, monkeypatch: pytest.MonkeyPatch, missing: bool, tmp_path: Path
) -> None:
    if missing:
        monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setattr("work.bank_loader.available_memory", lambda: 100 << 20)
    make_for_real(visit, tmp_path)
    page = page_with(fetch_base_model(embedded_bank())).show_result(visit, None)
    reason = "cannot be run on" if missing else "is too large for"
    assert f"The base model {reason} this machine" in page["no_model"]
    assert "“Use it” below has the commands" in page["no_model"]
    assert not is_visible(page["try_form"])
    assert page["download"].label == "Download, 2 MB"
    assert page["download"].variant == "primary"
    assert "Your adapter is ready" in page["heading"]


@pytest.mark.parametrize("more", [True, False])
def test_an_adapter_is_not_called_ready_until_it_is_trained_or_its_training_has_ended(
    visit: Visit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, more: bool
) -> None:
    monkeypatch.delenv(NO_BASE, raising=False)
    make_for_real(visit, tmp_path)
    actions: Any = page_with()

    def labels() -> tuple[str, str, str]:
        page = actions._news(visit)
        heading = page["heading"].split("2 · ")[1].split("<")[0]
        return heading, page["download"].label, page["download"].variant

    visit.background = SimpleNamespace()  # type: ignore[assignment]
    first = ("First version, not yet trained", "Download this version, 2 MB", "secondary")
    ready = ("Your adapter is ready", "Download, 2 MB", "primary")
    assert labels() == first
    visit.background, visit.more = None, more  # it was stopped as it began, or could not be trained
    assert labels() == (first if more else ready)
    made: Any = visit.adapter
    trained = Training(rows=90, steps=20, seen=90, labeled=90)
    outcome = replace(made.generation.outcome, training=trained)
    made.generation = replace(made.generation, outcome=outcome)
    visit.background = SimpleNamespace()  # type: ignore[assignment]
    assert labels() == ready, "more time is used"


def outcome_of(steps: int = 9, right: int | None = 4, score: float | None = None) -> Outcome:
    """Return the outcome of a training of so many steps, and of answers to 16 rows if counted."""
    scores = None if score is None else {"generated": score, "base": 0.1}
    counted = {"generated": right, "base": 1}
    check = None if right is None else checked(counted, None, scores)
    return Outcome(Training(90, steps, seen=90, labeled=90) if steps else None, check)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (outcome_of(), outcome_of(), "Trained on"),
        (outcome_of(), outcome_of(right=3), "More time brought no better answers: "),
        (outcome_of(), outcome_of(right=None), "More time brought no better answers: "),
        (outcome_of(), outcome_of(steps=0), "No step was taken in the time that it had: "),
        (outcome_of(), KeyboardInterrupt(), "The training was stopped before there was anything"),
        (outcome_of(), AdapterError("numbers overflow"), "Not trained: numbers overflow: the"),
        (outcome_of(score=0.4), outcome_of(), "Trained on"),
        (outcome_of(score=0.4), outcome_of(score=0.3, right=9), "More time brought no better"),
        (outcome_of(right=None), outcome_of(), "Trained on"),
        (outcome_of(steps=0), outcome_of(right=None), "Trained on"),
        (outcome_of(steps=0), outcome_of(right=3), "Trained on"),
    ],
)
def test_more_time_replaces_an_adapter_unless_that_makes_it_worse(
    before: Outcome, after: Outcome | BaseException, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = SimpleNamespace(outcome=after)

    def make(*_: Any, **__: Any) -> Any:
        if isinstance(after, BaseException):
            raise after
        return made

    session = SimpleNamespace(with_progress=lambda progress: None)
    model: Any = SimpleNamespace(one_training=lambda job: nullcontext(session))
    monkeypatch.setattr(trying, "make_adapter", make)
    monkeypatch.setattr(
        trying, "Adapter", lambda _, generation: SimpleNamespace(save=lambda job: generation)
    )
    adapter: Any = SimpleNamespace(generation=SimpleNamespace(outcome=before))
    result: Any = SimpleNamespace(
        request=PageRequest(file="rows"), plan=None, samples=(), name="rows"
    )
    improved = trying.improve(adapter, result, model, jobs.Job(60))
    assert improved.said.startswith(said)
    assert improved.adapter is (made if said.startswith("Trained on") else adapter)


@pytest.mark.parametrize(
    ("patience", "order"),
    [(10.0, ["short"] * 20 + ["long "] * 20), (0.0, ["long "] * 20 + ["short"] * 20)],
)
def test_of_tries_one_at_a_time_goes_on_those_of_short_prompts_and_who_waited_long_first(
    patience: float, order: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A canceled try ends at its next token."""
    monkeypatch.setattr(trying, "_TRIES_SECONDS", patience)
    took = list[str]()
    go_on = threading.Event()
    planned = SimpleNamespace(dataset=SimpleNamespace(columns=SimpleNamespace(prompt_of=str)))
    adapter: Any = SimpleNamespace(folder=SPACE, generation=SimpleNamespace(plan=planned))

    class SlowModel:
        """Answers in ten tokens; is its own evaluator."""

        max_length, max_new_tokens = 1024, 64

        def __init__(self) -> None:
            self.model, self.hooks = self, list[Callable[[], None]]()

        def twin(self) -> "SlowModel":
            return SlowModel()

        def get_decoder(self) -> Any:
            return self

        @property
        def base_model(self) -> Any:
            return self

        def modules(self) -> list[Any]:
            return []

        def register_forward_pre_hook(self, hook: Callable[[], None]) -> Any:
            self.hooks.append(hook)
            return SimpleNamespace(remove=self.hooks.clear)

        def answer(self, prompt: str, adapter: object = None) -> str:
            for _ in range(10):
                [hook() for hook in self.hooks]
                took.append(prompt[:5])
                go_on.wait(60)
            return prompt

    model = trying.Model(SimpleNamespace(evaluator=SlowModel()))  # type: ignore[arg-type]

    def begin(prompt: str) -> tuple[jobs.Job, Iterator[Any]]:
        def work(job: jobs.Job) -> None:
            both = trying.answers(adapter, model, prompt, job)
            job.show(lambda: {"answers": both})

        job = jobs.Job(60)
        running = job.run(work)
        wait_until(lambda: next(running) == jobs.Step("Waiting for both answers"))
        return job, running

    canceled, running = begin("gone " * 200)
    wait_until(lambda: bool(took))
    _, long = begin("long " * 200)
    _, short = begin("short")
    canceled.cancel()
    go_on.set()
    with pytest.raises(jobs.Canceled):
        list(running)
    [answered] = [news() for news in short if not isinstance(news, jobs.Step)]
    assert answered == {"answers": ("short", "short")}
    list(long)
    assert took == ["gone ", *order]


def test_of_a_visit_with_a_sign_in_nothing_is_shown_after_signing_out(visit: Visit) -> None:
    visit.plan_result = PLAN
    assert earlier_visit(visit.key, "ann") is visit, "who signs in goes on"
    visit.user = "ann"
    assert earlier_visit(visit.key, "ann") is visit
    assert earlier_visit(visit.key, None) is None
    assert (visit.plan_result, visit.source, visit.request) == (None, None, PageRequest())


def test_memory_that_a_job_no_longer_needs_goes_back_to_the_system() -> None:
    kept = list[bytes]()

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    def work(_: jobs.Job) -> None:
        blocks = [bytes(4000) for _ in range(50_000)]
        kept.extend(blocks[::100])

    before = resident()
    list(jobs.Job(60).run(work))
    wait_until(lambda: resident() - before < 50_000_000)


# --- in the background --------------------------------------------------------------------------


ASKING: Any = SimpleNamespace()
MADE: Any = SimpleNamespace(generation=SimpleNamespace(verdict=verdict_on(None)))


def page_with(no_model: str = "") -> AdapterActions:
    loader = object.__new__(BankLoader)
    vars(loader).update(bank=None, no_model=no_model, model=None)
    return AdapterActions(COMPONENTS, loader, SpaceSettings(), {"training": Line(1, 4)})


@pytest.fixture
def made(visit: Visit, monkeypatch: pytest.MonkeyPatch) -> Visit:
    """A visit with an adapter that can be improved here."""
    monkeypatch.delenv(NO_BASE, raising=False)
    monkeypatch.setattr(trying, "rows_of", lambda _: Rows(train=(("a", "b"),)))
    monkeypatch.setattr(AdapterActions, "_news", lambda _, visit: {"version": visit.version})
    monkeypatch.setattr(
        AdapterActions, "show_result", lambda _, visit, profile: {"shown_to": profile}
    )
    visit.plan_result, visit.adapter = PLAN, MADE
    return visit


def test_improving_goes_on_while_the_page_does_something_else_and_until_it_is_left(
    made: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, better = threading.Event(), SimpleNamespace(generation=MADE.generation)

    def improve(adapter: Any, result: Any, model: Any, job: Any, **_: Any) -> Any:
        while not go_on.is_set():
            job.report("Training", 1, 2)
            time.sleep(0.01)
        return trying.Improved(better, "It is trained.", True)  # type: ignore[arg-type]

    monkeypatch.setattr(trying, "improve", improve)
    actions, made.version = page_with(), 1
    actions._improve(made, 1.0, Call("203.0.113.1"))
    wait_until(lambda: "Training" in actions.refresh(made, 2, ASKING)["progress"])
    page = actions.refresh(made, 2, ASKING)
    assert page["version"] == 1
    assert is_visible(page["stop"])
    assert "version" not in actions.refresh(made, 1, ASKING), "it is shown already"
    page = actions.begin(made, "adapter", forever, "saved")
    assert made.background is not None
    assert made.accept(1)  # such as Save
    assert not made.background.job.canceled
    go_on.set()
    wait_until(lambda: made.background is None)
    found: Any = made.adapter, made.said, made.more
    assert found == (better, "It is trained.", True)
    assert actions.refresh(made, 1, ASKING)["version"] == made.version == 2


def test_a_page_that_missed_the_result_gets_all_of_it(made: Visit) -> None:
    actions, profile, made.version = page_with(), ASKING, 2
    page = actions.refresh(made, 0, ASKING, profile)
    assert "shown_to" not in page, "it may be on its way"
    assert page["run_timer"].active
    assert actions.refresh(made, 0, ASKING, profile)["shown_to"] is profile
    for version in (0, 1, 0):
        assert "shown_to" not in actions.refresh(made, version, ASKING, profile)
    actions.begin(made, "adapter", forever, "saved")
    assert "shown_to" not in actions.refresh(made, 0, ASKING, profile), "another is asked for"


def test_what_goes_on_ends_with_its_dataset_or_a_page_that_does_not_ask_and_can_be_stopped(
    made: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trying, "improve", lambda *values, **_: forever(values[3]))
    actions = page_with()
    for end in ("dataset", "stop", "left"):
        made.plan_result, made.adapter = PLAN, MADE
        actions._improve(made, 1.0, Call("203.0.113.1"))
        work = made.background
        assert work is not None
        if end == "dataset":
            made.choose(PageRequest())
        elif end == "left":
            monkeypatch.setattr("work.background.LEFT_SECONDS", -1.0)
        else:
            actions.stop(made)
            assert work.job.stopped
        if end != "stop":
            wait_until(lambda job=work.job: job.canceled)  # type: ignore[misc]
    made.drop_background()


def test_a_closed_page_keeps_no_others_waiting(
    made: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trying, "improve", lambda *values, **_: forever(values[3]))
    monkeypatch.setattr("work.background.CLOSED_SECONDS", 0.2)
    actions, call = page_with(), Call("203.0.113.1")
    line = actions.lines["training"]
    actions._improve(made, 1.0, call)
    work: Any = made.background
    wait_until(lambda: not line.is_waited_for())
    call.stream.left = True  # as one that goes away to sign in leaves
    time.sleep(0.4)
    assert not work.job.canceled, "nobody waits"
    line.ask("203.0.113.2", None)
    wait_until(lambda: made.more)  # it can be asked for again
    assert work.job.canceled


def test_stop_and_a_cancel_that_comes_too_late_keep_the_adapter_that_was_just_made(
    made: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trying, "improve", lambda *values, **_: forever(values[3]))
    monkeypatch.setattr("adapter_actions.make_adapter", lambda *_: MADE)
    monkeypatch.setattr(AdapterActions, "show_result", lambda *_: {"result": "shown"})
    actions, made.adapter = page_with(), None
    actions.make(made, 1, None, None)
    page = shown(actions.run(made, "adapter"))
    work = made.background
    assert work is not None
    assert (is_visible(page["stop"]), is_visible(page["cancel"])) == (True, False)
    page = actions.stop(made)
    assert (is_visible(page["stop"]), "Stopping" in page["progress"]) == (False, True)
    assert (made.adapter, made.background) == (MADE, work)
    actions.cancel(made, 4)  # overtakes a Save, and comes after what it was meant for
    actions.save(made, 3, "name", "public", False, EVENT, None)
    assert (made.adapter, made.background, made.task) == (MADE, work, None)
    assert not work.job.canceled
    actions.try_out(made, 5, "prompt")
    actions.cancel(made, 6)
    assert (made.adapter, made.background, made.task) == (MADE, work, None)
    made.drop_background()
    assert "Canceled" not in actions.settle(made)["progress"], "that was the try"


def test_more_time_leaves_a_task_on_the_page(made: Visit) -> None:
    actions = page_with()
    actions.begin(made, "model", forever, "answers")
    made.background = SimpleNamespace(job=jobs.Job(60), ask=lambda *_: None)  # type: ignore
    assert "cancel" not in actions.more_time(made, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("end", ["stopped", "failed"])
def test_a_training_waits_for_others_without_a_limit_and_says_why_it_ended(
    made: Visit, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    def improve(*_: Any, **__: Any) -> bool:
        raise LoraMetaError("no time left")

    monkeypatch.setattr(adapter_actions, "Job", lambda *_: jobs.Job(0.2))
    monkeypatch.setattr(trying, "improve", improve)
    actions = page_with()
    line = actions.lines["training"]
    other = line.ask("203.0.113.2", None)
    assert line.begin(other)
    actions._improve(made, 1.0, Call("203.0.113.1"))
    work: Any = made.background
    wait_until(lambda: "up to 3 minutes" in work.job.step.text)
    time.sleep(0.5)
    assert made.background is work
    if end == "stopped":
        actions.stop(made)
    else:
        line.leave(other)
    wait_until(lambda: made.background is None)
    assert str(made.said) == {"stopped": "", "failed": "no time left"}[end]
    assert made.more, "it can be asked for again"


def test_nothing_is_improved_without_a_model_or_rows(
    made: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    page_with("no file")._improve(made, 1.0, Call())
    monkeypatch.setenv(NO_BASE, "1")
    page_with()._improve(made, 1.0, Call())
    monkeypatch.delenv(NO_BASE)
    monkeypatch.setattr(trying, "rows_of", lambda _: Rows())
    page_with()._improve(made, 1.0, Call())
    assert made.background is None


def test_saving_an_adapter_that_does_not_help_is_asked_twice(made: Visit) -> None:
    verdict = SimpleNamespace(level="unlikely")
    made.adapter = SimpleNamespace(generation=SimpleNamespace(verdict=verdict))  # type: ignore
    first: Any = SimpleNamespace(target=None, _data=None)
    anyway: Any = SimpleNamespace(target=SimpleNamespace(elem_id="x"), _data=None)
    names: Any = SimpleNamespace(
        save_anyway=anyway.target, **{n: n for n in ("ask_again", "saved", "visit", "progress",
        "bar", "make", "cancel", "stop", "run_timer", "verdict_step", "details_step",
        "result_step")}
    )  # fmt: skip
    actions = AdapterActions(names, BANK, SpaceSettings())
    asked = actions.save(made, 1, "name", "public", False, first, None)
    assert is_visible(asked["ask_again"])
    assert made.task is None
    actions.save(made, 2, "name", "public", False, anyway, None)
    assert made.task is not None


def save(page: AdapterActions, visit: Visit, meanwhile: Callable[[], None]) -> jobs.Updates:
    """Save the adapter of a visit as user/name, and return what the page shows."""

    def publish(adapter: Any, target: Any, *_: object) -> Saved:
        saved = Saved(Published(Path(), target, (), "url"), adapter.generation)
        meanwhile()
        return saved

    with pytest.MonkeyPatch.context() as patch:
        target = Target("user/name", None, True, False, ())
        patch.setattr(adapter_actions, "find_target", lambda *_: target)
        patch.setattr(adapter_actions, "publish", publish)
        patch.setattr("views.result.usage_markdown", lambda *_: "")
        visit.request = PageRequest(dataset="user/name")
        page.save(visit, visit.number + 1, "name", "private", False, EVENT, None)
        return shown(page.run(visit, "adapter"))


@pytest.mark.parametrize("later", [True, False])
def test_the_answer_to_a_save_says_which_version_the_page_shows(made: Visit, later: bool) -> None:
    def meanwhile() -> None:
        made.version += later

    made.version = 3
    updates = save(page_with(), made, meanwhile)
    assert "is on the Hub" in updates["saved"]
    assert updates["version"] == made.version == 3 + later


def test_a_version_is_later_than_the_saved_one_only_if_its_files_differ(made: Visit) -> None:
    page = page_with()
    assert page._later_version(made) == {}, "none was saved"
    shown_after = save(page, made, lambda: None)["filled"]
    assert (shown_after["repo_id"], shown_after["overwrite"]) == ("user/name", False)
    made.version += 1  # such as that of a training that did not help
    assert page._later_version(made) == {}
    made.adapter = SimpleNamespace(generation=SimpleNamespace())  # type: ignore[assignment]
    assert [*page._later_version(made)] == ["saved"], "no box is ticked"
    assert "user/name" in page._later_version(made)["saved"]


def test_a_dataset_that_was_chosen_during_a_save_is_not_taken_for_the_saved_one(
    made: Visit,
) -> None:
    def choose_another() -> None:
        made.choose(PageRequest(dataset="user/other"))
        made.plan_result, made.adapter = plan_with(verdict_on(None)), MADE

    updates = save(page_with(), made, choose_another)
    assert "is on the Hub" in updates["saved"]
    assert made.saved is None
    assert not {"filled", "usage", "version"} & updates.keys()


# --- the same tab after signing in --------------------------------------------------------------


def test_a_later_page_goes_on_with_a_visit_whose_key_it_has(visit: Visit) -> None:
    actions = DatasetActions(COMPONENTS, BANK, SpaceSettings())

    def visit_of_later_page(key: str) -> Visit:
        event: Any = SimpleNamespace(_data={"resume": key}, target=None)
        found: Visit = actions.choose(Visit(), 9, event, None, None)["visit"]
        return found

    assert visit_of_later_page(visit.key) is not visit, "it has no plan"
    visit.plan_result = PLAN
    for wrong in ("", visit.key + "x", Visit().key):
        assert visit_of_later_page(wrong) is not visit
    assert visit_of_later_page(visit.key) is visit
    assert visit.task is not None, "which shows the plan"


@pytest.mark.parametrize("until", ["waits", "runs", "closed", "saves", "ends", "canceled"])
def test_a_later_page_says_what_ended_as_the_earlier_one_was_left(
    made: Visit, monkeypatch: pytest.MonkeyPatch, until: str
) -> None:
    monkeypatch.setattr(dataset_actions, "columns_form", lambda *_: "")
    monkeypatch.setattr(DatasetActions, "_show_plan", lambda *_: {})
    monkeypatch.setattr(DatasetActions, "show_result", lambda *_: {"answers": "earlier"})
    made.source, made.request = SimpleNamespace(), PageRequest()  # type: ignore[assignment]
    actions = DatasetActions(COMPONENTS, BANK, SpaceSettings())

    def work(job: jobs.Job) -> None:
        if until == "saves":
            job.commit()
        job.report("At it")
        while until != "ends" and not job.call.stream.left:
            job.check()
            time.sleep(0.01)

    actions.begin(made, "model", work, "answers")
    running, task = actions.run(made, "model"), made.task
    assert task
    if until == "ends":
        shown(running)
    elif until != "waits":
        next(running), next(running)
    if until in ("closed", "saves"):
        running.close()
    elif until == "canceled":
        actions.cancel(made, 1)
    for number in (2, 3):  # who reloads twice
        event: Any = SimpleNamespace(_data={"resume": made.key}, target=None)
        actions.choose(Visit(), number, event, None, None)
    answers = shown(actions.run(made, "plan"))["answers"]
    said = "being saved" if until == "saves" else "ended what it did"
    assert (said in answers) is (until not in ("ends", "canceled"))
    assert answers.endswith("earlier")
    task.job.call.stream.left = True


def test_a_key_that_is_no_longer_known_reads_the_dataset_of_the_link_if_there_is_one(
    visit: Visit,
) -> None:
    actions = DatasetActions(COMPONENTS, BANK, SpaceSettings())
    event: Any = SimpleNamespace(_data={"resume": "gone"}, target=None)
    page = actions.choose(visit, 1, event, None, None)
    assert visit.task is None
    assert "status" not in page, "no error"
    assert "no longer kept" in page["problem"]
    event._data = {"resume": (without_plan := Visit()).key, "dataset": "user/name"}
    page = actions.choose(visit, 2, event, None, None)
    assert page["problem"] == "", f"{without_plan.key} is kept"
    assert visit.task is not None
    assert visit.request == PageRequest(dataset="user/name")
