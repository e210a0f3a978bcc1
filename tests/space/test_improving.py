"""Training an adapter further in the Space, with a tiny base model."""

import json
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.fast_training import fast_training
from tests.support.running_space import SPACE
from tests.training import tiny

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from hf_lorameta import plan  # noqa: E402 - they import torch
from hf_lorameta.bank.bank import Bank  # noqa: E402 - they import torch
from hf_lorameta.cards.results import Check, RightAnswers  # noqa: E402
from hf_lorameta.errors import UsageError  # noqa: E402
from hf_lorameta.hub.client import Hub  # noqa: E402
from hf_lorameta.pipeline.publish import Target  # noqa: E402
from hf_lorameta.pipeline.session import Session  # noqa: E402
from hf_lorameta.recipe import Recipe  # noqa: E402 - they import torch

sys.path.insert(0, str(SPACE))
try:
    from views import blocks
    from work import generating, jobs, trying
    from work.planning import PlanResult
finally:
    sys.path.remove(str(SPACE))

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return tiny.write_bank(tmp_path_factory.mktemp)


@pytest.fixture
def session(bank: Bank) -> Session:
    return Session(bank, token=False)


@pytest.fixture
def result(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> PlanResult:
    """A plan for a topic that the bank does not have."""
    fast_training(monkeypatch.setattr, steps=12, patience=2)
    rows = tiny.rows(3)
    return PlanResult(
        plan(rows, bank, Recipe(rank=4)), [(row["input"], row["output"]) for row in rows], "topic3"
    )


@pytest.fixture
def adapter(result: PlanResult) -> Iterator[generating.Adapter]:
    made = generating.make_adapter(result, jobs.Job(120))
    yield made
    made.discard()


def test_training_gives_another_adapter_whose_card_says_trained(
    result: PlanResult, adapter: generating.Adapter, session: Session
) -> None:
    assert trying.can_improve(result)
    job = jobs.Job(120)
    improved, message = trying.improve(adapter, result, session, job)
    assert improved is not None
    assert improved.trained
    assert not adapter.trained
    training = improved.generation.outcome.training
    assert training
    assert training.used_rows == len(trying.rows_of(result).train)
    rows = training.rows
    assert f"Trained on {rows} rows" in improved.read("README.md")
    assert "The command draws other rows of the dataset" in improved.read("README.md")
    assert "Trained on" not in adapter.read("README.md")
    folders = adapter.folder, improved.folder
    first, second = ((folder / WEIGHTS).read_bytes() for folder in folders)
    assert first != second
    provenance = json.loads(improved.read("recipe.json"))
    assert provenance["training"]["given_rows"]
    assert f"Trained on {rows} of your rows" in message


@pytest.mark.parametrize(
    ("samples", "tested", "trained"),
    [(120, 16, 104), (30, 16, 14), (15, 15, 0), (3, 0, 0)],
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


@pytest.mark.parametrize("late", [False, True])
def test_a_training_without_gain_or_time_leaves_the_adapter(
    late: bool,
    result: PlanResult,
    adapter: generating.Adapter,
    session: Session,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if late:
        monkeypatch.setattr(jobs.Job, "seconds_left", 1e-6)
    else:
        fast_training(monkeypatch.setattr, steps=4, lr=1e-9, warmup=1, evaluate_every=2)
    improved, message = trying.improve(adapter, result, session, jobs.Job(120))
    assert improved is None
    assert "No training step helped" in message
    assert not trying.can_improve(PlanResult(result.plan, result.samples[:5], "few"))


def test_a_canceled_training_leaves_nothing(
    result: PlanResult,
    adapter: generating.Adapter,
    session: Session,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    job = jobs.Job(120)
    report = job.report

    def cancel_in_training(text: str, done: int = 0, total: int = 0) -> None:
        if text.startswith("Training") and done == 2:
            job.cancel()
        report(text, done, total)

    monkeypatch.setattr(job, "report", cancel_in_training)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(jobs.Canceled):
        trying.improve(adapter, result, session, job)
    assert list(tmp_path.iterdir()) == []


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
    chosen = generating.Destination(name, False)
    with pytest.raises(jobs.SpaceError, match="Saving needs an account: sign in first"):
        generating.publish(hidden, adapter, chosen, False, jobs.Job(60))
    with pytest.raises(UsageError, match="would reveal its name") as caught:
        generating.publish(hidden, adapter, chosen, "token", jobs.Job(60))
    assert blocks.advice(caught.value) == ["Type another name."]
    other = generating.chosen_name(hidden, generating.Destination("other", False), "ann")
    assert other == "ann/other"


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
        adapter.add_check(Check(16, 2.0, 1.0, 1.0, 1, right=right))
        assert json.loads(adapter.read("recipe.json"))["check"]["right"]["end"] == 12
        with zipfile.ZipFile(adapter.archive) as opened:
            assert opened.read("README.md").decode() == adapter.read("README.md")
    before = {path.name: path.read_bytes() for path in adapter.folder.iterdir()}
    target = Target("ann/x", None, True, False, ())
    monkeypatch.setattr(generating, "target_for_dataset", lambda *_, **__: target)
    monkeypatch.setattr(generating, "publish_folder", upload)
    monkeypatch.setattr(Hub, "user", lambda self: "ann")
    destination, job = generating.Destination("ann/x"), jobs.Job(60)
    done = generating.publish(result, adapter, destination, "hf_token", job)
    assert done == generating.Published("https://hub/ann/x", "ann/x", True, adapter.seconds)
    card = published.pop("README.md").decode()
    assert "path/to/this/folder" in before.pop("README.md").decode()
    assert "path/to/this/folder" not in card
    assert "ann/x" in card
    assert ("## Checked on 16 rows" in card) is tested
    assert ("Likely to help" in card) is tested
    assert published == before
    assert "path/to/this/folder" in adapter.read("README.md"), "of the download"
