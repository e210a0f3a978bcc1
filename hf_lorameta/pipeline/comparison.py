"""Compare a new dataset with those of a bank, on the parts of the text that both have."""

from typing import Literal, NamedTuple

import numpy as np

from hf_lorameta.bank.bank import Bank
from hf_lorameta.data.profile import Profile, ProfileTable
from hf_lorameta.method import metrics
from hf_lorameta.types import Array


class Comparison(NamedTuple):
    """The parts of a bank's datasets that a new one is compared with.

    Attributes:
        bank: of N adapters.
        metric: a key of `hf_lorameta.method.metrics.METRICS`.
        profiles: of the bank, without the part that the new dataset lacks.
        complete: no part is left out.
        name: under which the distances among these profiles are stored.
    """

    bank: Bank
    metric: str
    profiles: ProfileTable
    complete: bool
    name: str

    def distances(self, profile: Profile) -> Array:
        """Return the (N,) distances from the new dataset to every bank dataset."""
        return metrics.distances(profile, self.profiles, self.bank.index.vocab_size, self.metric)

    def bank_distances(self) -> Array:
        """Return the (N, N) distances inside the bank, stored or computed once."""
        stored = self.bank.distances
        if self.name not in stored:
            size = self.bank.index.vocab_size
            stored[self.name] = metrics.between(self.profiles, size, self.metric)
        return stored[self.name].astype(np.float64)

    def typical_nearest(self) -> float:
        """Return the median distance from a bank dataset to its nearest other; NaN if N is 1."""
        if self.complete:
            return self.bank.index.typical_distances.get(self.metric, float("nan"))
        inside = self.bank_distances()
        nearest = np.where(np.eye(len(inside), dtype=bool), np.inf, inside).min(axis=1)
        return float(np.median(nearest)) if len(inside) > 1 else float("nan")


def compare_with_bank(bank: Bank, profile: Profile, metric: str) -> Comparison:
    """Leave out of the bank's profiles what the new dataset lacks.

    A dataset without outputs is compared by inputs alone. One without inputs is compared by
    outputs alone if the metric measures inputs and outputs separately, and else with all text of
    the bank's datasets.

    Args:
        bank: of N adapters.
        profile: of the new dataset.
        metric: a key of `hf_lorameta.method.metrics.METRICS`.
    """
    part: Literal["input", "output"]
    if not profile.output.total:
        part = "input"
    elif len(metrics.METRICS[metric].parts) > 1 and not profile.input.total:
        part = "output"
    else:
        return Comparison(bank, metric, bank.profiles, True, metrics.stored_name(metric))
    name = metrics.stored_name(metric, part)
    return Comparison(bank, metric, bank.profiles.only(part), False, name)
