"""`factors` at the speed of the disk: many files averaged without ever stacking one tensor.

The files of a bank are laid out alike, so a stretch of bytes means the same in all of them. One
stretch after the other is read from all files, some files at a time, and added up, bfloat16 values
two by two: as a 32-bit word, one of the pair is the upper half and the other the lower half shifted
up, so that widening costs one operation for two values. Memory holds the result, and of each worker
one stretch of a few files.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.adapter import AdapterFile, FloatArray, TensorInfo, tensor_name

_FILES = 16  # read side by side
_STRETCH = 1 << 19  # bytes of each read at once, about
_WORDS = 1 << 14  # of each file widened at once: the whole fits in a core's cache
_UPPER = np.uint32(0xFFFF0000)
_WORKERS = 4  # more than cores: some wait for the disk

Pair = tuple[FloatArray, FloatArray]


def can_average(files: Sequence[AdapterFile]) -> bool:
    """Says whether all files have the same tensors at the same places, as bfloat16 pairs."""
    infos = [file.places for file in files]
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
    places, layout = files[0].places, files[0].layout
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
    start = min(info.start for info in places.values())
    stop = max(info.stop for info in places.values())
    sums = {name: np.zeros((2, (i.stop - i.start) // 4)) for name, i in places.items()}
    buffer = np.empty((_FILES, stop - start), np.uint8)
    wide = np.empty((_FILES, _WORDS), np.uint32)
    for first in range(0, len(files), _FILES):
        group = files[first : first + _FILES]
        raw = buffer[: len(group)]
        for file, row in zip(group, raw, strict=True):
            file.read_into(row.data, start)
        for name, info in places.items():
            words = raw[:, info.start - start : info.stop - start].view(np.uint32)
            c = weights[name.endswith("lora_B.weight")][first : first + _FILES]
            _add(words, c.astype(np.float32), sums[name], wide[: len(group)])
    return {
        name: halves.T.astype(np.float32).reshape(places[name].shape)
        for name, halves in sums.items()
    }


def _add(
    words: NDArray[np.uint32],
    c: NDArray[np.float32],
    sums: NDArray[np.float64],
    wide: NDArray[np.uint32],
) -> None:
    """Add c·(lower halves) and c·(upper halves) to the two rows of sums; `wide` is scratch."""
    for first in range(0, words.shape[1], _WORDS):
        part, target = words[:, first : first + _WORDS], sums[:, first : first + _WORDS]
        scratch = wide[:, : part.shape[1]]
        np.left_shift(part, 16, out=scratch)
        target[0] += c @ scratch.view(np.float32)
        np.bitwise_and(part, _UPPER, out=scratch)
        target[1] += c @ scratch.view(np.float32)
