"""`factors` at the speed of the disk: many files averaged without ever stacking one tensor.

The files of a bank are laid out alike, so a stretch of bytes means the same in all of them. One
stretch after the other is read from all files, some files at a time and piece by piece, and added
up, bfloat16 values two by two: as a 32-bit word, one of the pair is the upper half and the other
the lower half shifted up, so that widening costs one operation for two values. Memory holds the
result, and of each worker the sums of one stretch and one piece of a few files.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.formats.lora_file import AdapterFile, UnbufferedFile
from hf_lorameta.formats.lora_layout import tensor_name
from hf_lorameta.formats.safetensors import TensorInfo
from hf_lorameta.types import FloatArray

_FILES = 16  # read side by side
_STRETCH = 1 << 19  # bytes for which each is opened, about
_WORDS = (
    1 << 15
)  # of each file read and with_module_scale at once: the whole stays in a processor's cache
_UPPER = np.uint32(0xFFFF0000)
_WORKERS = 4  # more than cores: some wait for the disk

Pair = tuple[FloatArray, FloatArray]


def can_average(files: Sequence[AdapterFile]) -> bool:
    """Says whether all files have the same tensors at the same places, as bfloat16 pairs."""
    infos = [file.tensor_infos for file in files]
    same = all(other is infos[0] or other == infos[0] for other in infos)
    words = all(i.dtype == "BF16" and (i.stop - i.start) % 4 == 0 for i in infos[0].values())
    plain = all(type(file) is AdapterFile for file in files)
    return same and words and plain


def average(
    files: Sequence[AdapterFile],
    weights: NDArray[np.float64],
    scalings: NDArray[np.float64],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Pair]:
    """``A = Σ c_i A_i`` and ``B = Σ c_i s_i B_i`` of every module, as `combine.factors` has them.

    Args:
        files: N files that `can_average`.
        weights: (N,) coefficients c.
        scalings: (N,) scalings s.
        progress: called after each stretch with (done, total) modules' worth of work.

    Returns:
        (A, B) of every module in the order of the layout; sums of 16 products in float32, those
        added up in float64. The bits do not depend on the number of cores.

    Raises:
        AdapterError: a file ended early.
    """
    places, layout = files[0].tensor_infos, files[0].layout
    by_factor = [weights, weights * scalings]
    found: dict[str, FloatArray] = {}

    def one(names: list[str]) -> dict[str, FloatArray]:
        return _averaged(files, by_factor, {name: places[name] for name in names})

    with ThreadPoolExecutor(_WORKERS) as pool:
        for arrays in pool.map(one, _stretches(places)):
            found |= arrays
            progress(len(found) // 2, len(layout))
    return [
        (found[tensor_name(module.name, "A")], found[tensor_name(module.name, "B")])
        for module in layout
    ]


def _stretches(places: Mapping[str, TensorInfo]) -> Iterator[list[str]]:
    """Names of tensors that adjoin each other, about a stretch's bytes of them."""
    names: list[str] = []
    size = 0
    for name, info in places.items():
        names.append(name)
        size += info.stop - info.start
        if size >= _STRETCH:
            yield names
            names, size = [], 0
    if names:
        yield names


def _averaged(
    files: Sequence[AdapterFile],
    weights: Sequence[NDArray[np.float64]],
    places: Mapping[str, TensorInfo],
) -> dict[str, FloatArray]:
    """One stretch of all files, in the order of the files whatever others do meanwhile."""
    sums = {name: np.zeros((2, (i.stop - i.start) // 4)) for name, i in places.items()}
    room = _Room.of(min(_WORDS, max(half.shape[1] for half in sums.values())))
    for first in range(0, len(files), _FILES):
        with ExitStack() as opened:
            group = [opened.enter_context(f.reading()) for f in files[first : first + _FILES]]
            for name, info in places.items():
                c = weights[name.endswith("lora_B.weight")][first : first + _FILES]
                _add(group, info.start, c.astype(np.float32), sums[name], room)
    return {
        name: halves.T.astype(np.float32).reshape(places[name].shape)
        for name, halves in sums.items()
    }


class _Room(NamedTuple):
    """Where one piece of every file that is read side by side goes, again and again."""

    read: NDArray[np.uint32]
    with_module_scale: NDArray[np.uint32]
    product: NDArray[np.float32]

    @classmethod
    def of(cls, words: int) -> "_Room":
        """For pieces of so many words."""
        read, with_module_scale = (np.empty(_FILES * words, np.uint32) for _ in range(2))
        return cls(read, with_module_scale, np.empty(words, np.float32))


def _add(
    files: Sequence[UnbufferedFile],
    start: int,
    c: NDArray[np.float32],
    sums: NDArray[np.float64],
    room: _Room,
) -> None:
    """Add c·(lower halves) and c·(upper halves) of one tensor to the two rows of sums."""
    raw = room.read.view(np.uint8).data
    for first in range(0, sums.shape[1], _WORDS):
        lower, upper = sums[:, first : first + _WORDS]
        shape = len(files), lower.size
        # rows without gaps between them: `dot` would copy any others
        words, wide = (
            w[: math.prod(shape)].reshape(shape) for w in (room.read, room.with_module_scale)
        )
        product, size = room.product[: lower.size], 4 * lower.size
        for i, file in enumerate(files):
            file.read_into(raw[i * size : (i + 1) * size], start + 4 * first)
        np.left_shift(words, 16, out=wide)
        np.add(lower, np.dot(c, wide.view(np.float32), out=product), out=lower)
        np.bitwise_and(words, _UPPER, out=words)
        np.add(upper, np.dot(c, words.view(np.float32), out=product), out=upper)
