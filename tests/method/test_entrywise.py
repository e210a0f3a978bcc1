"""Combiners that choose among entries, against PEFT's functions and the papers' formulas."""

import numpy as np
import pytest
from numpy.typing import NDArray

from hf_lorameta.errors import AdapterError
from hf_lorameta.method.entrywise import Start
from hf_lorameta.method.merging import COMBINERS, exact
from tests.method.oracles import update
from tests.method.test_merging import bank, product

FULL = 9  # rank of any 11 × 9 matrix
ties, dare, magnitude, sparse = (
    COMBINERS[name].function for name in ("ties", "dare", "magnitude", "sparse")
)
ENTRYWISE = sorted(name for name, row in COMBINERS.items() if row.entrywise)


def deltas(As: list, Bs: list, scalings: list) -> list[NDArray[np.float64]]:
    return [update([A], [B], [1.0], [s]) for A, B, s in zip(As, Bs, scalings, strict=True)]


def trimmed(M: NDArray[np.float64], density: float) -> NDArray[np.float64]:
    """Sort all entries and keep the largest."""
    keep = np.zeros(M.size)
    keep[np.argsort(-np.abs(M), axis=None)[: int(density * M.size)]] = 1
    return M * keep.reshape(M.shape)


def entry_by_entry_ties(Ts: list, c: NDArray[np.float64]) -> NDArray[np.float64]:
    """Steps 2 and 3 of the TIES paper, with weights: elect a sign, average what agrees."""
    result = np.zeros_like(Ts[0])
    for place in np.ndindex(result.shape):
        terms = [(w * T[place], abs(w)) for w, T in zip(c, Ts, strict=True) if T[place] != 0]
        elected = 1 if sum(term for term, _ in terms) >= 0 else -1
        agreeing = [pair for pair in terms if np.sign(pair[0]) == elected]
        if agreeing:
            result[place] = sum(t for t, _ in agreeing) / sum(w for _, w in agreeing)
    return result * np.abs(c).sum()


@pytest.mark.parametrize("signs", [(1, 1, 1, 1), (1, -1, 1, -1)])
def test_ties_is_the_papers_procedure_with_weights(signs: tuple[int, ...]) -> None:
    As, Bs, weights, scalings = bank(3, ranks=(4, 2, 3, 4))
    c = weights * signs
    Ts = [trimmed(M, 0.3) for M in deltas(As, Bs, scalings)]
    merged = product(ties(As, Bs, c, scalings, FULL, density=0.3))
    np.testing.assert_allclose(merged, entry_by_entry_ties(Ts, c), atol=1e-4)


def test_magnitude_adds_up_pruned_updates() -> None:
    As, Bs, weights, scalings = bank(4)
    Ts = [trimmed(M, 0.25) for M in deltas(As, Bs, scalings)]
    merged = product(magnitude(As, Bs, -weights, scalings, FULL, density=0.25))
    np.testing.assert_allclose(merged, -np.tensordot(weights, Ts, 1), atol=1e-4)


def test_sparse_averages_each_entry_over_those_that_kept_it() -> None:
    As, Bs, weights, scalings = bank(5)
    Ts = np.array([trimmed(M, 0.4) for M in deltas(As, Bs, scalings)])
    kept = np.tensordot(np.abs(weights), (Ts != 0).astype(float), 1)
    expected = np.tensordot(weights, Ts, 1) / np.where(kept, kept, 1) * weights.sum()
    merged = product(sparse(As, Bs, weights, scalings, FULL, density=0.4))
    np.testing.assert_allclose(merged, expected, atol=1e-4)


def test_dare_drops_and_enlarges_entries_independently() -> None:
    rng = np.random.default_rng(0)
    A, B = (rng.standard_normal(shape).astype(np.float32) for shape in ((4, 200), (200, 4)))
    A2, B2 = dare([A], [B], [2.0], [1.5], 200, density=0.2)
    share = product((A2, B2)) / (3 * product((A, B)))
    is_kept = share > 2.5
    np.testing.assert_allclose(share[is_kept], 5, rtol=1e-2)  # 1 / 0.2
    np.testing.assert_allclose(share[~is_kept], 0, atol=0.3)  # rounding of small entries
    assert is_kept.mean() == pytest.approx(0.2, abs=0.01)
    assert np.abs(is_kept.mean(axis=0) - 0.2).max() < 0.15  # no row or column is preferred


def test_dare_drops_other_entries_of_adapters_that_share_lora_a() -> None:
    rng = np.random.default_rng(0)
    A, B, other = (rng.standard_normal((20, 20)).astype(np.float32) for _ in range(3))
    first, second = (product(dare([A], [x], [1.0], [1.0], 20, density=0.5)) for x in (B, other))
    kept = [np.abs(update) > 1e-4 for update in (first, second)]
    assert (kept[0] == kept[1]).mean() < 0.6


def test_dare_expects_the_weighted_sum() -> None:
    args = bank(6)
    draws = [product(dare(*args, FULL, density=0.5, seed=seed)) for seed in range(400)]
    spread = np.std(draws, axis=0) / np.sqrt(len(draws))
    assert (np.abs(np.mean(draws, axis=0) - update(*args)) < 5 * spread + 1e-5).all()


def test_dare_is_seeded() -> None:
    args = bank(6)
    first, again, other = (dare(*args, 4, density=0.5, seed=seed) for seed in (1, 1, 2))
    assert [x.tobytes() for x in first] == [x.tobytes() for x in again]
    assert np.abs(product(first) - product(other)).max() > 0.1


@pytest.mark.parametrize("name", ENTRYWISE)
def test_the_start_is_added_unchanged_and_differences_are_combined(name: str) -> None:
    As, Bs, weights, scalings = bank(7, ranks=(4, 4, 2))
    combine = COMBINERS[name].function
    start = Start(As[0], Bs[0], scalings[0], 0.25)
    merged = combine(As[1:], Bs[1:], weights[1:], scalings[1:], FULL, density=0.3, start=start)
    # the difference of two adapters is an adapter, too
    wide_A = [np.concatenate([A, As[0]]) for A in As[1:]]
    wide_B = [
        np.concatenate([s * B, -scalings[0] * Bs[0]], 1).astype(np.float32)
        for s, B in zip(scalings[1:], Bs[1:], strict=True)
    ]
    expected = update(As[:1], Bs[:1], [0.25 + weights[1:].sum()], scalings[:1])
    if name == "dare":  # masks are drawn from lora_A, which is another here
        expected = expected + 0 * expected
        merged = combine(As[1:], Bs[1:], weights[1:], scalings[1:], FULL, density=1.0, start=start)
        difference = exact(wide_A, wide_B, weights[1:], [1.0, 1.0], FULL)
    else:
        difference = combine(wide_A, wide_B, weights[1:], [1.0, 1.0], FULL, density=0.3)
    np.testing.assert_allclose(product(merged), expected + product(difference), atol=1e-4)


@pytest.mark.parametrize("name", ENTRYWISE)
def test_values_that_are_not_finite_are_refused(name: str) -> None:
    As, Bs, weights, scalings = bank()
    As[1][0, 0] = np.nan
    with pytest.raises(AdapterError, match="NaN or infinite"):
        COMBINERS[name].function(As, Bs, weights, scalings, 4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", ["ties", "magnitude"])
def test_pefts_functions_give_the_same(name: str) -> None:
    torch = pytest.importorskip("torch")
    utils = pytest.importorskip("peft.utils.merge_utils")
    As, Bs, _, scalings = bank(8)
    tensors = [torch.tensor(M, dtype=torch.float32) for M in deltas(As, Bs, scalings)]
    peft = {"ties": utils.ties, "magnitude": utils.magnitude_prune}[name]
    # PEFT divides by the number of adapters that agree: its weight 1 is our share 1 / 3
    weight = 1.0 if name == "ties" else 1 / 3
    expected = peft(tensors, torch.full((3,), weight), density=0.4).numpy()
    merged = COMBINERS[name].function(As, Bs, [1 / 3] * 3, scalings, FULL, density=0.4)
    np.testing.assert_allclose(product(merged), expected, atol=1e-4)


@pytest.mark.parametrize("name", ENTRYWISE)
def test_large_matrices_are_fitted_as_well_as_by_a_full_svd(name: str) -> None:
    rng = np.random.default_rng(0)
    As = [rng.normal(size=(4, 640)).astype(np.float32) for _ in range(2)]
    Bs = [rng.normal(size=(520, 4)).astype(np.float32) for _ in range(2)]
    combine = COMBINERS[name].function
    merged = [product(combine(As, Bs, [0.7, 0.3], [1.0, 1.0], rank)) for rank in (8, 520)]
    singular = np.linalg.svd(merged[1], compute_uv=False)
    best = np.square(singular[8:]).sum()
    lost = np.square(merged[1] - merged[0]).sum()
    assert lost == pytest.approx(best, abs=2e-6 * np.square(singular).sum())
