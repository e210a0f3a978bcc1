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

import random
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from hf_lorameta.data.dataset import Dataset
from hf_lorameta.errors import EmptyDatasetError
from hf_lorameta.pipeline.plan import Plan
from hf_lorameta.recipe import Recipe
from hf_lorameta.types import Row

_POOL = 1000
"""The rows to fit on are drawn among so many at the dataset's beginning."""
_MIN_ROWS = 4


def rows_to_fit(made: Plan, labeled: list[Row] | None = None) -> list[Row]:
    """Labeled rows to fit on, drawn with the recipe's seed among the first thousand.

    Args:
        made: says which dataset, how many rows, and the seed.
        labeled: those first rows; None reads them.
    """
    rows = first_labeled_rows(made.dataset) if labeled is None else labeled
    return [rows[i] for i in _draw(made.recipe, len(rows))[0]]


def rows_to_check(made: Plan, labeled: list[Row] | None = None) -> list[Row]:
    """Labeled rows to check on, drawn in the same way among those that were not to be fitted on.

    Args:
        made: says which dataset, how many rows, and the seed.
        labeled: as in `rows_to_fit`.

    Raises:
        EmptyDatasetError: fewer than 4.
    """
    rows = first_labeled_rows(made.dataset) if labeled is None else labeled
    fitted, chosen = _draw(made.recipe, len(rows))
    if len(chosen) < _MIN_ROWS:
        left = f" that are left by --refine {made.recipe.refine}" if fitted else ""
        raise EmptyDatasetError(
            f"{len(chosen)} of {len(rows)} labeled rows{left} to check on, expected at least "
            f"{_MIN_ROWS}",
            hint="leave out --check, lower --refine, or name a dataset with more rows",
        )
    return [rows[i] for i in chosen]


def rows_used(provenance: Mapping[str, Any], dataset: Dataset) -> list[Row]:
    """Rows of a dataset that a finished adapter was fitted or checked on: no test of it.

    A private dataset's name is in no adapter. One is taken to be the same if it has the same split,
    columns and number of rows.

    Args:
        provenance: of the adapter, as `hf_lorameta.pipeline.adapter_folder.read_provenance` has it.
        dataset: to be scored.

    Raises:
        RecipeError: the adapter's recipe is none of this version.
    """
    told = provenance["dataset"]
    settings = ("refine", "check", "seed", "max_rows")
    recipe = Recipe.of(**{k: v for k, v in provenance["recipe"].items() if k in settings})
    if not (recipe.refine or recipe.check):
        return []
    seen = told["id"], told.get("split"), told.get("columns")
    name = None if told["private"] else dataset.id
    if seen != (name, dataset.split, dataset.columns.model_dump(exclude_none=True)):
        return []
    if told["private"] and told.get("rows") != _count_labeled(dataset, recipe.max_rows):
        return []
    rows = first_labeled_rows(dataset)
    fitted, checked = _draw(recipe, len(rows))
    return [rows[i] for i in (*fitted, *checked)]


def _count_labeled(dataset: Dataset, limit: int | None) -> int:
    return sum(1 for _, output in islice(dataset.rows(), limit) if output)


def first_labeled_rows(dataset: Dataset) -> list[Row]:
    return [row for row in islice(dataset.rows(), _POOL) if row[1].strip()]


def _draw(recipe: Recipe, size: int) -> tuple[list[int], list[int]]:
    """Among so many rows, those to fit on and those to check on."""

    def drawn(places: Sequence[int], count: int | None) -> list[int]:
        return random.Random(recipe.seed).sample(places, min(count or 0, len(places)))

    fitted = drawn(range(size), recipe.refine)
    taken = set(fitted)
    return fitted, drawn([i for i in range(size) if i not in taken], recipe.check)
