"""Saving an adapter, as it was made, with the card of its repo."""

import json
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from hf_lorameta import plan
from hf_lorameta.cards.results import Check, RightAnswers
from hf_lorameta.demo import TRAIN_FILE
from hf_lorameta.hub.client import Hub
from hf_lorameta.pipeline.publish import Target
from tests.support.running_space import SPACE

sys.path.insert(0, str(SPACE))
try:
    from work import generating, jobs, trying
    from work.planning import PlanResult, RequestError
finally:
    sys.path.remove(str(SPACE))


@pytest.fixture(scope="module")
def result() -> PlanResult:
    return PlanResult(plan(TRAIN_FILE), [], "rows")


@pytest.mark.parametrize(
    ("samples", "shots", "tested"), [(120, 3, 16), (12, 3, 9), (7, 3, 4), (6, 0, 0)]
)
def test_rows_of_all_outputs_are_tested_if_there_are_some(
    result: PlanResult, samples: int, shots: int, tested: int
) -> None:
    rows = [(f"Question {i}?", "yes" if i < samples // 2 else "no") for i in range(samples)]
    examples, to_test = trying.testable_rows(replace(result, samples=rows))
    assert (len(examples), len(to_test)) == (shots, tested)
    assert {output for _, output in to_test} == ({"yes", "no"} if tested else set())
    assert not {*examples} & {*to_test}


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
def test_an_adapter_is_published_as_it_is_with_a_card_of_the_repo(
    tested: bool, result: PlanResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = generating.make_adapter(result, jobs.Job(120))
    published: dict[str, bytes] = {}

    def upload(folder: Path, *_: object) -> str:
        published.update({path.name: path.read_bytes() for path in folder.iterdir()})
        return "https://hub/ann/x"

    if tested:
        right = RightAnswers(most_frequent=7, base=2, end=12)
        adapter.add_check(Check(16, 2.0, 1.0, 1.0, 1, right=right))
        assert json.loads(adapter.read("recipe.json"))["check"]["right"]["end"] == 12
        with zipfile.ZipFile(adapter.archive) as opened:
            assert opened.read("README.md").decode() == adapter.read("README.md")
    before = {path.name: path.read_bytes() for path in adapter.folder.iterdir()}
    target = Target("ann/x", None, True, False, ())
    monkeypatch.setattr(generating, "resolve_target", lambda *_, **__: target)
    monkeypatch.setattr(generating, "refuse_overwrite", lambda _: None)
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
