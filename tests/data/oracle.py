"""The distributions of the paper, computed plainly from profiles."""

from collections.abc import Iterable

import numpy as np

from hf_lorameta.data.counts.profile import Part, Profile
from hf_lorameta.types import Array


def distribution(profile: Profile, vocab_size: int, part: Part = "both") -> Array:
    """(V,) counts of a part, divided by their sum."""
    counts = profile.counts(vocab_size, part)
    return np.asarray(counts / counts.sum(), np.float64)


def distributions(profiles: Iterable[Profile], vocab_size: int, part: Part = "both") -> Array:
    """(N, V) distributions of N profiles."""
    return np.stack([distribution(profile, vocab_size, part) for profile in profiles])
