"""Choose the coefficients of a dataset that was read."""

import numpy as np

from hf_lorameta.bank.bank import Bank
from hf_lorameta.data.output_counts import OutputCounts
from hf_lorameta.data.profile import Profile
from hf_lorameta.method.coefficients import Coefficients, RuleInputs, apply_rule
from hf_lorameta.method.merging import COMBINERS
from hf_lorameta.method.neural_model import NeuralModel
from hf_lorameta.pipeline.comparison import compare
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
    comparison = compare(bank, profile, recipe.metric)
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
    return distances, coefficients


def _neural(bank: Bank, recipe: Recipe) -> NeuralModel:
    prefix = f"{recipe.metric}."
    arrays = {k.removeprefix(prefix): v for k, v in bank.neural().items() if k.startswith(prefix)}
    return NeuralModel.from_arrays(arrays)
