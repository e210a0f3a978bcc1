"""The journal of answers: what a killed command leaves, and what the next one makes of it."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_lorameta.errors import UsageError
from hf_lorameta.files import hidden_sibling
from hf_lorameta.pipeline.journal import Journal

ANSWERS: dict[int, list[Any]] = {
    0: [["a", 0.5, []]],
    2: [["ü\n", 0.25, [0.1]], ["", None, []]],
    1: [["b", 1.0, []]],
}


def _filled(target: Path) -> bytes:
    journal = Journal(target, "digest")
    for number, answers in ANSWERS.items():
        journal.add(number, answers)
    journal.close()
    return journal.path.read_bytes()


@settings(max_examples=60)
@given(st.floats(0, 1))
def test_any_beginning_keeps_the_whole_blocks(
    tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    target = tmp_path_factory.mktemp("journal") / "out.csv"
    content = _filled(target)
    cut = content[: round(share * len(content))]
    hidden_sibling(target, ".answers").write_bytes(cut)
    again = Journal(target, "digest")
    whole = max(cut.count(b"\n") - 1, 0)
    assert len(again) == whole
    for number in list(ANSWERS)[:whole]:
        assert again.read(number) == ANSWERS[number]
    for number, answers in ANSWERS.items():
        if number not in again:
            again.add(number, answers)
    again.close()
    assert again.path.read_bytes() == content
    again.remove()
    assert list(target.parent.iterdir()) == []


def test_answers_of_another_request_are_dropped(tmp_path: Path) -> None:
    _filled(tmp_path / "out.csv")
    other = Journal(tmp_path / "out.csv", "another digest")
    assert len(other) == 0
    assert 0 not in other
    other.close()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        Journal(tmp_path / "none" / "out.csv", "digest")
    assert str(tmp_path / "none") in caught.value.hint
