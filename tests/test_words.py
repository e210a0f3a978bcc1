"""The words of errors and remarks are in one file, and each has a code."""

import pytest

from tests.tools.words import WORDS, problems, words

pytestmark = pytest.mark.unit


def test_each_error_and_remark_has_a_literal_code() -> None:
    assert problems() == []


def test_their_words_are_those_of_the_file() -> None:
    """After a change of wording: ``python -m tests.tools.words --write``."""
    assert words() == WORDS.read_text("utf-8")
