"""The map of the bank with the visitor's dataset on it, as SVG in the page's colors."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.bank.geometry import BankMap
from hf_lorameta.pipeline.plan import Plan
from views.blocks import readable_name, render, shortened

WIDTH, HEIGHT, MARGIN = 520, 400, 30
LABELED = 3
_LETTER_WIDTH, _LINE_HEIGHT = 7.8, 19
_LONGEST_LABEL = 26


class Dot(NamedTuple):
    """A dataset of the bank on the map; `place` is its (x, y)."""

    place: NDArray[np.float64]
    radius: float
    name: str
    share: float
    near: bool


def map_html(plan: Plan, bank_map: BankMap) -> str:
    """Return the map with the plan's dataset, or nothing for fewer than three bank datasets.

    Args:
        plan: its distances place the dataset.
        bank_map: map of the plan's bank, in the plan's metric.
    """
    if len(plan.distances) < 3:
        return ""
    pixels = _to_pixels(np.vstack([bank_map.points, bank_map.place(plan.distances)]))
    points, yours = pixels[:-1], pixels[-1]
    nearest = [int(i) for i in np.argsort(plan.distances, kind="stable")[:LABELED]]
    names = [readable_name(entry) for entry in plan.bank.index.entries]
    shares = plan.coefficients.shared[: len(plan.bank)]
    dots = [
        Dot(points[i], 4 + 16 * min(abs(shares[i]), 1) ** 0.5, names[i], shares[i], i in nearest)
        for i in np.argsort(-shares, kind="stable")  # small ones last, so that they stay visible
    ]
    return render(
        "plan.map",
        width=WIDTH,
        height=HEIGHT,
        nearest=[names[i] for i in nearest],
        lines=points[nearest],
        dots=dots,
        you=yours,
        labels=_labels(yours, points[nearest], [names[i] for i in nearest]),
        share=bank_map.share,
    )


def _to_pixels(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale (N, 2) points to fit the picture, both axes by the same factor."""
    low, high = points.min(axis=0), points.max(axis=0)
    available = np.array([WIDTH, HEIGHT]) - 2 * MARGIN
    scale = float((available / np.maximum(high - low, 1e-12)).min())
    centered = (points - (low + high) / 2) * scale
    return np.asarray(centered * [1, -1] + np.array([WIDTH, HEIGHT]) / 2)


def _labels(
    yours: NDArray[np.float64], nearest: NDArray[np.float64], names: list[str]
) -> list[tuple[str, float, float]]:
    """Return the labels of your dataset and the nearest ones, and their places (left, top)."""
    taken: list[tuple[float, float, float]] = []
    labels = []
    for at, name in zip([yours, *nearest], ["your dataset", *names], strict=True):
        text = shortened(name, _LONGEST_LABEL)
        width = len(text) * _LETTER_WIDTH
        left, top = _free_position(at, width, taken)
        taken.append((left, left + width, top))
        labels.append((text, left, top))
    return labels


def _free_position(
    at: NDArray[np.float64], width: float, taken: list[tuple[float, float, float]]
) -> tuple[float, float]:
    """Return (left, top) beside a point where no (left, right, top) of `taken` is overlapped."""
    right = at[0] + 14
    left = right if right + width < WIDTH - 4 else max(4.0, at[0] - 14 - width)
    for step in (0, 1, -1, 2, -2, 3, -3):
        top = float(np.clip(at[1] + 4 + step * _LINE_HEIGHT, 14, HEIGHT - 6))
        if all(
            left > end or left + width < start or abs(top - other) >= _LINE_HEIGHT
            for start, end, other in taken
        ):
            break
    return left, top
