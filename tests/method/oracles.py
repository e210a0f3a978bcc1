"""Plain formulas on dense arrays, to compare the package's results with."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.method.token_counts import BANDWIDTHS, SMOOTHING

Array = NDArray[np.float64]


def smoothed(x: Array) -> Array:
    """Distribution plus 1e-10 in every entry, normalized."""
    return np.asarray((x + SMOOTHING) / (x + SMOOTHING).sum(axis=-1, keepdims=True))


def kernel(size: int) -> Array:
    """(V, V) kernel of the MMD."""
    gap = np.subtract.outer(np.arange(size), np.arange(size)).astype(float)
    return np.asarray(sum(a**2 / (a**2 + gap**2) for a in BANDWIDTHS))


def wd(p: Array, q: Array) -> float:
    return float(np.abs(np.cumsum(p - q)[:-1]).sum())


def lengths(p: Array, q: Array) -> float:
    return wd(p, q) / 2


def kl(p: Array, q: Array) -> float:
    p, q = smoothed(p), smoothed(q)
    return float(p @ np.log(p / q))


def js(p: Array, q: Array) -> float:
    p, q = smoothed(p), smoothed(q)
    m = (p + q) / 2
    return float(p @ np.log(p / m) + q @ np.log(q / m)) / 2


def mmd(p: Array, q: Array) -> float:
    return float((p - q) @ kernel(p.size) @ (p - q))


def update(As: Any, Bs: Any, weights: Any, scalings: Any) -> Array:
    """The weighted sum of updates, ``Σ c_i s_i B_i A_i``."""
    terms = zip(weights, scalings, As, Bs, strict=True)
    return np.asarray(sum(c * s * (B.astype(float) @ A.astype(float)) for c, s, A, B in terms))
