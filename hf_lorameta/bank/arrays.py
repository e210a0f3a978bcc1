"""The safetensors files of a bank besides weights: profiles, sketches, distances and others."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from hf_lorameta.bank.pack_format import dequantize, quantize
from hf_lorameta.errors import AdapterError, BankError, IntegrityError
from hf_lorameta.files import write_atomically
from hf_lorameta.formats.lora_layout import Module
from hf_lorameta.formats.safetensors import read_header, read_range
from hf_lorameta.method.output_prior import OutputPrior

_FLOAT32 = ("directions", "gates", "backgrounds")
"""The arrays of an output prior that are stored as they are; embeddings are stored in int8."""
_DTYPES: dict[str, np.dtype[Any]] = {
    code: np.dtype(name)
    for code, name in (
        ("F64", "<f8"), ("F32", "<f4"), ("F16", "<f2"), ("I64", "<i8"), ("U64", "<u8"),
        ("I32", "<i4"), ("U32", "<u4"), ("I8", "i1"), ("U8", "u1"),
    )
}  # fmt: skip


class ArrayFile:
    """A safetensors file, of which arrays or rows of arrays are read.

    Args:
        path: of the file.

    Raises:
        BankError: the file is missing or malformed, in any method.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            size = path.stat().st_size
            self._infos = read_header(lambda a, b: read_range(path, a, b), size, _DTYPES)
        except (AdapterError, OSError) as error:
            raise self._unreadable(error) from None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the arrays."""
        return tuple(self._infos)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Return the rows from `start` to `stop`, exclusive, of an array; by default all."""
        info = self._infos.get(name)
        rows = info.shape[0] if info and info.shape else 1
        stop = rows if stop is None else stop
        if not info or not 0 <= start <= stop <= rows:
            raise self._unreadable(f"it has no rows {start} to {stop} of an array {name}")
        width = (info.stop - info.start) // max(1, rows)
        first, last = (info.start + row * width for row in (start, stop))
        try:
            raw = read_range(self._path, first, last)
        except (AdapterError, OSError) as error:
            raise self._unreadable(error) from None
        shape = (stop - start, *info.shape[1:]) if info.shape else ()
        return np.frombuffer(bytearray(raw), _DTYPES[info.dtype]).reshape(shape)

    def _unreadable(self, reason: object) -> BankError:
        return BankError(f"{self._path} cannot be read: {reason}")


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return every array of a safetensors file; raise `BankError` if it is missing or malformed."""
    file = ArrayFile(path)
    return {name: file.read(name) for name in file.names}


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays to a safetensors file, which appears only when complete."""
    write_atomically(path, safetensors.numpy.save(dict(arrays)))


# --- the output prior -----------------------------------------------------------------------------


def prior_to_arrays(prior: OutputPrior) -> dict[str, NDArray[Any]]:
    """Return the arrays to store of an output prior."""
    embeddings, scales = quantize(prior.embeddings, 0)
    return {
        "embeddings": embeddings,
        "scales": scales,
        **{name: getattr(prior, name) for name in _FLOAT32},
    }


def prior_from_arrays(
    arrays: Mapping[str, NDArray[Any]], module: Module, vocab_size: int
) -> OutputPrior:
    """Return the output prior of stored arrays.

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
            "the arrays of the output prior have other types or shapes than stated"
        )
    embeddings = dequantize(arrays["embeddings"], arrays["scales"], 0)
    return OutputPrior(module, embeddings, *(arrays[name] for name in _FLOAT32))
