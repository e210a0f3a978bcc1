"""Compare a dataset that was read with those of a bank, and choose coefficients."""

from typing import Literal, NamedTuple

import numpy as np

from hf_lorameta.bank.bank import Bank
from hf_lorameta.data.counts.output_counts import OutputCounts
from hf_lorameta.data.counts.profile import Profile, ProfileTable
from hf_lorameta.method import metrics
from hf_lorameta.method.coefficients import (
    COEFFICIENT_RULES,
    Coefficients,
    RuleInputs,
    apply_rule,
)
from hf_lorameta.method.length_scale import length_scale
from hf_lorameta.method.merging import COMBINERS
from hf_lorameta.method.neural_model import NeuralModel
from hf_lorameta.recipe import Recipe
from hf_lorameta.types import Array


def choose_coefficients(
    bank: Bank, recipe: Recipe, profile: Profile, counts: OutputCounts | None
) -> tuple[Array, Coefficients]:
    """Measure the distances of a dataset to the bank and apply the recipe's rule to them.

    Args:
        bank: of N adapters; nothing is measured without any.
        recipe: the settings.
        profile: of the dataset.
        counts: of its outputs; None leaves out the output prior.

    Returns:
        The distances, (N,), and the coefficients as `Plan` holds them.

    Raises:
        BankError: the bank lacks the neural rule that was asked for.
    """
    if not len(bank):
        return np.empty(0), Coefficients(np.empty(0))
    comparison = compare_with_bank(bank, profile, recipe.metric)
    distances = comparison.distances(profile)
    inputs = RuleInputs(
        distances,
        recipe.temperature,
        comparison.bank_distances,
        lambda: _neural(bank, recipe),
        general=bank.index.general is not None,
    )
    coefficients = apply_rule(recipe.coefficients, inputs, recipe.top_k)
    if counts and recipe.output_prior and COMBINERS[recipe.combine].linear:
        coefficients = Coefficients(np.append(coefficients.shared, recipe.output_prior))
    return distances, coefficients.scaled(scale_for(bank, recipe, profile))


def scale_for(bank: Bank, recipe: Recipe, profile: Profile) -> float:
    """Return the factor of all coefficients, see `hf_lorameta.recipe.Recipe.scale`.

    Args:
        bank: the bank.
        recipe: the settings.
        profile: of the dataset; one without outputs is not scaled by their length.
    """
    if recipe.scale is not None:
        return recipe.scale
    if not profile.output.total or not is_scaled_by_length(bank, recipe):
        return 1.0
    return length_scale(profile.output_length, bank.profiles.output_lengths)


def is_scaled_by_length(bank: Bank, recipe: Recipe) -> bool:
    """Whether coefficients depend on the length of outputs, if a dataset has outputs."""
    by_length = COEFFICIENT_RULES[recipe.coefficients].by_length
    return recipe.scale is None and by_length and bank.index.general is not None


def _neural(bank: Bank, recipe: Recipe) -> NeuralModel:
    prefix = f"{recipe.metric}."
    arrays = {k.removeprefix(prefix): v for k, v in bank.neural().items() if k.startswith(prefix)}
    return NeuralModel.from_arrays(arrays)


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
        """Return the median distance from a bank dataset to its nearest other; NaN if N < 2."""
        if self.complete:
            return self.bank.index.typical_distances.get(self.metric, float("nan"))
        if len(self.bank) < 2:
            return float("nan")
        inside = self.bank_distances()
        nearest = np.where(np.eye(len(inside), dtype=bool), np.inf, inside).min(axis=1)
        return float(np.median(nearest))


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
