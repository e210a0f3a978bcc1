"""The attributions of the embedded bank name every source."""

from hf_lorameta.bank.bank import Bank
from tests.tools.third_party import FILE, render


def test_the_attributions_are_those_of_the_embedded_bank() -> None:
    bank = Bank.embedded()
    assert FILE.read_text("utf-8") == render(bank)
    assert all(entry.source and entry.license for entry in bank.index.entries)


def test_the_embedded_bank_is_small_and_complete() -> None:
    bank = Bank.embedded()
    assert bank.verify() == []
    assert bank.index.general is not None
    assert bank.output_prior is not None
    size = sum(path.stat().st_size for path in bank.folder.rglob("*") if path.is_file())
    assert size <= 45_000_000
