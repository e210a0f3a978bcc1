"""The dtype in which a base model runs fastest on this machine, within its memory."""

import math
from contextlib import suppress
from pathlib import Path

from hf_lorameta.errors import UsageError

_CONTAINER = Path("/sys/fs/cgroup")
_MEMORY_FACTOR = 1.2
"""Memory of a model that runs on a few rows, relative to its weights."""
_GGUF_VALUES = 2
"""Values in a byte of a GGUF file if each has four bits; few files have fewer."""
_SMALL = 0.6e9
"""Bytes of a small model in float32."""


def suited_dtype(folder: Path) -> str:
    """Return float32 for a small model if the CPU multiplies bfloat16 slowly, else bfloat16.

    Layers of the others convert their weights when they use them (`suited_layers.py`). This takes
    5% of the time with 135M parameters, too little to measure with 494M, and half the memory.

    Args:
        folder: of the model; only the headers of its safetensors files are read.
    """
    from hf_lorameta.engines.transformers.products import bfloat16_is_faster

    small = 0 < 4 * parameters(folder) <= min(_SMALL, available_memory() / 2)
    return "float32" if small and not bfloat16_is_faster() else "bfloat16"


def require_memory(folder: Path, dtype: str) -> None:
    """Raise if a model's weights do not fit into memory, before they are read.

    Raises:
        UsageError: they do not fit.
    """
    needed, free = memory_needed(parameters(folder), dtype), available_memory()
    if needed > free:
        raise UsageError(
            f"the base model needs {needed / 1e9:.1f} GB of memory in {dtype}, and "
            f"{free / 1e9:.1f} GB are free",
            code="memory.too-little",
            hint="choose a smaller base model, or a larger machine: hf jobs uv run --help",
        )


def memory_needed(count: float, dtype: str = "bfloat16") -> float:
    """Return how many bytes of memory a model takes that runs on a few rows; training takes more.

    Any model can be run in 16 bits: `suited_dtype` is float32 only where there is memory for it.

    Args:
        count: of its parameters.
        dtype: torch name of the weights' dtype; int8 if they are rounded while they are loaded.

    Example:
        >>> f"{memory_needed(135e6) / 1e6:.0f} MB, {memory_needed(135e6, 'float32') / 1e6:.0f} MB"
        '324 MB, 648 MB'
    """
    return _MEMORY_FACTOR * count * {"float32": 4, "int8": 1}.get(dtype, 2)


def parameters(path: Path) -> int:
    """Return how many parameters a model has, for a GGUF file the most that is likely; no torch.

    Args:
        path: of the file, or of a folder, of whose safetensors files only the headers are read.
            Broken ones count as empty; loading will report them.
    """
    from safetensors import SafetensorError, safe_open

    if path.suffix == ".gguf":
        return _GGUF_VALUES * path.stat().st_size
    count = 0
    for weights in path.glob("model*.safetensors"):
        with suppress(SafetensorError), safe_open(weights, framework="np") as file:
            shapes = (file.get_slice(name).get_shape() for name in file.keys())  # noqa: SIM118
            count += sum(map(math.prod, shapes))
    return count


def available_memory() -> int:
    """Return how many bytes can still be allocated, within a container's limit (cgroup v2)."""
    import psutil

    available = int(psutil.virtual_memory().available)
    try:
        limit = int((_CONTAINER / "memory.max").read_text())
        used = int((_CONTAINER / "memory.current").read_text())
        stat = dict(line.split() for line in (_CONTAINER / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no container, or one without a limit
        return available
    cached = int(stat.get("inactive_file", 0))  # of files, which the kernel can drop
    return max(min(available, limit - used + cached), 0)
