"""Combine the adapters of a plan, module by module."""

import os

import numpy as np

from hf_lorameta.bank.executors import in_modules
from hf_lorameta.bank.weighted_sum import AdapterStack
from hf_lorameta.errors import Option, RecipeError
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.method.low_rank import iterates
from hf_lorameta.method.merging import COMBINERS, DEFAULT_RANK, Combiner, Stacked, exact
from hf_lorameta.pipeline.plan import Plan
from hf_lorameta.types import FactorPair, Progress

MAX_HOURS = 1.0
"""Estimated time on one core above which a combination is refused."""

_WORKERS = min(4, os.cpu_count() or 1)
_MAX_STACKED_BYTES = 560 << 20
"""Bytes of stacked factors held at a time: as many modules as fit are combined in parallel."""
_SECONDS_PER_ENTRY = 2e-8  # of one update, measured: form, prune, add
_SECONDS_PER_FLOP = 4e-10  # of a full SVD, with min(out, in)² · max(out, in) of them


def combine_adapters(plan: Plan, progress: Progress) -> list[FactorPair]:
    """Combine a plan's adapters into (lora_A, lora_B) of every module of ``plan.layout``.

    A combiner that chooses among the entries of the updates gets their differences from the general
    adapter, if the bank has one, since the others were trained from it.

    Args:
        plan: the plan.
        progress: called after each module with (done, total).

    Raises:
        RecipeError: the combiner cannot combine these ranks, or this many adapters.
        IntegrityError: an adapter's file is damaged.
        HubError: an adapter cannot be fetched.
    """
    bank, layout, rank = plan.bank, plan.bank.layout, plan.recipe.rank
    combiner, adapters = COMBINERS[plan.recipe.combine], bank.index.adapters
    active = [i for i in plan.active_indices if i < len(adapters)]
    options = {}
    if combiner.entrywise:
        check_time(combiner, layout, len(active), rank)
        if bank.index.general:
            active = [i for i in active if i < len(bank)] + [len(bank)]
            options = {"start": True}
    stack = AdapterStack(bank, [adapters[i] for i in active])
    coefficients = plan.coefficients.take(active)
    size = max(map(stack.size, bank.stored_layout))
    workers = max(1, min(_WORKERS, _MAX_STACKED_BYTES // (4 * size)))
    buffers = [np.empty(size, np.float32) for _ in range(workers)]

    def combine(number: int) -> FactorPair:
        buffer, name = buffers.pop(), layout[number].name
        A, B = stack.read(bank.stored_layout[number], buffer)
        if combiner.entrywise:
            A, B = bank.expand(name, A, B)
        As, Bs = Stacked(A, stack.ranks, 0), Stacked(B, stack.ranks, 1)
        weights = coefficients.for_module(number)
        pair = combiner.function(As, Bs, weights, stack.scalings, rank, **options)
        buffers.append(buffer)
        return pair if combiner.entrywise else bank.expand(name, *pair)

    pairs: list[FactorPair] = []
    for pair in in_modules(combine, len(layout), workers):
        pairs.append(pair)
        progress(len(pairs), len(layout))
    if prior := plan.output_prior():
        weight = plan.coefficients.for_module(len(pairs))[-1]
        pairs.append(exact([prior[0]], [prior[1]], [weight], [1.0], len(pairs[0][0])))
    return pairs


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


def check_time(combiner: Combiner, layout: Layout, adapters: int, rank: int | None) -> None:
    """Refuse to combine more entries of updates than fit `MAX_HOURS`.

    Raises:
        RecipeError: it would take longer.
    """
    hours = estimated_hours(layout, adapters, DEFAULT_RANK if rank is None else rank)
    if combiner.entrywise and hours > MAX_HOURS:
        raise RecipeError(
            f"{combiner.name} forms the updates of {adapters} adapters in full, which takes about "
            f"{hours:.0f} hours on one core for {len(layout)} modules of this size, expected "
            f"{MAX_HOURS:g} at most",
            hint=[Option("combine", "exact"), "name fewer adapters"],
        )
