"""The workers of a Dask scheduler as an executor that runs a build."""

import logging
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from hf_lorameta.environment import require_extra
from hf_lorameta.errors import UsageError


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
            f"no Dask scheduler answers at {address}", hint="--dask tcp://HOST:8786"
        ) from None
    with client, client.get_executor(pure=False) as executor:
        yield executor
