"""Read and write the small safetensors files of a bank: profiles, distances, the neural rule."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.numpy
from numpy.typing import NDArray

from hf_lorameta.errors import BankError
from hf_lorameta.files import write_atomically


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return every array of a safetensors file; raise `BankError` if it is missing or malformed."""
    try:
        return dict(safetensors.numpy.load_file(path))
    except (safetensors.SafetensorError, OSError) as error:
        raise BankError(f"{path} cannot be read: {error}") from None


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays to a safetensors file, which appears only when complete."""
    write_atomically(path, safetensors.numpy.save(dict(arrays)))
