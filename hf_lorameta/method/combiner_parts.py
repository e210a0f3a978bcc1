"""What all combiners share: their arguments, checked, and the form of their result."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.errors import AdapterError, BankError, RecipeError
from hf_lorameta.types import Array, FactorPair, FloatArray

Factors = Sequence[FloatArray]
Weights = Sequence[float] | NDArray[Any]

DEFAULT_RANK = 16
"""Rank of a result, which vLLM serves without configuration."""


def check_factors(As: Factors, Bs: Factors, weights: Weights, scalings: Weights) -> None:
    """Check that all lora_A (r_i, in) and lora_B (out, r_i) belong to one module.

    Raises:
        BankError: there is no adapter.
        AdapterError: shapes or lengths do not match.
    """
    lengths = [len(sequence) for sequence in (As, Bs, weights, scalings)]
    if len(set(lengths)) > 1:
        raise AdapterError(
            f"{lengths} lora_A, lora_B, weights and scalings, expected as many of each"
        )
    if not lengths[0]:
        raise BankError("there is no adapter to combine")
    for A, B in zip(As, Bs, strict=True):
        expected = (Bs[0].shape[0], len(A)), (len(A), As[0].shape[-1])
        if (B.shape, A.shape) != expected:
            raise AdapterError(
                f"lora_B {B.shape} and lora_A {A.shape}, expected {expected[0]} and {expected[1]}"
            )


def result_rank(rank: int | None, largest: int) -> int:
    """Return the rank asked for; None is 16, or the largest possible if that is less."""
    rank = min(DEFAULT_RANK, largest) if rank is None else rank
    if rank < 1:
        raise RecipeError(f"rank is {rank}, expected at least 1")
    return rank


def balanced(U: Array, s: Array, V: Array, rank: int) -> FactorPair:
    """Return A (rank, in) and B (out, rank) of ``U diag(s) Vᵀ``, padded with zeros.

    Both get the square roots of the singular values, and in every row of A the entry of largest
    magnitude is positive.
    """
    A = np.zeros((rank, len(V)), np.float32)
    B = np.zeros((len(U), rank), np.float32)
    if s.size:
        signed_root = np.sign(V[np.abs(V).argmax(axis=0), np.arange(s.size)]) * np.sqrt(s)
        A[: s.size] = (V * signed_root).T
        B[:, : s.size] = U * signed_root
    return A, B
