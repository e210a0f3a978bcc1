"""Prototypes of Arrow, by which a mixture of adapters is routed token by token.

Each module has one prototype per adapter, the input direction that its update amplifies most. A
token's activation x is scored ``|x · v_i|``; the top scores, through a softmax, weigh the updates
``B_i A_i x`` [1]. PEFT's `create_arrow_model` does this, with prototypes that it computes itself.

References:
    [1] Ostapenko et al., Towards Modular LLMs by Building and Reusing a Library of LoRAs,
        arXiv 2405.11157, 2024.
"""

import numpy as np

from hf_lorameta.method.low_rank import LowRankSum, truncated_svd
from hf_lorameta.types import FloatArray


def prototype(A: FloatArray, B: FloatArray) -> FloatArray:
    """Return the first right singular vector of B A, ``argmax ‖B A v‖`` over unit vectors v.

    Its entry of largest magnitude is positive; scores do not depend on the sign.

    Args:
        A: (r, in_features).
        B: (out_features, r).

    Returns:
        (in_features,) float32 of norm 1; zeros if the update is zero.

    Raises:
        AdapterError: a value is not finite.

    Example:
        >>> prototype(np.eye(2, dtype=np.float32), np.diag([1, -4]).astype(np.float32))
        array([0., 1.], dtype=float32)
    """
    _, s, V = truncated_svd(LowRankSum(A, B, np.ones(len(A))), 1)
    if not s.size:
        return np.zeros(A.shape[1], np.float32)
    v: FloatArray = V[:, 0].astype(np.float32)
    return v if v[np.abs(v).argmax()] > 0 else -v
