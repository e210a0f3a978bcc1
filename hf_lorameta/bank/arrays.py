"""Read and write the safetensors files of a bank that hold no weights, such as profiles."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from hf_lorameta.bank.pack_format import dequantize, quantize
from hf_lorameta.data.counts.profile import Profile, ProfileTable
from hf_lorameta.errors import BankError, IntegrityError
from hf_lorameta.files import write_atomically
from hf_lorameta.formats.lora_layout import Module
from hf_lorameta.method.output_prior import OutputPrior

_FLOAT32 = ("directions", "gates", "backgrounds")
"""The arrays of an output prior that are stored as they are; embeddings are stored in int8."""
_NO_ARRAYS = (KeyError, IndexError, TypeError, ValueError)
"""What arrays of unknown types raise, and arrays that are not a profile."""


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return every array of a safetensors file; raise `BankError` if it is missing or malformed."""
    try:
        return dict(safetensors.numpy.load_file(path))
    except OSError as error:
        raise BankError(
            f"{path} cannot be read: {error.strerror or error}", code="bank.unreadable-file"
        ) from None
    except (SafetensorError, *_NO_ARRAYS) as error:
        raise BankError(f"{path} cannot be read: {error}", code="bank.unreadable-file") from None


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays to a safetensors file, which appears only when complete."""
    write_atomically(path, safetensors.numpy.save(dict(arrays)))


# --- profiles -------------------------------------------------------------------------------------


def to_record(profile: Profile) -> bytes:
    """Return the bytes that a bank stores for a profile."""
    record: bytes = safetensors.numpy.save(dict(ProfileTable.from_profiles([profile]).arrays))
    return record


def from_record(raw: bytes, name: str) -> Profile:
    """Return a stored profile; raise `BankError` if it is malformed."""
    try:
        return ProfileTable(safetensors.numpy.load(raw))[0]
    except (SafetensorError, *_NO_ARRAYS) as error:
        raise BankError(f"{name} holds no profile: {error}", code="bank.no-profile") from None


# --- the output prior -----------------------------------------------------------------------------


def prior_to_arrays(prior: OutputPrior) -> dict[str, NDArray[Any]]:
    """Return the arrays that a bank stores for an output prior."""
    embeddings, scales = quantize(prior.embeddings, 0)
    return {
        "embeddings": embeddings,
        "scales": scales,
        **{name: getattr(prior, name) for name in _FLOAT32},
    }


def prior_from_arrays(
    arrays: Mapping[str, NDArray[Any]], module: Module, vocab_size: int
) -> OutputPrior:
    """Return the output prior that a bank has stored as arrays.

    Raises:
        IntegrityError: an array is missing, or has another type or shape.
    """
    k = len(arrays["directions"]) if "directions" in arrays else 0
    shapes = {
        "embeddings": (vocab_size, k), "scales": (vocab_size,),
        "directions": (k, module.out_features), "gates": (2, module.in_features),
        "backgrounds": (2, vocab_size),
    }  # fmt: skip
    types = dict.fromkeys(shapes, np.dtype(np.float32)) | {"embeddings": np.dtype(np.int8)}
    found = {name: (array.dtype, array.shape) for name, array in arrays.items()}
    if found != {name: (types[name], shape) for name, shape in shapes.items()}:
        raise IntegrityError(
            "the arrays of the output prior have other types or shapes than stated",
            code="bank.damaged-prior",
        )
    embeddings = dequantize(arrays["embeddings"], arrays["scales"], 0)
    return OutputPrior(module, embeddings, *(arrays[name] for name in _FLOAT32))
