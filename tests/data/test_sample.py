"""Drawing rows from streams, and evenly over outputs."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from hf_lorameta.data.counts.sample import RowSample, draw_stratified

ROWS = st.lists(st.sampled_from("abc"), max_size=60).map(
    lambda outputs: [(f"row {i}", output) for i, output in enumerate(outputs)]
)


@given(ROWS, st.integers(0, 80), st.integers(0, 3))
def test_each_output_is_as_frequent_among_the_drawn_rows(
    rows: list[tuple[str, str]], count: int, seed: int
) -> None:
    drawn = draw_stratified(rows, count, seed)
    assert len(set(drawn)) == len(drawn) == min(count, len(rows))
    assert set(drawn) <= set(rows)
    assert drawn == draw_stratified(rows, count, seed)
    have = Counter(output for _, output in drawn)
    for output, number in Counter(output for _, output in rows).items():
        assert abs(have[output] - number * len(drawn) / len(rows)) < 1


def test_rows_are_equally_likely_to_be_drawn() -> None:
    rows = [(f"row {i}", "same" if i < 5 else f"{i}") for i in range(10)]
    times: Counter[tuple[str, str]] = Counter()
    for seed in range(2000):
        sample = RowSample(6, f"{seed}")
        assert sample.draw_from(rows) == 10
        times.update(draw_stratified(sample.rows, 4, seed))
    assert all(abs(times[row] - 800) < 120 for row in rows)  # 5.5 standard deviations


@given(ROWS)
def test_a_small_dataset_is_drawn_whole_in_its_order(rows: list[tuple[str, str]]) -> None:
    sample = RowSample(60, "0")
    sample.draw_from([*rows, *rows, ("no output", " ")])
    assert (sample.rows, sample.repeated) == (rows, len(rows))
