"""The output prior: an update that makes a dataset's output tokens likely.

Adapters of other datasets do not know the labels of a new one, but its token counts do. Let p be
the distribution of its output tokens, q that of the bank's on average, and e_v the vectors with
which the base model scores tokens, logit_v = e_v · h. Among all distributions that have the mean
vector of p, the nearest to q is the tilted ``q(v) exp(e_v · u)`` [1, 2]; u minimizes

    log Σ_v q(v) exp(e_v · u) − Σ_v p(v) e_v · u + (λ / 2) ‖u‖².

So adding u to the hidden states h moves the model's tokens from q toward p. The update adds it in
the last down-projection: of its input x, a gate a with a · x ≈ 1 is a row of lora_A, and u a column
of lora_B. There are two gates, for the first token of an output, which distinguishes labels, and
for the others; linear regression finds them when the bank is trained.

If the first tokens of the outputs already occur in the inputs, like labels that a prompt lists, the
bank's general adapter predicts them, and its distribution is no longer q. So the first part is
weighted by the share of outputs whose first token does not occur in the input.

References:
    [1] Kullback, Information Theory and Statistics, Wiley, 1959 (minimum discrimination).
    [2] Della Pietra, Della Pietra, Lafferty, Inducing features of random fields, 1997.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.data.counts.output_counts import OutputCounts
from hf_lorameta.formats.lora_layout import Module
from hf_lorameta.types import Array, FactorPair, FloatArray

ARCHITECTURES = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3", "phi3"})
"""Model types that add the last down-projection's output to the hidden state as it is.

Gemma 2, 3 and 4 normalize it first: its size is fixed, so an update cannot carry the prior.
"""
_FIRST = 1.4
"""Weight of the part for first tokens, relative to that for later ones."""
_RIDGE = 3e-3
_SMOOTHING = 0.1
_STEPS = 7
_NEGLIGIBLE = 1e-7


@dataclass(frozen=True, eq=False)
class OutputPrior:
    """The arrays of a base model from which the output prior is computed.

    Attributes:
        module: the last down-projection, whose input has the size in.
        embeddings: (V, k) coordinates of the vectors e_v in their k main directions.
        directions: (k, out) from these coordinates to an output of the module.
        gates: (2, in), for first and for later tokens.
        backgrounds: (2, V) distributions q of first and of later output tokens.
    """

    module: Module
    embeddings: FloatArray
    directions: FloatArray
    gates: FloatArray
    backgrounds: FloatArray

    def factors(self, counts: OutputCounts) -> FactorPair:
        """Return A (2, in) and B (out, 2) of the update for a dataset.

        A part without counts, like later tokens of outputs of one token, is not updated.
        """
        first, later = self.backgrounds
        tilts = np.stack([
            _FIRST * (1 - counts.copied) * tilt(counts.first, first, self.embeddings),
            tilt(counts.later, later, self.embeddings),
        ])  # fmt: skip
        return self.gates, (tilts.astype(np.float32) @ self.directions).T.copy()


def tilt(counts: NDArray[np.integer], background: FloatArray, embeddings: FloatArray) -> Array:
    """Return the tilt u from a background distribution toward counts, see the module's docstring.

    The counts are smoothed by a tenth of the background. Newton's method with step halving; the
    problem is convex.

    Args:
        counts: (V,) of the dataset's tokens.
        background: (V,) q, positive, sums to one.
        embeddings: (V, k) e.

    Returns:
        (k,) u; zeros if there are no counts.

    Example:
        >>> e = np.eye(3, dtype=np.float32)
        >>> q = np.full(3, 1 / 3, np.float32)
        >>> u = tilt(np.array([8, 1, 1]), q, e)
        >>> bool(u[0] > u[1]), bool(np.isclose(u[1], u[2]))
        (True, True)
    """
    u = np.zeros(embeddings.shape[1])
    total = int(counts.sum())
    if not total:
        return u
    q = background.astype(np.float64)
    p = (counts / total + _SMOOTHING * q) / (1 + _SMOOTHING)
    mean = p.astype(np.float32) @ embeddings
    log_q = np.log(q)

    def objective(u: Array) -> tuple[float, Array]:
        logits = log_q + embeddings @ u.astype(np.float32)
        highest = logits.max()
        weights = np.exp(logits - highest)
        partition = weights.sum()
        value = highest + np.log(partition) - mean @ u + _RIDGE / 2 * u @ u
        return float(value), weights / partition

    value, tilted = objective(u)
    for _ in range(_STEPS):
        used = tilted > _NEGLIGIBLE
        e, root = embeddings[used].astype(np.float64), np.sqrt(tilted[used])
        e *= root[:, None]
        m = root @ e
        gradient = m - mean + _RIDGE * u
        hessian = e.T @ e - np.outer(m, m) + _RIDGE * np.eye(u.size)  # half the work if symmetric
        step = np.linalg.solve(hessian, gradient)
        scale = 1.0
        while scale > 1e-3:
            next_value, next_tilted = objective(u - scale * step)
            if next_value < value:
                break
            scale /= 2
        else:
            break
        improvement = value - next_value
        u, value, tilted = u - scale * step, next_value, next_tilted
        if improvement < 1e-6:
            break
    return u
