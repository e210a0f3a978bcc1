"""Combiners against dense sums, their SVD, and PEFT."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hf_lorameta.errors import RecipeError
from hf_lorameta.method import low_rank
from hf_lorameta.method.low_rank import LowRankSum
from hf_lorameta.method.merging import Concatenated, exact, factors
from hf_lorameta.method.registries import COMBINERS
from tests.method.oracles import update
from tests.support.codes import raises_code

Float32 = NDArray[np.float32]
Bank = tuple[list[Float32], list[Float32], NDArray[np.float64], list[float]]


def bank(
    seed: int = 0, ranks: tuple[int, ...] = (4, 4, 4), shape: tuple[int, int] = (11, 9)
) -> Bank:
    """As, Bs, weights, scalings of one module whose matrix is (out, in)."""
    rng = np.random.default_rng(seed)
    As = [rng.standard_normal((r, shape[1])).astype(np.float32) for r in ranks]
    Bs = [rng.standard_normal((shape[0], r)).astype(np.float32) for r in ranks]
    weights = rng.dirichlet(np.ones(len(ranks)))
    return As, Bs, weights, list(rng.uniform(0.5, 4, len(ranks)))


def product(pair: tuple[Float32, Float32]) -> NDArray[np.float64]:
    A, B = pair
    result: NDArray[np.float64] = B.astype(float) @ A.astype(float)
    return result


def error(M: NDArray[np.float64], pair: tuple[Float32, Float32]) -> float:
    return float(np.linalg.norm(M - product(pair)))


# --- factors -------------------------------------------------------------------------------------


def test_factors_averages_a_and_b_separately() -> None:
    As, Bs, weights, scalings = bank()
    A, B = factors(As, Bs, weights, scalings, None)
    c, s = weights.astype(float), np.array(scalings)
    np.testing.assert_allclose(A, np.tensordot(c, np.stack(As), 1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(B, np.tensordot(c * s, np.stack(Bs), 1), rtol=1e-5, atol=1e-6)
    assert A.dtype == B.dtype == np.float32


def test_factors_has_cross_terms() -> None:
    one, zero = np.eye(2, dtype=np.float32), np.zeros((2, 2), np.float32)
    # one adapter has only A, the other only B: neither does anything, the average does
    A, B = factors([one, zero], [zero, one], [0.5, 0.5], [1.0, 1.0], 2)
    assert (B @ A).tolist() == [[0.25, 0.0], [0.0, 0.25]]
    assert not update([one, zero], [zero, one], [0.5, 0.5], [1.0, 1.0]).any()


def test_factors_with_one_shared_a_is_the_exact_update() -> None:
    As, Bs, weights, scalings = bank()
    shared = [As[0]] * 3
    np.testing.assert_allclose(
        product(factors(shared, Bs, weights, scalings)),
        update(shared, Bs, weights, scalings),
        atol=1e-5,
    )


def test_factors_refuses_ranks_that_differ() -> None:
    for args in ((*bank(ranks=(4, 2, 4)), None), (*bank(), 8)):
        with pytest.raises(RecipeError) as caught:
            factors(*args)
        assert caught.value.hint == "add --combine exact"


# --- exact ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 2, 5, 8])
@pytest.mark.parametrize(
    ("ranks", "shape"), [((4, 4, 4), (11, 9)), ((3, 1), (7, 30)), ((16,) * 4, (30, 7))]
)
def test_exact_has_the_error_of_the_dense_svd(
    rank: int, ranks: tuple[int, ...], shape: tuple[int, int]
) -> None:
    args = bank(ranks=ranks, shape=shape)
    M = update(*args)
    optimum = np.sqrt((np.linalg.svd(M, compute_uv=False)[rank:] ** 2).sum())
    assert error(M, exact(*args, rank)) == pytest.approx(optimum, rel=1e-5, abs=1e-5)


def test_exact_computes_small_singular_values_accurately() -> None:
    rng = np.random.default_rng(0)
    As = [rng.standard_normal((4, 40)).astype(np.float32) for _ in range(4)]
    Bs = [rng.standard_normal((50, 4)).astype(np.float32) for _ in range(4)]
    args = As, Bs, [1.0, 1e-2, 1e-4, 1e-6], [1.0] * 4
    A, B = exact(*args)
    kept = np.linalg.norm(A, axis=1).astype(float) * np.linalg.norm(B, axis=0)
    s = np.linalg.svd(update(*args), compute_uv=False)[:16]
    assert s[-1] < 1e-6 * s[0]
    np.testing.assert_allclose(kept, s, rtol=1e-5)


def test_exact_is_balanced_with_fixed_signs() -> None:
    A, B = exact(*bank(), 3)
    s = np.linalg.svd(update(*bank()), compute_uv=False)[:3]
    np.testing.assert_allclose(A @ A.T, np.diag(s), atol=1e-4)
    np.testing.assert_allclose(B.T @ B, np.diag(s), atol=1e-4)
    assert (A[np.arange(3), np.abs(A).argmax(axis=1)] > 0).all()


def test_exact_above_the_rank_of_the_sum_is_the_sum_padded_with_zeros() -> None:
    As, Bs, _, scalings = bank(ranks=(1, 1))
    args = As, Bs, [1.5, -0.5], scalings
    A, B = exact(*args, 30)
    assert (A.shape, B.shape) == ((30, 9), (11, 30))
    assert not A[2:].any()
    assert not B[:, 2:].any()
    np.testing.assert_allclose(product((A, B)), update(*args), atol=1e-5)


def test_exact_defaults_to_rank_16_or_that_of_the_sum() -> None:
    assert exact(*bank(ranks=(4,) * 5))[0].shape == (16, 9)
    assert exact(*bank(ranks=(4, 3, 1)))[0].shape == (8, 9)


@pytest.mark.parametrize("combiner", [factors, exact])
def test_zero_weights_give_zeros(combiner: Callable[..., tuple[Float32, Float32]]) -> None:
    As, Bs, _, scalings = bank()
    A, B = combiner(As, Bs, np.zeros(3), scalings, 4)
    assert (A.shape, B.shape) == ((4, 9), (11, 4))
    assert not A.any()
    assert not B.any()


def test_exact_of_adapters_that_are_zero_or_cancel_is_zero() -> None:
    As, Bs, _, _ = bank(ranks=(2,))
    zero = exact(As, [np.zeros_like(Bs[0])], [1.0], [1.0], 2)
    assert not product(zero).any()
    assert np.abs(product(exact(As * 2, Bs * 2, [1.0, -1.0], [2.0, 2.0], 2))).max() < 1e-12


def test_exact_is_more_precise_than_float32_sums() -> None:
    big, small = np.array([[1e4, 0]], np.float32), np.array([[0, 1e-3]], np.float32)
    args = ([big, big, small], [big.T, big.T, small.T], [1.0, -1.0, 1.0], [1.0, 1.0, 1.0])
    assert product(exact(*args, 1))[1, 1] == pytest.approx(1e-6, rel=1e-5)


# --- exact, by iteration -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shared", "shape"), [(0.0, (160, 120)), (1.0, (160, 120)), (10.0, (100, 200))]
)
def test_iteration_converges_to_the_optimum(
    shared: float, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(low_rank, "_MAX_DIRECT_RANK", 0)
    As, Bs, weights, scalings = bank(ranks=(8,) * 20, shape=shape)
    As = [A + shared * As[0] for A in As]
    Bs = [B + shared * Bs[0] for B in Bs]
    M = update(As, Bs, weights, scalings)
    pair = exact(As, Bs, weights, scalings, 6)
    s = np.linalg.svd(M, compute_uv=False) ** 2
    kept = 1 - error(M, pair) ** 2 / s.sum()
    assert kept == pytest.approx(s[:6].sum() / s.sum(), abs=1e-4)
    assert [x.tobytes() for x in exact(As, Bs, weights, scalings, 6)] == [x.tobytes() for x in pair]


@pytest.mark.parametrize(("shape", "rank"), [((9, 600), 1), ((16, 600), 1), ((600, 128), 15)])
def test_narrow_matrices_are_fitted_as_well_as_by_a_full_svd(
    shape: tuple[int, int], rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(low_rank, "_MAX_DIRECT_RANK", 8)
    matrix = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    optimal = np.linalg.svd(matrix, compute_uv=False)[:rank]
    whole = LowRankSum(matrix, np.eye(len(matrix), dtype=np.float32), np.ones(len(matrix)))
    np.testing.assert_allclose(low_rank.truncated_svd(whole, rank)[1], optimal, rtol=1e-4)


def test_iteration_recovers_an_update_of_low_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    args = bank(ranks=(2, 1), shape=(80, 90))
    direct = exact(*args, 5)
    monkeypatch.setattr(low_rank, "_MAX_DIRECT_RANK", 0)
    A, B = exact(*args, 5)
    np.testing.assert_allclose(product((A, B)), product(direct), atol=1e-4)


# --- all ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(COMBINERS))
@settings(max_examples=25)
@given(seed=st.integers(0, 1000), scaling=st.floats(0.125, 16))
def test_combining_one_adapter_gives_its_update(name: str, seed: int, scaling: float) -> None:
    As, Bs, _, _ = bank(seed, ranks=(4,))
    pair = COMBINERS[name].function(As, Bs, [1.0], [scaling], 4)
    expected = scaling * product((As[0], Bs[0]))
    np.testing.assert_allclose(product(pair), expected, atol=1e-5 * scaling)


@pytest.mark.parametrize("name", sorted(COMBINERS))
@settings(max_examples=25)
@given(seed=st.integers(0, 1000), order=st.permutations(range(4)))
def test_order_of_the_bank_does_not_matter(name: str, seed: int, order: list[int]) -> None:
    As, Bs, weights, scalings = bank(seed, ranks=(4,) * 4)
    shuffled = ([x[i] for i in order] for x in (As, Bs, list(weights), scalings))
    combiner = COMBINERS[name].function
    np.testing.assert_allclose(
        product(combiner(*shuffled, 4)),
        product(combiner(As, Bs, weights, scalings, 4)),
        atol=1e-5 if name == "factors" else 1e-3,  # close singular values: not unique
    )


@pytest.mark.parametrize("name", sorted(COMBINERS))
def test_an_adapter_of_weight_zero_changes_nothing(name: str) -> None:
    As, Bs, weights, scalings = bank()
    extra = bank(7, ranks=(4,))
    before = COMBINERS[name].function(As, Bs, weights, scalings, 4)
    after = COMBINERS[name].function(
        [*As, *extra[0]], [*Bs, *extra[1]], [*weights, 0.0], [*scalings, 1.0], 4
    )
    assert [x.tobytes() for x in before] == [x.tobytes() for x in after]


@pytest.mark.parametrize("name", sorted(COMBINERS))
@pytest.mark.parametrize("zeros", [0, 1, 3])
def test_factors_in_one_array_give_the_same_adapter(name: str, zeros: int) -> None:
    As, Bs, weights, scalings = bank(ranks=(4,) * 4)
    weights[:zeros] = 0
    ranks, function = [4] * 4, COMBINERS[name].function
    A, B = Concatenated(np.concatenate(As), ranks, 0), Concatenated(np.concatenate(Bs, 1), ranks, 1)
    np.testing.assert_allclose(
        product(function(A, B, weights, scalings, 4)),
        product(function(As, Bs, weights, scalings, 4)),
        atol=1e-5,
    )


@pytest.mark.parametrize(("value", "direct"), [(np.nan, 0), (np.nan, 512), (np.inf, 512)])
def test_values_that_are_not_finite_are_refused(
    value: float, direct: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(low_rank, "_MAX_DIRECT_RANK", direct)
    As, Bs, weights, scalings = bank(shape=(80, 90))
    As[1][0, 0] = value
    with raises_code("adapter.not-finite"):
        exact(As, Bs, weights, scalings, 2)


@pytest.mark.parametrize("name", sorted(COMBINERS))
@pytest.mark.parametrize("direct", [0, 512])
def test_inputs_are_not_modified(name: str, direct: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(low_rank, "_MAX_DIRECT_RANK", direct)
    As, Bs, weights, scalings = bank(ranks=(2, 2), shape=(40, 40))
    weights.setflags(write=False)
    for array in (*As, *Bs):
        array.setflags(write=False)
    COMBINERS[name].function(As, Bs, weights, scalings, 2)


@pytest.mark.parametrize("name", sorted(COMBINERS))
def test_doubled_weights_double_the_update_of_linear_combiners(name: str) -> None:
    As, Bs, weights, scalings = bank()
    row = COMBINERS[name]
    once, twice = (product(row.function(As, Bs, c * weights, scalings, 4)) for c in (1, 2))
    np.testing.assert_allclose(twice, (2 if row.linear else 4) * once, atol=1e-5)


# --- PEFT ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_exact_agrees_with_pefts_concatenation() -> None:
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    torch.manual_seed(0)
    base = torch.nn.Sequential(torch.nn.Linear(9, 11, bias=False))
    weights, alphas, ranks = [0.7, 0.3], [8, 2], [4, 3]
    names = ["first", "second"]
    for i, name in enumerate(names):
        config = peft.LoraConfig(r=ranks[i], lora_alpha=alphas[i], target_modules=["0"])
        if i == 0:
            model = peft.get_peft_model(base, config, adapter_name=name)
        else:
            model.add_adapter(name, config)
    layer = model.base_model.model[0]
    for name in names:
        torch.nn.init.normal_(layer.lora_B[name].weight)
    model.add_weighted_adapter(names, weights, "merged", combination_type="cat")
    expected = layer.get_delta_weight("merged").detach().numpy()
    As = [layer.lora_A[name].weight.detach().numpy() for name in names]
    Bs = [layer.lora_B[name].weight.detach().numpy() for name in names]
    scalings = [layer.scaling[name] for name in names]
    assert scalings == [2.0, 2 / 3]
    np.testing.assert_allclose(update(As, Bs, weights, scalings), expected, atol=1e-5)
    np.testing.assert_allclose(product(exact(As, Bs, weights, scalings, 7)), expected, atol=1e-5)
