"""The dtype in which a base model runs fastest on this machine, within its memory."""

import math
from pathlib import Path
from typing import Any

_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


def suited_dtype(folder: Path) -> str:
    """Return bfloat16 if the CPU has matrix instructions for it or memory is short, else float32.

    Without such instructions bfloat16 saves memory but is slower: two AVX2 cores reached 18 GFLOPS
    in bfloat16 and 155 in float32, two AVX-512 cores with bfloat16 instructions but no AMX 165 and
    300. Memory is short if the weights in float32 would take more than half of what is available.

    Args:
        folder: of the model; only the headers of its safetensors files are read.
    """
    if _multiplies_bfloat16():
        return "bfloat16"
    needed = 4 * parameters(folder)
    return "float32" if 0 < needed <= available_memory() / 2 else "bfloat16"


def parameters(folder: Path) -> int:
    """Number of values in a model's safetensors files, from their headers."""
    return sum(map(_parameters, folder.glob("model*.safetensors")))


def _multiplies_bfloat16() -> bool:
    """Whether torch uses the CPU's matrix instructions for bfloat16; False if it cannot tell."""
    import torch

    capabilities: Any = getattr(torch.cpu, "get_capabilities", dict)
    onednn: Any = torch.backends.mkldnn
    names = ("amx_bf16", "bf16")  # Intel's and ARM's
    return bool(onednn.is_available() and any(capabilities().get(name) for name in names))


def _parameters(path: Path) -> int:
    """Number of values in a safetensors file; 0 for a broken one, which loading will report."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return sum(math.prod(file.get_slice(name).get_shape()) for name in names)
    except SafetensorError:
        return 0


def available_memory() -> int:
    """Bytes that a process can still allocate, within a container's limit (cgroup v2)."""
    import psutil

    available = int(psutil.virtual_memory().available)
    try:
        return min(available, int(_CONTAINER_LIMIT.read_text()))
    except (OSError, ValueError):  # no container, or one without a limit
        return available
