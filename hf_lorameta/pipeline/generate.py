"""The one composer: bank + dataset + recipe → plan → adapter, combined, saved and read back."""

import time
from collections.abc import Callable
from pathlib import Path

from hf_lorameta.bank.bank import Bank
from hf_lorameta.data.dataset import Dataset
from hf_lorameta.engines.interfaces import BaseModelRunner
from hf_lorameta.errors import AdapterError
from hf_lorameta.pipeline.generation import Generation, combine_adapters
from hf_lorameta.pipeline.plan import Plan, plan
from hf_lorameta.pipeline.tune import refine_plan, validate_adapter
from hf_lorameta.recipe import Recipe


def generate(
    dataset: str | Path | Dataset,
    bank: Bank | None = None,
    recipe: Recipe | None = None,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> "Generation":
    """Make an adapter for a dataset, without training.

    Args:
        dataset: Hub id, local file, or an opened `Dataset`.
        bank: None opens the default bank.
        recipe: None is ``Recipe()``.
        progress: called after each module with (done, total).

    Raises:
        DatasetError: as `plan`.
        BankError: as `plan`.
        RecipeError: ``factors`` with differing ranks or another rank than the bank's.
        AdapterError: as `generate_from_plan`.
        HubError: as `plan`; adapters of a Hub bank are fetched here.
    """
    return generate_from_plan(plan(dataset, bank, recipe), progress)


def generate_from_plan(
    made: Plan,
    progress: Callable[[int, int], None] = lambda done, total: None,
    scored: BaseModelRunner | None = None,
) -> "Generation":
    """Combine the adapters a plan names, module by module.

    Where its recipe asks for it, a plan is refined first, and its adapter checked at the end, see
    `hf_lorameta.pipeline.tune`.

    Args:
        made: the plan.
        progress: called after each module with (done, total).
        scored: holds the base model, where it is needed; None loads it.

    Raises:
        AdapterError: it was refined or checked, and no share of it is as good as the base model.
        LoraMetaError: as `generate`.
    """
    if made.recipe.refine is not None and made.refinement is None:
        made = refine_plan(made, scored)
    _check_gain(made, "--refine")
    started = time.perf_counter()
    pairs = combine_adapters(made, progress)
    rank = pairs[0][0].shape[0]
    combined = Generation(made, rank, tuple(pairs), time.perf_counter() - started)
    if made.recipe.check is None:
        return combined
    combined = validate_adapter(combined, scored)
    _check_gain(combined.plan, "--check")
    return combined


def _check_gain(made: Plan, option: str) -> None:
    """Refuse what was drawn back to nothing: an adapter of zeros is the base model."""
    if not made.active_indices:
        raise AdapterError(
            "no share of this adapter is as good as the base model alone on the rows it was scored "
            "on: the bank cannot help with this dataset",
            hint=f"name another --bank, or leave out {option} to have it all the same",
        )
