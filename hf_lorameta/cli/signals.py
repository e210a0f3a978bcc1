"""The signals that end a command: Ctrl-C, and those of the system, which are treated as that."""

import signal
from collections.abc import Collection, Iterator
from contextlib import contextmanager

_OF_THE_SYSTEM = ("SIGTERM", "SIGHUP")
"""Sent by `timeout`, a batch system or a container; and when a terminal is closed."""


def end_as_interrupted() -> None:
    """Let the system's signals end a command as Ctrl-C does, which keeps work and deletes files."""
    for number in _numbers(*_OF_THE_SYSTEM):
        if signal.getsignal(number) is signal.SIG_DFL:  # `nohup` ignores SIGHUP
            signal.signal(number, signal.default_int_handler)


@contextmanager
def signals_waiting() -> Iterator[Collection[int]]:
    """Let these signals wait for the end of the context, such as saving what took minutes.

    Yields:
        Those that came.
    """
    came: list[int] = []
    numbers = _numbers("SIGINT", *_OF_THE_SYSTEM)
    before = [signal.signal(number, lambda number, _: came.append(number)) for number in numbers]
    try:
        yield came
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _numbers(*names: str) -> list[signal.Signals]:
    """Return the signals of these names; Windows has no SIGHUP."""
    return [signal.Signals[name] for name in names if name in signal.Signals.__members__]
