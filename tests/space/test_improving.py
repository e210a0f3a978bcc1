"""Training an adapter further in the Space, with a tiny base model."""

import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from tests.support.running_space import SPACE
from tests.training import tiny

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from hf_lorameta import plan  # noqa: E402 - they import torch
from hf_lorameta.bank.bank import Bank  # noqa: E402 - they import torch
from hf_lorameta.cards.model_card import render_card  # noqa: E402
from hf_lorameta.engines.scoring import Report, Scores  # noqa: E402
from hf_lorameta.environment import install_requirement  # noqa: E402 - they import torch
from hf_lorameta.hub.client import Hub  # noqa: E402
from hf_lorameta.pipeline.publish import Target  # noqa: E402
from hf_lorameta.recipe import Recipe  # noqa: E402 - they import torch
from hf_lorameta.training.further import settings as few_rows_settings  # noqa: E402
from hf_lorameta.training.settings import Settings  # noqa: E402

sys.path.insert(0, str(SPACE))
try:
    from views import result as result_view
    from work import generating, jobs, trying
    from work.planning import PlanResult, RequestError
finally:
    sys.path.remove(str(SPACE))

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return tiny.write_bank(tmp_path_factory.mktemp)


@pytest.fixture
def result(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> PlanResult:
    """A plan for a topic that the bank does not have."""

    def settings(rows: int, rank: int, seed: int, others_decide: bool = False) -> Settings:
        return Settings(
            rank=rank, steps=12, lr=0.02, warmup=2, evaluate_every=4, patience=2, seed=seed
        )

    monkeypatch.setattr(few_rows_settings, "settings_for", settings)
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
    result: PlanResult, adapter: generating.Adapter, bank: Bank
) -> None:
    assert trying.why_not_improve(result, bank) == ""
    job = jobs.Job(120)
    improved = trying.improve(adapter, result, bank, job)
    assert improved.adapter is not None
    assert improved.adapter.trained is not None
    card = render_card(improved.adapter.trained, None)
    assert card == improved.adapter.read("README.md")
    rows = len(trying.rows_to_train(result))
    assert f"Trained on {rows} rows" in improved.adapter.read("README.md")
    assert "It trains on other rows of the dataset" in improved.adapter.read("README.md")
    assert "Trained on" not in adapter.read("README.md")
    folders = adapter.folder, improved.adapter.folder
    first, second = ((folder / WEIGHTS).read_bytes() for folder in folders)
    assert first != second
    provenance = json.loads(improved.adapter.read("recipe.json"))
    assert provenance["training"]["given_rows"]
    assert f"Trained on {rows} of your rows" in result_view.improved_html(improved)


@pytest.mark.parametrize(
    ("samples", "tested", "trained"),
    [(120, 19, 100), (30, 15, 15), (15, 7, 8), (14, 14, 0), (6, 0, 6)],
)
def test_the_adapter_is_not_tested_on_rows_that_it_was_trained_on(
    result: PlanResult, samples: int, tested: int, trained: int
) -> None:
    rows = [(f"Question {i}?", "yes" if i < samples // 2 else "no") for i in range(samples)]
    drawn = replace(result, samples=rows)
    to_test = {row for part in trying.testable_rows(drawn) for row in part}
    to_train = {*trying.rows_to_train(drawn)}
    assert (len(to_test), len(to_train)) == (tested, trained)
    assert not to_test & to_train
    assert {output for _, output in to_train} == ({"yes", "no"} if trained else set())


def test_a_training_without_gain_leaves_the_adapter(
    result: PlanResult,
    adapter: generating.Adapter,
    bank: Bank,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def settings(rows: int, rank: int, seed: int, others_decide: bool = False) -> Settings:
        return Settings(rank=rank, steps=4, lr=1e-9, warmup=1, evaluate_every=2, seed=seed)

    monkeypatch.setattr(few_rows_settings, "settings_for", settings)
    improved = trying.improve(adapter, result, bank, jobs.Job(120))
    assert improved.adapter is None
    assert "lm-unsure" in result_view.improved_html(improved)


def test_a_canceled_training_leaves_nothing(
    result: PlanResult,
    adapter: generating.Adapter,
    bank: Bank,
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
        trying.improve(adapter, result, bank, job)
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_would_take_too_long_is_refused(
    result: PlanResult, adapter: generating.Adapter, bank: Bank
) -> None:
    job = jobs.Job(120)
    job.time_limit = 1e-6
    with pytest.raises(trying.TooSlowError, match="longer here than this page allows"):
        trying.improve(adapter, result, bank, job)


def test_the_page_says_why_it_cannot_train(
    result: PlanResult, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = PlanResult(result.plan, result.samples[:5], "few")
    reason = trying.why_not_improve(few, bank)
    assert reason == "Not possible here: 5 labeled rows to train on, expected at least 8."
    monkeypatch.setitem(sys.modules, "torch", None)
    reason = trying.why_not_improve(result, bank)
    assert reason == "Not possible here: torch is not installed."
    form = result_view.improve_text(reason, "hf-lorameta generate user/data --train 16 -o x")
    assert "<form" not in form
    install = shlex.join(["pip", "install", install_requirement("eval", remote=True)])
    assert f"<code>{install}\nhf-lorameta generate" in unescape(form)


@pytest.mark.parametrize("name", ["", "data-base-lorameta", "ann/Data-Base-lorameta"])
def test_no_public_repo_is_named_after_a_private_dataset(
    name: str, result: PlanResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generating, "default_repo_id", lambda *_: "ann/data-base-lorameta")
    private = replace(result.plan, dataset=replace(result.plan.dataset, private=True))
    hidden = replace(result, plan=private)
    with pytest.raises(RequestError, match="would reveal its name"):
        generating.target_name(hidden, generating.Destination(name, False), "ann")
    for destination in (generating.Destination(name), generating.Destination("other", False)):
        assert generating.target_name(hidden, destination, "ann").startswith("ann/")


@pytest.mark.parametrize("tested", [False, True])
def test_a_trained_adapter_is_published_with_a_card_of_the_repo(
    tested: bool, result: PlanResult, adapter: generating.Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    published: dict[str, bytes] = {}

    def publish(folder: Path, *_: object) -> str:
        published.update({path.name: path.read_bytes() for path in folder.iterdir()})
        return "https://hub/ann/x"

    marked = (adapter.folder / WEIGHTS).read_bytes() + b"trained"
    (adapter.folder / WEIGHTS).write_bytes(marked)
    adapter.seconds, adapter.trained = 1.0, result.plan.card_data(4)
    before = {path.name: path.read_bytes() for path in adapter.folder.iterdir()}
    target = Target("ann/x", None, True, False, ())
    monkeypatch.setattr(generating, "resolve_target", lambda *_, **__: target)
    monkeypatch.setattr(generating, "check_no_overwrite", lambda _: None)
    monkeypatch.setattr(generating, "publish_folder", publish)
    monkeypatch.setattr(Hub, "user", lambda self: "ann")
    scores = {name: Scores(1.25, 0.5, 0.5, 0.5, 4) for name in ("base", "generated")}
    report = Report(scores) if tested else None
    done = generating.make_and_publish(
        result, generating.Destination("ann/x"), "hf_token", jobs.Job(60), report, adapter
    )
    assert done == generating.Published("https://hub/ann/x", "ann/x", True, 1.0)
    card = published.pop("README.md").decode()
    assert "path/to/this/folder" in before.pop("README.md").decode()
    assert "path/to/this/folder" not in card
    assert "ann/x" in card
    assert ("## What was measured" in card) is tested
    assert published == before
    assert "path/to/this/folder" in adapter.read("README.md"), "of the download"
