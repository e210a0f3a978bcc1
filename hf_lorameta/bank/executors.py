"""Run independent tasks in threads of this process, or on the workers of a Dask scheduler."""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from threadpoolctl import threadpool_limits

from hf_lorameta.environment import require_extra, usable_cores
from hf_lorameta.errors import BankError, Option, UsageError

T = TypeVar("T")
WORKERS = min(4, usable_cores())
"""Most modules that are read and computed at a time."""


def in_modules(work: Callable[[int], T], number: int, threads: int) -> Iterator[T]:
    """Yield the results ``work(0)`` to ``work(number - 1)`` of all modules, in order.

    Each module has one BLAS thread, so threads do not compete for cores, and the bits do not depend
    on their number. At most `threads` results wait for the caller.

    Example:
        >>> list(in_modules(lambda module: 10 * module, 3, threads=2))
        [0, 10, 20]
    """
    waiting: deque[Future[T]] = deque()
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
        for module in range(number):
            waiting.append(pool.submit(work, module))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def reporting_dead_workers() -> Iterator[None]:
    """Raise a `BankError` that says how to continue if the workers of an executor die."""
    try:
        yield
    except BrokenExecutor as problem:
        raise BankError(
            f"the workers of the executor died ({type(problem).__name__})",
            code="workers.died",
            hint="run the same command again; what is finished is kept",
        ) from None


@contextmanager
def dask_executor(address: str) -> Iterator[Executor]:
    """Use the workers of a Dask scheduler as an executor for `build_bank` (extra: dask).

    Workers see the bank folder under the same path as this process and use their own Hub token. The
    task of a worker that dies is run again by another.
    """
    require_extra("distributed", extra="dask")
    import distributed

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    try:
        client = distributed.Client(address, timeout=10, set_as_default=False)
    except (OSError, ValueError, TypeError):  # no answer, no scheme, no host
        raise UsageError(
            f"no Dask scheduler answers at {address}",
            code="dask.no-answer",
            hint=Option("dask", "tcp://HOST:8786", "name another"),
        ) from None
    with client, client.get_executor(pure=False) as executor:
        yield executor
