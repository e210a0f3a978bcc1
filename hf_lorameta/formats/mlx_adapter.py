"""Export a PEFT adapter as mlx-lm loads it, on a Mac: with ``--adapter-path`` or ``adapter_path``.

mlx-lm computes ``x @ lora_a @ lora_b``, so both factors are transposed; its scale is that of PEFT,
alpha / r. Names of modules are those of the base model, which mlx-lm keeps for models whose layers
are ``model.layers``.

Format: https://github.com/ml-explore/mlx-lm/blob/main/mlx_lm/tuner/utils.py
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from hf_lorameta.errors import AdapterError, sanitize
from hf_lorameta.formats.gguf_adapter import DTYPES, Dtype
from hf_lorameta.formats.lora_file import check_adapter

CONFIG, WEIGHTS = "adapter_config.json", "adapters.safetensors"
FILES = (CONFIG, WEIGHTS)
_MODULE = re.compile(r"model\.layers\.([0-9]+)\..+")


def export(folder: Path, target: Path, dtype: Dtype = "f16") -> None:
    """Write the PEFT adapter in a folder to another one, which exists. Same inputs, same bytes.

    Args:
        folder: the adapter.
        target: where `FILES` are written.
        dtype: of the weights.

    Raises:
        AdapterError: the adapter is broken, or has modules outside of ``model.layers``.
    """
    from safetensors.numpy import save_file

    config, weights = check_adapter(folder)
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    layers = 0
    for module in weights.layout:
        found = _MODULE.fullmatch(module.name)
        if found is None:
            raise AdapterError(
                f"{sanitize(module.name)} is not in model.layers, where mlx-lm has the modules of "
                "text models",
                code="mlx.other-module",
                hint="export it for llama.cpp: --format gguf",
            )
        layers = max(layers, int(found[1]) + 1)
        for factor, values in zip("ab", weights.factors(module.name), strict=True):
            narrowed = np.ascontiguousarray(values.T.astype(DTYPES[dtype]))
            tensors[f"{module.name}.lora_{factor}"] = narrowed
    save_file(tensors, target / WEIGHTS, {"format": "mlx"})
    parameters = {
        "rank": weights.rank,
        "scale": config.scaling,
        "dropout": 0.0,
        "keys": [module.name for module in weights.layout],
    }
    stated = {"fine_tune_type": "lora", "num_layers": layers, "lora_parameters": parameters}
    stated |= {"model": config.base_model} if config.base_model else {}
    (target / CONFIG).write_text(json.dumps(stated, indent=2) + "\n", encoding="utf-8")
