"""The output prior of a bank in its file, with embeddings in int8."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.bank.pack_format import dequantize, quantize
from hf_lorameta.errors import IntegrityError
from hf_lorameta.formats.lora_layout import Module
from hf_lorameta.method.output_prior import OutputPrior

_FLOAT32 = ("directions", "gates", "backgrounds")


def to_arrays(prior: OutputPrior) -> dict[str, NDArray[Any]]:
    """Return the arrays to store."""
    embeddings, scales = quantize(prior.embeddings, 0)
    return {
        "embeddings": embeddings,
        "scales": scales,
        **{name: getattr(prior, name) for name in _FLOAT32},
    }


def from_arrays(arrays: Mapping[str, NDArray[Any]], module: Module, vocab_size: int) -> OutputPrior:
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
