"""The chart of an adapter folder: its largest coefficients as bars.

The same adapters give the same bytes.
"""

import textwrap
import unicodedata
from collections.abc import Sequence
from html import escape

from hf_lorameta.cards.card_data import WeightedAdapter
from hf_lorameta.cards.markdown import clean
from hf_lorameta.method.registries import METRICS

CHART_FILE = "neighbors.svg"
BARS = 12
_WIDTH, _ROW, _TOP = 760, 28, 92
_LABEL_END, _BAR_START, _BAR_WIDTH, _DISTANCE_END = 316, 330, 270, 736
_LABEL_CELLS, _SUBTITLE_CELLS, _SUBTITLE_ROW = 40, 100, 17


def render_chart(neighbors: Sequence[WeightedAdapter], metric: str) -> str:
    """Return a bar chart of the largest coefficients: a self-contained SVG with a description.

    It has its own background, so that it looks the same on light and dark pages.

    Args:
        neighbors: the adapters that were combined, by descending size of the coefficient.
        metric: name of the metric that their distances were computed with.
    """
    bars, rest = neighbors[:BARS], neighbors[BARS:]
    count = "The coefficient"
    if len(neighbors) > 1:
        count = f"{len(bars)} of {len(neighbors)} coefficients"
    subtitle = textwrap.wrap(f"{count} · distance: {METRICS[metric].title}", _SUBTITLE_CELLS)
    subtitles = "\n".join(
        f'<text x="24" y="{55 + _SUBTITLE_ROW * i}" class="soft">{_xml(line)}</text>'
        for i, line in enumerate(subtitle)
    )
    top = _TOP + _SUBTITLE_ROW * (len(subtitle) - 1)
    height = top + _ROW * len(bars) + (48 if rest else 22)
    largest = max(abs(n.coefficient) for n in bars) or 1.0
    rows = "\n".join(_bar(top + _ROW * i, n, largest) for i, n in enumerate(bars))
    description = "; ".join(
        f"{_label(n)}: coefficient {n.coefficient:.1%}, distance {n.distance:.3f}" for n in bars
    )
    footer = ""
    if rest:
        more = f"{len(rest)} more, {sum(n.coefficient for n in rest):.1%} in total"
        footer = f'\n<text x="{_BAR_START}" y="{height - 20}" class="soft">{more}</text>'
        description += f". {more}"
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" \
height="{height}" role="img" aria-labelledby="title desc">
<title id="title">Source adapters by coefficient</title>
<desc id="desc">{_xml(description)}.</desc>
<style>
text {{ font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; \
fill: #1f2937 }}
.head {{ font-size: 17px; font-weight: 600 }}
.soft {{ font-size: 12px; fill: #5b6472 }}
.end {{ text-anchor: end }}
</style>
<rect x="0.5" y="0.5" width="{_WIDTH - 1}" height="{height - 1}" rx="10" fill="#ffffff" \
stroke="#d5d9e0"/>
<text x="24" y="34" class="head">Source adapters</text>
{subtitles}
<text x="{_LABEL_END}" y="{top - 10}" class="soft end">dataset</text>
<text x="{_BAR_START}" y="{top - 10}" class="soft">coefficient</text>
<text x="{_DISTANCE_END}" y="{top - 10}" class="soft end">distance</text>
{rows}{footer}
</svg>
"""


def _bar(top: int, neighbor: WeightedAdapter, largest: float) -> str:
    width = max(1.0, _BAR_WIDTH * abs(neighbor.coefficient) / largest)
    color = "#dd6b20" if neighbor.coefficient >= 0 else "#718096"
    base = top + 17
    label = _xml(_shorten(_label(neighbor), _LABEL_CELLS))
    return (
        f'<text x="{_LABEL_END}" y="{base}" class="end">{label}</text>\n'
        f'<rect x="{_BAR_START}" y="{top + 3}" width="{width:.1f}" height="{_ROW - 8}" rx="3" '
        f'fill="{color}"/>\n'
        f'<text x="{_BAR_START + width + 8:.1f}" y="{base}">{neighbor.coefficient:.1%}</text>\n'
        f'<text x="{_DISTANCE_END}" y="{base}" class="soft end">{neighbor.distance:.3f}</text>'
    )


def _label(neighbor: WeightedAdapter) -> str:
    return clean(neighbor.title or neighbor.dataset.rpartition("/")[2])


def _shorten(name: str, cells: int) -> str:
    """Cut a name in the middle, since related names mostly differ at their ends.

    Example:
        >>> _shorten("task003_mctaco_question_generation", 16)
        'task003…neration'
    """
    if _cells(name) <= cells:
        return name
    head, tail = name[: len(name) // 2], name[len(name) // 2 :]
    while _cells(head) + _cells(tail) + 1 > cells:
        head, tail = (head[:-1], tail) if _cells(head) >= _cells(tail) else (head, tail[1:])
    return f"{head}…{tail}"


def _cells(name: str) -> float:
    """Return the width in average letters: 2 for ideographs, 1.4 for capitals, m and w."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in name)
    return len(name) + wide + 0.4 * sum(c.isupper() or c in "mw" for c in name)


def _xml(value: str) -> str:
    return escape(clean(value), quote=False)
