"""Pictures of an adapter folder: the frame that all share, and text in it.

The same values give the same bytes.
"""

import unicodedata
from collections.abc import Sequence
from html import escape

from hf_lorameta.cards.markdown import clean

LINE = 17
"""Height of a line below the heading."""


def picture(
    width: int,
    height: int,
    title: str,
    description: str,
    heading: str,
    lines: Sequence[str],
    body: str,
) -> str:
    """Return a self-contained SVG with a description.

    It has its own background, so that it looks the same on light and dark pages.

    Args:
        width: in pixels, like `height`.
        height: of the picture.
        title: what it is of, for those who do not see it.
        description: what it shows, likewise.
        heading: its first line.
        lines: those below it, each `LINE` high.
        body: the elements below.
    """
    below = "\n".join(
        f'<text x="24" y="{55 + LINE * index}" class="soft">{xml(line)}</text>'
        for index, line in enumerate(lines)
    )
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" \
height="{height}" role="img" aria-labelledby="title desc">
<title id="title">{xml(title)}</title>
<desc id="desc">{xml(description)}.</desc>
<style>
text {{ font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; \
fill: #1f2937 }}
.head {{ font-size: 17px; font-weight: 600 }}
.soft {{ font-size: 12px; fill: #5b6472 }}
.end {{ text-anchor: end }}
.middle {{ text-anchor: middle }}
</style>
<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="10" fill="#ffffff" \
stroke="#d5d9e0"/>
<text x="24" y="34" class="head">{xml(heading)}</text>
{below}
{body}
</svg>
"""


def shorten(name: str, cells: int) -> str:
    """Cut a name in the middle, since related names mostly differ at their ends.

    Example:
        >>> shorten("task003_mctaco_question_generation", 16)
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


def xml(value: str) -> str:
    """Return text without control characters, escaped."""
    return escape(clean(value), quote=False)
