"""The tilt of the output prior against scipy, and counts against the evaluator's tokens."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_lorameta.data.counts.output_counts import OutputCounts
from hf_lorameta.formats.lora_layout import Module
from hf_lorameta.method.output_prior import OutputPrior, tilt

V, K = 40, 6


def problem(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts, background and embeddings."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(2, V) * (rng.random(V) < 0.3)
    background = rng.dirichlet(np.ones(V)).astype(np.float32)
    return counts, background, rng.normal(0, 1.5, (V, K)).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_the_tilt_is_the_minimum_that_scipy_finds(seed: int) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    counts, q, e = problem(seed)
    if not counts.sum():
        return
    p = (counts / counts.sum() + 0.1 * q) / 1.1

    def objective(u: np.ndarray) -> float:
        return float(np.log(q @ np.exp(e @ u)) - p @ e @ u + 3e-3 / 2 * u @ u)

    best = optimize.minimize(objective, np.zeros(K), method="BFGS")
    assert objective(tilt(counts, q, e)) <= best.fun + 1e-3


def test_the_tilted_distribution_has_the_mean_vector_of_the_counts() -> None:
    counts, q, e = problem(3)
    u = tilt(counts, q, e)
    tilted = q * np.exp(e @ u)
    p = (counts / counts.sum() + 0.1 * q) / 1.1
    np.testing.assert_allclose(tilted @ e / tilted.sum(), p @ e - 3e-3 * u, atol=1e-2)


def test_without_counts_there_is_no_tilt() -> None:
    _, q, e = problem(0)
    assert not tilt(np.zeros(V, np.int64), q, e).any()


def test_the_update_adds_the_tilt_where_the_gate_opens() -> None:
    counts, q, e = problem(5)
    rng = np.random.default_rng(0)
    gates = rng.normal(0, 1, (2, 8)).astype(np.float32)
    directions = rng.normal(0, 1, (K, 5)).astype(np.float32)
    module = Module("model.layers.1.mlp.down_proj", 8, 5)
    prior = OutputPrior(module, e, directions, gates, np.stack([q, q]))
    A, B = prior.factors(OutputCounts(counts, np.zeros(V, np.int64), copied=0.25))
    x = np.linalg.lstsq(gates, np.array([1.0, 0.0]), rcond=None)[0]  # opens the first gate
    np.testing.assert_allclose(B @ A @ x, 1.4 * 0.75 * tilt(counts, q, e) @ directions, rtol=1e-4)
    assert not B[:, 1].any()  # no later tokens were counted
