"""Time and memory of parts of the benchmarks."""

import time
from pathlib import Path
from typing import Any

Figures = dict[str, Any]


def peak_memory() -> float:
    """Peak memory of this process in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


class Clock:
    """Wall time, CPU time and peak memory of a block of code."""

    def __enter__(self) -> "Clock":
        self._start, self._cpu, self._before = (
            time.perf_counter(),
            time.process_time(),
            peak_memory(),
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
        self.cpu = time.process_time() - self._cpu
        self.figures: Figures = {
            "seconds": self.seconds, "cpu": self.cpu, "peak": peak_memory(),
            "above": peak_memory() - self._before,
        }  # fmt: skip
