"""A session opens the Hub client, the bank and the base model once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hf_lorameta import generate
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.hub import base_model
from hf_lorameta.pipeline import session as session_module
from hf_lorameta.pipeline.session import Session
from hf_lorameta.types import Row
from tests.conftest import Account, Shell
from tests.pipeline.test_check import FakeBase
from tests.support.codes import raises_code
from tests.support.plain_bank import plain_bank


def count_loaded(monkeypatch: pytest.MonkeyPatch, limit: float) -> list[int]:
    """Let sessions load something that needs no model, and return a list with a 1 for each."""
    made: list[int] = []

    def make(*_: object, **__: object) -> FakeBase:
        made.append(1)
        return FakeBase(limit)

    monkeypatch.setattr(session_module, "locate", lambda *_, **__: Path())
    monkeypatch.setattr(TorchEvaluator, "from_folder", make)
    return made


def test_hub_bank_and_base_model_are_opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = count_loaded(monkeypatch, 1)
    with Session() as session:
        assert session.hub is session.hub
        assert session.bank is session.bank
        assert session.evaluator is session.evaluator
    assert loaded == [1]


def test_the_base_model_is_loaded_at_the_banks_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = plain_bank()
    bank.index = bank.index.model_copy(update={"base_revision": "abc"})
    calls: list[Any] = []

    def locate(*args: Any, **_: bool) -> Path:
        calls.append(args)
        raise KeyboardInterrupt

    monkeypatch.setattr(session_module, "locate", locate)
    with pytest.raises(KeyboardInterrupt):
        _ = Session(bank, token="hf_x").evaluator
    assert calls == [(bank.index.base_model, "abc", "hf_x")]


def test_that_4_bit_weights_are_used_is_announced_unless_a_remark_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "hf_lorameta")
    monkeypatch.setattr(base_model, "_from_hub", lambda *_: Path("model.gguf"))
    monkeypatch.setattr(base_model, "dequantized", lambda gguf: gguf.with_suffix(""))
    for announced in (True, False):
        caplog.clear()
        if announced:
            base_model.locate("org/model")
        else:
            Session(plain_bank()).fetch_base_model()
        assert bool(caplog.records) == announced


def test_generate_loads_the_base_model_once_and_reads_the_rows_once(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from hf_lorameta import open_dataset

    loaded, read = count_loaded(monkeypatch, 28), []
    opened = open_dataset(data)

    def rows() -> Iterator[Row]:
        read.append(1)
        return opened.rows()

    counted = replace(opened, rows=rows)
    generation = generate(counted, plain_bank(), top_k=3, check=8)
    assert generation.outcome.check is not None
    assert (loaded, read) == ([1], [1])


def test_a_command_resolves_a_bank_repo_once(cli: Shell, user: Account, tmp_path: Path) -> None:
    from tests.conftest import rows

    repo = f"{user.name}/bank-once"
    bank = plain_bank()
    cli("bank", "push", bank.folder, repo, token=user.token)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(rows(1))
    before = len(cli.hub.requests)
    cli("plan", "-d", path, "--bank", repo, token=user.token)
    paths = [r.path for r in cli.hub.requests[before:]]
    resolutions = [path for path in paths if path.split("?")[0] == f"/api/datasets/{repo}"]
    assert len(resolutions) == 1


def test_a_model_without_its_tokenizer_is_refused() -> None:
    with raises_code("base.no-tokenizer"):
        Session(model=object())  # type: ignore[arg-type]


def test_an_instruction_that_would_be_cut_off_is_refused(data: Path) -> None:
    with Session(plain_bank()) as session:
        assert session.open_dataset(data, instruction="word " * 100).columns.instruction_text
        with raises_code("instruction.too-long", match="1,024"):
            session.open_dataset(data, instruction="word " * 2000)
