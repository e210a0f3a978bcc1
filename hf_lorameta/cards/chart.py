"""The chart of an adapter folder: its largest coefficients as bars.

The same adapters give the same bytes.
"""

import textwrap
from collections.abc import Sequence

from hf_lorameta.cards.card_data import WeightedAdapter
from hf_lorameta.cards.markdown import clean
from hf_lorameta.cards.svg import LINE, picture, shorten, xml
from hf_lorameta.method.registries import METRICS

CHART_FILE = "neighbors.svg"
BARS = 12
_WIDTH, _ROW, _TOP = 760, 28, 92
_LABEL_END, _BAR_START, _BAR_WIDTH, _DISTANCE_END = 316, 330, 270, 736
_LABEL_CELLS, _SUBTITLE_CELLS = 40, 100


def render_chart(neighbors: Sequence[WeightedAdapter], metric: str) -> str:
    """Return a bar chart of the largest coefficients, see `picture`.

    Args:
        neighbors: the adapters that were combined, by descending size of the coefficient.
        metric: name of the metric that their distances were computed with.
    """
    bars, rest = neighbors[:BARS], neighbors[BARS:]
    count = "The coefficient"
    if len(neighbors) > 1:
        count = f"{len(bars)} of {len(neighbors)} coefficients"
    subtitle = textwrap.wrap(f"{count} · distance: {METRICS[metric].title}", _SUBTITLE_CELLS)
    top = _TOP + LINE * (len(subtitle) - 1)
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
    body = f"""\
<text x="{_LABEL_END}" y="{top - 10}" class="soft end">dataset</text>
<text x="{_BAR_START}" y="{top - 10}" class="soft">coefficient</text>
<text x="{_DISTANCE_END}" y="{top - 10}" class="soft end">distance</text>
{rows}{footer}"""
    title, heading = "Source adapters by coefficient", "Source adapters"
    return picture(_WIDTH, height, title, description, heading, subtitle, body)


def _bar(top: int, neighbor: WeightedAdapter, largest: float) -> str:
    width = max(1.0, _BAR_WIDTH * abs(neighbor.coefficient) / largest)
    color = "#dd6b20" if neighbor.coefficient >= 0 else "#718096"
    base = top + 17
    label = xml(shorten(_label(neighbor), _LABEL_CELLS))
    return (
        f'<text x="{_LABEL_END}" y="{base}" class="end">{label}</text>\n'
        f'<rect x="{_BAR_START}" y="{top + 3}" width="{width:.1f}" height="{_ROW - 8}" rx="3" '
        f'fill="{color}"/>\n'
        f'<text x="{_BAR_START + width + 8:.1f}" y="{base}">{neighbor.coefficient:.1%}</text>\n'
        f'<text x="{_DISTANCE_END}" y="{base}" class="soft end">{neighbor.distance:.3f}</text>'
    )


def _label(neighbor: WeightedAdapter) -> str:
    return clean(neighbor.title or neighbor.dataset.rpartition("/")[2])
