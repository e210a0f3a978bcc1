"""Export a PEFT adapter as a GGUF LoRA adapter, as llama.cpp and Ollama load it.

An export needs the adapter's folder and the base model's ``config.json``, not its weights. Tensor
names come from the `gguf` package.

Format: https://github.com/ggml-org/llama.cpp/blob/master/convert_lora_to_gguf.py
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.environment import require_extra
from hf_lorameta.errors import AdapterError, UsageError
from hf_lorameta.files import atomic_file, write_hint
from hf_lorameta.formats.lora_file import MixedRankFile, check_adapter
from hf_lorameta.formats.lora_layout import FACTORS, Layout
from hf_lorameta.formats.peft_config import LoraConfig

Dtype = Literal["f16", "f32"]

_DTYPES: dict[Dtype, np.dtype[Any]] = {"f16": np.dtype(np.float16), "f32": np.dtype(np.float32)}
_FILE_TYPES: dict[Dtype, int] = {"f32": 0, "f16": 1}

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "gemma2": "gemma2"}
"""llama.cpp's ``general.architecture`` by the ``model_type`` of the base's config.json."""


class BaseArchitecture(NamedTuple):
    """The settings of a base model that decide how its adapters are written."""

    name: str  # general.architecture in llama.cpp
    layers: int
    heads: int  # of q
    kv_heads: int  # of k and v
    tied: bool  # the output layer has the embedding's weights: a GGUF has no output layer

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "BaseArchitecture":
        """Read a parsed ``config.json``; its model type must be one of `ARCHITECTURES`."""
        model_type = config.get("model_type")
        if model_type not in ARCHITECTURES:
            raise UsageError(
                f"base models of the type {model_type!r} cannot be exported to GGUF, "
                f"expected one of {', '.join(ARCHITECTURES)}",
                hint="omit --export, or use --engine transformers: neither needs a GGUF",
            )
        layers = _count(config, "num_hidden_layers")
        heads = _count(config, "num_attention_heads")
        grouped = bool(config.get("num_key_value_heads"))
        kv_heads = _count(config, "num_key_value_heads") if grouped else heads
        tied = bool(config.get("tie_word_embeddings", model_type == "gemma2"))
        return cls(ARCHITECTURES[model_type], layers, heads, kv_heads, tied)

    def permuted_heads(self, module: str) -> int | None:
        """Return the heads by which `permute` reorders a module's lora_b: q and k of llama."""
        heads = {"q_proj": self.heads, "k_proj": self.kv_heads}
        return heads.get(module.rpartition(".")[2]) if self.name == "llama" else None


def _count(config: Mapping[str, Any], key: str) -> int:
    count = config.get(key)
    if type(count) is not int or not 0 < count < 1 << 16:
        raise AdapterError(f"the base's config.json has {key} {count!r}, expected ≥ 1")
    return count


def permute(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """Reorder the rows of a q or k matrix from transformers' order to llama.cpp's.

    Within a head of d rows, transformers rotates row i with row i + d/2; llama.cpp rotates
    neighbors. So row i of a head moves to 2i, and row i + d/2 to 2i + 1 (`LlamaModel.permute` of
    llama.cpp's convert_hf_to_gguf.py). `rows` is (heads · d, columns).

    Example:
        >>> permute(np.arange(8)[:, None], heads=2).ravel().tolist()
        [0, 2, 1, 3, 4, 6, 5, 7]
    """
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def export(
    folder: Path, target: Path, base_config: Mapping[str, Any], dtype: Dtype = "f16"
) -> Path:
    """Write the PEFT adapter in a folder as a GGUF LoRA adapter, and return the target.

    Tensors are written one at a time, inwith `atomic_file`. The same inputs give the same bytes.

    Raises:
        AdapterError: the adapter is broken, or does not fit the base model's modules or heads.
        AdapterError: a value is out of the range of float16, or the target cannot be written.
        UsageError: the base model's architecture is not supported.
        MissingExtraError: the package `gguf` is not installed.
    """
    base = BaseArchitecture.from_config(base_config)
    config, weights = check_adapter(folder)
    names = tensor_names(weights.layout, base)
    try:
        with atomic_file(target) as file:
            path = Path(file.name)
            _write(path, weights, config, base, names, dtype)
            count, expected = len(_import_gguf().GGUFReader(path).tensors), 2 * len(names)
            if count != expected:
                raise AdapterError(f"{path} holds {count} tensors, expected {expected}")
    except OSError as error:
        raise AdapterError(
            f"{target} could not be written: {error.strerror}",
            hint=write_hint(error, target, "name another target"),
        ) from None
    return target


def tensor_names(layout: Layout, base: BaseArchitecture) -> dict[str, str]:
    """Return llama.cpp's weight name of each module, checked against the base model's shapes."""
    gguf = _import_gguf()
    architectures = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}
    known = gguf.get_tensor_name_map(architectures[base.name], base.layers)
    names = {}
    for module in layout:
        name = known.get_name(module.name)
        if name is None or (name == "output" and base.tied):
            raise AdapterError(
                f"{module.name} has no counterpart in a {base.name} model of {base.layers} layers: "
                "is this the adapter's base model?"
            )
        heads = base.permuted_heads(module.name)
        if heads is not None and module.out_features % (2 * heads):
            raise AdapterError(
                f"{module.name} has {module.out_features} rows, which do not divide into {heads} "
                "heads of the base model"
            )
        names[module.name] = f"{name}.weight"
    return names


def _import_gguf() -> Any:
    require_extra("gguf", extra="gguf")
    import gguf

    return gguf


def _write(
    path: Path,
    weights: MixedRankFile,
    config: LoraConfig,
    base: BaseArchitecture,
    names: Mapping[str, str],
    dtype: Dtype,
) -> None:
    writer = _import_gguf().GGUFWriter(path, base.name)
    writer.add_type("adapter")
    writer.add_file_type(_FILE_TYPES[dtype])
    if config.base_model:
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, config.base_model)
    writer.add_string("adapter.type", "lora")
    # llama.cpp multiplies by alpha / rank and knows no other scaling
    alpha = config.scaling * config.rank
    writer.add_float32("adapter.lora.alpha", alpha)
    numpy_dtype = _DTYPES[dtype]
    for module, rank in zip(weights.layout, weights.ranks, strict=True):
        for factor in FACTORS:
            name = f"{names[module.name]}.lora_{factor.lower()}"
            shape = module.shape(factor, rank)
            writer.add_tensor_info(
                name, shape, numpy_dtype, math.prod(shape) * numpy_dtype.itemsize
            )
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for values in _tensors(weights, config, base, dtype):
            writer.write_tensor_data(values)
    finally:
        writer.close()


def _tensors(
    weights: MixedRankFile, config: LoraConfig, base: BaseArchitecture, dtype: Dtype
) -> Iterator[NDArray[Any]]:
    for module, rank in zip(weights.layout, weights.ranks, strict=True):
        heads = base.permuted_heads(module.name)
        # where alpha / rank is another scaling than PEFT's, lora_b makes up for it
        factor_B = config.module_scaling(module.name) * rank / (config.scaling * config.rank)
        for factor in FACTORS:
            values = weights.tensor(module.name, factor)
            if factor == "B" and not math.isclose(factor_B, 1):
                values = values * np.float32(factor_B)
            if factor == "B" and heads is not None:
                values = permute(values, heads)
            with np.errstate(over="ignore"):
                narrowed = np.ascontiguousarray(values.astype(_DTYPES[dtype]))
            if not np.isfinite(narrowed).all():
                raise AdapterError(
                    f"{module.name} has values beyond float16's 65504", hint="add --dtype f32"
                )
            yield narrowed
