"""Metrics against hand-worked values, scipy, POT and plain formulas; distances among profiles."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy, wasserstein_distance

from hf_lorameta.data.counts.profile import LENGTHS, Histogram, Profile, ProfileTable, profile_rows
from hf_lorameta.method import metrics
from hf_lorameta.method.metrics import distances, js, kl, mmd, pairwise_distances, wasserstein
from hf_lorameta.method.registries import METRICS
from hf_lorameta.method.token_counts import SMOOTHING, Counts, QueryCounts
from tests.method import oracles
from tests.method.oracles import kernel, smoothed
from tests.support.codes import raises_code

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
NAMES = sorted(METRICS)
ORACLES: dict[str, Callable[[Array, Array], float]] = {
    "wasserstein": oracles.wd,
    "kl": oracles.kl,
    "js": oracles.js,
    "mmd": oracles.mmd,
}
BOUNDS: dict[str, float] = {
    "wasserstein": 4.0,
    "kl": -np.log(SMOOTHING / 2),
    "js": np.log(2),
    "mmd": 8.0,
}
"""The largest values on the five tokens that distances are tested on, where one is known."""
V, N = 23, 6


def random_counts(seed: int, rows: int, size: int = V) -> Ints:
    """Counts with zeros among them, as token histograms have."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 9, (rows, size)) * (rng.random((rows, size)) < 0.6)
    counts[:, 0] += 1
    return counts


@pytest.fixture
def p() -> Ints:
    counts: Ints = random_counts(0, 1)[0]
    return counts


@pytest.fixture
def Q() -> Ints:  # noqa: N802
    return random_counts(1, N)


def apply(function: Callable[[QueryCounts, Counts], Array], p: Ints, Q: Ints) -> Array:
    """A metric of dense counts."""
    query = QueryCounts([[Histogram.from_dense(p)]], p.size)
    return function(query, Counts([[Histogram.from_dense(q)] for q in Q], p.size))


def shares(counts: Ints) -> Array:
    return np.asarray(counts / counts.sum(axis=-1, keepdims=True))


# --- agreement with scipy and POT ----------------------------------------------------------------


def test_wasserstein_agrees_with_scipy(p: Ints, Q: Ints) -> None:
    ids = np.arange(V)
    expected = [wasserstein_distance(ids, ids, p, q) for q in Q]
    np.testing.assert_allclose(apply(wasserstein, p, Q), expected, rtol=1e-12)


def test_wasserstein_agrees_with_optimal_transport(pot: Any, p: Ints, Q: Ints) -> None:
    ids, x, Y = np.arange(float(V)), shares(p), shares(Q)
    cost = np.abs(np.subtract.outer(ids, ids))
    on_a_line = [pot.wasserstein_1d(ids, ids, x, y, p=1) for y in Y]
    np.testing.assert_allclose(apply(wasserstein, p, Q), on_a_line, rtol=1e-12)
    transport = [pot.emd2(x, y, cost) for y in Y]
    np.testing.assert_allclose(apply(wasserstein, p, Q), transport, rtol=1e-9)


def test_kl_agrees_with_scipy(p: Ints, Q: Ints) -> None:
    expected = [entropy(shares(p) + SMOOTHING, shares(q) + SMOOTHING) for q in Q]
    np.testing.assert_allclose(apply(kl, p, Q), expected, rtol=1e-12)


def test_js_agrees_with_scipy(p: Ints, Q: Ints) -> None:
    expected = [jensenshannon(smoothed(shares(p)), smoothed(shares(q))) ** 2 for q in Q]
    np.testing.assert_allclose(apply(js, p, Q), expected, rtol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 3, 16, 23, 100])
def test_mmd_agrees_with_the_double_sum(size: int) -> None:
    p, Q, K = random_counts(2, 1, size)[0], random_counts(3, N, size), kernel(size)
    x, Y = shares(p), shares(Q)
    expected = [x @ K @ x + y @ K @ y - 2 * x @ K @ y for y in Y]
    np.testing.assert_allclose(apply(mmd, p, Q), expected, atol=1e-14)


def test_mmd_is_the_v_statistic_of_the_samples() -> None:
    rng = np.random.default_rng(1)
    a, b, K = rng.integers(0, V, 40), rng.integers(0, V, 60), kernel(V)
    expected = K[np.ix_(a, a)].mean() + K[np.ix_(b, b)].mean() - 2 * K[np.ix_(a, b)].mean()
    p, q = (np.bincount(x, minlength=V) for x in (a, b))
    assert apply(mmd, p, q[None])[0] == pytest.approx(expected, rel=1e-12)


# --- properties ----------------------------------------------------------------------------------


def table(rows: int) -> st.SearchStrategy[Ints]:
    row = st.lists(st.integers(0, 50), min_size=5, max_size=5).filter(any)
    return st.lists(row, min_size=rows, max_size=rows).map(np.array)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40)
@given(Q=table(4), order=st.permutations(range(4)))
def test_every_metric_is_a_divergence(name: str, Q: Ints, order: list[int]) -> None:
    function = METRICS[name].function
    d = apply(function, Q[0], Q)
    assert d.shape == (4,)
    assert d.dtype == np.float64
    assert np.isfinite(d).all()
    assert d[0] == pytest.approx(0.0, abs=1e-9)
    assert (d >= -1e-9).all()
    np.testing.assert_allclose(apply(function, Q[0], Q[order]), d[order], rtol=1e-12, atol=1e-14)
    assert (d <= BOUNDS.get(function.__name__, np.inf) * (1 + 1e-9)).all()


@pytest.mark.parametrize("name", [name for name, of in METRICS.items() if of.symmetric])
@settings(max_examples=25)
@given(Q=table(2))
def test_metrics_that_say_so_are_symmetric(name: str, Q: Ints) -> None:
    function = METRICS[name].function
    forward, backward = apply(function, Q[0], Q[1:])[0], apply(function, Q[1], Q[:1])[0]
    assert forward == pytest.approx(backward, rel=1e-9, abs=1e-9)


# --- from profiles -------------------------------------------------------------------------------


def profile(inputs: list[int], outputs: list[int] | None = None) -> Profile:
    of_inputs, of_outputs = (
        Histogram.from_dense(np.array(part or [], np.int64)) for part in (inputs, outputs)
    )
    return Profile(of_inputs, of_outputs, rows=1)


def random_profiles(sizes: st.SearchStrategy[int], number: int) -> st.SearchStrategy[list[Profile]]:
    """Profiles over one vocabulary, with many zeros, some without inputs or outputs."""
    count = st.one_of(st.just(0), st.integers(0, 3), st.integers(0, 10**6))

    def some(size: int) -> st.SearchStrategy[list[Profile]]:
        half = st.lists(count, min_size=size, max_size=size)
        nothing = st.just([0] * size)
        two = st.tuples(half | nothing, half | nothing).filter(lambda x: any(x[0]) or any(x[1]))
        one = two.map(lambda x: profile(*x))
        return st.lists(one, min_size=number, max_size=number)

    return sizes.flatmap(some)


def plain_distances(new: Profile, bank: list[Profile], size: int, name: str) -> list[float]:
    """By the plain formulas, part by part; a part without tokens is a distribution of zeros."""
    row = METRICS[name]
    terms = [(part, ORACLES[row.function.__name__]) for part in row.parts]
    if row.lengths:
        terms.append(("lengths", oracles.lengths))
    total = np.zeros(len(bank))
    for part, function in terms:
        p, *Q = ((c := of.counts(size, part)) / max(float(c.sum()), 1) for of in (new, *bank))
        total += [function(p, q) for q in Q] if p.any() else 0
    return total.tolist()


@settings(max_examples=12)
@given(
    drawn=random_profiles(st.integers(1, 12), 4), blocks=st.sampled_from([1, 64 << 10, 48 << 20])
)
def test_distances_equal_the_dense_formulas(drawn: list[Profile], blocks: int) -> None:
    size = 3 + max(int(h.ids.max(initial=0)) for p in drawn for h in (p.input, p.output))
    bank = ProfileTable.from_profiles(drawn)
    for name in NAMES:
        expected = [plain_distances(new, drawn, size, name) for new in drawn]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(metrics, "_BLOCK_BYTES", blocks)
            each = [distances(new, bank, size, name) for new in drawn]
            all_ = pairwise_distances(bank, size, name)
        assert (all_ >= 0).all(), name
        np.testing.assert_allclose(each, expected, rtol=1e-9, atol=1e-9, err_msg=name)
        np.testing.assert_allclose(all_, expected, rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"mmd"}))  # whose plain formula is V × V
def test_distances_equal_the_dense_formulas_at_real_size(name: str) -> None:
    drawn, size = [zipf(seed, 32_000) for seed in range(5)], 32_000
    bank = ProfileTable.from_profiles(drawn)
    expected = plain_distances(drawn[0], drawn, size, name)
    got = distances(drawn[0], bank, size, name)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-11)


def zipf(seed: int, size: int) -> Profile:
    rng = np.random.default_rng(seed)
    order = rng.permutation(size)
    drawn = rng.zipf(1.2, 5_000)
    ids = order[drawn[drawn < size]]
    first, second = (np.bincount(x, minlength=size) for x in np.array_split(ids, 2))
    return Profile(Histogram.from_dense(first), Histogram.from_dense(second), rows=1)


@pytest.fixture(scope="module")
def large_bank() -> ProfileTable:
    return ProfileTable.from_profiles([zipf(seed, 50_000) for seed in range(60)])


@pytest.mark.parametrize("name", NAMES)
def test_memory_does_not_grow_with_the_bank(name: str, large_bank: ProfileTable) -> None:
    tracemalloc.start()
    try:
        distances(large_bank[0], large_bank, 50_000, name)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_js_task_adds_the_lengths_of_outputs() -> None:
    texts = [("a b", "c"), ("a b", "c c c c"), ("a b", "c c")]
    encode = lambda rows: [[ord(t) - 97 for t in row.split()] for row in rows]  # noqa: E731
    bank = ProfileTable.from_profiles([profile_rows([row], encode, 3) for row in texts])
    assert distances(bank[0], bank, 3, "js-io").tolist() == [0.0, 0.0, 0.0]
    assert distances(bank[0], bank, 3, "js-task").tolist() == [0.0, 2.0, 1.0]  # octaves


def test_a_part_that_the_dataset_lacks_does_not_count() -> None:
    bank = [profile([1, 2, 3], [4, 0, 1]), profile([0, 0, 0], [1, 1, 1])]
    prompts = distances(profile([1, 2, 3]), ProfileTable.from_profiles(bank), 3, "js-io")
    np.testing.assert_allclose(prompts[0], 0.0, atol=1e-9)
    assert prompts[1] > 0.02  # a bank dataset without inputs is not near for lack of them


@pytest.mark.parametrize("part", ["both", "lengths"])
def test_a_dataset_without_tokens_is_at_the_last_id_for_wasserstein(part: str) -> None:
    size = LENGTHS if part == "lengths" else 4
    first = Histogram.from_dense(np.eye(size, dtype=int)[0])
    bank = Counts([[Histogram.from_dense(np.zeros(size, int))]], size)
    assert wasserstein(QueryCounts([[first]], size), bank).tolist() == [size - 1]


def test_pairwise_distances_are_symmetric_for_a_dataset_without_the_part() -> None:
    bank = [profile([1, 2, 3], [1]), profile([0, 0, 0], [1, 1, 1]), profile([0, 1, 0], [1, 0, 1])]
    inputs = ProfileTable.from_profiles(bank).only("input")
    D = pairwise_distances(inputs, 3, "js-io")
    np.testing.assert_allclose(D, D.T, rtol=1e-12)
    np.testing.assert_array_equal(D[0], distances(inputs[0], inputs, 3, "js-io"))
    assert D[1, 1] == 0.0
    assert D[1, 0] > 0.02


def test_pairwise_distances_refuse_a_bank_in_which_every_dataset_lacks_the_part() -> None:
    bank = ProfileTable.from_profiles([profile([0, 0, 0], [1, 1, 1])]).only("input")
    with raises_code("metric.nothing-to-compare"):
        pairwise_distances(bank, 3, "js-io")
