"""Compare a dataset with those of a bank, and choose coefficients."""

import math
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.index import LARGE
from hf_lorameta.bank.large_profiles import CANDIDATES
from hf_lorameta.data.counts.output_counts import OutputCounts
from hf_lorameta.data.counts.profile import Profile, ProfileTable
from hf_lorameta.errors import Option, RecipeError
from hf_lorameta.method import metrics
from hf_lorameta.method.coefficients import Coefficients, RuleInputs, apply_rule, length_scale
from hf_lorameta.method.neural import NeuralModel
from hf_lorameta.method.registries import COEFFICIENT_RULES, COMBINERS, DEFAULT_METRIC, METRICS
from hf_lorameta.recipe import Recipe
from hf_lorameta.types import Array


def choose_coefficients(
    bank: Bank, recipe: Recipe, profile: Profile, counts: OutputCounts | None
) -> tuple[Array, Coefficients]:
    """Measure the distances of a dataset to the bank and apply the recipe's rule to them.

    In a large bank, only candidates that its sketches choose are compared; the other datasets get
    a coefficient of zero.

    Args:
        bank: of N adapters; if N is 0, nothing is measured, and only the general adapter is used.
        recipe: the settings.
        profile: of the dataset.
        counts: of its outputs; None leaves out the output prior.

    Returns:
        The (N,) distances, infinite for datasets that were not compared, and the coefficients,
        0 for these.

    Raises:
        BankError: the bank lacks the neural rule that was asked for, or has none for the metric.
        RecipeError: the bank is large, and the metric or the rule needs all of its datasets.
    """
    has_general = bank.index.general is not None
    if not bank.has_datasets:
        general = Coefficients(np.empty(0), 1.0 if has_general else None)
        return np.empty(0), _with_prior(general, bank, recipe, profile, counts)
    comparison = compare_with_bank(bank, profile, recipe.metric)
    if bank.is_large:
        _check_among_candidates(bank, recipe)
        chosen = bank.large_profiles.sketches.nearest(profile, CANDIDATES)
        comparison = comparison._replace(chosen=chosen)
    distances = comparison.distances(profile)
    inputs = RuleInputs(
        distances,
        recipe.temperature,
        comparison.bank_distances,
        lambda: NeuralModel.from_arrays(bank.neural(recipe.metric)),
        general=has_general,
        median=bank.index.median_distances.get(comparison.name),
    )
    coefficients = apply_rule(recipe.coefficients, inputs, recipe.top_k)
    if comparison.chosen is not None:
        distances, coefficients = _over_whole_bank(
            len(bank), comparison.chosen, distances, coefficients
        )
    return distances, _with_prior(coefficients, bank, recipe, profile, counts)


def _with_prior(
    coefficients: Coefficients,
    bank: Bank,
    recipe: Recipe,
    profile: Profile,
    counts: OutputCounts | None,
) -> Coefficients:
    """Add the coefficient of the output prior, if it is used, and scale all coefficients."""
    prior = bank.index.output_prior and recipe.output_prior
    if counts and prior and COMBINERS[recipe.combine].linear:
        coefficients = replace(coefficients, output_prior=prior)
    return coefficients.scaled(scale_for(bank, recipe, profile))


def _check_among_candidates(bank: Bank, recipe: Recipe) -> None:
    """Raise RecipeError for a method that needs more than the nearest datasets."""
    local = COEFFICIENT_RULES[recipe.coefficients].among_candidates
    if local and recipe.metric == DEFAULT_METRIC:
        return
    setting = "metric" if local else "coefficients"
    raise RecipeError(
        f"{setting}={getattr(recipe, setting)} needs the distances to all {len(bank):,} datasets "
        f"of the bank, and so the profiles and then the adapters of all; in a bank of more than "
        f"{LARGE:,}, only the nearest {CANDIDATES} are compared",
        code="recipe.needs-all-distances",
        hint=[
            Option("metric", DEFAULT_METRIC),
            Option("coefficients", "kernel"),
        ],
    )


def _over_whole_bank(
    number: int, chosen: NDArray[np.intp], distances: Array, coefficients: Coefficients
) -> tuple[Array, Coefficients]:
    """Return the distances and coefficients of candidates as arrays over the whole bank."""
    all_distances = np.full(number, np.inf)
    all_distances[chosen] = distances
    weights = np.zeros(number)
    weights[chosen] = coefficients.adapters
    return all_distances, replace(coefficients, adapters=weights)


def scale_for(bank: Bank, recipe: Recipe, profile: Profile) -> float:
    """Return the factor to multiply all coefficients by; see `hf_lorameta.recipe.Recipe.scale`.

    Args:
        bank: the bank.
        recipe: the settings.
        profile: of the dataset; without outputs, there is no scaling by their length.
    """
    if recipe.scale is not None:
        return recipe.scale
    if not profile.output.total or not is_scaled_by_length(bank, recipe):
        return 1.0
    general, lengths = bank.index.general, bank.stored_profiles.output_lengths
    if general and not bank.has_datasets:
        lengths = np.array([general.output_length or math.inf])
    return length_scale(profile.output_length, lengths)


def is_scaled_by_length(bank: Bank, recipe: Recipe) -> bool:
    """Return whether coefficients depend on how long a dataset's outputs are, if it has any."""
    by_length = COEFFICIENT_RULES[recipe.coefficients].by_length
    return recipe.scale is None and by_length and bank.index.general is not None


class Comparison(NamedTuple):
    """Which bank datasets, and which part of their texts, a new dataset is compared with.

    Attributes:
        bank: of N adapters.
        metric: a key of `hf_lorameta.method.registries.METRICS`.
        part: the only part of the texts that is compared; None if no part is left out.
        chosen: (C,) indices of the bank datasets that are compared; None compares all.
    """

    bank: Bank
    metric: str
    part: Literal["input", "output"] | None = None
    chosen: NDArray[np.intp] | None = None

    @property
    def name(self) -> str:
        """Name under which the bank stores these distances."""
        return metrics.stored_name(self.metric, self.part)

    @property
    def profiles(self) -> ProfileTable:
        """The profiles of the datasets that are compared, without the part that is left out."""
        bank = self.bank
        table = bank.profiles if self.chosen is None else bank.stored_profiles.take(self.chosen)
        return table.only(self.part) if self.part else table

    def distances(self, profile: Profile) -> Array:
        """Return the (C,) distances from the new dataset to those that are compared."""
        return metrics.distances(profile, self.profiles, self.bank.index.vocab_size, self.metric)

    def bank_distances(self) -> Array:
        """Return the (C, C) distances between the compared datasets; if these are all, stored."""
        size = self.bank.index.vocab_size
        if self.chosen is not None:
            return metrics.pairwise_distances(self.profiles, size, self.metric)
        stored = self.bank.distances
        if self.name not in stored:
            stored[self.name] = metrics.pairwise_distances(self.profiles, size, self.metric)
        return stored[self.name].astype(np.float64)

    def typical_nearest(self) -> float:
        """Return the median distance from a bank dataset to its nearest other; NaN if N < 2."""
        if self.part is None or self.bank.is_large:
            return self.bank.index.typical_distances.get(self.name, float("nan"))
        if len(self.bank) < 2:
            return float("nan")
        inside = self.bank_distances()
        nearest = np.where(np.eye(len(inside), dtype=bool), np.inf, inside).min(axis=1)
        return float(np.median(nearest))


def compare_with_bank(bank: Bank, profile: Profile, metric: str) -> Comparison:
    """Return how to compare a new dataset with a bank, using only the parts that the dataset has.

    A dataset without outputs is compared by inputs alone. One without inputs is compared by
    outputs alone if the metric measures inputs and outputs separately, and otherwise with all the
    text of the bank's datasets.

    Args:
        bank: of N adapters.
        profile: of the new dataset.
        metric: a key of `hf_lorameta.method.registries.METRICS`.
    """
    if not profile.output.total:
        return Comparison(bank, metric, "input")
    if len(METRICS[metric].parts) > 1 and not profile.input.total:
        return Comparison(bank, metric, "output")
    return Comparison(bank, metric)
