"""Read each request's dataset in a process of its own.

The library `datasets` stores one token per process, the last one used (its
``extend_module_for_streaming``), so two requests in two threads would read with each other's token.
Separate processes isolate the tokens. A reader that hangs or crashes on a malformed file can be
killed, at once if the visitor cancels.
"""

import multiprocessing
import multiprocessing.forkserver
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from hf_lorameta import LoraMetaError
from jobs import Job

T = TypeVar("T")
_CONTEXT = multiprocessing.get_context("forkserver")
_PRELOADED = (
    "planning",
    "datasets",
    "pyarrow.parquet",
    "pyarrow.dataset",
    "datasets.packaged_modules.json.json",
    "datasets.packaged_modules.csv.csv",
    "datasets.packaged_modules.parquet.parquet",
)
_WAIT_SECONDS = 0.2


class ReaderError(LoraMetaError):
    """The reader process failed unexpectedly."""


def start_forkserver() -> None:
    """Start the process that readers are forked from, with the slow imports done.

    It preloads modules before it receives ``sys.path``, so the path is passed as PYTHONPATH.
    """
    _CONTEXT.set_forkserver_preload(list(_PRELOADED))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


@contextmanager
def reader_process(
    job: Job, function: Callable[..., Iterator[T]], *arguments: object
) -> Iterator[Iterator[T]]:
    """Run a generator function in a process, which is killed at the end of the ``with`` block.

    Args:
        job: checked while waiting for an item.
        function: generator function at the top level of a module.
        arguments: picklable arguments of the function.

    Yields:
        Iterator over the function's items. It raises what the function raised if that is a
        LoraMetaError, and ReaderError if it raised anything else or the process died.
    """
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_send_items, args=(sender, function, arguments), daemon=True)
    process.start()
    sender.close()
    try:
        yield _receive_items(receiver, job)
    finally:
        receiver.close()
        process.kill()
        process.join()
        process.close()


def read_first(job: Job, function: Callable[..., Iterator[T]], *arguments: object) -> T:
    """Return the first item of a generator function run in a `reader_process`."""
    with reader_process(job, function, *arguments) as items:
        return next(items)


def _receive_items(receiver: Connection, job: Job) -> Iterator[Any]:
    while True:
        while not receiver.poll(_WAIT_SECONDS):
            job.check()
        try:
            kind, value = receiver.recv()
        except EOFError:
            raise ReaderError("The dataset could not be read: the reader process ended") from None
        if kind == "error":
            raise value
        if kind == "end":
            return
        yield value


def _send_items(
    pipe: Connection, function: Callable[..., Iterator[Any]], arguments: tuple[object, ...]
) -> None:
    try:
        for item in function(*arguments):
            pipe.send(("item", item))
        pipe.send(("end", None))
    except LoraMetaError as error:
        pipe.send(("error", error))
    except BrokenPipeError:
        return  # the request has ended
    except Exception as error:  # noqa: BLE001 - send the type only: the message may quote a row
        pipe.send(("error", ReaderError(f"The dataset cannot be read ({type(error).__name__})")))
