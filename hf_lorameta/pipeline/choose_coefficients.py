"""Choose the coefficients of a dataset that was read."""

import numpy as np

from hf_lorameta.bank.bank import Bank
from hf_lorameta.data.output_counts import OutputCounts
from hf_lorameta.data.profile import Profile
from hf_lorameta.method.coefficients import (
    COEFFICIENT_RULES,
    Coefficients,
    RuleInputs,
    apply_rule,
)
from hf_lorameta.method.length_scale import length_scale
from hf_lorameta.method.merging import COMBINERS
from hf_lorameta.method.neural_model import NeuralModel
from hf_lorameta.pipeline.comparison import compare_with_bank
from hf_lorameta.recipe import Recipe
from hf_lorameta.types import Array


def choose_coefficients(
    bank: Bank, recipe: Recipe, profile: Profile, counts: OutputCounts | None
) -> tuple[Array, Coefficients]:
    """Measure the distances of a dataset to the bank and apply the recipe's rule to them.

    Args:
        bank: of N adapters.
        recipe: the settings.
        profile: of the dataset.
        counts: of its outputs; None leaves out the output prior.

    Returns:
        The distances, (N,), and the coefficients as `Plan` holds them.

    Raises:
        BankError: the bank lacks the neural rule that was asked for.
    """
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
