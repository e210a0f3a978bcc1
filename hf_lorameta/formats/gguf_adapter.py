"""Export a PEFT adapter as a GGUF LoRA adapter, as llama.cpp and Ollama load it.

An export needs the adapter's folder and the base model's ``config.json``, not its weights. Tensor
names come from the `gguf` package.

Format: https://github.com/ggml-org/llama.cpp/blob/master/convert_lora_to_gguf.py
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hf_lorameta.environment import pip_install, require_extra
from hf_lorameta.errors import AdapterError, MissingExtraError
from hf_lorameta.files import atomic_file, writing
from hf_lorameta.formats.gguf_architecture import UNUSED, BaseArchitecture
from hf_lorameta.formats.lora_file import AdapterFile, check_adapter
from hf_lorameta.formats.lora_layout import FACTORS, Layout
from hf_lorameta.formats.peft_config import LoraConfig

Dtype = Literal["f16", "f32"]

DTYPES: dict[Dtype, np.dtype[Any]] = {"f16": np.dtype(np.float16), "f32": np.dtype(np.float32)}


def export(
    folder: Path, target: Path, base_config: Mapping[str, Any], dtype: Dtype = "f16"
) -> Path:
    """Write the PEFT adapter in a folder as a GGUF LoRA adapter, and return the target.

    It is written with `atomic_file`. The same inputs give the same bytes.

    Raises:
        AdapterError: the adapter is broken, or does not fit the base model's modules or heads.
        AdapterError: a value is above the limit, or the target cannot be written.
        UsageError: the base model's architecture is not supported.
        MissingExtraError: the package `gguf` is not installed.
    """
    base = BaseArchitecture.from_config(base_config)
    require_extra("gguf", extra="gguf")
    config, weights = check_adapter(folder)
    names = tensor_names(weights.layout, base)
    with writing(target, AdapterError, "name another target"), atomic_file(target) as file:
        _write(Path(file.name), weights, config, base, names, dtype)
    return target


def tensor_names(layout: Layout, base: BaseArchitecture) -> dict[str, str]:
    """Return llama.cpp's weight name of each module, checked against the base model's shapes."""
    known = _name_map(base.name, base.layers)
    names = {}
    for module in layout:
        text_name = base.text_name(module.name)
        name = known.get_name(text_name)
        if name is None or (name == "output" and base.tied):
            raise AdapterError(
                f"{module.name} has no counterpart in a {base.name} model of {base.layers} layers: "
                "is this the adapter's base model?",
                code="gguf.no-counterpart",
            )
        if (base.name, text_name.rpartition(".")[2]) in UNUSED:
            raise AdapterError(
                f"llama.cpp does not apply adapters of {module.name}",
                code="gguf.module-not-applied",
                hint="leave this module out of the adapter",
            )
        base.row_order(module)
        base.column_order(module)
        names[module.name] = f"{name}.weight"
    return names


@lru_cache(maxsize=1)
def _name_map(architecture: str, layers: int) -> Any:
    """Return llama.cpp's names of a model's weights by transformers' names."""
    import gguf

    architectures = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}
    if architecture not in architectures:
        raise MissingExtraError(
            f"the installed gguf package does not know {architecture}",
            code="gguf.unknown-architecture",
            hint=pip_install("-U", "gguf"),
        )
    return gguf.get_tensor_name_map(architectures[architecture], layers)


def _write(
    path: Path,
    weights: AdapterFile,
    config: LoraConfig,
    base: BaseArchitecture,
    names: Mapping[str, str],
    dtype: Dtype,
) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, base.name)
    writer.add_type("adapter")
    writer.add_file_type({"f32": 0, "f16": 1}[dtype])
    if config.base_model:
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, config.base_model)
    writer.add_string("adapter.type", "lora")
    # llama.cpp multiplies by alpha / rank and knows no other scaling
    alpha = config.scaling * config.rank
    writer.add_float32("adapter.lora.alpha", alpha)
    for module in weights.layout:
        rows, columns = base.row_order(module), base.column_order(module)
        for factor in FACTORS:
            values = weights.tensor(module.name, factor)
            if factor == "A" and columns is not None:
                values = values[:, columns]
            if factor == "B" and rows is not None:
                values = values[rows]
            narrowed = np.ascontiguousarray(values.astype(DTYPES[dtype]))
            writer.add_tensor(f"{names[module.name]}.lora_{factor.lower()}", narrowed)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
