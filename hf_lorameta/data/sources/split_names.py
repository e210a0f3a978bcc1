"""Names of splits, and of slices of them such as ``train[:1000]``."""

import re
from collections.abc import Sequence
from typing import TypeAlias

from hf_lorameta.errors import DatasetError, Option

Splits: TypeAlias = str | tuple[str, ...] | None
"""A split; several, of which the first one that exists is read; None is train, or the only one."""
USUAL = {"train", "training", "test", "dev", "valid", "validation", "val", "eval", "data"}
"""What splits are called."""
_SLICE = re.compile(r"(?P<name>[^\[\]]+)\[(?P<start>\d*):(?P<stop>\d*)\]")


def split_name(split: str) -> str:
    """Return a split's name without a slice.

    Example:
        >>> split_name("train[:1000]"), split_name("test")
        ('train', 'test')
    """
    found = _SLICE.fullmatch(split)
    return found["name"] if found else split


def slice_bounds(split: str) -> tuple[int, int | None]:
    """Return the first row of a slice and the one after its last; None if it has no end.

    Example:
        >>> slice_bounds("train"), slice_bounds("train[:1000]"), slice_bounds("train[500:]")
        ((0, None), (0, 1000), (500, None))
    """
    found = _SLICE.fullmatch(split)
    if not found:
        return 0, None
    start = int(found["start"] or 0)
    return start, max(int(found["stop"]), start) if found["stop"] else None


def pick_split(name: str, splits: Sequence[str], requested: Splits, one: str = "split") -> str:
    """Return the requested split, else train, else the only one.

    A slice such as ``train[:1000]`` or ``train[500:1000]`` is returned as it is. `one` is what a
    split is called, such as sheet.

    Raises:
        DatasetError: there is no such split, or a slice is not in numbers of rows.

    Example:
        >>> pick_split("o/d", ["test", "train"], None)
        'train'
        >>> pick_split("o/d", ["dev", "test", "train"], ("test", "validation"))
        'test'
    """
    if isinstance(requested, tuple):
        requested = next(filter(splits.__contains__, requested), None)
    if not requested and ("train" in splits or len(splits) == 1):
        return "train" if "train" in splits else splits[0]
    if requested and split_name(requested) in splits:
        return requested
    problem = f"has no {one} {requested!r}" if requested else f"has no {one} named train"
    likely = next((split for split in splits if split.startswith("train")), splits[0])
    part = (requested or "").partition("[")[0]
    option = Option("split", f"{part}[:1000]" if part in splits else likely)
    error = DatasetError(
        f"{name} {problem}, only {', '.join(splits)}", code="split.unknown", hint=option
    )
    error.option = option
    if not requested and USUAL.isdisjoint(map(str.lower, splits)):
        error.parts = tuple(splits)
    raise error
