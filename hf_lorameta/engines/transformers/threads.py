"""How many threads torch uses: as many as there are cores, or fewer where that is faster."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from hf_lorameta.environment import usable_cores

_ROUNDS, _PRODUCTS, _OUTPUTS = 4, 4, 4096
_WAITING = 2.0
"""All threads are used unless they take more than so many times as long: results in bfloat16 differ
a little with their number, and should be the same in each run on an idle machine."""
_changing = threading.Lock()
_before: list[int] = []
"""Threads of the process before `restoring_threads`, once for each block that has not ended."""


def cores() -> int:
    """Return the number of threads that torch may use; torch itself counts more in containers."""
    return min(max(torch.get_num_threads(), 1), usable_cores())


@contextmanager
def restoring_threads() -> Iterator[None]:
    """Restore the number of threads after a block that changes it.

    Torch gives that number to this thread, and to all that begin later. One that begins during such
    a block of another thread starts with the number from before, too, and restores that.
    """
    with _changing:
        threads = _before[0] if _before else torch.get_num_threads()
        _before.append(threads)
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        with _changing:
            _before.pop()


@contextmanager
def fastest_threads(model: Any) -> Iterator[None]:
    """Run passes and generate answers in fewer threads than there are cores if these are busy.

    Threads within an operation wait for each other. If other programs use the cores, a wait takes
    longer than the operation: on two busy cores, 24 tokens took 0.6 s in one thread and 6 s in two.

    Args:
        model: a causal LM of transformers.
    """
    with restoring_threads():
        counts = [cores()]
        while counts[-1] > 1:
            counts.append(counts[-1] // 2)
        seconds = dict.fromkeys(counts, 0.0)
        weight = model.get_input_embeddings().weight[:_OUTPUTS]
        weight = weight if weight.is_floating_point() else weight.float()
        for _ in range(_ROUNDS):  # by turns, since the load changes
            for count in counts:
                seconds[count] += _product_seconds(weight, count)
        fastest = min(counts, key=lambda count: seconds[count])
        slow = seconds[counts[0]] > _WAITING * seconds[fastest]
        torch.set_num_threads(fastest if slow else counts[0])
        yield


def _product_seconds(weight: torch.Tensor, threads: int) -> float:
    """Return how long products of one token's states take in a number of threads."""
    torch.set_num_threads(threads)
    states = torch.ones_like(weight[:1])
    product = partial(torch.nn.functional.linear, states, weight)
    return sum(seconds_of(product) for _ in range(_PRODUCTS))


def seconds_of(
    compute: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return how long something takes that needs no gradients."""
    with torch.no_grad():
        start = clock()
        compute()
        return clock() - start
