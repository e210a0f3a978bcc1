"""Combine the adapters of a plan, module by module."""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import threadpool_limits

from hf_lorameta.formats.lora_file import AdapterFile, stack_into
from hf_lorameta.formats.lora_layout import Module
from hf_lorameta.method.averaging import average, can_average
from hf_lorameta.method.merging import COMBINERS, Stacked, exact, factors
from hf_lorameta.pipeline.combine_entries import combine_entries
from hf_lorameta.pipeline.plan import Plan
from hf_lorameta.types import FactorPair, FloatArray, Progress

_WORKERS = min(4, os.cpu_count() or 1)
_MAX_STACKED_BYTES = 560 << 20
"""Bytes of stacked factors held at a time: as many modules as fit are combined in parallel."""


def combine_adapters(plan: Plan, progress: Progress) -> list[FactorPair]:
    """Combine a plan's adapters into (lora_A, lora_B) of every module of ``plan.layout``.

    Args:
        plan: the plan.
        progress: called after each module with (done, total).

    Raises:
        RecipeError: the combiner cannot combine these ranks, or this many adapters.
        IntegrityError: an adapter's file is damaged.
        HubError: an adapter cannot be fetched.
    """
    if COMBINERS[plan.recipe.combine].entrywise:
        return _with_prior(plan, list(combine_entries(plan, progress)))
    bank, layout = plan.bank, plan.bank.layout
    active = [i for i in plan.active_indices if i < len(bank.index.adapters)]
    entries = [bank.index.adapters[i] for i in active]
    files = bank.adapters(entries)
    scalings = np.array([entry.scaling for entry in entries])
    coefficients = plan.coefficients.take(active)
    combine, rank = COMBINERS[plan.recipe.combine].function, plan.recipe.rank
    shared = coefficients.per_module is None and rank in (None, files[0].rank)
    if combine is factors and shared and can_average(files):
        with threadpool_limits(1, "blas"):
            return average(files, coefficients.shared, scalings, progress)
    widest = max(module.in_features + module.out_features for module in bank.stored_layout)
    values = widest * sum(entry.rank for entry in entries)
    workers = max(1, min(_WORKERS, _MAX_STACKED_BYTES // (4 * values)))
    buffers = [np.empty(values, np.float32) for _ in range(workers)]

    def combine_module(number: int) -> FactorPair:
        buffer = buffers.pop()  # reused: allocating memory costs as much as reading into it
        As, Bs = _stack(files, bank.stored_layout[number], buffer)
        A, B = combine(As, Bs, coefficients.for_module(number), scalings, rank)
        buffers.append(buffer)
        return bank.expand(layout[number].name, A, B)

    pairs: list[FactorPair] = []
    # one BLAS thread per module: no contention, and the same bits on any number of cores
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers) as pool:
        for pair in pool.map(combine_module, range(len(layout))):
            pairs.append(pair)
            progress(len(pairs), len(layout))
    return _with_prior(plan, pairs)


def _with_prior(plan: Plan, pairs: list[FactorPair]) -> list[FactorPair]:
    """Append the output prior's module to the pairs if it takes part."""
    if prior := plan.output_prior():
        weight = plan.coefficients.for_module(len(pairs))[-1]
        pairs.append(exact([prior[0]], [prior[1]], [weight], [1.0], len(pairs[0][0])))
    return pairs


def _stack(
    files: Sequence[AdapterFile], module: Module, buffer: FloatArray
) -> tuple[Stacked, Stacked]:
    """Read one module of all files into the buffer: one array of lora_A, one of lora_B."""
    ranks = [file.rank for file in files]
    shape_A, shape_B = (sum(ranks), module.in_features), (module.out_features, sum(ranks))
    split, end = math.prod(shape_A), math.prod(shape_A) + math.prod(shape_B)
    A, B = buffer[:split].reshape(shape_A), buffer[split:end].reshape(shape_B)
    stack_into(files, module.name, A, B)
    return Stacked(A, ranks, 0), Stacked(B, ranks, 1)
