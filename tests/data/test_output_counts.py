"""Counts of output tokens, and what outputs copy from their inputs."""

from collections.abc import Sequence

from hf_lorameta.data.output_counts import COPY_ROWS, OutputCounter


def letters(texts: Sequence[str]) -> list[list[int]]:
    return [["ab ".index(letter) for letter in text] for text in texts]


def test_copies_are_measured_on_the_first_rows_alone() -> None:
    seen: list[int] = []

    def encode(texts: Sequence[str]) -> list[list[int]]:
        seen.append(len(texts))
        return letters(texts)

    counter = OutputCounter(encode, 4, end=3)
    rows = [(" ", "a"), ("b", "a")] * COPY_ROWS  # of " a", the space is in every other input
    counter.add(rows)
    first, later, copied, novelty = counter.counts
    assert copied == 0.5
    assert novelty == 1 / COPY_ROWS  # all outputs are the same
    assert first.tolist() == [0, 0, 2 * COPY_ROWS, 0]
    assert later.tolist() == [2 * COPY_ROWS, 0, 0, 2 * COPY_ROWS]
    assert sum(seen) == 3 * COPY_ROWS  # all outputs, half of the inputs


def test_rows_with_a_blank_output_are_not_counted() -> None:
    counter = OutputCounter(letters, 4, end=3)
    counter.add([("a", ""), ("a", " "), ("", "b")])
    assert counter.counts.first.sum() == 1
