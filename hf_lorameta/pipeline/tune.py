"""What takes the base model: fitting a plan's coefficients on a few rows of the user's dataset, and
checking a finished adapter on others.

Needs the base model, on this machine or on the Hub, and the extra ``eval``; or, with
`hf_lorameta.engines.llama_runner.LlamaCppRunner`, a GGUF of it and the extra ``gguf``.

Time and memory for a base of 7B, derived and not measured. Mistral-7B has 32 layers of 218 million
weights, so a token costs F = 2 · 6.98e9 = 14 GFLOP forwards and as much backwards through the
activations. 16 rows of 100 tokens are T = 1,600 tokens. A bank of 502 adapters of rank 16 on q, k
and v adds up for 12.9 TFLOP an update and 15.2 a gradient, a pack of it with 128 dimensions for 0.2
and 0.9. Two AVX2 cores were measured to multiply 155 GFLOPS in float32, 18 in bfloat16, and 26 each
in llama.cpp with 4-bit weights.

- ``gradient`` asks for 8 points at most, forwards and backwards, and for 3 losses: of the last
  point, of rows held out and of the base model; where only a part of the way serves held-out rows,
  for up to 3 more. (8 · 2 + 3) F T, the updates and the adapters' Gram matrices are 439 TFLOP with
  the pack and 791 with the bank: 0.8 or 1.4 hours in float32, 7 or 11 in bfloat16 without
  instructions for it; and a minute among 502 coefficients for each of 96 modules. A bank is read
  once for each update and each line of 512 tokens, here 46 times 9.5 GB; the pack's 0.6 GB stay in
  the cache. Memory in bfloat16: 14.5 GB of weights, 1.6 of W + ΔW, 2.5 of activations for a line
  (150 kB a token and layer, scaled by the widths from the 19 kB of SmolLM2) and 0.8 of Gram
  matrices and slopes: 19 GB, which does not fit on 16; in float32 38.
- ``search`` asks for 1 + 32 + 6 points and 3 losses: 42 F T = 938 TFLOP. Through llama.cpp
  (`hf_lorameta.engines.llama_runner`) with a base in 4 bits it fits: 4.4 GB, 0.13 of keys and values for
  1,024 tokens, 0.6 for 32 adapters. At 52 GFLOPS that is 5 hours, on eight such cores 1.3; every
  output token is a step of its own, which reads the weights once: with 20 a row 13,440 steps,
  another hour at 16 GB/s. With `TorchRunner` it needs the 16 GB of weights and W + ΔW in bfloat16.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.weighted_sum import WeightedSum
from hf_lorameta.engines.interfaces import BaseModelRunner
from hf_lorameta.engines.torch_evaluator import TorchEvaluator
from hf_lorameta.engines.torch_runner import TorchRunner
from hf_lorameta.errors import UsageError
from hf_lorameta.hub.base_model import locate
from hf_lorameta.method.coefficients import Coefficients
from hf_lorameta.method.merging import COMBINERS
from hf_lorameta.pipeline.generation import Generation
from hf_lorameta.pipeline.held_out_rows import first_labeled_rows, rows_to_check, rows_to_fit
from hf_lorameta.pipeline.plan import Plan
from hf_lorameta.refine.registry import REFINERS
from hf_lorameta.refine.shrink import validate
from hf_lorameta.types import FloatArray


def refine_plan(
    made: Plan,
    scored: BaseModelRunner | None = None,
    *,
    progress: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> Plan:
    """Fit a plan's coefficients as its recipe says.

    Args:
        made: a plan whose recipe has `refine`, the number of rows.
        scored: holds the base model; None loads it.
        progress: called with (step, steps, loss of the rows).

    Returns:
        The plan with the fitted coefficients and its `refinement`.

    Raises:
        UsageError: the recipe does not ask for it, or for gradients where there are none.
        EmptyDatasetError: the dataset has fewer than 4 labeled rows, or, where the recipe asks for
            a check, fewer than 4 others.
        MissingExtraError: the extra ``eval`` is not installed.
        NotFoundError: the base model is out of reach.
    """
    if made.recipe.refine is None:
        raise UsageError("the recipe asks for no refinement", hint="--refine 16")
    refiner = REFINERS[made.recipe.refiner]
    if refiner.needs_gradients and scored and not hasattr(scored, "gradient"):
        raise UsageError(f"{scored.engine} computes no gradients", hint="--refiner search")
    labeled = first_labeled_rows(made.dataset)
    rows = rows_to_fit(made, labeled)
    if made.recipe.check is not None:
        rows_to_check(made, labeled)  # too few of them are told before the work, not after
    scored = scored or load_base_model(made.bank)
    used = made.active_indices
    c, refinement = refiner.function(
        made.coefficients.shared[used],
        WeightedSum(made.bank, used),
        rows,
        scored,
        progress=progress,
    )
    return replace(made, coefficients=c.expand(used, len(made.bank)), refinement=refinement)


def validate_adapter(made: Generation, scored: BaseModelRunner | None = None) -> Generation:
    """Score a finished adapter as its recipe says, and draw it back where the base model is better.

    What is scored is the adapter itself, as it would be written, on rows that it was not fitted on.

    Args:
        made: an adapter whose recipe has `validate`, the number of rows.
        scored: holds the base model; None loads it.

    Returns:
        The adapter with its plan's `validate`, all its coefficients zero if nothing helped.

    Raises:
        UsageError: the recipe does not ask for it.
        EmptyDatasetError: the dataset has fewer than 4 labeled rows that were not fitted on.
        MissingExtraError: the extra ``eval`` is not installed.
        NotFoundError: the base model is out of reach.
    """
    if made.plan.recipe.check is None:
        raise UsageError("the recipe asks for no check", hint="--check 16")
    rows = rows_to_check(made.plan)
    scored = scored or load_base_model(made.plan.bank)
    scaled = ScaledAdapter(made)
    found = validate(scaled, scored, scored.encode(rows))
    c = made.plan.coefficients.scaled(found.scale)
    pairs = tuple(scaled.pairs(Coefficients(np.array([found.scale]))))
    return replace(made, plan=replace(made.plan, coefficients=c, check=found), pairs=pairs)


class ScaledAdapter(NamedTuple):
    """An adapter as a function of one coefficient, as if all of its own were multiplied with it."""

    made: Generation

    @property
    def linear(self) -> bool:
        return COMBINERS[self.made.plan.recipe.combine].linear

    def pairs(self, coefficients: Coefficients) -> Iterator[tuple[FloatArray, FloatArray]]:
        scale = np.float32(coefficients.shared[0])
        apart = not self.linear  # A and B are both sums
        return ((A * scale if apart else A, B * scale) for A, B in self.made.pairs)


def load_base_model(bank: Bank) -> TorchRunner:
    """The base model that a bank is for, loaded.

    Raises:
        MissingExtraError: the extra ``eval`` is not installed.
        NotFoundError: the base model is out of reach.
    """
    base_model = bank.index.base_model
    return TorchRunner(TorchEvaluator(locate(base_model), base_model=base_model), bank.layout)
