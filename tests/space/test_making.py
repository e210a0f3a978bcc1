"""What a call of /generate does with the verdict: it publishes, or says why it did not."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hf_lorameta.pipeline.publish import Consent
from hf_lorameta.pipeline.verdict import verdict_on
from tests.cards.examples import checked
from tests.support.running_space import missing

if why := missing("gradio"):
    pytest.skip(why, allow_module_level=True)

from work import making
from work.jobs import Job

CHECKS = {
    "likely": {"generated": 12, "base": 2},
    "unsure": {"generated": 8, "base": 8},
    "unlikely": {"generated": 2, "base": 9},
}


@pytest.mark.parametrize(
    ("level", "anyway", "published"),
    [
        ("likely", False, True),
        ("unsure", False, True),
        ("unlikely", False, False),
        ("unlikely", True, True),
    ],
)
def test_an_adapter_that_is_unlikely_to_help_is_published_only_with_consent(
    level: str, anyway: bool, published: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = verdict_on(checked(CHECKS[level]))
    assert verdict.level == level
    made = SimpleNamespace(
        generation=SimpleNamespace(verdict=verdict, to_dict=lambda: {"verdict": verdict.to_dict()})
    )
    target: Any = SimpleNamespace(repo_id="me/mine", private=True)
    saved: list[Any] = []

    def publish(adapter: Any, to: Any, *_: object) -> Any:
        saved.append(adapter)
        return SimpleNamespace(published=SimpleNamespace(target=to, url="url"))

    monkeypatch.setattr(making, "find_target", lambda *_: target)
    monkeypatch.setattr(making, "make_adapter", lambda *_: made)
    monkeypatch.setattr(making, "publish", publish)
    rows = SimpleNamespace(train=())
    loader: Any = SimpleNamespace(rows_to_improve=lambda _: rows, no_model="no model")
    read: Any = lambda _: SimpleNamespace(name=Path("rows"))  # noqa: E731
    work = making.Making(loader, "hf_token", read, "", Consent(True), anyway)
    for _, stage in work.stages():
        stage(Job(60))
    result = work.to_dict()
    assert result["verdict"]["level"] == level
    assert bool(saved) is published
    assert ("published" in result) is published
    assert ("not_published" in result) is not published
    assert published or result["not_published"]["code"] == verdict.code
