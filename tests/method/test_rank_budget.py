"""Ranks by module, against all choices of small cases."""

from itertools import product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hf_lorameta.method.rank_budget import ranks_for_energy, ranks_for_size

VALUES = st.lists(
    st.lists(st.integers(0, 50), min_size=1, max_size=3).map(lambda v: sorted(v, reverse=True)),
    min_size=1,
    max_size=4,
)


def energy(values: list[list[int]], ranks: tuple[int, ...] | list[int]) -> int:
    return sum(sum(s**2 for s in v[:r]) for v, r in zip(values, ranks, strict=True))


def choices(values: list[list[int]]) -> list[tuple[int, ...]]:
    return list(product(*(range(len(v) + 1) for v in values)))


@given(VALUES, st.integers(0, 12), st.integers(1, 9))
def test_equal_costs_give_the_most_energy_of_all_choices(
    values: list[list[int]], count: int, cost: int
) -> None:
    arrays, costs = [np.array(v, float) for v in values], [cost] * len(values)
    ranks = ranks_for_size(arrays, costs, cost * count)
    fitting = [energy(values, ranks) for ranks in choices(values) if sum(ranks) <= count]
    assert sum(ranks) <= count
    assert energy(values, ranks) == max(fitting)


@given(VALUES, st.integers(0, 60), st.data())
def test_the_budget_holds_and_the_loss_is_at_most_one_rank(
    values: list[list[int]], budget: int, data: st.DataObject
) -> None:
    costs = data.draw(st.lists(st.integers(1, 9), min_size=len(values), max_size=len(values)))
    ranks = ranks_for_size([np.array(v, float) for v in values], costs, budget)
    assert sum(r * c for r, c in zip(ranks, costs, strict=True)) <= budget
    best = max(
        energy(values, other)
        for other in choices(values)
        if sum(r * c for r, c in zip(other, costs, strict=True)) <= budget
    )
    # the greedy choice misses the optimum by less than the rank that no longer fitted
    assert energy(values, ranks) >= best - max(s**2 for v in values for s in v)


@given(VALUES, st.floats(0.01, 1))
def test_the_share_is_kept_with_the_fewest_ranks(values: list[list[int]], share: float) -> None:
    ranks = ranks_for_energy([np.array(v, float) for v in values], [3] * len(values), share)
    total = energy(values, [len(v) for v in values])
    assert energy(values, ranks) >= share * total - 1e-6
    if total:
        enough = [sum(r) for r in choices(values) if energy(values, r) >= share * total - 1e-9]
        assert sum(ranks) == min(enough)
    else:
        assert not any(ranks)
