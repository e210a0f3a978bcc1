"""Datasets are read in a process of the request's own.

The library `datasets` keeps one token for the whole process, the latest one given (its
``extend_module_for_streaming``), so two visitors in two threads would read with each other's. In a
process of its own a request's token cannot meet another's; a reader that hangs or crashes on a
malformed file is ended without harm, at once when the visitor cancels.
"""

import multiprocessing
import multiprocessing.forkserver
import os
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from hf_lorameta import LoraMetaError
from jobs import Job

_CONTEXT = multiprocessing.get_context("forkserver")
_LOADED = (
    "service",
    "hf_lorameta.dataset",
    "datasets",
    "pyarrow.parquet",
    "pyarrow.dataset",
    "datasets.packaged_modules.json.json",
    "datasets.packaged_modules.csv.csv",
    "datasets.packaged_modules.parquet.parquet",
)
_WAIT_SECONDS = 0.2


class ReaderError(LoraMetaError):
    """The reading process failed in a way that nobody foresaw."""


def prepare() -> None:
    """Start the process that readers are forked from, with the heavy libraries loaded.

    It preloads before it is told this process's ``sys.path``, so that is handed over beforehand.
    """
    _CONTEXT.set_forkserver_preload(list(_LOADED))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


class Child:
    """A generator function run in a process of its own; iterate to get what it yields.

    Args:
        job: asked while waiting; when it is over the process is killed.
        function: a generator function of a module, which the process imports.
        arguments: for it.

    Raises:
        LoraMetaError: what the function raised.
        ReaderError: the process died.
    """

    def __init__(self, job: Job, function: Callable[..., Iterator[Any]], *arguments: object):
        self._job = job
        self._pipe, theirs = _CONTEXT.Pipe(duplex=False)
        self._process = _CONTEXT.Process(
            target=_work, args=(theirs, function, arguments), daemon=True
        )
        self._process.start()
        theirs.close()

    def __enter__(self) -> "Child":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pipe.close()
        self._process.kill()
        self._process.join()
        self._process.close()

    def __iter__(self) -> Iterator[Any]:
        """What the function yields, in its order."""
        while True:
            while not self._pipe.poll(_WAIT_SECONDS):
                self._job.check()
            try:
                kind, value = self._pipe.recv()
            except EOFError:
                raise ReaderError("The dataset could not be read: its reader ended") from None
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value


def first(job: Job, function: Callable[..., Iterator[Any]], *arguments: object) -> Any:
    """The first thing that a generator function yields in a process of its own."""
    with Child(job, function, *arguments) as child:
        return next(iter(child))


def _work(pipe: Connection, function: Callable[..., Iterator[Any]], arguments: tuple[Any]) -> None:
    try:
        for item in function(*arguments):
            pipe.send(("item", item))
        pipe.send(("end", None))
    except LoraMetaError as error:
        pipe.send(("error", error))
    except BrokenPipeError:
        return  # nobody reads any more
    except Exception as error:  # noqa: BLE001 - only the type may leave: words could quote a row
        pipe.send(("error", ReaderError(f"The dataset cannot be read ({type(error).__name__})")))
