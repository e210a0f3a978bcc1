"""Combine the adapters of a plan entry by entry: ties, dare, magnitude, sparse.

These combiners form every update as a matrix of the base model's size. So a pack's small factors
are expanded first, and a bank whose adapters would take too long is refused. If the bank has a
general adapter, from which its others were trained, their differences from it are combined.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import threadpool_limits

from hf_lorameta.errors import RecipeError
from hf_lorameta.formats.lora_file import stack_into
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.method.combiner_parts import DEFAULT_RANK
from hf_lorameta.method.entrywise import Start
from hf_lorameta.method.low_rank import iterates
from hf_lorameta.method.merging import COMBINERS, Stacked, exact
from hf_lorameta.pipeline.plan import Plan
from hf_lorameta.types import FactorPair, Progress

MAX_HOURS = 1.0
"""Estimated time on one core above which a combination is refused."""

_WORKERS = 2
_SECONDS_PER_ENTRY = 2e-8  # of one update, measured: form, prune, add
_SECONDS_PER_FLOP = 4e-10  # of a full SVD, with min(out, in)² · max(out, in) of them


def estimated_hours(layout: Layout, adapters: int, rank: int) -> float:
    """Estimate the hours that combining adapters entry by entry takes on one core."""
    seconds = 0.0
    for module in layout:
        smaller, larger = sorted((module.in_features, module.out_features))
        # an SVD by iteration takes as long as one more adapter
        fits = iterates((smaller, larger), rank)
        seconds += _SECONDS_PER_ENTRY * (adapters + fits) * smaller * larger
        if not fits:
            seconds += _SECONDS_PER_FLOP * smaller**2 * larger
    return seconds / 3600


def check_time(combine: str, layout: Layout, adapters: int, rank: int | None, hint: str) -> None:
    """Refuse to combine more entries than fit `MAX_HOURS`.

    Raises:
        RecipeError: it would take longer.
    """
    hours = estimated_hours(layout, adapters, DEFAULT_RANK if rank is None else rank)
    if hours > MAX_HOURS:
        raise RecipeError(
            f"{combine} forms the updates of {adapters} adapters in full, which takes about "
            f"{hours:.0f} hours on one core for {len(layout)} modules of this size, expected "
            f"{MAX_HOURS:g} at most",
            hint=hint,
        )


def combine_entries(plan: Plan, progress: Progress) -> Iterator[FactorPair]:
    """Yield (lora_A, lora_B) of every module of the bank's layout.

    Args:
        plan: its combiner is one that chooses among entries.
        progress: called after each module with (done, total).

    Raises:
        RecipeError: it would take more than `MAX_HOURS`.
        IntegrityError: an adapter's file is damaged.
        HubError: an adapter cannot be fetched.
    """
    bank, recipe = plan.bank, plan.recipe
    size, general, layout = len(bank), bank.index.general, bank.layout
    active = [i for i in plan.active_indices if i < size]
    entries = [bank.index.entries[i] for i in active] + ([general] if general else [])
    hint = "--combine exact, or --top-k 8"
    check_time(recipe.combine, layout, len(active), recipe.rank, hint)
    files = bank.adapters(entries)
    scalings, ranks = [entry.scaling for entry in entries], [entry.rank for entry in entries]
    combine = COMBINERS[recipe.combine].function

    def combine_module(number: int) -> FactorPair:
        module = bank.stored_layout[number]
        A = np.empty((sum(ranks), module.in_features), np.float32)
        B = np.empty((module.out_features, sum(ranks)), np.float32)
        stack_into(files, module.name, A, B)
        A, B = bank.expand(module.name, A, B)
        As, Bs = list(Stacked(A, ranks, 0)), list(Stacked(B, ranks, 1))
        weights = plan.coefficients.for_module(number)
        start = Start(As.pop(), Bs.pop(), scalings[-1], weights[size]) if general else None
        if start and not active:
            return exact([start.A], [start.B], [start.weight], [start.scaling], recipe.rank)
        return combine(
            As,
            Bs,
            weights[active],
            scalings[: len(active)],
            recipe.rank,
            seed=recipe.seed,
            start=start,
        )

    # one BLAS thread per module: no contention, and the same bits on any number of cores
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(_WORKERS) as pool:
        for done, pair in enumerate(pool.map(combine_module, range(len(layout))), 1):
            yield pair
            progress(done, len(layout))
