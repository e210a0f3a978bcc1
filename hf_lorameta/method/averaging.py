"""The combiner ``factors`` at the speed of the disk, for bfloat16 files of one layout.

Tensors of the files have the same byte ranges, so ranges are read and averaged one after another,
16 files at a time and piece by piece, without stacking a tensor. Two bfloat16 values are one 32-bit
word: the upper half, and the lower half shifted up, are both valid float32 numbers, so one
operation widens two values. 26 adapters of rank 4 of a 135M model take 17 ms, and 50 ms with
`merging.factors` module by module. Memory holds the result and, per worker, the sums of one range
and a piece of 16 files.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from io import BufferedReader
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.errors import AdapterError
from hf_lorameta.formats.lora_file import AdapterFile
from hf_lorameta.formats.lora_layout import tensor_name
from hf_lorameta.formats.safetensors import TensorInfo
from hf_lorameta.types import Array, FactorPair, FloatArray, Progress, no_progress

_FILES = 16  # read side by side
_RANGE_BYTES = 1 << 19  # of each file, for which it is opened once
_PIECE_WORDS = 1 << 15  # of each file at a time, so that 16 pieces fit a processor's cache
_UPPER_HALF = np.uint32(0xFFFF0000)
_WORKERS = 4  # more than cores: some wait for the disk


def can_average(files: Sequence[AdapterFile]) -> bool:
    """Return whether all files hold the same tensors at the same bytes, as pairs of bfloat16."""
    infos = [file.tensor_infos for file in files]
    same = all(other is infos[0] or other == infos[0] for other in infos)
    words = all(i.dtype == "BF16" and (i.stop - i.start) % 4 == 0 for i in infos[0].values())
    plain = all(type(file) is AdapterFile for file in files)
    return same and words and plain


def average(
    files: Sequence[AdapterFile],
    weights: Array,
    scalings: Array,
    progress: Progress = no_progress,
) -> list[FactorPair]:
    """Average N files that `can_average` as `hf_lorameta.method.merging.factors` averages factors.

    Sums of 16 products are in float32, those added up in float64; the bits do not depend on the
    number of cores. Progress is called after each byte range with (done, total) modules of work.

    Returns:
        (A, B) of every module in the order of the layout.

    Raises:
        AdapterError: a file ended early.
    """
    infos, layout = files[0].tensor_infos, files[0].layout
    averaged: dict[str, FloatArray] = {}

    def average_range(names: list[str]) -> dict[str, FloatArray]:
        some = {name: infos[name] for name in names}
        return _average_range(files, weights, weights * scalings, some)

    with ThreadPoolExecutor(_WORKERS) as pool:
        for arrays in pool.map(average_range, _ranges(infos)):
            averaged |= arrays
            progress(len(averaged) // 2, len(layout))
    return [
        (averaged[tensor_name(module.name, "A")], averaged[tensor_name(module.name, "B")])
        for module in layout
    ]


def _ranges(infos: Mapping[str, TensorInfo]) -> Iterator[list[str]]:
    """Yield names of neighboring tensors that take about `_RANGE_BYTES` together."""
    names: list[str] = []
    size = 0
    for name, info in infos.items():
        names.append(name)
        size += info.stop - info.start
        if size >= _RANGE_BYTES:
            yield names
            names, size = [], 0
    if names:
        yield names


def _average_range(
    files: Sequence[AdapterFile],
    weights_of_a: Array,
    weights_of_b: Array,
    infos: Mapping[str, TensorInfo],
) -> dict[str, FloatArray]:
    """Average some tensors, adding files up in their order."""
    sums = {name: np.zeros((2, (i.stop - i.start) // 4)) for name, i in infos.items()}
    buffers = _Buffers.of(min(_PIECE_WORDS, max(halves.shape[1] for halves in sums.values())))
    for first in range(0, len(files), _FILES):
        group = slice(first, first + _FILES)
        with ExitStack() as stack:
            opened = [stack.enter_context(file.path.open("rb")) for file in files[group]]
            for name, info in infos.items():
                c = (weights_of_b if name.endswith("lora_B.weight") else weights_of_a)[group]
                _add_tensor(opened, info.start, c.astype(np.float32), sums[name], buffers)
    return {
        name: halves.T.astype(np.float32).reshape(infos[name].shape)
        for name, halves in sums.items()
    }


class _Buffers(NamedTuple):
    """Reused memory for one piece of each file that is read side by side."""

    words: NDArray[np.uint32]
    widened: NDArray[np.uint32]
    product: FloatArray

    @classmethod
    def of(cls, words: int) -> "_Buffers":
        """Buffers for pieces of at most this many words."""
        read, widened = (np.empty(_FILES * words, np.uint32) for _ in range(2))
        return cls(read, widened, np.empty(words, np.float32))


def _add_tensor(
    files: Sequence[BufferedReader], start: int, c: FloatArray, sums: Array, buffers: _Buffers
) -> None:
    """Add c·(lower halves) and c·(upper halves) of one tensor to the two rows of sums."""
    raw = buffers.words.view(np.uint8).data
    for first in range(0, sums.shape[1], _PIECE_WORDS):
        lower, upper = sums[:, first : first + _PIECE_WORDS]
        shape = len(files), lower.size
        # rows without gaps between them: `dot` would copy any others
        words, widened = (b[: math.prod(shape)].reshape(shape) for b in buffers[:2])
        product, size = buffers.product[: lower.size], 4 * lower.size
        for i, file in enumerate(files):
            file.seek(start + 4 * first)
            if file.readinto(raw[i * size : (i + 1) * size]) < size:
                raise AdapterError(f"{file.name} ended at byte {file.tell()}")
        np.left_shift(words, 16, out=widened)
        np.add(lower, np.dot(c, widened.view(np.float32), out=product), out=lower)
        np.bitwise_and(words, _UPPER_HALF, out=words)
        np.add(upper, np.dot(c, words.view(np.float32), out=product), out=upper)
