"""The LoRA file format: PEFT's ``adapter_config.json`` and ``adapter_model.safetensors``.

Headers are read before tensors, tensors one at a time, and files are written in one canonical
order, so that memory follows the largest tensor and the same weights always give the same bytes.
"""

import json
import math
import os
import re
import struct
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import FileIO
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from hf_lorameta.errors import AdapterError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_PICKLES = ("adapter_model.bin", "adapter_model.pt")
MAX_HEADER_BYTES = 16 << 20
"""Largest header accepted; PEFT writes about 100 bytes a tensor."""

Factor = Literal["A", "B"]
Read = Callable[[int, int], bytes]
"""Bytes [start, stop) of a file, exactly stop − start of them."""
FloatArray = NDArray[np.float32]

DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_LAYER = re.compile(r"[0-9]{1,9}")
_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")


class TensorInfo(NamedTuple):
    """Where a tensor lies: safetensors dtype code, shape, and bytes [start, stop) of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, order=True)
class Module:
    """One adapted linear layer of the base model.

    Attributes:
        name: path in the base model, e.g. ``model.layers.0.self_attn.q_proj``.
        in_features: columns of lora_A.
        out_features: rows of lora_B.
    """

    name: str
    in_features: int
    out_features: int

    def shape(self, factor: Factor, rank: int) -> tuple[int, int]:
        """Shape of one factor: A is (rank, in_features), B is (out_features, rank)."""
        return (rank, self.in_features) if factor == "A" else (self.out_features, rank)


Layout = tuple[Module, ...]
"""Every adapted module, in canonical order."""


def tensor_name(module: str, factor: Factor) -> str:
    """PEFT's name of a tensor.

    Example:
        >>> tensor_name("model.layers.0.self_attn.q_proj", "A")
        'base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight'
    """
    return f"base_model.model.{module}.lora_{factor}.weight"


def canonical_order(name: str) -> tuple[tuple[int, str], ...]:
    """Sort key that counts layers as numbers: layer 2 comes before layer 10.

    Example:
        >>> sorted(["h.10.q", "h.2.v", "h.2.q"], key=canonical_order)
        ['h.2.q', 'h.2.v', 'h.10.q']
    """
    return tuple((int(p) if _LAYER.fullmatch(p) else -1, p) for p in name.split("."))


# --- the header ---------------------------------------------------------------------------------


def read_header(
    read: Read, size: int, dtypes: Mapping[str, np.dtype[Any]] = DTYPES
) -> dict[str, TensorInfo]:
    """Parse and check a safetensors header; reads nothing beyond it.

    Args:
        read: ranged reader of the file.
        size: the file's size in bytes.
        dtypes: what tensors may hold, by safetensors code.

    Returns:
        Tensor name to place, in the order of the data.

    Raises:
        AdapterError: the file is truncated, its header is too large, is not JSON, or describes
            tensors that overlap, leave gaps or do not fit the file. Never allocates what a header
            merely claims.
    """
    if size < 8:
        raise AdapterError(f"{size} bytes are too few for a safetensors file")
    (length,) = struct.unpack("<Q", read(0, 8))
    if length > min(size - 8, MAX_HEADER_BYTES):
        raise AdapterError(
            f"the safetensors header claims {length} bytes, expected at most "
            f"{min(size - 8, MAX_HEADER_BYTES)} in a file of {size}"
        )
    try:
        header = json.loads(read(8, 8 + length))
    except (ValueError, RecursionError):
        raise AdapterError("the safetensors header is not JSON") from None
    if not isinstance(header, dict):
        raise AdapterError("the safetensors header is not a JSON object")
    header.pop("__metadata__", None)
    infos = {
        str(name): _tensor_info(str(name), item, 8 + length, dtypes)
        for name, item in header.items()
    }
    infos = dict(sorted(infos.items(), key=lambda item: (item[1].start, item[1].stop)))
    position = 8 + length
    for name, info in infos.items():
        if info.start != position:
            raise AdapterError(
                f"tensor {_shown(name)} starts at byte {info.start}, expected {position}"
            )
        position = info.stop
    if position != size:
        raise AdapterError(f"the header describes {position} bytes, the file has {size}")
    return infos


def _shown(name: str) -> str:
    """A name out of a stranger's file, short and without control characters or lone surrogates."""
    return name[:200].encode("unicode_escape").decode("ascii")


def _tensor_info(
    name: str, item: Any, offset: int, dtypes: Mapping[str, np.dtype[Any]]
) -> TensorInfo:
    shown = _shown(name)
    try:
        dtype, shape, (start, stop) = (item[k] for k in ("dtype", "shape", "data_offsets"))
        numbers = (*shape, start, stop)
    except (TypeError, ValueError, KeyError):
        raise AdapterError(f"the header's entry for {shown} is malformed") from None
    if not all(type(n) is int and 0 <= n < 1 << 48 for n in numbers) or len(shape) > 8:
        raise AdapterError(f"the header's shape or offsets for {shown} are not sizes")
    if not isinstance(dtype, str) or dtype not in dtypes:
        got = _shown(str(dtype)[:20])
        raise AdapterError(f"{shown} has dtype {got}, expected one of {', '.join(dtypes)}")
    if math.prod(shape) * dtypes[dtype].itemsize != stop - start:
        raise AdapterError(f"{shown}: shape {shape} in {dtype} does not fill {stop - start} bytes")
    return TensorInfo(dtype, tuple(shape), offset + start, offset + stop)


def read_layout(infos: Mapping[str, TensorInfo]) -> tuple[Layout, int]:
    """Which modules a LoRA file adapts, and its rank.

    Args:
        infos: a header as `read_header` gives it.

    Returns:
        The modules in canonical order, and the rank shared by all of them.

    Raises:
        AdapterError: a tensor is not a LoRA factor, a factor lacks its twin, or ranks differ.
    """
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, info in infos.items():
        match = _KEY.fullmatch(name)
        if match is None or len(info.shape) != 2:
            raise AdapterError(
                f"tensor {_shown(name)} {info.shape} is not a 2-d lora_A or lora_B weight"
            )
        shapes.setdefault(match["module"], {})[match["factor"]] = info.shape
    modules, ranks = [], set()
    for name in sorted(shapes, key=canonical_order):
        pair = shapes[name]
        if len(pair) != 2:
            raise AdapterError(f"{_shown(name)} has only lora_{next(iter(pair))}")
        (rank, in_features), (out_features, other) = pair["A"], pair["B"]
        if rank != other or not rank * in_features * out_features:
            raise AdapterError(
                f"{_shown(name)}: lora_A {pair['A']} and lora_B {pair['B']} do not multiply"
            )
        ranks.add(rank)
        modules.append(Module(name, in_features, out_features))
    if len(ranks) != 1:
        raise AdapterError(f"expected one rank in every module, got {sorted(ranks) or 'no module'}")
    return tuple(modules), ranks.pop()


# --- the config ---------------------------------------------------------------------------------

_REFUSED = (
    "use_dora", "lora_bias", "modules_to_save", "target_parameters", "layer_replication",
    "trainable_token_indices", "rank_pattern", "alpha_pattern", "use_qalora", "use_bdlora",
    "alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config", "velora_config",
)  # fmt: skip
_BASE_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")


class LoraConfig(NamedTuple):
    """What of ``adapter_config.json`` matters for adding adapters up.

    Attributes:
        base_model: id of the base model.
        rank: r.
        scaling: what B·A is multiplied with: alpha / r, or alpha / √r with rsLoRA
            (arXiv 2312.03732).
    """

    base_model: str
    rank: int
    scaling: float


def read_config(config: Mapping[str, Any]) -> LoraConfig:
    """Check a PEFT config and read rank and scaling from it.

    Raises:
        AdapterError: it is not a plain LoRA: another PEFT type, DoRA, biases, extra modules, rank
            or alpha patterns, or an initialisation that changes the base model's own weights.

    Example:
        >>> read_config({"peft_type": "LORA", "base_model_name_or_path": "o/m", "r": 4,
        ...              "lora_alpha": 8, "use_rslora": True}).scaling
        4.0
    """
    if not isinstance(config, Mapping):
        raise AdapterError(f"{CONFIG_FILE} is not a JSON object")
    if config.get("peft_type") != "LORA":
        raise AdapterError(f"peft_type is {config.get('peft_type')!r}, expected 'LORA'")
    for key in _REFUSED:
        if config.get(key):
            raise AdapterError(f"{key} is set: only plain LoRA adapters can be added up")
    if config.get("bias", "none") != "none":
        raise AdapterError(f"bias is {config['bias']!r}, expected 'none'")
    init = str(config.get("init_lora_weights", True)).lower()
    if init.startswith(_BASE_CHANGING):
        raise AdapterError(f"init_lora_weights {init!r} changes the base model's weights")
    rank, alpha = config.get("r"), config.get("lora_alpha", 8)
    if type(rank) is not int or not 1 <= rank <= 4096:
        raise AdapterError(f"r is {rank!r}, expected a whole number of at least 1")
    if not isinstance(alpha, (int, float)) or not 0 < alpha < 1e6:
        raise AdapterError(f"lora_alpha is {alpha!r}, expected a positive number")
    scaling = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return LoraConfig(str(config.get("base_model_name_or_path") or ""), rank, scaling)


def write_config(base_model: str, layout: Layout, rank: int, revision: str | None = None) -> bytes:
    """The smallest ``adapter_config.json`` that every PEFT, vLLM and llama.cpp reads.

    ``lora_alpha`` equals the rank: scaling is folded into the weights.
    """
    config = {
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "revision": revision,
        "target_modules": _target_modules(layout),
        "task_type": "CAUSAL_LM",
        "use_rslora": False,
    }
    return (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()


def _target_modules(layout: Layout) -> list[str]:
    """Short names where every layer has all of them, full paths where layers are left out."""
    layers: dict[str, set[str]] = {}
    for module in layout:
        path, _, leaf = module.name.rpartition(".")
        layers.setdefault(leaf, set()).add(path.split(".layers.")[-1].split(".")[0])
    everywhere = set.union(*layers.values())
    complete = all(seen == everywhere for seen in layers.values())
    contiguous = everywhere == {str(i) for i in range(len(everywhere))}
    return sorted(layers) if complete and contiguous else [module.name for module in layout]


# --- tensors ------------------------------------------------------------------------------------


def widen(raw: bytes | memoryview, info: TensorInfo) -> FloatArray:
    """Raw little-endian tensor bytes to float32.

    bfloat16 is widened by a 16-bit shift, which runs at memory speed.

    Returns:
        Array of ``info.shape``.
    """
    if info.dtype == "BF16":
        bits = np.frombuffer(raw, np.uint16).astype(np.uint32)
        return np.left_shift(bits, 16, out=bits).view(np.float32).reshape(info.shape)
    array = np.frombuffer(raw, DTYPES[info.dtype]).reshape(info.shape)
    return array.astype(np.float32)


def widen_into(bits: NDArray[np.uint16], target: FloatArray) -> None:
    """The bits of bfloat16 values to float32, into an array of the same shape."""
    np.left_shift(bits, 16, out=target.view(np.uint32), dtype=np.uint32, casting="unsafe")


def narrow(array: NDArray[Any], dtype: str) -> bytes:
    """Float values to raw bytes of a torch dtype name, rounding to nearest even."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(array).astype(DTYPES[_CODES[dtype]]).tobytes()


def read_head(read: Read, size: int) -> bytes:
    """A file's first bytes as far as a header can reach, for `read_header` to judge."""
    if size < 8:
        return b""
    (length,) = struct.unpack("<Q", read(0, 8))
    return read(0, 8 + min(length, size - 8, MAX_HEADER_BYTES))


Parsed = tuple[Mapping[str, TensorInfo], Layout, int]


def parsed_once(parse: Callable[[bytes, int], Parsed]) -> Callable[[bytes, int], Parsed]:
    """Keep what the last few headers gave: one object for all files that begin alike.

    Whatever threads open them: who reads many files at once tells their likeness by it.
    """
    cached, lock = lru_cache(maxsize=4)(parse), threading.Lock()

    def found(head: bytes, size: int) -> Parsed:
        with lock:
            return cached(head, size)

    return found


@parsed_once
def _parsed(head: bytes, size: int) -> Parsed:
    """Header, layout and rank; the files of a bank mostly begin with the very same bytes."""
    infos = read_header(lambda start, stop: head[start:stop], size)
    return MappingProxyType(infos), *read_layout(infos)


class Filling(FileIO):
    """A file whose bytes go where they are wanted, without buffering in between."""

    def fill(self, buffer: memoryview, start: int) -> None:
        """Fill a buffer with the bytes from `start` on.

        Raises:
            AdapterError: the file ended early.
        """
        self.seek(start)
        filled = self.readinto(buffer)
        while filled < len(buffer):
            got = self.readinto(buffer[filled:])
            if not got:
                raise AdapterError(f"{self.name} ended at byte {start + filled}")
            filled += got


class AdapterFile:
    """A local safetensors LoRA file, read one tensor at a time.

    Args:
        path: the file.

    Attributes:
        layout: modules in canonical order.
        rank: r of every module.

    Raises:
        AdapterError: the file is missing or not a plain LoRA file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            size = path.stat().st_size
            head = read_head(self._read, size)
        except OSError as error:
            raise AdapterError(f"{path}: {error.strerror}") from None
        self._infos, self.layout, self.rank = _parsed(head, size)

    def _read(self, start: int, stop: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(start)
            raw = file.read(stop - start)
        if len(raw) != stop - start:
            raise AdapterError(f"{self.path} ended at byte {start + len(raw)}, expected {stop}")
        return raw

    def tensor(self, module: str, factor: Factor) -> FloatArray:
        """One factor as float32: lora_A is (r, in_features), lora_B is (out_features, r)."""
        info = self._infos[tensor_name(module, factor)]
        return widen(self._read(info.start, info.stop), info)

    @property
    def places(self) -> Mapping[str, TensorInfo]:
        """Where every tensor lies, in the order of the data."""
        return self._infos

    def reading(self) -> "Filling":
        """Open the file, to be closed by the caller."""
        return Filling(self.path)

    def size(self, module: str, factor: Factor) -> int:
        """Number of values of one factor."""
        return math.prod(self._infos[tensor_name(module, factor)].shape)

    def flat(self, module: str, factor: Factor, start: int, stop: int) -> FloatArray:
        """Values [start, stop) of one factor, row after row: (stop − start,) float32."""
        info = self._infos[tensor_name(module, factor)]
        width = DTYPES[info.dtype].itemsize
        first, last = info.start + start * width, info.start + stop * width
        return widen(self._read(first, last), TensorInfo(info.dtype, (stop - start,), first, last))

    def stack_alike(
        self, files: Sequence["AdapterFile"], module: str, A: FloatArray, B: FloatArray
    ) -> bool:
        """Do as `stack_into` if there is a faster way for these files; says whether there is."""
        return False

    @property
    def dtypes(self) -> set[str]:
        """The safetensors dtype codes in the file."""
        return {info.dtype for info in self._infos.values()}


def canonicalise(
    read: Read, infos: Mapping[str, TensorInfo], path: Path, dtype: str = "bfloat16"
) -> None:
    """Copy a LoRA file tensor by tensor into canonical order and one dtype.

    Args:
        read: ranged reader of the source; asked for rising, adjoining ranges.
        infos: the source's header.
        path: target; appears only when complete.
        dtype: torch name of the target's dtype.

    Raises:
        AdapterError: a value is NaN or infinite, before or after rounding.
    """
    layout, rank = read_layout(infos)
    header, places = _plan(layout, rank, dtype)
    with _Replacing(path) as file:
        file.write(header)
        for name, info in infos.items():
            values = widen(read(info.start, info.stop), info)
            file.seek(places[name])
            file.write(_narrow_finite(values, dtype, name))


def write_tensors(
    path: Path,
    layout: Layout,
    rank: int,
    dtype: str,
    pairs: Iterable[tuple[FloatArray, FloatArray]],
) -> None:
    """Write an adapter's weights, streaming, in canonical order.

    Args:
        path: target; appears only when complete.
        layout: modules in canonical order.
        rank: r of every module.
        dtype: torch name of the dtype written.
        pairs: (lora_A, lora_B) of every module, in the order of the layout.

    Raises:
        AdapterError: a pair has another shape than the layout says, or holds NaN or infinity.
    """
    header, _ = _plan(layout, rank, dtype)
    with _Replacing(path) as file:
        file.write(header)
        for module, pair in zip(layout, pairs, strict=True):
            for factor, values in zip(_FACTORS, pair, strict=True):
                name, expected = tensor_name(module.name, factor), module.shape(factor, rank)
                if values.shape != expected:
                    raise AdapterError(f"{name} has shape {values.shape}, expected {expected}")
                file.write(_narrow_finite(values, dtype, name))


_FACTORS: tuple[Factor, Factor] = ("A", "B")


def _narrow_finite(values: FloatArray, dtype: str, name: str) -> bytes:
    raw = narrow(values, dtype)
    finite = np.isfinite(np.frombuffer(raw, DTYPES[_CODES[dtype]]).astype(np.float32)).all()
    if not finite:
        raise AdapterError(f"{_shown(name)} holds NaN or infinite values in {dtype}")
    return raw


def _plan(layout: Layout, rank: int, dtype: str) -> tuple[bytes, dict[str, int]]:
    """The header of a canonical file, and where in the file each tensor starts."""
    code = _CODES[dtype]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for module in layout:
        for factor in _FACTORS:
            shape = module.shape(factor, rank)
            stop = position + math.prod(shape) * DTYPES[code].itemsize
            entry = {"dtype": code, "shape": list(shape), "data_offsets": [position, stop]}
            header[tensor_name(module.name, factor)] = entry
            position = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    offset = 8 + len(text)
    starts = {k: offset + v["data_offsets"][0] for k, v in header.items() if k[0] != "_"}
    return struct.pack("<Q", len(text)) + text, starts


class _Replacing:
    """A file that takes its name only when it is whole and on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")

    def __enter__(self) -> Any:
        self._file = self._partial.open("wb")
        return self._file

    def __exit__(self, failed: object, *_: object) -> None:
        try:
            with self._file:
                if failed is None:
                    self._file.flush()
                    os.fsync(self._file.fileno())
            if failed is None:
                self._partial.replace(self._path)
        finally:
            self._partial.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file under a temporary name, then rename it."""
    with _Replacing(path) as file:
        file.write(content)


def check_folder(folder: Path) -> tuple[LoraConfig, AdapterFile]:
    """Read an adapter folder back and check everything a loader relies on.

    Args:
        folder: holds ``adapter_config.json`` and ``adapter_model.safetensors``.

    Returns:
        The config and the open weights.

    Raises:
        AdapterError: a file is missing or malformed, config and weights disagree on the rank, the
            weights are a pickle, or a value is not finite.
    """
    pickles = [name for name in _PICKLES if (folder / name).exists()]
    if pickles and not (folder / WEIGHTS_FILE).exists():
        raise AdapterError(f"{pickles[0]} is a pickle, which can run code: expected {WEIGHTS_FILE}")
    try:
        config = read_config(json.loads((folder / CONFIG_FILE).read_bytes()))
    except OSError:
        raise AdapterError(
            f"{folder} holds no {CONFIG_FILE}", hint="name a folder that holds a PEFT adapter"
        ) from None
    except (ValueError, RecursionError):
        raise AdapterError(f"{folder / CONFIG_FILE} is not JSON") from None
    weights = AdapterFile(folder / WEIGHTS_FILE)
    if weights.rank != config.rank:
        raise AdapterError(f"{CONFIG_FILE} has rank {config.rank}, the weights have {weights.rank}")
    for module in weights.layout:
        for factor in _FACTORS:
            if not np.isfinite(weights.tensor(module.name, factor)).all():
                raise AdapterError(f"{_shown(module.name)}.lora_{factor} holds NaN or infinity")
    return config, weights


def stack_into(files: Sequence[AdapterFile], module: str, A: FloatArray, B: FloatArray) -> None:
    """Every file's factors of one module, side by side in two arrays.

    Args:
        files: N files.
        module: its name.
        A: (Σr, in_features), filled.
        B: (out_features, Σr), filled.
    """
    if files[0].stack_alike(files, module, A, B):
        return
    start = 0
    buffer = np.empty(0, np.uint16)
    for file in files:
        part = slice(start, start + file.rank)
        a, b = (file.places[tensor_name(module, factor)] for factor in _FACTORS)
        if type(file) is AdapterFile and (a.dtype, b.dtype, a.stop) == ("BF16", "BF16", b.start):
            if buffer.nbytes != b.stop - a.start:
                buffer = np.empty((b.stop - a.start) // 2, np.uint16)
            with file.reading() as opened:
                opened.fill(buffer.view(np.uint8).data, a.start)
            split = (a.stop - a.start) // 2
            widen_into(buffer[:split].reshape(a.shape), A[part])
            widen_into(buffer[split:].reshape(b.shape), B[:, part])
        else:
            A[part], B[:, part] = file.tensor(module, "A"), file.tensor(module, "B")
        start = part.stop


def stack(files: Sequence[AdapterFile], module: str) -> tuple[list[FloatArray], list[FloatArray]]:
    """Every file's lora_A and lora_B of one module."""
    return [f.tensor(module, "A") for f in files], [f.tensor(module, "B") for f in files]
