"""The index of a bank."""

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.index import parse_index


def test_the_embedded_index_is_written_as_it_was_read() -> None:
    bank = Bank.embedded()
    raw = (bank.folder / "bank.json").read_bytes()
    assert parse_index(raw, bank.folder).to_bytes() == raw
