"""Training an adapter further in the Space, with a tiny base model."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.cards.examples import RIGHT, checked
from tests.support.codes import raises_code
from tests.support.fast_training import fast_training
from tests.support.tiny_bank import tiny_bank
from tests.training import tiny

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from hf_lorameta import generate, plan  # noqa: E402 - they import torch
from hf_lorameta.bank.bank import Bank  # noqa: E402 - they import torch
from hf_lorameta.deadline import Deadline  # noqa: E402
from hf_lorameta.engines.transformers.lora_layer import AdaptedLinear  # noqa: E402
from hf_lorameta.errors import AdapterError  # noqa: E402
from hf_lorameta.hub.client import Hub  # noqa: E402
from hf_lorameta.pipeline import generate as generate_module  # noqa: E402
from hf_lorameta.pipeline import make  # noqa: E402
from hf_lorameta.pipeline.publish import Consent, Target  # noqa: E402
from hf_lorameta.pipeline.save import Generation  # noqa: E402
from hf_lorameta.pipeline.session import Session  # noqa: E402
from hf_lorameta.recipe import Recipe  # noqa: E402 - they import torch
from hf_lorameta.training.settings import MOST_FEW_ROWS  # noqa: E402
from hf_lorameta.training.trainer import Trainer  # noqa: E402
from views import blocks  # noqa: E402
from views.plan import verdict_html  # noqa: E402
from work import generating, jobs, planning, trying  # noqa: E402
from work.planning import PageRequest, PlanResult  # noqa: E402
from work.reader_process import start_forkserver  # noqa: E402

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def bank() -> Bank:
    return tiny_bank()


@pytest.fixture
def model(bank: Bank) -> trying.Model:
    return trying.Model(Session(bank, token=False))


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    fast_training(monkeypatch.setattr, steps=12)


def rows(number: int) -> list[dict[str, str]]:
    """Return different rows of a topic that the bank does not have."""
    found = tiny.rows(3, number)
    words = tiny.WORDS
    for index, row in enumerate(found):
        row["input"] += f" {words[index // 48]} {words[index // 48 + 1]}"
    return found


def planned(bank: Bank, number: int) -> PlanResult:
    samples = [(row["input"], row["output"]) for row in rows(number)]
    return PlanResult(
        plan(rows(number), bank, Recipe(rank=4)), samples, PageRequest(file="topic3", rank=4)
    )


@pytest.fixture
def result(bank: Bank) -> PlanResult:
    """A plan for the fewest rows that are not answered in folds."""
    return planned(bank, MOST_FEW_ROWS + 1)


@pytest.fixture
def adapter(result: PlanResult) -> Iterator[generating.Adapter]:
    made = generating.make_adapter(result, jobs.Job(120))
    yield made
    made.discard()


@pytest.mark.parametrize(("number", "trained", "counted"), [(48, 48, 48), (160, 120, 40)])
def test_the_adapter_is_trained_and_answers_to_rows_that_it_has_not_seen_are_counted(
    number: int, trained: int, counted: int, bank: Bank, model: trying.Model
) -> None:
    result, job = planned(bank, number), jobs.Job(120)
    adapter = generating.make_adapter(result, job)
    improved, said, over = trying.improve(adapter, result, model, job)
    assert not over, "no time was missing"
    training, report = improved.generation.outcome.training, improved.generation.report
    assert training
    assert training.rows == trained
    assert training.seen_rows in said
    assert bool(training.folds) is (number == 48)
    assert report is not None
    answered = [(sample.input, sample.reference) for sample in report.samples]
    drawn = trying.rows_of(result)
    assert len({*answered}) == len(answered) == counted
    assert {*answered} == {*(drawn.foldable or drawn.held_out)}
    right = sum(report.is_right(sample, "generated") for sample in report.samples)
    stored = json.loads((improved.folder / "recipe.json").read_text())["check"]
    assert stored["counted"]["generated"]["right"] == right
    assert training.seen_rows in (improved.folder / "README.md").read_text()
    assert "Trained on" not in (adapter.folder / "README.md").read_text()
    weights = [(made.folder / WEIGHTS).read_bytes() for made in (adapter, improved)]
    assert weights[0] != weights[1]


@pytest.mark.parametrize(
    ("number", "words", "seconds", "folds_of"),
    [(24, 0, 120.0, 4), (24, 1200, 1.0, 0), (200, 0, 0.6, 0)],
)
def test_the_page_and_the_command_line_make_the_same_adapter_of_a_file(
    number: int,
    words: int,
    seconds: float,
    folds_of: int,
    bank: Bank,
    model: trying.Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where time runs out, a tenth of a second with each step, and with long inputs."""
    more = " ".join(tiny.WORDS[i % 11] for i in range(words))
    lines = [{**row, "input": f"{more} {row['input']}".strip()} for row in rows(number)]
    data, recipe, job = tiny.write_task(tmp_path, "rows", lines), Recipe(rank=4), jobs.Job(600)
    step, now = Trainer.step, 0.0

    def timed_step(*given: Any) -> None:
        nonlocal now
        now += 0.1
        step(*given)

    def make_in_time(*given: Any, deadline: Deadline, **more: Any) -> Generation:
        timed = Deadline(deadline.seconds, lambda: now)
        return make.make_adapter(*given, deadline=timed, **more)

    start_forkserver()
    job.call.stream.opened = True  # somebody waits, however slow this machine is
    request = PageRequest(file=str(data), rank=4)
    result = planning.make_plan(bank, request, 20_000, False, job)
    made = generating.make_adapter(result, job)
    monkeypatch.setattr(Trainer, "step", timed_step)
    monkeypatch.setattr(time, "process_time", lambda: now)
    for module in (trying, generate_module):
        monkeypatch.setattr(module, "make_adapter", make_in_time)
    adapter = trying.improve(made, result, model, job, seconds=seconds).adapter
    command = generate(data, bank, recipe, budget=seconds)
    folder = command.save_pretrained(tmp_path / "adapter")
    training = adapter.generation.outcome.training
    assert training
    assert (training.steps > 0, training.folds) == (True, folds_of)
    for name in ("recipe.json", "README.md", WEIGHTS):
        assert (adapter.folder / name).read_bytes() == (folder / name).read_bytes()
    page = unescape(verdict_html(adapter.generation, "rows", "", busy=False))
    assert command.verdict.title in page
    assert all(remark.text in page for remark in command.remarks if remark.level == "warning")
    if check := command.outcome.check:
        assert f"{check.adapter.right} of {check.rows} right" in page


def test_several_labels_of_a_trained_adapter_are_counted_in_any_order(
    result: PlanResult, model: trying.Model
) -> None:
    several = replace(result.plan, dataset=replace(result.plan.dataset, form="several"))
    result = replace(
        result,
        plan=several,
        samples=[(text, words.replace(" ", ", ")) for text, words in result.samples],
    )
    made = generating.make_adapter(result, jobs.Job(120))
    adapter = trying.improve(made, result, model, jobs.Job(120)).adapter
    report = adapter.generation.report
    assert report is not None
    scores = report.scores["generated"]
    stored = json.loads((adapter.folder / "recipe.json").read_text())["check"]
    assert stored["measure"] == "label_f1"
    assert stored["counted"]["generated"]["score"] == scores.label_f1
    assert scores.right == sum(report.is_right(row, "generated") for row in report.samples)


def test_a_try_during_a_training_goes_first_and_sees_nothing_of_it(
    result: PlanResult,
    adapter: generating.Adapter,
    model: trying.Model,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = trying.Model(model.session)
    alone = trying.answers(adapter, other, "topic3 a b", jobs.Job(120))
    tried, job, asked = list[tuple[str, str]](), jobs.Job(120), jobs.Job(120)
    report = job.report

    def try_in_training(text: str, *numbers: int, **more: int) -> None:
        layers = model.session.evaluator.model.modules()
        if any(isinstance(layer, AdaptedLinear) for layer in layers) and not tried:
            thread = threading.Thread(
                target=lambda: tried.append(trying.answers(adapter, model, "topic3 a b", asked))
            )
            thread.start()
            thread.join(60)
        report(text, *numbers, **more)

    monkeypatch.setattr(job, "report", try_in_training)
    trying.improve(adapter, result, model, job)
    assert tried == [alone]
    monkeypatch.setattr(trying, "_TRIES_SECONDS", 0.3)
    step = job.step
    with model.one_try(jobs.Job(60), "a"):
        start = time.monotonic()
        model.let_tries_go(job)
    assert job.step.text != step.text
    assert replace(job.step, text="") == replace(step, text=""), "the time left stands still"
    assert time.monotonic() - start >= 0.3, "a training waits for tries"
    start = time.monotonic()
    model.let_tries_go(job)
    assert time.monotonic() - start < 0.3


def test_waiting_for_tries_takes_no_time_of_a_training_but_at_most_doubles_it(
    result: PlanResult,
    adapter: generating.Adapter,
    model: trying.Model,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job, now, left = jobs.Job(600), [0.0], list[float]()

    def wait(*_: object, deadline: Deadline, **__: object) -> None:
        for passed, waited in ((30, 10), (170, 150), (40, 40)):
            now[0] += passed
            job.waited += waited
            left.append(deadline.left())
        raise AdapterError("Nothing was made")

    model.load(job)
    monkeypatch.setattr(trying, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(trying, "make_adapter", wait)
    assert trying.improve(adapter, result, model, job, seconds=120).adapter is adapter
    assert left == [100, 20, 0]


def test_a_training_waits_for_the_thread_of_a_canceled_one(
    result: PlanResult, adapter: generating.Adapter, model: trying.Model
) -> None:
    """Its place in the line is free at once, and both would train the same model."""
    later = jobs.Job(60)
    ended = threading.Timer(1, later.cancel)
    with model.one_training(jobs.Job(60)):
        ended.start()
        with pytest.raises(jobs.Canceled):
            trying.improve(adapter, result, model, later)
    assert later.step.text.startswith("Waiting")
    assert later.waited >= 0.9, "which is no part of its time"


def test_a_try_reads_so_many_tokens_of_a_prompt_whatever_its_length(
    adapter: generating.Adapter, model: trying.Model
) -> None:
    read = list[int]()
    tries, counts = model.load(jobs.Job(120))[1], model.session.evaluator
    tries.model.register_forward_pre_hook(
        lambda _, inputs, named: read.append(named["input_ids"].shape[1]), with_kwargs=True
    )
    before = counts.max_length
    assert before > trying.PROMPT_TOKENS + counts.max_new_tokens
    trying.answers(adapter, model, "a b " * 4000, jobs.Job(120))
    assert max(read) == trying.PROMPT_TOKENS
    assert counts.max_length == before, "of counting and training"


def test_the_time_that_is_left_never_grows(
    result: PlanResult,
    adapter: generating.Adapter,
    model: trying.Model,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left, clock, job = list[int](), 0.0, jobs.Job(1000)

    def make(*args: Any, deadline: Deadline, **_: object) -> None:
        nonlocal clock
        started = clock
        while clock < started + (deadline.seconds or 0) + 20:
            clock += 0.9
            args[2].progress("Training", 1, 0)
            left.append(job.step.seconds_left)
        raise AdapterError("it is over")

    monkeypatch.setattr(trying, "make_adapter", make)
    monkeypatch.setattr(trying, "time", SimpleNamespace(monotonic=lambda: clock))
    for seconds in (trying.TRAINING_SECONDS, trying.MORE_SECONDS):
        left.clear()
        trying.improve(adapter, result, model, job, seconds=seconds)
        assert left == sorted(left, reverse=True)
        assert (seconds - 2 < left[0] < seconds, left[-1]) == (True, 10)


def test_a_training_without_time_leaves_the_adapter(
    result: PlanResult, adapter: generating.Adapter, model: trying.Model
) -> None:
    same, said, over = trying.improve(adapter, result, model, jobs.Job(120), seconds=1e-6)
    assert over, "more time may help"
    assert "stays as it was" in said
    assert (same.folder / WEIGHTS).read_bytes() == (adapter.folder / WEIGHTS).read_bytes()


def test_more_time_that_does_not_help_leaves_the_trained_adapter(
    result: PlanResult,
    adapter: generating.Adapter,
    model: trying.Model,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = jobs.Job(120)
    trained = trying.improve(adapter, result, model, job).adapter
    fast_training(monkeypatch.setattr, steps=12, lr=1e-4)
    same, said, _ = trying.improve(trained, result, model, job)
    assert same is trained
    assert "stays as it was" in said


@pytest.mark.parametrize("how", ["cancel", "stop"])
@pytest.mark.parametrize("step", ["Training", "Checking"])
def test_a_canceled_training_leaves_nothing_and_a_stopped_one_the_best_so_far(
    how: str,
    step: str,
    bank: Bank,
    model: trying.Model,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A training is stopped, and its adapter checked; or the check is left out."""
    result, job = planned(bank, 160), jobs.Job(120)
    adapter, report, checked = generating.make_adapter(result, job), job.report, list[str]()
    job.call.stream.opened = True  # somebody waits, however slow this machine is

    def end_in_step(text: str, *numbers: int, **more: int) -> None:
        report(text, *numbers, **more)
        checked.extend([text] * text.startswith("Checking"))
        if (len(checked) if step == "Checking" else more.get("steps", 0)) > 10:
            job.cancel() if how == "cancel" else setattr(job, "stopped", True)

    monkeypatch.setattr(job, "report", end_in_step)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if how == "cancel":
        with pytest.raises(jobs.Canceled):
            trying.improve(adapter, result, model, job)
        assert list(tmp_path.iterdir()) == []
        return
    improved, said, over = trying.improve(adapter, result, model, job)
    assert over, "more time may help"
    outcome = improved.generation.outcome
    assert outcome.training
    assert outcome.training.seen_rows in said
    assert outcome.interrupted
    assert outcome.interrupted.stage == {"Training": "training", "Checking": "check"}[step]
    assert bool(outcome.check) is (step == "Training")


def test_a_training_that_is_stopped_as_it_begins_leaves_the_adapter(
    result: PlanResult, adapter: generating.Adapter, model: trying.Model
) -> None:
    job = jobs.Job(120)
    job.stopped = True
    same, said, over = trying.improve(adapter, result, model, job)
    assert over, "more time may help"
    assert same is adapter
    assert said == (
        "The training was stopped before there was anything to keep: the adapter stays as it was."
    )


@pytest.mark.parametrize("name", ["", "data-base-lorameta", "ann/Data-Base-lorameta"])
def test_no_public_repo_is_named_after_a_private_dataset(
    name: str,
    result: PlanResult,
    adapter: generating.Adapter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(generating, "default_repo_id", lambda *_: "ann/data-base-lorameta")
    monkeypatch.setattr(generating, "Hub", lambda _: SimpleNamespace(user=lambda: "ann"))
    private = replace(result.plan, dataset=replace(result.plan.dataset, private=True))
    hidden = replace(result, plan=private)
    public, job = Consent(False), jobs.Job(60)
    with raises_code("page.needs-account"):
        generating.find_target(hidden, name, public, False, job)
    with raises_code("repo.name-reveals-dataset") as caught:
        generating.find_target(hidden, name, public, "token", job)
    assert blocks.advice(caught.value) == ["Type another name."]
    assert generating.chosen_name(hidden, "other", "ann") == "ann/other"


@pytest.mark.parametrize("tested", [False, True])
def test_an_adapter_is_published_as_it_is_with_a_card_of_the_repo(
    tested: bool, result: PlanResult, adapter: generating.Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    published: dict[str, bytes] = {}

    def upload(folder: Path, *_: object) -> SimpleNamespace:
        published.update({path.name: path.read_bytes() for path in folder.iterdir()})
        return SimpleNamespace(url="https://hub/ann/x")

    if tested:
        check = checked(RIGHT)
        made = make.make_adapter(result.plan)
        outcome = replace(made.outcome, check=check)
        adapter = generating.Adapter("topic3", replace(made, outcome=outcome)).save(jobs.Job(60))
    marked = (adapter.folder / WEIGHTS).read_bytes() + b"trained"
    (adapter.folder / WEIGHTS).write_bytes(marked)
    before = {path.name: path.read_bytes() for path in adapter.folder.iterdir()}
    target = Target("ann/x", None, True, False, ())
    monkeypatch.setattr(generating, "target_for_dataset", lambda *_, **__: target)
    monkeypatch.setattr(generating, "publish_folder", upload)
    monkeypatch.setattr(Hub, "user", lambda self: "ann")
    job = jobs.Job(60)
    assert generating.find_target(result, "ann/x", Consent(), "hf_token", job) is target
    saved = generating.publish(adapter, target, "hf_token", job)
    assert (saved.published.url, saved.generation) == ("https://hub/ann/x", adapter.generation)
    card = published.pop("README.md").decode()
    assert "path/to/this/folder" in before.pop("README.md").decode()
    assert "path/to/this/folder" not in card
    assert "ann/x" in card
    assert ("## Checked on 16 rows" in card) is tested
    assert ("Likely to help" in card) is tested
    assert published == before
    assert "path/to/this/folder" in (adapter.folder / "README.md").read_text(), "of the download"
