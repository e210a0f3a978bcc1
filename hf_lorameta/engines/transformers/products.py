"""Products of frozen layers and their input gradients, in float32, bfloat16 or int8.

Which of these a CPU multiplies fastest is measured. Weights in 8 bits have one scale s per output
and one c per input, inputs and gradients one t per token, and sums are exact in 32 bits:

    y = t · ((c · x)₈ W₈ᵀ) · s        ∂x = t · ((g · s)₈ W₈) · c

Both use the same copy of W₈. As in SmoothQuant (arXiv 2211.10438), c makes inputs smaller that are
larger than the others in most tokens, and their weights larger. Needs the extra ``eval``.
"""

import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from enum import StrEnum
from functools import lru_cache
from os import environ
from pathlib import Path
from typing import NamedTuple

import torch

from hf_lorameta.caches import writable_cache
from hf_lorameta.engines.transformers.threads import restoring_threads, seconds_of
from hf_lorameta.files import write_atomically

_BLOCK_VALUES = 1 << 21
"""Weights that are converted at a time: 8 MB, which stay in the processor's cache."""
_PRODUCT = (256, 576, 1536)
"""Rows, width and outputs of the product whose time is measured."""
_GAIN = 0.8
"""int8 is used if it takes so much of the time of the faster of the others, or less."""
_SHIFT = 0.4
"""How much of the differences between inputs is moved to the weights: 0 none, 1 all."""
_LEAST = 1e-2
"""What is smaller than this share of the others counts as this large, for the scales of inputs."""
_LEAST_GRADIENT = 1e-5
"""Outputs with less than this share of the largest gradient are left out where g is not rounded."""
_TINY = 1e-30
_HOPELESS = 4.0
"""What takes so many times as long is not measured further: kernels for other CPUs take seconds."""


class Arithmetic(StrEnum):
    """What the large products are computed in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"


class Int8(NamedTuple):
    """A weight (out, in) in 8 bits.

    Attributes:
        values: (out, in) int8.
        scale: s, (out,) float32.
        inputs: c, (in,) float32.
    """

    values: torch.Tensor
    scale: torch.Tensor
    inputs: torch.Tensor


Weight = torch.Tensor | Int8


def linear(x: torch.Tensor, weight: Weight, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return ``x Wᵀ + b``, (T, out), of x (T, in); W (out, in) may be narrower. No gradients."""
    if isinstance(weight, Int8):
        y = _int8_product(x * weight.inputs, weight.values.T).mul_(weight.scale)
    elif weight.dtype == x.dtype:
        return torch.nn.functional.linear(x, weight, bias)
    elif not is_slow(weight.dtype):
        y = torch.nn.functional.linear(x.to(weight.dtype), weight).to(x.dtype)
    else:
        transposed = x.new_empty(len(weight), len(x))  # of few rows, twice as fast as ``x Wᵀ``
        for block in blocks(weight):
            torch.mm(weight[block].to(x.dtype), x.T, out=transposed[block])
        y = transposed.T.contiguous()
    return y if bias is None else y.add_(bias)


def input_gradient(g: torch.Tensor, weight: Weight, rounds: bool = True) -> torch.Tensor:
    """Return ``g W``, (T, in), of g (T, out); W (out, in) may be narrower. No gradients.

    Args:
        g: the gradient of the output.
        weight: W.
        rounds: whether g is rounded to 8 bits where W is; else only what is tiny is left out.
    """
    if isinstance(weight, Int8):
        scaled, values = g * weight.scale, weight.values
        if rounds:
            return _int8_product(scaled, values).mul_(weight.inputs)
        sums = scaled.abs().sum(0)
        used = torch.nonzero(sums > _LEAST_GRADIENT * sums.max())[:, 0]
        return _converting_product(scaled[:, used], values[used]).mul_(weight.inputs)
    if weight.dtype == g.dtype:
        return g @ weight
    if not is_slow(weight.dtype):
        return (g.to(weight.dtype) @ weight).to(g.dtype)
    return _converting_product(g, weight)


def _converting_product(g: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the product of g (T, n) and a narrower weight (n, m), converted block by block."""
    x, dtype = g.new_zeros(len(g), weight.shape[1]), _narrowest(g.dtype)
    for block in blocks(weight):
        x += g[:, block].to(dtype) @ weight[block].to(dtype)
    return x


def quantized(weight: torch.Tensor, x: torch.Tensor | None = None) -> Int8:
    """Return a weight (out, in) in 8 bits, or in 7 where products of 8 bits overflow.

    Args:
        weight: to round.
        x: some of the inputs that it will be multiplied with, (T, in); None is any.
    """
    values = torch.empty(weight.shape, dtype=torch.int8)
    scale, inputs = torch.empty(len(weight)), torch.ones(weight.shape[1])
    if x is not None:
        largest = x.float().abs().amax(0)
        largest.clamp_(min=float(largest.mean()) * _LEAST + _TINY)
        own = weight.abs().amax(0).float()
        own.clamp_(min=float(own.mean()) * _LEAST + _TINY)
        inputs = own.pow_(1 - _SHIFT) / largest.pow_(_SHIFT)
    for block in blocks(weight):
        values[block], scale[block] = _rounded(weight[block].float() / inputs, int8_levels())
    return Int8(values, scale, inputs)


def blocks(weight: torch.Tensor) -> Iterator[slice]:
    """Yield slices of a matrix's rows."""
    rows = max(_BLOCK_VALUES // weight.shape[1], 1)
    return (slice(start, start + rows) for start in range(0, len(weight), rows))


def _rounded(x: torch.Tensor, levels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows of x (T, n), which change, as int8 within ±levels, and their scales (T,)."""
    scale = torch.maximum(x.amax(1), -x.amin(1)).div_(levels).clamp_(min=_TINY)
    return x.mul_(scale.reciprocal()[:, None]).round_().to(torch.int8), scale


def _int8_product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the product of x (T, n) and int8 values (n, m), in float32."""
    values, scale = _rounded(x, 127)
    return torch._int_mm(values, weight).float().mul_(scale[:, None])


# --- what is fastest ------------------------------------------------------------------------------


def fastest_arithmetic() -> Arithmetic:
    """Return what this CPU computes large products fastest in, as `chosen` says."""
    return chosen(_measured())


def bfloat16_is_faster() -> bool:
    """Whether bfloat16 takes this CPU less than two thirds of float32's time.

    Processors with the same instructions differ: two AVX-512 cores with bfloat16 instructions
    reached 165 GFLOPS in bfloat16 and 300 in float32 on one machine, 1,050 and 230 on another.
    """
    seconds = _measured()
    return seconds[Arithmetic.BFLOAT16] < 2 / 3 * seconds[Arithmetic.FLOAT32]


def is_slow(dtype: torch.dtype) -> bool:
    """Whether this CPU multiplies a dtype of 16 bits slowly."""
    return dtype in (torch.bfloat16, torch.float16) and not bfloat16_is_faster()


def _narrowest(dtype: torch.dtype) -> torch.dtype:
    """Return bfloat16 instead of float32 if this CPU multiplies it faster."""
    return torch.bfloat16 if dtype == torch.float32 and bfloat16_is_faster() else dtype


def chosen(seconds: Mapping[Arithmetic, float]) -> Arithmetic:
    """Return the arithmetic to use if a product takes so many seconds.

    Example:
        >>> chosen({Arithmetic.FLOAT32: 3.0, Arithmetic.BFLOAT16: 1.5, Arithmetic.INT8: 1.3}).value
        'bfloat16'
        >>> chosen({Arithmetic.FLOAT32: 3.0, Arithmetic.BFLOAT16: 2.5, Arithmetic.INT8: 1.3}).value
        'int8'
    """
    narrow, wide = seconds[Arithmetic.BFLOAT16], seconds[Arithmetic.FLOAT32]
    best = Arithmetic.BFLOAT16 if narrow < 2 / 3 * wide else Arithmetic.FLOAT32
    gains = seconds[Arithmetic.INT8] < _GAIN * seconds[best]
    return Arithmetic.INT8 if gains else best


@lru_cache(maxsize=1)
def _measured() -> dict[Arithmetic, float]:
    """Return the seconds of a product as large as a small model's layers; measured in 50 ms.

    They are kept in the cache until the machine is started again, so that all commands compute in
    the same arithmetic, and one that goes on where another was stopped gives the same bytes.
    """
    with suppress(OSError, ValueError, KeyError):
        kept = json.loads(_kept_file().read_text())
        return {kind: float(kept[kind.value]) for kind in Arithmetic}
    seconds = _measure()
    with suppress(OSError):
        values = {kind.value: value for kind, value in seconds.items()}
        write_atomically(_kept_file(), json.dumps(values).encode())
    return seconds


def _kept_file() -> Path:
    """Return the file of the cache for this start of the machine, torch, and its instructions."""
    started = Path("/proc/sys/kernel/random/boot_id").read_text()
    limits = [environ.get(name, "") for name in ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")]
    key = hashlib.sha256(" ".join([started, torch.__version__, *limits]).encode()).hexdigest()
    return writable_cache() / f"arithmetic-{key[:16]}.json"


def _measure() -> dict[Arithmetic, float]:
    """Measure them alternately, in one thread and its CPU time, as other programs may be running.

    int8 includes rounding; it takes forever where it is not exact.
    """
    products, seconds = _products(), dict.fromkeys(Arithmetic, math.inf)
    with restoring_threads():
        torch.set_num_threads(1)
        for _ in range(4):
            for kind, product in products.items():
                times = [seconds_of(product, time.thread_time)]
                if times[0] < _HOPELESS * min(seconds.values()):
                    times += [seconds_of(product, time.thread_time) for _ in range(3)]
                seconds[kind] = min(seconds[kind], *times)
    return seconds


def _products() -> dict[Arithmetic, Callable[[], object]]:
    """Return what is measured."""
    rows, width, outputs = _PRODUCT
    x, weight = torch.ones(rows, width), torch.ones(outputs, width)
    narrow = x.bfloat16(), weight.bfloat16()
    found: dict[Arithmetic, Callable[[], object]] = {
        Arithmetic.FLOAT32: lambda: torch.nn.functional.linear(x, weight),
        Arithmetic.BFLOAT16: lambda: torch.nn.functional.linear(*narrow),
    }
    if int8_levels():
        rounded = quantized(weight)
        found[Arithmetic.INT8] = lambda: linear(x, rounded)
    return found


@lru_cache(maxsize=1)
def int8_levels() -> int:
    """Return the largest 8-bit weight whose products are exact here: 127 or 63; 0 if none are.

    Without VNNI, sums of two products of a byte and a weight are cut off at 16 bits. Those of 255
    and 63 fit in, and take half of float32's time with AVX2. 0, too, if products are not fast.
    """
    rows, width, outputs = _PRODUCT
    signs = torch.tensor([1, -1], dtype=torch.int8)
    x = (127 * signs).repeat_interleave(rows // 2)[:, None].expand(-1, width).contiguous()
    unit = signs.repeat_interleave(outputs // 2)[:, None].expand(-1, width).contiguous()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # that a slow kernel is used instead
            for levels in (127, 63):
                expected = 127 * levels * width * torch.outer(signs, signs).int()
                found = torch._int_mm(x, unit.mul(levels).T)[:: rows // 2, :: outputs // 2]
                if torch.equal(found, expected):
                    return levels
    except (RuntimeError, AttributeError, NotImplementedError, Warning):
        pass
    return 0
