"""Step 2 as HTML: whether an adapter helps, the details of the plan, and a map of the bank."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.bank.entries import IndexEntry
from hf_lorameta.bank.geometry import FAR_RATIO, BankMap
from hf_lorameta.cards.verdict import Verdict
from hf_lorameta.method.coefficients import COEFFICIENT_RULES
from hf_lorameta.method.merging import COMBINERS
from hf_lorameta.method.metrics import METRICS
from hf_lorameta.pipeline.plan import Plan
from views.blocks import readable_name, render, shortened

NEIGHBORS = 5
LARGE_SHARE = 0.1
BARS = 10
WIDTH, HEIGHT, MARGIN = 520, 400, 30
LABELED = 3
_COUNTING = Verdict(
    "unsure",
    "Unsure until right answers are counted",
    "The bar at the bottom shows how far this is.",
)
_LETTER_WIDTH, _LINE_HEIGHT = 7.8, 19
_LONGEST_LABEL = 26


def verdict_html(plan: Plan, name: str, *, counting: bool = False) -> str:
    """Return the verdict and the warnings; right answers may be being counted for it."""
    found = _COUNTING if counting else plan.verdict
    return render("plan.verdict", name=name, found=found, plan=plan)


def similar_html(plan: Plan) -> str:
    """Return what the adapter is made of, the licenses, and the most similar datasets."""
    neighbors = plan.neighbors()
    if not neighbors:
        licenses = sorted({name or "not stated" for name in plan.bank.index.licenses})
        return render("plan.general", licenses=licenses, plan=plan)
    large = [n for n in neighbors if n.coefficient >= LARGE_SHARE] or list(neighbors[:2])
    return render(
        "plan.similar",
        shares=large[:3],
        licenses=sorted({n.license or "not stated" for n in neighbors}),
        points=_nearest(plan),
        plan=plan,
    )


def _nearest(plan: Plan) -> list[tuple[IndexEntry, float]]:
    """Return the most similar datasets and their places from similar (0) to far (100)."""
    nearest = plan.distances.argsort(kind="stable")[:NEIGHBORS]
    typical = plan.nearest_in_bank
    end = max(float(plan.distances[nearest[-1]]), 0 if math.isnan(typical) else FAR_RATIO * typical)
    entries = plan.bank.index.entries
    return [(entries[i], 100 * float(plan.distances[i]) / end if end > 0 else 0) for i in nearest]


# --- details ------------------------------------------------------------------------------------


def details_html(plan: Plan) -> str:
    """Return what an adapter is made of, and how it is computed."""
    neighbors = plan.neighbors()
    if not neighbors:
        return similar_html(plan)
    return similar_html(plan) + render(
        "plan.details",
        bars=neighbors[:BARS],
        rest=neighbors[BARS:],
        largest=max(abs(n.coefficient) for n in neighbors) or 1.0,
        linked=plan.bank.index.published,
        method=_method(plan),
    )


def _method(plan: Plan) -> str:
    """Return how the plan was computed, in words."""
    recipe = plan.recipe
    rule, combiner = COEFFICIENT_RULES[recipe.coefficients], COMBINERS[recipe.combine]
    parts = [METRICS[recipe.metric].title, rule.title, combiner.title]
    if recipe.top_k:
        parts.append(f"top {recipe.top_k}")
    if recipe.temperature != 1:
        parts.append(f"temperature {recipe.temperature:g}")
    text = f"Computed with: {' · '.join(parts)}."
    if plan.general_coefficient is not None:
        text += (
            f" The bank's general adapter takes the rest, {100 * plan.general_coefficient:.0f} %."
        )
    if plan.output_strength is not None:
        text += " An update computed from your outputs' token counts makes these tokens likelier."
    if plan.scale != 1:
        text += f" Your outputs are long, so all of this is scaled by {plan.scale:.2f}."
    return text


# --- map ----------------------------------------------------------------------------------------


class Dot(NamedTuple):
    """A dataset of the bank on the map; `place` is its (x, y)."""

    place: NDArray[np.float64]
    radius: float
    name: str
    share: float
    near: bool


def map_html(plan: Plan, bank_map: BankMap | None) -> str:
    """Return the map with the plan's dataset, or nothing for fewer than three bank datasets.

    Args:
        plan: its distances place the dataset.
        bank_map: map of the plan's bank, in the plan's metric; None for a large bank.
    """
    if bank_map is None or len(plan.distances) < 3:
        return ""
    pixels = _to_pixels(np.vstack([bank_map.points, bank_map.place(plan.distances)]))
    points, yours = pixels[:-1], pixels[-1]
    nearest = [int(i) for i in np.argsort(plan.distances, kind="stable")[:LABELED]]
    names = [readable_name(entry.dataset, entry.title) for entry in plan.bank.index.entries]
    shares = plan.coefficients[: len(plan.bank)]
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
