"""States of unfinished trainings on disk."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_lorameta.files import write_atomically

if TYPE_CHECKING:
    import torch

CHECKPOINT_SECONDS = 60.0
"""Time between two checkpoints."""


def write_checkpoint(
    path: Path, key: str, tensors: Mapping[str, "torch.Tensor"], state: Mapping[str, Any]
) -> None:
    """Write tensors and JSON values that a training continues from.

    Args:
        path: the file.
        key: what the result of the training depends on.
        tensors: on the CPU.
        state: JSON values.
    """
    from safetensors.torch import save

    write_atomically(path, save(dict(tensors), {"key": key, "run": json.dumps(state)}))


def read_checkpoint(
    path: Path, key: str
) -> tuple[dict[str, "torch.Tensor"], dict[str, Any]] | None:
    """Return the tensors and values of a checkpoint; None if there is none of the same key."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            if metadata.get("key") != key:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
    return tensors, json.loads(metadata["run"])
