"""Stages: what an error or an interruption of one costs, and what is said of them."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, ClassVar

import pytest

from hf_lorameta import Bank, Generation, generate, open_dataset
from hf_lorameta.deadline import Deadline
from hf_lorameta.errors import LoraMetaError, UsageError
from hf_lorameta.pipeline.check import Check, CheckSettings
from hf_lorameta.pipeline.generate import plan_with_rows
from hf_lorameta.pipeline.make import make_adapter
from hf_lorameta.pipeline.request import Request
from hf_lorameta.pipeline.resolve import Resolved
from hf_lorameta.pipeline.rows import Rows
from hf_lorameta.pipeline.session import Session
from hf_lorameta.pipeline.stages import Context, Stage, Work
from hf_lorameta.settings import Settings
from hf_lorameta.tables import plural
from hf_lorameta.types import Row
from tests.pipeline.test_check import FakeBase, session_with
from tests.support.codes import raises_code
from tests.support.fast_training import fast_training
from tests.support.plain_bank import plain_bank
from tests.training import tiny

LINES = [{"input": f"{i}?", "output": "ab"[i % 2]} for i in range(8)]
ROWS: tuple[Row, ...] = tuple((line["input"], line["output"]) for line in LINES)


@dataclass(frozen=True)
class Recorded(Stage[Settings]):
    """A stage that records that it ran, and then may fail."""

    settings: Settings = field(default_factory=Settings)
    ran: list[str] = field(default_factory=list)
    title: str = ""
    error: LoraMetaError | None = None
    must: bool = False
    name: ClassVar[str] = "recorded"
    stopped: ClassVar[str] = "Ended"
    failed: ClassVar[str] = "Not done"

    @staticmethod
    def wanted(settings: Settings, seconds: float) -> bool:
        return True

    @property
    def required(self) -> bool:
        return self.must

    def __str__(self) -> str:
        return self.title

    def run(self, work: Work, context: Context) -> Work:
        self.ran.append(self.title)
        if self.error:
            raise self.error
        return work


def run(*stages: Stage[Any], runner: FakeBase | None = None) -> Generation:
    """Make an adapter of a bank, with stages and a base model that is not run."""
    rows = Rows(train=ROWS[:4], held_out=ROWS[4:], pool=8)
    plan, _ = plan_with_rows(open_dataset(LINES), Session(plain_bank()), Resolved(Request(top_k=2)))
    return make_adapter(plan, rows, session_with(runner or FakeBase(1.0)), stages)


BROKEN = LoraMetaError("out of memory")


def test_a_stage_that_is_not_required_costs_neither_the_adapter_nor_required_stages(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ran = list[str]()
    stages = (
        Recorded(ran=ran, title="first"),
        Recorded(ran=ran, title="second", error=BROKEN),
        Recorded(ran=ran, title="third"),
        Recorded(ran=ran, title="fourth", must=True),
    )
    made, plain = run(*stages), run()
    assert ran == ["first", "second", "fourth"]
    assert caplog.messages.count("Not done: out of memory") == 1
    assert made.outcome == plain.outcome
    assert str(made.pairs) == str(plain.pairs)
    ran.clear()
    with pytest.raises(LoraMetaError, match="out of memory"):
        run(Recorded(ran=ran, title="first", error=BROKEN, must=True), *stages)
    assert ran == ["first"]


def test_an_adapter_without_the_base_model_has_no_share_of_steps() -> None:
    assert run().to_dict()["step_share"] is None


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (Request(check=False), "skip training on your rows"),
        (Request(train=20, check=False), "train on 20 rows"),
        (Request(train=20, check=8), "train on 20 rows, then check on 8 other rows"),
        (Request(check=8), "check on 8 other rows"),
        (
            Request(budget=90),
            "train on your rows for up to 90 s, then count right answers on rows that it has "
            "not seen",
        ),
    ],
)
def test_what_is_done_is_said_in_the_order_of_the_stages(request_: Request, text: str) -> None:
    assert str(Resolved(request_)) == text


def test_why_the_base_model_is_not_run_is_said() -> None:
    obstacle = UsageError("the base model has 9 GB")
    text = str(Resolved(Request(check=False), obstacle=obstacle))
    assert text.endswith("the base model has 9 GB")


def test_a_check_that_is_asked_for_must_be_passed_and_a_count_need_not_be() -> None:
    counted = run(*Request().stages(), runner=FakeBase(1e-9)).outcome
    assert counted.check
    assert counted.check.losses["generated"] > counted.check.losses["base"]
    assert counted.check.rows == 4
    with raises_code("adapter.unlikely-to-help"):
        run_checked(FakeBase(1e-9))


def run_checked(runner: FakeBase) -> Generation:
    plan, _ = plan_with_rows(open_dataset(LINES), Session(plain_bank()), Resolved(Request(top_k=2)))
    return make_adapter(plan, Rows(check=ROWS), session_with(runner), Request(check=8).stages())


# --- with a model ---------------------------------------------------------------------------------


Interrupt = Callable[[str, int, int], None]


@pytest.fixture
def model(torch: Any, one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that suit a tiny base model."""
    pytest.importorskip("transformers")
    fast_training(monkeypatch.setattr)


def unable(**_: object) -> None:
    """The forward pass of a model that needs more than a text."""
    raise ValueError("no images")


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("check", [True, 8])
def test_training_that_nobody_asked_for_never_costs_the_adapter(
    tiny_bank: Bank, check: int, caplog: pytest.LogCaptureFixture
) -> None:
    """But a check that was asked for is made."""
    with Session(tiny_bank) as session:
        resolved = Resolved(Request(rank=4, check=check, budget=9), insisted=False)
        dataset = session.open_dataset(tiny.rows(3))
        plan, rows = plan_with_rows(dataset, session, resolved)
        forward, session.evaluator.model.forward = session.evaluator.model.forward, unable
        if check is True:
            made = make_adapter(plan, rows, session, resolved.stages, deadline=Deadline(9.0))
            assert (made.outcome.training, made.outcome.check) == (None, None)
            assert made.pairs
        else:
            with raises_code("base.needs-more-than-text"):  # by the check
                make_adapter(plan, rows, session, resolved.stages, deadline=Deadline(9.0))
        assert "LlamaForCausalLM" in caplog.text
        with raises_code("base.needs-more-than-text"):
            make_adapter(plan, rows, session, Request(budget=9).stages(), deadline=Deadline(9.0))
        session.evaluator.model.forward = forward


def interrupting(*stops: tuple[str, int]) -> Interrupt:
    """Return a progress that ends stages, whose title begins so, after so many steps."""

    def show(title: str, done: int, total: int) -> None:
        if any(title.startswith(beginning) and done >= stop for beginning, stop in stops):
            raise KeyboardInterrupt

    return show


def stopped(
    bank: Bank, progress: Interrupt, *, held_out: bool = True, **settings: Any
) -> Generation:
    """Make an adapter that its user interrupts, perhaps with no rows to count right answers on."""
    with Session(bank, progress=progress) as session:
        resolved = Resolved(Request(rank=4, **settings))
        dataset = session.open_dataset(tiny.rows(3))
        plan, rows = plan_with_rows(dataset, session, resolved)
        rows = rows if held_out else replace(rows, held_out=())
        return make_adapter(plan, rows, session, resolved.stages)


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("check", [True, 8])
@pytest.mark.parametrize("both", [False, True])
def test_an_interrupted_training_keeps_the_best_adapter_so_far_and_is_checked(
    tiny_bank: Bank, check: int, both: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Unless the user ends the check, too."""
    stops = [("Training", 15), *([("Checking", 0)] if both else [])]
    adapter = stopped(tiny_bank, interrupting(*stops), train=16, check=check)
    made = adapter.outcome
    assert made.training
    steps = plural(made.training.steps, "step")
    [warning] = [r.text for r in adapter.remarks if r.code == "stage.interrupted"]
    assert f"after {steps}." in warning
    assert adapter.to_dict()["interrupted"] == "training"
    assert bool(made.check) == (not both)
    following = Check(CheckSettings(check=check))
    assert f"Interrupted. Next: {following};" in caplog.text
    assert adapter.repeating.steps == made.training.steps > 0


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(
    ("stop", "said"),
    [
        (3 + 5, " in a fold: right answers can be counted on only 4 of 16 rows."),
        (3 + 24 + 5, " in a fold: right answers can be counted on only 4 of 16 rows."),
        (3 + 5 * 24, ": this is the adapter after 24 steps. More steps might have made it better."),
    ],
)
def test_an_interruption_says_what_may_be_missing(tiny_bank: Bank, stop: int, said: str) -> None:
    """In the first fold, in the second one, and in the last step of all."""
    steps = count(1)

    def progress(title: str, done: int, total: int) -> None:
        if title.startswith("Training") and next(steps) == stop:
            raise KeyboardInterrupt

    lines = [{"input": f"say {word} {i}", "output": word} for i in range(8) for word in "ab"]
    adapter = generate(lines, tiny_bank, rank=4, budget=600, progress=progress)
    assert adapter.outcome.training
    assert adapter.outcome.training.steps == 24
    [text] = [r.text for r in adapter.remarks if r.code == "stage.interrupted"]
    assert text == f"The training was interrupted{said}"


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("check", [True, 8])
def test_only_a_count_that_will_be_made_is_announced_after_an_interruption(
    tiny_bank: Bank, check: int, caplog: pytest.LogCaptureFixture
) -> None:
    training = interrupting(("Training", 15))
    made = stopped(tiny_bank, training, held_out=False, train=16, check=check).outcome
    assert bool(made.check) == (check == 8) == ("Interrupted. Next: " in caplog.text)


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("check", [True, 8])
def test_an_interrupted_check_keeps_an_adapter_that_was_trained(
    tiny_bank: Bank, check: int
) -> None:
    adapter = stopped(tiny_bank, interrupting(("Checking", 0)), train=16, check=check)
    assert adapter.outcome.training
    assert adapter.outcome.check is None
    assert adapter.to_dict()["interrupted"] == "check"
    assert "The check was interrupted." in [remark.text for remark in adapter.remarks]


@pytest.mark.usefixtures("model")
def test_an_interrupted_check_without_a_training_leaves_nothing(tiny_bank: Bank) -> None:
    with Session(tiny_bank, progress=interrupting(("Checking", 0))) as session:
        resolved = Resolved(Request(rank=4, check=8))
        plan, rows = plan_with_rows(session.open_dataset(tiny.rows(3)), session, resolved)
        with pytest.raises(KeyboardInterrupt):
            make_adapter(plan, rows, session, resolved.stages)


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("stage", ["Combining", "Training"])
def test_an_interruption_before_there_is_an_adapter_says_that_nothing_was_saved(
    tiny_bank: Bank, stage: str
) -> None:
    lines = [{"input": f"say {word} {i}", "output": word} for i in range(30) for word in "abcd"]
    progress = interrupting((stage, 1))
    with pytest.raises(KeyboardInterrupt) as caught:
        generate(lines, tiny_bank, rank=4, budget=600, progress=progress)
    [note] = caught.value.__notes__
    assert "nothing was saved" in note
