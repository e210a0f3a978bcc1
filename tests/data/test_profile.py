"""Profiles: counts equal those of Counter, memory is constant, tables round-trip; output counts."""

import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_lorameta.data.counts import profile as profile_module
from hf_lorameta.data.counts.output_counts import COPY_ROWS, OutputCounter
from hf_lorameta.data.counts.profile import LENGTHS, Histogram, Profile, ProfileTable, profile_rows
from hf_lorameta.errors import EmptyDatasetError, IntegrityError, UnlabeledDatasetError
from hf_lorameta.types import Row
from tests.support.codes import raises_code

V = 12
TEXT = st.text(alphabet="abcdefghijkl", max_size=8)
ROWS = st.lists(st.tuples(TEXT, TEXT), max_size=40)


def letters(texts: Sequence[str]) -> list[list[int]]:
    return [[ord(c) - ord("a") for c in text] for text in texts]


def as_dict(histogram: Histogram) -> dict[int, int]:
    return dict(zip(histogram.ids.tolist(), histogram.counts.tolist(), strict=True))


def assert_same(a: Profile, b: Profile) -> None:
    assert a.rows == b.rows
    for one, other in ((a.input, b.input), (a.output, b.output)):
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_array_equal(one.counts, other.counts)
        assert (one.ids.dtype, one.counts.dtype) == (other.ids.dtype, other.counts.dtype)


@given(ROWS)
def test_counts_equal_those_of_counter(rows: list[Row]) -> None:
    used = [row for row in rows if row[1]]
    if not used:
        with pytest.raises((EmptyDatasetError, UnlabeledDatasetError)):
            profile_rows(rows, letters, V)
        return
    profile = profile_rows(rows, letters, V)
    inputs, outputs = (
        Counter(id_ for t in side for id_ in letters([t])[0]) for side in zip(*used, strict=True)
    )
    assert profile.rows == len(used)
    assert as_dict(profile.input) == inputs
    assert as_dict(profile.output) == outputs
    assert (np.diff(profile.input.ids) > 0).all()
    both = inputs + outputs
    assert profile.counts(V).tolist() == [both[i] for i in range(V)]
    assert profile.counts(V, "output").tolist() == [outputs[i] for i in range(V)]


@given(ROWS.filter(lambda rows: any(row[1] for row in rows)), st.integers(1, 9))
def test_batch_size_does_not_change_the_profile(rows: list[Row], size: int) -> None:
    profiles = profile_rows(rows, letters, V)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profile_module, "BATCH_ROWS", size)
        assert_same(profile_rows(iter(rows), letters, V), profiles)
        patch.setattr(profile_module, "BATCH_ROWS", 10**9)
        patch.setattr(profile_module, "BATCH_CHARACTERS", size)
        assert_same(profile_rows(iter(rows), letters, V), profiles)


def test_memory_is_independent_of_the_number_of_rows() -> None:
    peaks, most = [], [0]

    def encode(texts: Sequence[str]) -> list[list[int]]:
        most[0] = max(most[0], len(texts))
        return [[1, 2]] * len(texts)

    def rows(count: int) -> Iterator[Row]:
        for i in range(count):
            yield (f"row {i}", f"answer {i}")

    for count in (2_000, 20_000):
        tracemalloc.start()
        assert profile_rows(rows(count), encode, 50).rows == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
    assert peaks[1] < 2 << 20
    assert most[0] <= 512


def test_batches_of_long_rows_are_limited_by_characters() -> None:
    most = 0

    def encode(texts: Sequence[str]) -> list[list[int]]:
        nonlocal most
        most = max(most, sum(map(len, texts)))
        return [[0] for _ in texts]

    profile_rows((("a" * 300_000, "b") for _ in range(40)), encode, 1)
    assert most <= (1 << 20) + 300_001


@pytest.mark.parametrize(
    ("rows", "code", "hint"),
    [
        ([], "rows.none", "--split"),
        ([("a", "")] * 600, "outputs.none", "--columns"),
        ([("a", "b")] * 2, "rows.no-tokens", ""),
    ],
)
def test_a_dataset_without_rows_outputs_or_tokens_is_an_error(
    rows: list[Row], code: str, hint: str
) -> None:
    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [[] for _ in texts]

    with raises_code(code) as raised:
        profile_rows(rows, encode, V)
    assert hint in raised.value.hint


def test_unlabeled_rows_are_counted_if_allowed() -> None:
    profile = profile_rows([("aab", ""), ("c", "")], letters, V, labeled_only=False)
    assert (profile.rows, as_dict(profile.output)) == (2, {})
    assert as_dict(profile.input) == as_dict(profile_rows([("aabc", "a")], letters, V).input)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("input.ids", [1, 0, 1, 3], "the input profiles contain ids or counts out of order"),
        ("input.ids", [0, 0, 1, 3], "the input profiles contain ids or counts out of order"),
        ("input.ids", [0, 1, 1, 99], "the input profiles contain ids or counts out of order"),
        ("input.counts", [1, 1, 0, 1], "the input profiles contain ids or counts out of order"),
        ("input.indptr", [0, 2, 5], "input profiles are inconsistent"),
        (
            "input.indptr",
            np.array([0, 5, 4], np.uint8),
            "input profiles are inconsistent",
        ),
        (
            "input.indptr",
            np.array([0, 0, 4], np.uint8),
            "input profiles contain ids or counts",
        ),
        ("rows", [1.0, 1.0], "expected one-dimensional ones of integers"),
    ],
)
def test_check_rejects_damaged_arrays(name: str, values: Any, message: str) -> None:
    table = ProfileTable.from_profiles(
        [profile_rows([(text, "c")], letters, V) for text in ("ab", "bd")]
    )
    table.check(V)
    assert table.arrays["input.ids"].tolist() == [0, 1, 1, 3]  # may descend between profiles
    damaged = ProfileTable(table.arrays | {name: np.array(values)})
    with pytest.raises(IntegrityError, match=message):
        damaged.check(V)


def test_only_keeps_one_part() -> None:
    profiles = [profile_rows([("ab", "c"), ("b", "dd")], letters, V) for _ in range(3)]
    table = ProfileTable.from_profiles(profiles)
    parts: list[tuple[Literal["input", "output"], str]]
    parts = [("input", "output"), ("output", "input")]
    for part, other in parts:
        only = table.only(part)
        only.check(V)
        assert len(only) == 3
        assert as_dict(getattr(only[2], part)) == as_dict(getattr(profiles[2], part))
        assert getattr(only[2], other).total == 0
    assert table[0].output.total == 3


@pytest.mark.parametrize("wrong", [V, V + 5, 2**40, -1])
def test_token_ids_out_of_range_are_an_error(wrong: int) -> None:
    with raises_code("tokenizer.other-ids", match=str(wrong)):
        profile_rows([("x", "y")], lambda texts: [[0, wrong] for _ in texts], V)


def test_the_largest_id_is_counted() -> None:
    profile = profile_rows([("x", "y")], lambda texts: [[V - 1] for _ in texts], V)
    assert profile.counts(V).tolist() == [0] * (V - 1) + [2]


def test_output_lengths_are_counted_in_half_octaves() -> None:
    rows = [("", "a" * n) for n in (1, 1, 2, 3, 4, 1000)]
    profile = profile_rows(rows, letters, V)
    assert profile.lengths.ids.tolist() == [0, 2, 3, 4, 20]
    assert profile.lengths.counts.tolist() == [2, 1, 1, 1, 1]
    assert profile.counts(V, "lengths").shape == (LENGTHS,)


# --- tables -------------------------------------------------------------------------------------

PROFILES = ROWS.filter(lambda rows: any(row[1] for row in rows)).map(
    lambda rows: profile_rows(rows, letters, V)
)


@settings(max_examples=40)
@given(st.lists(PROFILES, min_size=1, max_size=5))
def test_table_round_trip(many: list[Profile]) -> None:
    table = ProfileTable.from_profiles(many)
    assert len(table) == len(many)
    for i, expected in enumerate(many):
        assert_same(table[i], expected)
    again = ProfileTable.from_profiles([table[i] for i in range(len(table))])
    assert again.arrays.keys() == table.arrays.keys()
    for name, array in table.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array)
        assert again.arrays[name].dtype == array.dtype


def test_tables_have_fixed_dtypes_and_check_indices() -> None:
    table = ProfileTable.from_profiles([profile_rows([("ab", "b")], letters, V)])
    assert {name: a.dtype.name for name, a in table.arrays.items()} == {
        "rows": "int64",
        "input.indptr": "int64",
        "input.ids": "int32",
        "input.counts": "uint32",
        "output.indptr": "int64",
        "output.ids": "int32",
        "output.counts": "uint32",
        "lengths.indptr": "int64",
        "lengths.ids": "int32",
        "lengths.counts": "uint32",
    }
    for index in (1, -1):
        with pytest.raises(IndexError, match=f"profile {index} of 1"):
            table[index]
    assert len(ProfileTable.from_profiles([])) == 0


@pytest.mark.parametrize(
    ("count", "dtype"), [(2**32 - 1, "uint32"), (2**32, "int64"), (2**40, "int64")]
)
def test_large_counts_survive_the_table(count: int, dtype: str) -> None:
    large = Histogram(np.array([3], np.int32), np.array([count], np.int64))
    table = ProfileTable.from_profiles([Profile(large, large, 1)])
    assert table.arrays["input.counts"].dtype.name == dtype
    assert as_dict(table[0].input) == {3: count}
    assert table[0].counts(4).tolist() == [0, 0, 0, 2 * count]


# --- outputs as a model writes them -------------------------------------------------------------


def spaced(texts: Sequence[str]) -> list[list[int]]:
    return [["ab ".index(letter) for letter in text] for text in texts]


def test_copies_are_measured_on_the_first_rows_alone() -> None:
    seen: list[int] = []

    def encode(texts: Sequence[str]) -> list[list[int]]:
        seen.append(len(texts))
        return spaced(texts)

    counter = OutputCounter(encode, 4, end=3)
    rows = [(" ", "a"), ("b", "a")] * COPY_ROWS  # of " a", the space is in every other input
    counter.add(rows)
    first, later, copied = counter.counts
    assert copied == 0.5
    assert first.tolist() == [0, 0, 2 * COPY_ROWS, 0]
    assert later.tolist() == [2 * COPY_ROWS, 0, 0, 2 * COPY_ROWS]
    assert sum(seen) == 3 * COPY_ROWS  # all outputs, half of the inputs


def test_rows_with_a_blank_output_are_not_counted() -> None:
    counter = OutputCounter(spaced, 4, end=3)
    counter.add([("a", ""), ("a", " "), ("", "b")])
    assert counter.counts.first.sum() == 1
