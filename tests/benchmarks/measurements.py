"""Memory of parts of the benchmarks."""

from pathlib import Path


def peak_memory() -> float:
    """Peak memory of this process in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
