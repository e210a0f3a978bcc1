"""The banks in this package, and their indexes."""

import pytest

from hf_lorameta.bank.index import parse_index
from hf_lorameta.bank.maintain import verify
from hf_lorameta.bank.open_bank import embedded_bank
from hf_lorameta.embedded import EMBEDDED


@pytest.mark.parametrize("base", EMBEDDED)
def test_an_embedded_bank_is_complete_and_its_index_is_written_as_it_was_read(base: str) -> None:
    bank = embedded_bank(base)
    raw = (bank.folder / "bank.json").read_bytes()
    assert parse_index(raw, bank.folder).to_bytes() == raw
    assert (bank.index.base_model, verify(bank)) == (base, [])
