"""Find the basis that retains most of the updates of one module's adapters.

V is spanned by the leading right singular vectors of all ``s_i B_i A_i`` stacked vertically, U by
the leading left ones of all stacked horizontally (a truncated HOSVD [1]). The rows of A are
weighted with ``S_i``, where ``S_iᵀS_i = s_i² B_iᵀB_i``, so that the stack has r rows per adapter
instead of out_features.

The basis follows from products with the Gram matrix G of the weighted rows: from G itself on a
small side of a module, else by subspace iteration and the Nyström approximation [2]. Products are
summed over a few adapters at a time, so that memory does not grow with the bank.

References:
    [1] De Lathauwer, De Moor, Vandewalle, A Multilinear Singular Value Decomposition,
        SIAM J. Matrix Anal. Appl. 21, 2000.
    [2] Tropp, Yurtsever, Udell, Cevher, Fixed-Rank Approximation of a Positive-Semidefinite Matrix
        from Streaming Data, arXiv 1706.05736, 2017, algorithm 3.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from hf_lorameta.errors import AdapterError
from hf_lorameta.formats.lora_file import AdapterFile
from hf_lorameta.formats.lora_layout import Module
from hf_lorameta.types import Array, FloatArray

_MAX_EXACT_DIM = 1024  # largest side of a module for which G and its eigenvectors are computed
_PASSES = 2  # subspace iterations over a module
_CHUNK_BYTES = 32 << 20
_RELATIVE_SHIFT = 1e-6  # of the Nyström approximation, to the product's norm: float32's accuracy


class Chunk(NamedTuple):
    """One module of n adapters of equal rank: A (n, r, in), B (n, out, r), scalings s (n,)."""

    A: FloatArray
    B: FloatArray
    s: Array


class ModuleReader:
    """One module of all adapters, read a few at a time; `scalings` is (N,), `rank` Σr."""

    def __init__(self, files: Sequence[AdapterFile], scalings: Array, module: Module) -> None:
        self.files, self.scalings, self.module = files, scalings, module
        self.rank = sum(file.rank for file in files)

    def chunks(self) -> Iterator[Chunk]:
        """Yield chunks of equal rank, in the order of the files."""
        width = 4 * (self.module.in_features + self.module.out_features)
        start = 0
        while start < len(self.files):
            rank = self.files[start].rank
            stop = start + 1
            limit = start + max(1, _CHUNK_BYTES // (width * rank))
            while stop < min(limit, len(self.files)) and self.files[stop].rank == rank:
                stop += 1
            pairs = (file.factors(self.module.name) for file in self.files[start:stop])
            As, Bs = zip(*pairs, strict=True)
            yield Chunk(np.stack(As), np.stack(Bs), self.scalings[start:stop])
            start = stop

    def weighted_rows(self, side: int) -> Iterator[FloatArray]:
        """Yield weighted rows (n · r, dim) of the As for side 0, of the Bᵀs for side 1."""
        for chunk in self.chunks():
            A, Bt = chunk.A, chunk.B.transpose(0, 2, 1)
            own, other = (A, Bt) if side == 0 else (Bt, A)
            weighted = _gram_root(other, chunk.s) @ own
            yield weighted.reshape(-1, weighted.shape[-1])


def _gram_root(rows: FloatArray, s: Array) -> FloatArray:
    """Return S (n, r, r) with ``SᵀS = s² X Xᵀ`` for X (n, r, dim)."""
    G = rows.astype(np.float64) @ rows.transpose(0, 2, 1) * np.square(s)[:, None, None]
    if not np.isfinite(G).all():
        raise AdapterError("an adapter holds NaN or infinite values", code="adapter.not-finite")
    values, vectors = np.linalg.eigh(G)
    root = np.sqrt(values.clip(0))[:, :, None] * vectors.transpose(0, 2, 1)
    return np.asarray(root, np.float32)


def find_basis(reader: ModuleReader, side: int, size: int, seed: tuple[int, ...]) -> Array:
    """Find the basis of one side of a module: (dim, R) orthonormal columns by decreasing energy.

    Args:
        reader: of the module.
        side: 0 for the inputs (rows of lora_A), 1 for the outputs (columns of lora_B).
        size: largest R; it is no more than what the adapters span.
        seed: of the random start where eigenvectors are approximated.
    """
    dim = (reader.module.in_features, reader.module.out_features)[side]
    size = min(dim, reader.rank, size)
    if dim <= _MAX_EXACT_DIM or 2 * size > dim:
        return _exact(reader, side, dim)[:, :size]
    return _nystrom(reader, side, dim, size, seed)[:, :size]


def _exact(reader: ModuleReader, side: int, dim: int) -> Array:
    """Return the eigenvectors of G by decreasing eigenvalue."""
    G = np.zeros((dim, dim))
    for rows in reader.weighted_rows(side):
        exact = rows.astype(np.float64)
        G += exact.T @ exact
    return np.asarray(np.linalg.eigh(G)[1][:, ::-1])


def _nystrom(reader: ModuleReader, side: int, dim: int, size: int, seed: tuple[int, ...]) -> Array:
    """Return at least `size` leading eigenvectors of G, approximated."""
    width = min(dim, size + max(16, size // 4))
    X = np.random.default_rng(seed).standard_normal((dim, width))
    for _ in range(_PASSES):
        X = np.linalg.qr(X)[0]
        Y, X32 = np.zeros_like(X), X.astype(np.float32)
        for rows in reader.weighted_rows(side):
            Y += rows.T @ (rows @ X32)
        X, last = Y, X
    shift = _RELATIVE_SHIFT * float(np.linalg.norm(Y))
    Y = Y + shift * last
    core = last.T @ Y
    values, vectors = np.linalg.eigh((core + core.T) / 2)
    F = Y @ (vectors / np.sqrt(values.clip(shift or 1.0)))
    return np.asarray(np.linalg.svd(F, full_matrices=False)[0])
