"""PEFT LoRA adapters: ``adapter_model.safetensors``, and a folder that also holds its config.

Files are read header first and then one tensor at a time, so that memory is that of the largest
tensor. They are written in one canonical order: the same weights always give the same bytes.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.errors import AdapterError, sanitize
from hf_lorameta.files import atomic_file
from hf_lorameta.formats import safetensors
from hf_lorameta.formats.lora_layout import FACTORS, Factor, Layout, read_layout, tensor_name
from hf_lorameta.formats.peft_config import CONFIG_FILE, LoraConfig, parse_config
from hf_lorameta.formats.safetensors import CODES, TensorInfo
from hf_lorameta.types import FactorPair, FloatArray

WEIGHTS_FILE = "adapter_model.safetensors"
MAX_WEIGHT = 65_504.0
"""Largest absolute value of a weight, that of float16; those of trained adapters are below 10."""

ParsedHeader = tuple[Mapping[str, TensorInfo], Layout, int]
"""Tensor infos, layout and rank."""


def cache_headers(parse: Callable[[bytes, int], ParsedHeader]) -> Callable[..., ParsedHeader]:
    """Cache a header parser, so that equal headers give the same object.

    Most files of a bank have the same header, so comparing infos by identity suffices. The lock
    keeps threads from parsing one header twice.
    """
    cached, lock = lru_cache(maxsize=4)(parse), threading.Lock()

    def parse_once(header: bytes, size: int) -> ParsedHeader:
        with lock:
            return cached(header, size)

    return parse_once


@cache_headers
def _parsed(header: bytes, size: int) -> ParsedHeader:
    infos = safetensors.parse_header(header, size)
    return MappingProxyType(infos), *read_layout(infos)


class AdapterFile:
    """A local safetensors LoRA file, read one tensor at a time.

    Args:
        path: of the file.

    Attributes:
        tensor_infos: in the order of the data.
        layout: the modules in canonical order.
        rank: of every module.

    Raises:
        AdapterError: it cannot be read, is malformed, or has several ranks.
    """

    _parse = staticmethod(_parsed)

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            size = path.stat().st_size
            header = safetensors.read_header(self._read, size)
        except OSError as error:
            raise AdapterError(f"{path}: {error.strerror}", code="adapter.unreadable") from None
        self.tensor_infos, self.layout, self.rank = self._parse(header, size)

    def _read(self, start: int, stop: int) -> bytes:
        return safetensors.read_range(self.path, start, stop)

    @property
    def dtypes(self) -> set[str]:
        """The safetensors dtype codes in the file."""
        return {info.dtype for info in self.tensor_infos.values()}

    def tensor(self, module: str, factor: Factor) -> FloatArray:
        """Return a factor as float32: lora_A is (r, in_features), lora_B is (out_features, r)."""
        info = self.tensor_infos[tensor_name(module, factor)]
        return safetensors.to_float32(self._read(info.start, info.stop), info)

    def adapts(self, module: str) -> bool:
        """Return whether the adapter changes a module."""
        return tensor_name(module, "A") in self.tensor_infos

    def factors(self, module: str) -> FactorPair:
        """Return lora_A and lora_B of a module, as `tensor` does."""
        return self.tensor(module, "A"), self.tensor(module, "B")

    def stack(
        self, files: Sequence["AdapterFile"], module: str, A: FloatArray, B: FloatArray
    ) -> None:
        """Fill A (Σr, in_features) and B (out_features, Σr) with the factors of all files."""
        start = 0
        for file in files:
            part = slice(start, start + file.rank)
            start = part.stop
            A[part], B[:, part] = file.factors(module)


def write_tensors(
    path: Path,
    layout: Layout,
    rank: int,
    dtype: str,
    pairs: Iterable[FactorPair],
) -> None:
    """Write (lora_A, lora_B) of each module of a layout with `atomic_file`, in a torch dtype."""
    header = canonical_header(layout, rank, dtype)
    with atomic_file(path) as file:
        file.write(header)
        for module, pair in zip(layout, pairs, strict=True):
            for factor, values in zip(FACTORS, pair, strict=True):
                name, expected = tensor_name(module.name, factor), module.shape(factor, rank)
                if values.shape != expected:
                    raise AdapterError(
                        f"{name} has shape {values.shape}, expected {expected}",
                        code="adapter.other-shape",
                    )
                file.write(_checked_bytes(values, dtype, name))


def canonical_header(layout: Layout, rank: int, dtype: str) -> bytes:
    """Return the header of a file that `write_tensors` writes."""
    return safetensors.build_header(
        (tensor_name(module.name, factor), CODES[dtype], module.shape(factor, rank))
        for module in layout
        for factor in FACTORS
    )


def _checked_bytes(values: FloatArray, dtype: str, name: str) -> bytes:
    raw = safetensors.to_bytes(values, dtype)
    info = TensorInfo(CODES[dtype], values.shape, 0, len(raw))
    _check_values(safetensors.to_float32(raw, info), f"{sanitize(name)} in {dtype}")
    return raw


def _check_values(values: NDArray[Any], name: str) -> None:
    sizes = np.abs(values.astype(np.float32))
    if (sizes <= MAX_WEIGHT).all():  # NaN is not
        return
    hint = "name another adapter"
    if not np.isfinite(sizes).all():
        why = f"{name} has NaN or infinite values"
        raise AdapterError(why, code="adapter.not-finite", hint=hint)
    why = f"{name} has values of {sizes.max():.1e}, above {MAX_WEIGHT:,.0f}, the limit"
    raise AdapterError(why, code="adapter.too-large-values", hint=hint)


def check_adapter(folder: Path) -> tuple[LoraConfig, AdapterFile]:
    """Open an adapter folder, and check its config, its header and every value.

    Raises:
        AdapterError: a file is missing or malformed, the rank is not the one that the config
            states, or a value is NaN, infinite or above `MAX_WEIGHT`.
    """
    config, weights = open_adapter(folder)
    for module in weights.layout:
        for factor in FACTORS:
            name = f"{weights.path}: {sanitize(module.name)}.lora_{factor}"
            _check_values(weights.tensor(module.name, factor), name)
    return config, weights


def open_adapter(folder: Path) -> tuple[LoraConfig, AdapterFile]:
    """Open an adapter folder as `check_adapter` does, without reading the weights."""
    config = folder_config(folder)
    if not (folder / WEIGHTS_FILE).exists():
        raise AdapterError(
            f"{folder} has no {WEIGHTS_FILE}",
            code="adapter.no-weights",
            hint=["name a folder with a PEFT adapter", "load it with PEFT and save it again"],
        )
    weights = AdapterFile(folder / WEIGHTS_FILE)
    if weights.rank != config.rank:
        raise AdapterError(
            f"{CONFIG_FILE} has rank {config.rank}, the weights have {weights.rank}",
            code="adapter.other-rank",
        )
    return config, weights


def folder_config(folder: Path, *, patterns: bool = False) -> LoraConfig:
    """Read the config in an adapter's folder, as `parse_config` does."""
    path = folder / CONFIG_FILE
    try:
        return parse_config(path.read_bytes(), path, patterns=patterns)
    except OSError:
        inside = sorted(path.parent for path in folder.glob(f"*/*/{CONFIG_FILE}"))
        one = f"name one of the adapters in it, such as {inside[0]}" if inside else ""
        raise AdapterError(
            f"{folder} has no {CONFIG_FILE}",
            code="adapter.no-config",
            hint=one or "name a folder with a PEFT adapter",
        ) from None
