"""The map of the bank with the visitor's dataset on it, as SVG in the page's colors."""

from html import escape

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.bank.geometry import BankMap
from hf_lorameta.pipeline.plan import Plan
from views.names import readable_name

WIDTH, HEIGHT, MARGIN = 520, 400, 30
LABELED = 3
_LETTER_WIDTH, _LINE_HEIGHT = 7.8, 19
_LONGEST_LABEL = 26


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
    nearest_names = ", ".join(names[i] for i in nearest)
    lines = "".join(_line(yours, points[i]) for i in nearest)
    dots = "".join(
        _dot(points[i], names[i], float(plan.coefficients.shared[i]), i in nearest)
        for i in _largest_first(plan)
    )
    labels = _labels(yours, points, nearest, names)
    return f"""<figure class="lm-map">
<figcaption class="lm-h3">Your dataset among those of the bank</figcaption>
<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="lm-map-t lm-map-d">
<title id="lm-map-t">Map of the bank's {len(names)} datasets and yours</title>
<desc id="lm-map-d">Nearest to yours, nearest first: {escape(nearest_names)}.</desc>
{lines}{dots}{_diamond(yours)}{labels}</svg>
<p class="lm-soft">Datasets that are close together use tokens alike; larger dots have larger
shares. Two dimensions show {100 * bank_map.share:.0f} % of the variation, so the map is a rough
picture: the list above has the exact distances.</p></figure>"""


def _largest_first(plan: Plan) -> list[int]:
    """Return the drawing order: small dots last, so that they stay visible."""
    shares = plan.coefficients.shared[: len(plan.bank)]
    return [int(i) for i in np.argsort(-shares, kind="stable")]


def _to_pixels(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale (N, 2) points to fit the picture, both axes by the same factor."""
    low, high = points.min(axis=0), points.max(axis=0)
    available = np.array([WIDTH, HEIGHT]) - 2 * MARGIN
    scale = float((available / np.maximum(high - low, 1e-12)).min())
    centered = (points - (low + high) / 2) * scale
    return np.asarray(centered * [1, -1] + np.array([WIDTH, HEIGHT]) / 2)


def _line(a: NDArray[np.float64], b: NDArray[np.float64]) -> str:
    return (
        f'<line class="lm-link" x1="{a[0]:.1f}" y1="{a[1]:.1f}" x2="{b[0]:.1f}" y2="{b[1]:.1f}"/>'
    )


def _dot(at: NDArray[np.float64], name: str, share: float, near: bool) -> str:
    radius = 4 + 16 * float(np.sqrt(min(abs(share), 1)))
    kind = "lm-dot lm-near" if near else "lm-dot"
    return (
        f'<circle class="{kind}" cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="{radius:.1f}">'
        f"<title>{escape(name)}: {100 * share:.1f} %</title></circle>"
    )


def _diamond(at: NDArray[np.float64]) -> str:
    x, y = at
    return (
        f'<path class="lm-you" d="M{x:.1f} {y - 10:.1f}l10 10-10 10-10-10z">'
        "<title>your dataset</title></path>"
    )


def _labels(
    yours: NDArray[np.float64],
    points: NDArray[np.float64],
    nearest: list[int],
    names: list[str],
) -> str:
    """Label your dataset and the nearest ones, without overlaps."""
    labels = [(yours, "your dataset", "lm-label lm-label-you")]
    labels += [(points[i], _short(names[i]), "lm-label") for i in nearest]
    taken: list[tuple[float, float, float]] = []
    drawn = []
    for at, text, kind in labels:
        width = len(text) * _LETTER_WIDTH
        left, top = _free_position(at, width, taken)
        taken.append((left, left + width, top))
        drawn.append(f'<text class="{kind}" x="{left:.1f}" y="{top:.1f}">{escape(text)}</text>')
    return "".join(drawn)


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


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_LABEL else f"{name[: _LONGEST_LABEL - 1]}…"
