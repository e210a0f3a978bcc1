"""Check a finished adapter on rows that it was not made with."""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from hf_lorameta.engines.interfaces import BaseModelRunner
from hf_lorameta.errors import AdapterError, Option
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.method.coefficients import Coefficients
from hf_lorameta.method.merging import COMBINERS
from hf_lorameta.pipeline.generation import Generation
from hf_lorameta.pipeline.plan import Plan
from hf_lorameta.pipeline.rows import Rows
from hf_lorameta.refine.shrink import validate
from hf_lorameta.types import FactorPair


def check_adapter(generation: Generation, rows: Rows, runner: BaseModelRunner) -> Generation:
    """Score a finished adapter as it would be written, and scale it down if the base is better.

    A check that the recipe does not ask for only reports: it leaves the adapter as it is.

    Args:
        generation: the adapter.
        rows: its rows to check on and those of the prompt count.
        runner: runs the base model.

    Returns:
        The adapter with its plan's `check`; all coefficients are zero if no scale helps.
    """
    plan = generation.plan
    scaled = ScaledAdapter(generation)
    shrink = plan.recipe.check is not None
    check = validate(scaled, runner, rows.check, rows.prompt, shrink=shrink)
    pairs = tuple(scaled.pairs(Coefficients(np.array([check.scale]))))
    plan = replace(plan, coefficients=plan.coefficients.scaled(check.scale), check=check)
    return replace(generation, plan=plan, pairs=pairs)


class ScaledAdapter(NamedTuple):
    """A finished adapter as a function of one coefficient that scales all of its own."""

    generation: Generation

    @property
    def linear(self) -> bool:
        """Whether the update is proportional to the coefficient."""
        plan = self.generation.plan
        return COMBINERS[plan.recipe.combine].linear or plan.training is not None

    @property
    def layout(self) -> Layout:
        """The modules that the adapter changes."""
        return self.generation.layout

    def pairs(self, coefficients: Coefficients) -> Iterator[FactorPair]:
        """Yield (lora_A, lora_B) of every module; without linearity both are scaled."""
        scale = np.float32(coefficients.shared[0])
        scale_A = np.float32(1) if self.linear else scale
        return ((A * scale_A, B * scale) for A, B in self.generation.pairs)


def require_gain(plan: Plan, setting: str) -> None:
    """Refuse an adapter that was scaled down to zero, or is worse than the base model in a chat.

    Args:
        plan: of the adapter.
        setting: which of the recipe's had it scored: `refine` or `check`.

    Raises:
        AdapterError: it is refused.
    """
    check = plan.check
    anyway = Option(setting, change="leave out")
    if check and check.chat is not None and check.chat < check.end:
        raise AdapterError(
            f"the base model with its own chat template is better: its loss on {check.rows} rows "
            f"is {check.chat:.3f}, that of the adapter {check.end:.3f}",
            hint=["use the base model's chat template", anyway],
        )
    if not plan.active_indices:
        raise AdapterError(
            "even at 1/8 strength the adapter is worse than the base model on the scored rows: the "
            "bank cannot help with this dataset",
            hint=[Option("bank", change="name another"), anyway],
        )
