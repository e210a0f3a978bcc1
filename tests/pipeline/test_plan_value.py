"""A plan can be printed and tabulated, and holds no rows."""

from dataclasses import replace
from pathlib import Path

import pytest

from hf_lorameta import Plan, plan
from hf_lorameta.bank.index import Index
from hf_lorameta.demo import TRAIN_FILE
from hf_lorameta.pipeline.make import make_adapter
from tests.support.plain_bank import plain_bank


@pytest.fixture
def result(data: Path) -> Plan:
    return plan(data, plain_bank())


def test_a_plan_holds_no_text_of_a_local_dataset(result: Plan) -> None:
    assert "question 1" not in repr(vars(result))


def test_an_adapter_of_a_private_bank_is_private(
    result: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = replace(result, dataset=replace(result.dataset, id="user/data", private=False))
    assert not public.private
    assert not public.record.private
    monkeypatch.setattr(Index, "private_parts", 1)
    assert public.private
    assert public.record.private
    assert make_adapter(public).private


def test_a_plan_is_printed_with_the_largest_coefficients(result: Plan) -> None:
    read = 'read with columns="input=input,output=output"'
    assert repr(result) == f"Plan(26 adapters of local bank for a local dataset, {read})"
    lines = str(result).splitlines()
    assert lines[1].startswith(result.neighbors()[0].label)
    assert lines[6].startswith("The other 21 have")
    assert len(lines) <= 12, "the verdict is on a small screen"
    assert lines[-1] == str(result.verdict)


def test_html_for_notebooks_is_escaped(result: Plan) -> None:
    bank = result.bank
    entries = list(bank.index.entries)
    first = result.active_indices[0]
    entries[first] = entries[first].model_copy(update={"title": "<script>x</script>"})
    bank.index = bank.index.model_copy(update={"entries": tuple(entries)})
    html = replace(result)._repr_html_()
    assert "&lt;script&gt;" in html
    assert "<script>" not in html
    assert "read with columns=&quot;input=input,output=output&quot;" in html
    assert html.count("<tr>") == len(result.neighbors()) + 1


def test_a_dataset_is_named_by_its_title_if_the_bank_states_one() -> None:
    planned = plan(TRAIN_FILE)
    first, second = planned.neighbors()[:2]
    assert first.title == "MathDial (what a tutor does)"
    for text in (str(planned), planned._repr_html_()):
        assert text.index(first.title) < text.index(str(second.title))
        assert first.dataset not in text
