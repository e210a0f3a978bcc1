"""Time and memory of parts of the benchmarks."""

import time
from pathlib import Path


def peak_memory() -> float:
    """Peak memory of this process in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


class Clock:
    """Wall time and CPU time of a block of code, in seconds."""

    def __enter__(self) -> "Clock":
        self._start, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
        self.cpu = time.process_time() - self._cpu
