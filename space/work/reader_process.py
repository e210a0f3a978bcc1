"""Read each request's dataset in a process of its own.

The library `datasets` stores one token per process, the last one used (its
``extend_module_for_streaming``), so two requests in two threads would read with each other's token.
Separate processes isolate the tokens. A reader that hangs or crashes on a malformed file can be
killed, at once if the visitor cancels. Its memory, its time, the size of the files that it writes
and of what it sends are limited, so a dataset cannot exhaust the server.
"""

import mmap
import multiprocessing
import multiprocessing.forkserver
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar, cast

from hf_lorameta.environment import usable_cores
from hf_lorameta.errors import DatasetError, DatasetTooLargeError, LoraMetaError
from hf_lorameta.hub.cache import use_cache
from space_error import SpaceError
from visitors.hourly import READING_TIME
from work.jobs import Job, logger

T = TypeVar("T")
_CONTEXT = multiprocessing.get_context("forkserver")
_PRELOADED = (
    "work.planning",
    "work.embedded_tokenizer",
    "datasets",
    "pyarrow.parquet",
    "pyarrow.dataset",
    "datasets.packaged_modules.json.json",
    "datasets.packaged_modules.csv.csv",
    "datasets.packaged_modules.parquet.parquet",
)
_WAIT_SECONDS = 0.2
MEMORY_BYTES = 1_500_000_000
"""Memory that a reader may take for a dataset, beyond its libraries; no file that it writes may be
larger."""
ALL_MEMORY_BYTES = 4_000_000_000
"""Memory that all readers together may take; above that, the largest one is ended."""
MESSAGE_BYTES = 48_000_000
"""Largest item that a reader may send to the server."""
_NICENESS = 5
"""How far readers stand back behind the server, which answers tries: a core is shared 1 to 3."""
_TOO_LARGE = "The dataset needs more memory than this Space has for reading one"

_memory: dict[int, int] = {}  # bytes that readers take, by their process
_connection: Connection | None = None  # in a reader: to the server


def start_forkserver() -> None:
    """Start the process that readers are forked from, with the slow imports done.

    It preloads modules before it receives ``sys.path``, so the path is passed as PYTHONPATH. Arrow
    takes memory from the system, since its own pools reserve a gigabyte in advance, which would
    count as used. Without USE_TORCH=0, each reader imports torch where it is installed.
    """
    _CONTEXT.set_forkserver_preload(list(_PRELOADED))
    path, before = os.pathsep.join(filter(None, sys.path)), dict(os.environ)
    os.environ |= {"PYTHONPATH": path, "ARROW_DEFAULT_MEMORY_POOL": "system", "USE_TORCH": "0"}
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ |= before


def read(job: Job, function: Callable[..., T], *arguments: object) -> T:
    """Run a function in a process of its own, which is killed at the end; return its result.

    Args:
        job: checked while waiting; shows what the function passes to `report`.
        function: at the top level of a module.
        arguments: picklable arguments of the function.

    Raises:
        DatasetTooLargeError: the result is above `MESSAGE_BYTES`, or the process needed more than
            `MEMORY_BYTES` or was killed.
        LoraMetaError: raised by the function.
        SpaceError: anything else failed, or the visitor has read as much as one may.
    """
    READING_TIME.check(job.call.address)
    started = time.monotonic()
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    # a process that is killed deletes no files
    with tempfile.TemporaryDirectory(prefix="reader-", ignore_cleanup_errors=True) as scratch:
        target = (sender, scratch, job.time_limit, function, arguments)
        process = _CONTEXT.Process(target=_send_result, args=target, daemon=True)
        process.start()
        sender.close()
        try:
            return cast(T, _receive_result(receiver, process, job))
        finally:
            receiver.close()
            _memory.pop(process.pid or 0, None)
            process.kill()
            process.join()
            process.close()
            READING_TIME.add(job.call.address, time.monotonic() - started)


def report(stage: str, done: int, total: int) -> None:
    """Show on the page how far a reader is; call it in that process."""
    if _connection is not None:
        _send(_connection, "step", (stage, done, total))


def _receive_result(
    receiver: Connection, process: multiprocessing.process.BaseProcess, job: Job
) -> Any:
    while True:
        while not receiver.poll(_WAIT_SECONDS):
            job.check()
            _bound_memory(process.pid or 0)
        try:
            kind, value = pickle.loads(receiver.recv_bytes(MESSAGE_BYTES))
        except (EOFError, OSError):
            raise _early_end(process) from None
        if kind == "result":
            return value
        if kind == "error":
            raise value
        job.report(*value)


def _bound_memory(pid: int) -> None:
    """Look at the memory of a reader, and raise if all take too much and this one the most.

    Raises:
        DatasetTooLargeError: they do.
    """
    statistics = Path(f"/proc/{pid}/statm")
    with suppress(OSError):  # it has ended, or this is no Linux
        pages = statistics.read_text().split()
        _memory[pid] = (int(pages[1]) - int(pages[2])) * mmap.PAGESIZE  # not shared
    taken = _memory.copy()
    if sum(taken.values()) > ALL_MEMORY_BYTES and max(taken, key=taken.__getitem__) == pid:
        raise DatasetTooLargeError(_TOO_LARGE, code="dataset.too-large-here")


def _failed(message: str) -> SpaceError:
    return SpaceError(
        message, code="dataset.reader-ended", hint="Check the file or the repo on the Hub."
    )


def _early_end(process: multiprocessing.process.BaseProcess) -> LoraMetaError:
    """Return the error for a reader that ended without saying why."""
    process.join(1)
    if (process.exitcode or 0) < 0:  # a library without memory left aborts
        return DatasetTooLargeError(_TOO_LARGE, code="dataset.too-large-here")
    return _failed("The dataset could not be read: the reader process ended")


def _send(pipe: Connection, kind: str, value: object) -> None:
    message = pickle.dumps((kind, value))
    if len(message) > MESSAGE_BYTES:
        raise DatasetTooLargeError(
            "The rows of the dataset are too long to be shown", code="dataset.too-large-here"
        )
    pipe.send_bytes(message)


def _send_result(
    pipe: Connection,
    scratch: str,
    time_limit: float,
    function: Callable[..., Any],
    arguments: tuple[object, ...],
) -> None:
    global _connection
    _connection = pipe
    tempfile.tempdir = scratch
    use_cache(Path(scratch, "hub"))  # what is fetched, such as a private card, does not stay
    _limit_process(time_limit)
    error: LoraMetaError
    try:
        _send(pipe, "result", function(*arguments))
        return
    except LoraMetaError as known:
        error = known
        if isinstance(error, DatasetError):  # for the terminal, and may exceed `MESSAGE_BYTES`
            error.row, error.rows = None, ()
    except BrokenPipeError:
        return  # the request has ended
    except MemoryError:
        error = DatasetTooLargeError(_TOO_LARGE, code="dataset.too-large-here")
    except Exception as unknown:  # noqa: BLE001 - its message is not sent: it may quote a row
        logger.error("unexpected %s in a reader", type(unknown).__name__)
        error = _failed("The dataset cannot be read")
    _send(pipe, "error", error)


def _limit_process(time_limit: float) -> None:
    """Limit memory, files and computing time of this process, in case the server cannot kill it.

    If the machine runs out of memory all the same, Linux is told to end this process first.
    """
    import resource

    seconds = int(time_limit * usable_cores()) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MEMORY_BYTES, MEMORY_BYTES))
    os.nice(_NICENESS)
    statistics = Path("/proc/self/statm")
    if statistics.exists():
        pages = int(statistics.read_text().split()[5])  # data and stack
        memory = pages * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
        with suppress(OSError):  # read-only in some containers
            Path("/proc/self/oom_score_adj").write_text("1000")
