"""Training an adapter further in the Space, with a tiny base model."""

import json
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.fast_training import fast_training
from tests.training import tiny

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from hf_lorameta import plan  # noqa: E402 - they import torch
from hf_lorameta.bank.bank import Bank  # noqa: E402 - they import torch
from hf_lorameta.cards.results import Check, RightAnswers  # noqa: E402
from hf_lorameta.engines.scoring import Report  # noqa: E402
from hf_lorameta.engines.transformers.lora_layer import AdaptedLinear  # noqa: E402
from hf_lorameta.errors import UsageError  # noqa: E402
from hf_lorameta.hub.client import Hub  # noqa: E402
from hf_lorameta.pipeline.publish import Consent, Target  # noqa: E402
from hf_lorameta.pipeline.session import Session  # noqa: E402
from hf_lorameta.recipe import Recipe  # noqa: E402 - they import torch
from views import blocks  # noqa: E402
from work import generating, jobs, trying  # noqa: E402
from work.planning import PlanResult  # noqa: E402

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return tiny.write_bank(tmp_path_factory.mktemp)


@pytest.fixture
def model(bank: Bank) -> trying.Model:
    return trying.Model(Session(bank, token=False))


class Shown(list[tuple[generating.Adapter, Report | None, str]]):
    """What was shown, the latest last."""

    def add(self, adapter: generating.Adapter, report: Report | None, said: str) -> None:
        self.append((adapter, report, said))


@pytest.fixture
def result(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> PlanResult:
    """A plan for a topic that the bank does not have."""
    fast_training(monkeypatch.setattr, steps=12)
    rows = tiny.rows(3)
    return PlanResult(
        plan(rows, bank, Recipe(rank=4)), [(row["input"], row["output"]) for row in rows], "topic3"
    )


@pytest.fixture
def adapter(result: PlanResult) -> Iterator[generating.Adapter]:
    made = generating.make_adapter(result, jobs.Job(120))
    yield made
    made.discard()


def test_answers_are_counted_the_adapter_is_trained_and_counted_again(
    result: PlanResult, adapter: generating.Adapter, model: trying.Model
) -> None:
    shown, job = Shown(), jobs.Job(120)
    assert not trying.improve(adapter, result, model, job, shown.add), "no time was missing"
    (first, counted, _), (improved, report, said) = shown
    assert first is adapter
    assert adapter.generation.outcome.training is None
    training = improved.generation.outcome.training
    assert training
    assert training.used_rows == len(trying.rows_of(result).train)
    assert said == f"Trained on {training.rows} of your rows."
    assert counted is not None
    assert report is not None
    assert len(report.samples) == len(trying.rows_of(result).check)
    before = [sample.outputs["generated"] for sample in counted.samples]
    assert [sample.outputs["untrained"] for sample in report.samples] == before
    for made, answers in ((adapter, counted), (improved, report)):
        check = json.loads(made.read("recipe.json"))["check"]
        right = sum(answers.is_right(sample, "generated") for sample in answers.samples)
        assert check["right"]["end"] == right
    assert f"Trained on {training.rows} rows" in improved.read("README.md")
    assert "The command draws other rows of the dataset" in improved.read("README.md")
    assert "Trained on" not in adapter.read("README.md")
    folders = adapter.folder, improved.folder
    weights = [(folder / WEIGHTS).read_bytes() for folder in folders]
    assert weights[0] != weights[1]
    assert json.loads(improved.read("recipe.json"))["training"]["given_rows"]


def test_several_labels_of_a_trained_adapter_are_counted_as_those_of_the_base_model(
    result: PlanResult, model: trying.Model
) -> None:
    several = replace(result.plan, dataset=replace(result.plan.dataset, form="several"))
    result = replace(
        result,
        plan=several,
        samples=[(text, words.replace(" ", ", ")) for text, words in result.samples],
    )
    made, shown = generating.make_adapter(result, jobs.Job(120)), Shown()
    trying.improve(made, result, model, jobs.Job(120), shown.add)
    (_, counted, _), (trained, report, _) = shown
    for adapter, answers in ((made, counted), (trained, report)):
        assert answers is not None
        scores = answers.scores["generated"]
        graded = json.loads(adapter.read("recipe.json"))["check"]["graded"]
        assert (graded["measure"], graded["end"]) == ("label_f1", scores.label_f1)
        assert scores.right == sum(answers.is_right(row, "generated") for row in answers.samples)
        adapter.discard()


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

    def try_in_training(text: str, done: int = 0, total: int = 0) -> None:
        layers = model.session.evaluator.model.modules()
        if any(isinstance(layer, AdaptedLinear) for layer in layers) and not tried:
            thread = threading.Thread(
                target=lambda: tried.append(trying.answers(adapter, model, "topic3 a b", asked))
            )
            thread.start()
            thread.join(60)
        report(text, done, total)

    monkeypatch.setattr(job, "report", try_in_training)
    trying.improve(adapter, result, model, job, Shown().add)
    assert tried == [alone]
    monkeypatch.setattr(trying, "_TRIES_SECONDS", 0.3)
    with model.one_try(jobs.Job(60)):
        start = time.monotonic()
        model.let_tries_go(job)
    assert time.monotonic() - start >= 0.3, "a training waits for tries"
    start = time.monotonic()
    model.let_tries_go(job)
    assert time.monotonic() - start < 0.3


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


@pytest.mark.parametrize(
    ("samples", "tested", "trained"),
    [(120, 16, 104), (24, 6, 18), (15, 0, 15), (7, 0, 0)],
)
def test_the_adapter_is_not_tested_on_rows_that_it_was_trained_on(
    result: PlanResult, samples: int, tested: int, trained: int
) -> None:
    rows = [(f"Question {i}?", "yes" if i < samples // 2 else "no") for i in range(samples)]
    drawn = replace(result, samples=rows)
    rows_of = trying.rows_of(drawn)
    to_test, to_train = {*rows_of.check}, {*rows_of.train}
    assert (len(to_test), len(to_train)) == (tested, trained)
    assert not to_test & (to_train | {*rows_of.prompt})
    assert {output for _, output in to_train} == ({"yes", "no"} if trained else set())


@pytest.mark.parametrize(("seconds", "over"), [(120.0, False), (1e-6, True)])
def test_a_training_without_gain_or_time_leaves_the_adapter(
    seconds: float,
    over: bool,
    result: PlanResult,
    adapter: generating.Adapter,
    model: trying.Model,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not over:
        fast_training(monkeypatch.setattr, steps=4, lr=1e-9, warmup=1, evaluate_every=2)
    shown, job = Shown(), jobs.Job(120)
    assert trying.improve(adapter, result, model, job, shown.add, seconds=seconds) == over
    assert [made for made, _, _ in shown] == [adapter, adapter]
    assert "No training step helped" in shown[-1][2]


@pytest.mark.parametrize("how", ["cancel", "stop"])
def test_a_canceled_training_leaves_nothing_and_a_stopped_one_the_best_so_far(
    how: str,
    result: PlanResult,
    adapter: generating.Adapter,
    model: trying.Model,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    job, shown = jobs.Job(120), Shown()
    report = job.report

    def end_in_training(text: str, done: int = 0, total: int = 0) -> None:
        report(text, done, total)
        if text.startswith("Training"):
            job.cancel() if how == "cancel" else setattr(job, "stopped", True)

    monkeypatch.setattr(job, "report", end_in_training)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if how == "cancel":
        with pytest.raises(jobs.Canceled):
            trying.improve(adapter, result, model, job, shown.add)
        assert list(tmp_path.iterdir()) == []
    else:
        assert trying.improve(adapter, result, model, job, shown.add), "more time may help"
        assert len(shown) == 2
    assert shown[0][0] is adapter


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
    with pytest.raises(jobs.SpaceError, match="Saving needs an account: sign in first"):
        generating.find_target(hidden, name, public, False, job)
    with pytest.raises(UsageError, match="would reveal its name") as caught:
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

    marked = (adapter.folder / WEIGHTS).read_bytes() + b"trained"
    (adapter.folder / WEIGHTS).write_bytes(marked)
    if tested:
        right = RightAnswers(most_frequent=7, base=2, end=12)
        adapter.add_check(Check(16, 2.0, 1.0, right=right))
        assert json.loads(adapter.read("recipe.json"))["check"]["right"]["end"] == 12
        with zipfile.ZipFile(adapter.archive) as opened:
            assert opened.read("README.md").decode() == adapter.read("README.md")
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
    assert "path/to/this/folder" in adapter.read("README.md"), "of the download"
