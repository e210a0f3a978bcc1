"""The card of a bank and its index."""

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.index import parse_index
from hf_lorameta.bank.share import bank_card


def test_licenses_on_a_banks_card_start_no_markup() -> None:
    bank = Bank.embedded()
    first, *others = bank.index.entries
    odd = first.model_copy(update={"license": "mit` ![x](http://x.y/z) <img>\n# Title\n---"})
    bank.index = bank.index.model_copy(update={"entries": [odd, *others]})
    text = bank_card(bank, "user/bank")
    assert "`mit x (http //x.y/z) img Title ---`" in text
    assert "`public domain (NDT waiver)`" in text
    assert text.count("\n# ") == 1


def test_the_embedded_index_is_written_as_it_was_read() -> None:
    bank = Bank.embedded()
    raw = (bank.folder / "bank.json").read_bytes()
    assert parse_index(raw, bank.folder).to_bytes() == raw
