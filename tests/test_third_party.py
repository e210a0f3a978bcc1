"""The attributions of the embedded bank name every source."""

import pytest

from hf_lorameta import open_dataset
from hf_lorameta.bank.open_bank import embedded_bank, open_bank
from hf_lorameta.embedded import EMBEDDED
from hf_lorameta.pipeline.bank_prompts import prompts_like
from tests.tools.third_party import FILE, render


def test_the_attributions_are_those_of_the_embedded_bank() -> None:
    bank = embedded_bank()
    assert FILE.read_text("utf-8") == render(bank)
    assert all(entry.source and entry.license for entry in bank.index.entries)


def test_the_embedded_bank_is_small_and_has_a_general_adapter() -> None:
    bank = embedded_bank()
    assert bank.index.general is not None
    assert bank.output_prior is not None
    size = sum(path.stat().st_size for path in bank.folder.rglob("*") if path.is_file())
    assert size <= 45_000_000


@pytest.mark.parametrize("base", list(EMBEDDED)[1:])
def test_a_small_bank_is_used_for_its_base_model_alone(base: str) -> None:
    bank = open_bank(None, base.lower())
    assert (bank.index.base_model, bank.id, len(bank)) == (base, "embedded bank", 0)
    assert not bank.private
    rows = open_dataset([{"text": "a b", "label": "x"}] * 9)
    prompt, _ = prompts_like(bank)(rows).head(1)[0]
    assert prompt.startswith("<|im_start|>system")
    known, tasks = (
        {(task.name, task.source, task.license) for task in one.index.general.tasks}
        for one in (embedded_bank(), bank)
        if one.index.general
    )
    assert tasks <= known
    size = sum(path.stat().st_size for path in bank.folder.rglob("*") if path.is_file())
    assert size <= 20_000_000
