"""PEFT adapter → GGUF LoRA adapter, as llama.cpp and Ollama load it.

Needs the adapter's folder and the base model's ``config.json``, never its weights. Names come from
the `gguf` package's own map. For llama and mistral, llama.cpp keeps the rows of q and k in another
order than transformers (pairs of the rotary embedding stand side by side), so the rows of their
``lora_b`` are reordered as its converter does.

Format: https://github.com/ggml-org/llama.cpp/blob/master/convert_lora_to_gguf.py
"""

import importlib.util
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.errors import AdapterError, MissingExtraError, UsageError
from hf_lorameta.formats.lora_file import AdapterFile, check_adapter
from hf_lorameta.formats.lora_layout import FACTORS, Layout, Module
from hf_lorameta.formats.peft_config import LoraConfig
from hf_lorameta.types import FloatArray

Dtype = Literal["f16", "f32"]

_NUMPY: dict[Dtype, np.dtype[Any]] = {"f16": np.dtype(np.float16), "f32": np.dtype(np.float32)}
_FILE_TYPES: dict[Dtype, int] = {"f32": 0, "f16": 1}
_SUFFIX = {"A": ".lora_a", "B": ".lora_b"}


class Architecture(NamedTuple):
    """How llama.cpp knows a model type.

    Attributes:
        name: ``general.architecture``.
        permuted: rows of q and k stand in another order than in transformers.
    """

    name: str
    permuted: bool


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("llama", permuted=True),
    "mistral": Architecture("llama", permuted=True),
    "qwen2": Architecture("qwen2", permuted=False),
    "gemma2": Architecture("gemma2", permuted=False),
}
"""By ``model_type`` of the base's config.json."""


class BaseArchitecture(NamedTuple):
    """What of a base model's ``config.json`` decides how its adapters are written.

    Attributes:
        architecture: in llama.cpp.
        layers: number of blocks.
        heads: attention heads of q.
        kv_heads: attention heads of k and v.
        tied: the output layer is the embedding, so that a GGUF of the base has no output layer.
    """

    architecture: Architecture
    layers: int
    heads: int
    kv_heads: int
    tied: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "BaseArchitecture":
        """Read a ``config.json``.

        Raises:
            UsageError: the architecture is not one of `ARCHITECTURES`.
            AdapterError: the config lacks a number that is needed, or it makes no sense.

        Example:
            >>> BaseArchitecture.of({"model_type": "mistral", "num_hidden_layers": 32,
            ...          "num_attention_heads": 32, "num_key_value_heads": 8}).kv_heads
            8
        """
        kind = config.get("model_type")
        if kind not in ARCHITECTURES:
            raise UsageError(
                f"base models of the type {kind!r} cannot be exported to GGUF, "
                f"expected one of {', '.join(ARCHITECTURES)}",
                hint="leave --export out, or use --engine transformers: neither needs a GGUF",
            )
        heads = config.get("num_attention_heads")
        kv_heads = config.get("num_key_value_heads") or heads
        layers = config.get("num_hidden_layers")
        for name, number in (
            ("num_hidden_layers", layers),
            ("num_attention_heads", heads),
            ("num_key_value_heads", kv_heads),
        ):
            if type(number) is not int or not 0 < number < 1 << 16:
                raise AdapterError(f"the base's config.json has {name} {number!r}, expected ≥ 1")
        tied = bool(config.get("tie_word_embeddings", kind == "gemma2"))
        return cls(ARCHITECTURES[kind], layers, heads, kv_heads, tied)  # type: ignore[arg-type]

    def order(self, module: str) -> int | None:
        """Heads by which the rows of a module's lora_b are reordered; None leaves them."""
        if not self.architecture.permuted:
            return None
        return {"q_proj": self.heads, "k_proj": self.kv_heads}.get(module.rpartition(".")[2])


def permute(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows of a q or k matrix from transformers' order to llama.cpp's.

    Within a head of d rows, transformers rotates row i with row i + d/2; llama.cpp rotates
    neighbors. So row i of a head goes to 2i, and row i + d/2 to 2i + 1 (`LlamaModel.permute` of
    llama.cpp's convert_hf_to_gguf.py).

    Args:
        rows: (heads · d, columns).
        heads: number of attention heads.

    Example:
        >>> permute(np.arange(8)[:, None], heads=2).ravel().tolist()
        [0, 2, 1, 3, 4, 6, 5, 7]
    """
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def export(
    folder: Path, target: Path, base_config: Mapping[str, Any], dtype: Dtype = "f16"
) -> Path:
    """Write a PEFT adapter as a GGUF LoRA adapter, one tensor at a time.

    Args:
        folder: of the adapter.
        target: the GGUF file; appears only when complete. The same inputs give the same bytes.
        base_config: the base model's ``config.json``.
        dtype: of the tensors written.

    Returns:
        The target.

    Raises:
        AdapterError: the adapter is broken, names modules that the base does not have, does not
            fit its heads, holds values beyond float16, or the disk is full.
        UsageError: the base's architecture is not known here.
        MissingExtraError: the package `gguf` is not installed.
    """
    base = BaseArchitecture.of(base_config)
    config, weights = check_adapter(folder)
    names = names_of(weights.layout, base)
    try:
        with _partial(target) as scratch:
            _write(scratch, weights, config, base, names, dtype)
            _read_back(scratch, len(names))
    except OSError as error:
        raise AdapterError(
            f"{target} could not be written: {error.strerror}",
            hint="free some space or name another place",
        ) from None
    return target


@contextmanager
def _partial(target: Path) -> Iterator[Path]:
    """A name beside the target that becomes the target when all went well."""
    scratch = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        yield scratch
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)


def names_of(layout: Layout, base: BaseArchitecture) -> dict[str, str]:
    """Module to llama.cpp's name of its weight.

    Raises:
        AdapterError: the base has no such module, or its heads do not divide the module's rows.
        MissingExtraError: the package `gguf` is not installed.
    """
    gguf = _package()
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    known = gguf.get_tensor_name_map(kinds[base.architecture.name], base.layers)
    found = {}
    for module in layout:
        name = known.get_name(module.name)
        if name is None or (name == "output" and base.tied):
            raise AdapterError(
                f"{module.name} has no counterpart in a {base.architecture.name} model of "
                f"{base.layers} layers: is this the adapter's base model?"
            )
        _check_rows(module, base)
        found[module.name] = f"{name}.weight"
    return found


def _check_rows(module: Module, base: BaseArchitecture) -> None:
    heads = base.order(module.name)
    if heads is not None and module.out_features % (2 * heads):
        raise AdapterError(
            f"{module.name} has {module.out_features} rows, which do not divide into {heads} heads"
            " of the base model"
        )


def _package() -> Any:
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtraError("gguf is not installed", hint="pip install 'hf-lorameta[gguf]'")
    import gguf

    return gguf


def _write(
    path: Path,
    weights: AdapterFile,
    config: LoraConfig,
    base: BaseArchitecture,
    names: Mapping[str, str],
    dtype: Dtype,
) -> None:
    writer = _package().GGUFWriter(path, base.architecture.name)
    writer.add_type("adapter")
    writer.add_file_type(_FILE_TYPES[dtype])
    if config.base_model:
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, config.base_model)
    writer.add_string("adapter.type", "lora")
    # llama.cpp multiplies by alpha / rank and knows no other scaling
    writer.add_float32("adapter.lora.alpha", config.scaling * weights.rank)
    kind = _NUMPY[dtype]
    for module in weights.layout:
        for factor in FACTORS:
            shape = module.shape(factor, weights.rank)
            size = shape[0] * shape[1] * kind.itemsize
            writer.add_tensor_info(names[module.name] + _SUFFIX[factor], shape, kind, size)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for values in _tensors(weights, base, dtype):
            writer.write_tensor_data(values)
    finally:
        writer.close()


def _tensors(weights: AdapterFile, base: BaseArchitecture, dtype: Dtype) -> Iterator[NDArray[Any]]:
    for module in weights.layout:
        for factor in FACTORS:
            values = weights.tensor(module.name, factor)
            heads = base.order(module.name) if factor == "B" else None
            ordered = values if heads is None else permute(values, heads)
            yield _narrowed(ordered, dtype, module.name)


def _narrowed(values: FloatArray, dtype: Dtype, module: str) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        narrow = np.ascontiguousarray(values.astype(_NUMPY[dtype]))
    if not np.isfinite(narrow).all():
        raise AdapterError(f"{module} holds values beyond float16's 65504", hint="add --dtype f32")
    return narrow


def _read_back(path: Path, modules: int) -> None:
    """Insist that the file's own reader finds every tensor."""
    found = len(_package().GGUFReader(path).tensors)
    if found != 2 * modules:
        raise AdapterError(f"{path} holds {found} tensors, expected {2 * modules}")
