"""Choose the rank of each module of a merge, by a maximum size or by the energy to keep."""

from collections.abc import Sequence

from hf_lorameta.errors import AdapterError, UsageError
from hf_lorameta.formats.lora_file import canonical_header
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.formats.safetensors import CODES, DTYPES
from hf_lorameta.method.rank_budget import ranks_for_energy, ranks_for_size
from hf_lorameta.recipe import MAX_RANK, MergeRecipe
from hf_lorameta.types import Array


def choose_ranks(
    recipe: MergeRecipe, layout: Layout, values: Sequence[Array]
) -> tuple[Layout, tuple[int, ...]]:
    """Return the modules of nonzero rank, and their ranks.

    Args:
        recipe: has `max_size` or `energy`.
        layout: all modules.
        values: singular values of each module's update, in descending order, `MAX_RANK` at most.

    Raises:
        UsageError: the maximum size is below that of the smallest file.
        AdapterError: the sum is zero.
    """
    width = DTYPES[CODES[recipe.dtype]].itemsize
    costs = [width * (module.in_features + module.out_features) for module in layout]
    if recipe.max_size is not None:
        header = len(canonical_header(layout, [MAX_RANK] * len(layout), recipe.dtype)[0])
        smallest = header + min(costs)
        if recipe.max_size < smallest:
            raise UsageError(
                f"the maximum size is {recipe.max_size} bytes, expected at least {smallest}: the "
                "header and one rank of one module",
                hint="--max-size 2MB",
            )
        ranks = ranks_for_size(values, costs, recipe.max_size - header)
    else:
        assert recipe.energy is not None
        ranks = ranks_for_energy(values, costs, recipe.energy)
    kept = [(module, rank) for module, rank in zip(layout, ranks, strict=True) if rank]
    if not kept:
        raise AdapterError("the weighted sum is zero", hint="change the weights")
    modules, positive = zip(*kept, strict=True)
    return modules, positive
