"""Distances against hand-worked values, scipy, POT and the naive double sum."""

import tracemalloc

import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy, wasserstein_distance

from hf_lorameta.data.profile import Histogram, Profile, ProfileTable, profile_rows
from hf_lorameta.errors import BankError, EmptyDatasetError, RecipeError
from hf_lorameta.method import distances as metrics
from hf_lorameta.method.distances import DISTANCES, between, distances, js, kl, mmd, wasserstein
from hf_lorameta.method.sparse_distances import BANDWIDTHS, SMOOTHING
from tests.data.oracle import distribution, distributions

Array = NDArray[np.float64]
METRICS = sorted(DISTANCES)
V, N = 23, 6


@pytest.fixture
def p() -> Array:
    return sparse(0, 1)[0]


@pytest.fixture
def Q() -> Array:  # noqa: N802
    return sparse(1, N)


def sparse(seed: int, rows: int, size: int = V) -> Array:
    """Distributions with zeros in them, as token histograms have."""
    rng = np.random.default_rng(seed)
    x = rng.random((rows, size)) * (rng.random((rows, size)) < 0.6)
    x[:, 0] += 0.01
    return x / x.sum(axis=1, keepdims=True)


def smoothed(x: Array) -> Array:
    return (x + SMOOTHING) / (x + SMOOTHING).sum()


def kernel(size: int) -> Array:
    gap = np.subtract.outer(np.arange(size), np.arange(size)).astype(float)
    return sum(a**2 / (a**2 + gap**2) for a in BANDWIDTHS)


# --- known answers -------------------------------------------------------------------------------


def test_wasserstein_moves_mass_along_the_ids() -> None:
    p = np.array([0.5, 0.5, 0.0, 0.0])
    Q = np.array([[0.0, 0.0, 0.5, 0.5], [0.5, 0.0, 0.5, 0.0], [0.5, 0.5, 0.0, 0.0]])
    np.testing.assert_allclose(wasserstein(p, Q), [2.0, 0.5, 0.0], atol=1e-15)


def test_kl_of_disjoint_supports_is_set_by_the_smoothing() -> None:
    p, Q = np.array([1.0, 0.0]), np.array([[0.0, 1.0]])
    total = 1 + 2 * SMOOTHING
    a, b = (1 + SMOOTHING) / total, SMOOTHING / total
    np.testing.assert_allclose(kl(p, Q), a * np.log(a / b) + b * np.log(b / a), rtol=1e-12)


def test_kl_takes_the_new_dataset_first() -> None:
    p, q = np.array([0.5, 0.5]), np.array([0.25, 0.75])
    np.testing.assert_allclose(kl(p, q[None]), 0.5 * np.log(4 / 3), rtol=1e-8)
    np.testing.assert_allclose(kl(q, p[None]), 0.25 * np.log(0.5) + 0.75 * np.log(1.5), rtol=1e-8)


def test_js_of_disjoint_supports_is_log_two() -> None:
    assert js(np.array([1.0, 0.0]), np.array([[0.0, 1.0]]))[0] == pytest.approx(np.log(2), rel=1e-8)


def test_mmd_of_two_points() -> None:
    expected = 2 * kernel(8)[0, 0] - 2 * kernel(8)[0, 5]
    assert mmd(np.eye(8)[0], np.eye(8)[5:6])[0] == pytest.approx(expected, rel=1e-13)


def test_one_token_vocabularies_are_all_alike() -> None:
    for row in DISTANCES.values():
        assert row.function(np.ones(1), np.ones((2, 1))).tolist() == [0.0, 0.0]


# --- agreement with others' code -----------------------------------------------------------------


def test_wasserstein_agrees_with_scipy(p: Array, Q: Array) -> None:
    ids = np.arange(V)
    expected = [wasserstein_distance(ids, ids, p, q) for q in Q]
    np.testing.assert_allclose(wasserstein(p, Q), expected, rtol=1e-12)


def test_wasserstein_agrees_with_optimal_transport(p: Array, Q: Array) -> None:
    ids = np.arange(float(V))
    cost = np.abs(np.subtract.outer(ids, ids))
    on_a_line = [ot.wasserstein_1d(ids, ids, p, q, p=1) for q in Q]
    np.testing.assert_allclose(wasserstein(p, Q), on_a_line, rtol=1e-12)
    np.testing.assert_allclose(wasserstein(p, Q), [ot.emd2(p, q, cost) for q in Q], rtol=1e-9)


def test_wasserstein_equals_the_distance_between_samples() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, V, 50), rng.integers(0, V, 80)
    p, q = (np.bincount(x, minlength=V) / x.size for x in (a, b))
    assert wasserstein(p, q[None])[0] == pytest.approx(wasserstein_distance(a, b), rel=1e-12)


def test_kl_agrees_with_scipy(p: Array, Q: Array) -> None:
    expected = [entropy(p + SMOOTHING, q + SMOOTHING) for q in Q]
    np.testing.assert_allclose(kl(p, Q), expected, rtol=1e-12)


def test_js_agrees_with_scipy(p: Array, Q: Array) -> None:
    expected = [jensenshannon(smoothed(p), smoothed(q)) ** 2 for q in Q]
    np.testing.assert_allclose(js(p, Q), expected, rtol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 3, 16, 23, 100])
def test_mmd_agrees_with_the_double_sum(size: int) -> None:
    p, Q, K = sparse(2, 1, size)[0], sparse(3, N, size), kernel(size)
    expected = [p @ K @ p + q @ K @ q - 2 * p @ K @ q for q in Q]
    np.testing.assert_allclose(mmd(p, Q), expected, atol=1e-14)


def test_mmd_is_the_v_statistic_of_the_samples() -> None:
    rng = np.random.default_rng(1)
    a, b, K = rng.integers(0, V, 40), rng.integers(0, V, 60), kernel(V)
    expected = K[np.ix_(a, a)].mean() + K[np.ix_(b, b)].mean() - 2 * K[np.ix_(a, b)].mean()
    p, q = (np.bincount(x, minlength=V) / x.size for x in (a, b))
    assert mmd(p, q[None])[0] == pytest.approx(expected, rel=1e-12)


# --- properties ----------------------------------------------------------------------------------


def table(rows: int) -> st.SearchStrategy[Array]:
    row = st.lists(st.integers(0, 50), min_size=5, max_size=5).filter(any)
    tables = st.lists(row, min_size=rows, max_size=rows).map(lambda x: np.array(x, float))
    return tables.map(lambda x: x / x.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("metric", METRICS)
@settings(max_examples=40)
@given(Q=table(4), order=st.permutations(range(4)))
def test_every_distance_is_a_divergence(metric: str, Q: Array, order: list[int]) -> None:
    function, p = DISTANCES[metric].function, Q[0]
    d = function(p, Q)
    assert d.shape == (4,)
    assert d.dtype == np.float64
    assert np.isfinite(d).all()
    assert d[0] == 0.0
    assert (d >= 0).all()
    np.testing.assert_allclose(function(p, Q[order]), d[order], rtol=1e-12, atol=1e-15)
    bounds = {"wd": 4.0, "kl": -np.log(SMOOTHING / 2), "mmd": 8.0}
    bound = bounds.get(metric, np.log(2))
    assert (d <= bound * (1 + 1e-9)).all()


@pytest.mark.parametrize("metric", ["wd", "js", "mmd"])
@settings(max_examples=25)
@given(Q=table(2))
def test_all_but_kl_are_symmetric(metric: str, Q: Array) -> None:
    function = DISTANCES[metric].function
    there, back = function(Q[0], Q[1:])[0], function(Q[1], Q[:1])[0]
    assert there == pytest.approx(back, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("metric", METRICS)
def test_inputs_are_left_alone(metric: str, p: Array, Q: Array) -> None:
    for array in (p, Q):
        array.setflags(write=False)
    DISTANCES[metric].function(p, Q)


@pytest.mark.parametrize("metric", METRICS)
def test_blocks_do_not_show(
    metric: str, p: Array, Q: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = DISTANCES[metric].function(p, Q)
    monkeypatch.setattr(metrics, "_BLOCK_BYTES", 2 * 64 * V)
    np.testing.assert_allclose(DISTANCES[metric].function(p, Q), whole, rtol=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_memory_does_not_follow_the_bank(metric: str) -> None:
    p, Q = sparse(0, 1, 50_000)[0], sparse(1, 40, 50_000)
    tracemalloc.start()
    try:
        DISTANCES[metric].function(p, Q)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("metric", METRICS)
def test_not_a_number_is_not_hidden(metric: str, p: Array, Q: Array) -> None:
    Q[2, 3] = np.nan
    assert np.isnan(DISTANCES[metric].function(p, Q)).tolist() == [i == 2 for i in range(N)]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shapes", [((3,), (2, 4)), ((3,), (3,)), ((1, 3), (2, 3)), ((0,), (2, 0))])
def test_shapes_that_do_not_fit(metric: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(BankError, match=r"expected \(V,\) and \(N, V\)"):
        DISTANCES[metric].function(np.ones(shapes[0]), np.ones(shapes[1]))


def test_an_empty_table_gives_no_distance(p: Array) -> None:
    assert mmd(p, np.empty((0, V))).shape == (0,)


# --- from profiles -------------------------------------------------------------------------------


def profile(*counts: int, output: tuple[int, ...] = ()) -> Profile:
    parts = (Histogram.from_dense(np.array(part, np.int64)) for part in (counts, output))
    return Profile(*parts, rows=1)


@pytest.mark.parametrize("metric", [m for m in METRICS if DISTANCES[m].parts == ("both",)])
def test_profiles_are_read_as_inputs_and_outputs_together(metric: str) -> None:
    new = profile(1, 0, 0, output=(0, 1, 2))
    bank = [profile(3, 1, 0, output=(0, 0, 4)), profile(1, 1, 2), new]
    p, Q = np.array([1, 1, 2]) / 4, np.array([[3, 1, 4], [2, 2, 4], [2, 2, 4]]) / 8
    got = distances(new, ProfileTable.from_profiles(bank), 3, metric)
    np.testing.assert_allclose(got, DISTANCES[metric].function(p, Q), rtol=1e-12, atol=1e-15)
    assert got[1:].tolist() == [0.0, 0.0]


def test_the_task_metric_adds_the_lengths_of_outputs() -> None:
    texts = [("a b", "c"), ("a b", "c c c c"), ("a b", "c c")]
    encode = lambda rows: [[ord(t) - 97 for t in row.split()] for row in rows]  # noqa: E731
    bank = ProfileTable.from_profiles([profile_rows([row], encode, 3) for row in texts])
    assert distances(bank[0], bank, 3, "js-io").tolist() == [0.0, 0.0, 0.0]
    assert distances(bank[0], bank, 3, "js-task").tolist() == [0.0, 2.0, 1.0]  # octaves


def test_many_blocks_of_profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = [profile(i + 1, 1, 7) for i in range(7)]
    whole = distances(bank[0], ProfileTable.from_profiles(bank), 3, "js")
    monkeypatch.setattr(metrics, "_BLOCK_BYTES", 1)
    blocks = distances(bank[0], ProfileTable.from_profiles(bank), 3, "js")
    np.testing.assert_allclose(blocks, whole, rtol=1e-12)


def test_unknown_metric_lists_the_known_ones() -> None:
    with pytest.raises(RecipeError, match="'cosine'") as caught:
        distances(profile(1), ProfileTable.from_profiles([profile(1)]), 1, "cosine")
    assert caught.value.hint == "--metric takes one of wd, kl, js, mmd, js-io, js-task"


def test_empty_bank() -> None:
    with pytest.raises(BankError, match="no dataset"):
        distances(profile(1), ProfileTable.from_profiles([]), 1, "js")


def test_ids_outside_the_vocabulary() -> None:
    with pytest.raises(BankError, match="token id 2, expected below 2"):
        distances(profile(1), ProfileTable.from_profiles([profile(0, 0, 1)]), 2, "js")


def test_profile_without_a_token() -> None:
    with pytest.raises(EmptyDatasetError):
        distances(profile(0), ProfileTable.from_profiles([profile(1)]), 1, "js")


def test_table_rows_are_named_as_their_keys() -> None:
    assert list(DISTANCES) == ["wd", "kl", "js", "mmd", "js-io", "js-task"]
    assert all(row.name == key and row.title and row.reference for key, row in DISTANCES.items())


def split(inputs: list[int], outputs: list[int]) -> Profile:
    both = (np.array(inputs, np.int64), np.array(outputs, np.int64))
    return Profile(*map(Histogram.from_dense, both), rows=1)


def test_js_io_adds_what_goes_in_and_what_comes_out() -> None:
    bank = [split([1, 2, 3], [4, 0, 1]), split([0, 1, 0], [1, 1, 1])]
    new = split([2, 0, 1], [0, 1, 1])
    ins = js(distribution(new, 3, "input"), distributions(bank, 3, "input"))
    outs = js(distribution(new, 3, "output"), distributions(bank, 3, "output"))
    got = distances(new, ProfileTable.from_profiles(bank), 3, "js-io")
    np.testing.assert_allclose(got, ins + outs, rtol=1e-12)


def test_a_part_that_the_dataset_lacks_does_not_count() -> None:
    bank = [split([1, 2, 3], [4, 0, 1]), split([0, 0, 0], [1, 1, 1])]
    prompts = distances(split([1, 2, 3], [0, 0, 0]), ProfileTable.from_profiles(bank), 3, "js-io")
    np.testing.assert_allclose(prompts[0], 0.0, atol=1e-9)
    assert prompts[1] > 0.02  # a bank dataset without inputs is not near for lack of them


def test_between_is_every_dataset_against_all() -> None:
    bank = [split([1, 2, 3], [4, 0, 1]), split([0, 1, 0], [1, 1, 1]), split([5, 1, 0], [1, 0, 1])]
    table = ProfileTable.from_profiles(bank)
    D = between(table, 3, "js-io")
    np.testing.assert_allclose(D, D.T, atol=1e-12)
    np.testing.assert_array_equal(D[1], distances(bank[1], table, 3, "js-io"))


def test_between_counts_a_dataset_without_the_part_as_far_as_others_are_from_it() -> None:
    bank = [split([1, 2, 3], [1, 0, 0]), split([0, 0, 0], [1, 1, 1]), split([0, 1, 0], [1, 0, 1])]
    inputs = ProfileTable.from_profiles(bank).only("input")
    D = between(inputs, 3, "js-io")
    np.testing.assert_allclose(D, D.T, rtol=1e-12)
    np.testing.assert_array_equal(D[0], distances(inputs[0], inputs, 3, "js-io"))
    assert D[1, 1] == 0.0
    assert D[1, 0] > 0.02


def test_between_needs_one_dataset_with_the_part() -> None:
    with pytest.raises(BankError, match="no dataset of the bank has the texts"):
        between(ProfileTable.from_profiles([split([0, 0, 0], [1, 1, 1])]).only("input"), 3, "js-io")
