"""The titles in the embedded bank."""

from hf_lorameta.bank.open_bank import embedded_bank
from tests.tools.bank_titles import titles, with_titles


def test_the_embedded_bank_has_the_titles_of_the_table() -> None:
    index = embedded_bank().index
    assert with_titles(index) == index, "run python -m tests.tools.bank_titles"
    stated = [entry.title for entry in index.entries]
    assert all(stated)
    assert sorted(map(str, stated)) == sorted(set(titles().values()))
