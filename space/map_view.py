"""The bank drawn as a map with the visitor's dataset on it: one SVG in the page's colors."""

from html import escape

import numpy as np
from numpy.typing import NDArray

from hf_lorameta import BankMap, Plan

WIDTH, HEIGHT, MARGIN = 520, 400, 30
NAMED = 3
_LETTER, _LINE = 7.8, 19
_LONGEST = 26


def map_html(plan: Plan, drawn: BankMap) -> str:
    """The map of a plan, in its metric.

    Args:
        plan: its distances place the dataset.
        drawn: of the plan's bank and metric.
    """
    if len(plan.distances) < 3:
        return ""
    you = drawn.place(plan.distances)
    pixels = _to_pixels(np.vstack([drawn.points, you]))
    here, points = pixels[-1], pixels[:-1]
    nearest = [int(i) for i in np.argsort(plan.distances, kind="stable")[:NAMED]]
    names = [entry.dataset for entry in plan.bank.index.entries]
    said = ", ".join(names[i].rpartition("/")[2] for i in nearest)
    lines = "".join(_line(here, points[i]) for i in nearest)
    dots = "".join(
        _dot(points[i], names[i], float(plan.coefficients.shared[i]), i in nearest)
        for i in _order(plan)
    )
    labels = _labels(here, points, nearest, names)
    return f"""<figure class="lm-map">
<figcaption class="lm-h3">Where your dataset lies in the bank</figcaption>
<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="lm-map-t lm-map-d">
<title id="lm-map-t">Map of the bank's {len(names)} datasets with yours among them</title>
<desc id="lm-map-d">Nearest to yours, in this order: {escape(said)}.</desc>
{lines}{dots}{_you(here)}{labels}</svg>
<p class="lm-soft">Near on the map means tokens used alike; the larger a dot, the larger its share.
A plane shows {100 * drawn.share:.0f} % of the spread: trust the distances in the list above, and
take the map for the lie of the land.</p></figure>"""


def _order(plan: Plan) -> list[int]:
    """Large dots first, so that small ones lie on top."""
    return [int(i) for i in np.argsort(-plan.coefficients.shared, kind="stable")]


def _to_pixels(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fit into the picture, both axes to the same scale, the wider one across."""
    low, high = points.min(axis=0), points.max(axis=0)
    room = np.array([WIDTH, HEIGHT]) - 2 * MARGIN
    spread = np.maximum(high - low, 1e-12)
    scale = float((room / spread).min())
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


def _you(at: NDArray[np.float64]) -> str:
    x, y = at
    return (
        f'<path class="lm-you" d="M{x:.1f} {y - 10:.1f}l10 10-10 10-10-10z">'
        "<title>your dataset</title></path>"
    )


def _labels(
    here: NDArray[np.float64],
    points: NDArray[np.float64],
    nearest: list[int],
    names: list[str],
) -> str:
    """Names beside their points, moved down until no two overlap."""
    wanted = [(here, "your dataset", "lm-label lm-label-you")]
    wanted += [(points[i], _short(names[i]), "lm-label") for i in nearest]
    taken: list[tuple[float, float, float]] = []
    drawn = []
    for at, text, kind in wanted:
        left, top = _free_place(at, len(text) * _LETTER, taken)
        taken.append((left, left + len(text) * _LETTER, top))
        drawn.append(f'<text class="{kind}" x="{left:.1f}" y="{top:.1f}">{escape(text)}</text>')
    return "".join(drawn)


def _free_place(
    at: NDArray[np.float64], width: float, taken: list[tuple[float, float, float]]
) -> tuple[float, float]:
    right = at[0] + 14
    left = right if right + width < WIDTH - 4 else max(4.0, at[0] - 14 - width)
    for step in (0, 1, -1, 2, -2, 3, -3):
        top = float(np.clip(at[1] + 4 + step * _LINE, 14, HEIGHT - 6))
        clear = all(
            left > r or left + width < start or abs(top - y) >= _LINE for start, r, y in taken
        )
        if clear:
            return left, top
    return left, top


def _short(repo: str) -> str:
    name = repo.rpartition("/")[2].rpartition("__")[2]
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
