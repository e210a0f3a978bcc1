"""The picture of an adapter's confusions: which labels it answers for which."""

from collections import Counter
from collections.abc import Sequence

from hf_lorameta.cards.svg import picture, shorten, xml

CONFUSION_FILE = "confusion.svg"
MOST = 20
"""Labels in the picture."""
_WIDTH, _CELL, _LABEL_END, _TOP, _LABEL_CELLS = 760, 24, 250, 116, 30


def render_confusion(labels: Sequence[str], pairs: Sequence[tuple[int, int]]) -> str:
    """Return the confusion matrix of counted rows, see `picture`.

    Args:
        labels: L of them; of more than `MOST`, those that are confused most are shown.
        pairs: the numbers of the right label and of the answer, of each row; at least one.
    """
    counts = Counter(pairs)
    shown = _shown(len(labels), counts)
    place = {label: index for index, label in enumerate(shown)}
    inside = {pair: n for pair, n in counts.items() if set(pair) <= place.keys()}
    right = sum(n for (label, answer), n in counts.items() if label == answer)
    lines = [
        "Rows are the right labels, columns the answers with the same numbers; "
        f"{right} of {len(pairs)} answers are right"
    ]
    if len(shown) < len(labels):
        lines.append(
            f"The {len(shown)} of {len(labels)} labels that are confused most, with "
            f"{sum(inside.values())} of the {len(pairs)} rows"
        )
    left, top = _LABEL_END + 14, _TOP
    most = max(inside.values(), default=1)
    parts = [
        f'<text x="24" y="{55 + 17 * index}" class="soft">{xml(line)}</text>'
        for index, line in enumerate(lines)
    ]
    for index, label in enumerate(shown):
        middle, base = left + _CELL * index + _CELL // 2, top + _CELL * index + 17
        name = xml(shorten(labels[label], _LABEL_CELLS))
        parts += [
            f'<text x="{middle}" y="{top - 8}" class="soft middle">{index + 1}</text>',
            f'<text x="{_LABEL_END}" y="{base}" class="end">{name} '
            f'<tspan class="soft">{index + 1}</tspan></text>',
        ]
    for row in range(len(shown)):
        for column in range(len(shown)):
            count = inside.get((shown[row], shown[column]), 0)
            parts.append(
                _cell(left + _CELL * column, top + _CELL * row, count, most, row == column)
            )
    confused = sorted(
        ((n, pair) for pair, n in counts.items() if pair[0] != pair[1]), key=lambda c: (-c[0], c[1])
    )
    described = "; ".join(
        f"{labels[label]} answered as {labels[answer]}: {n}"
        for n, (label, answer) in confused[:MOST]
    )
    description = f"{right} of {len(pairs)} answers are right" + (
        f"; {described}" if described else ""
    )
    height, width = top + _CELL * len(shown) + 22, max(_WIDTH, left + _CELL * len(shown) + 24)
    return picture(width, height, "Labels and answers", description, "Confusions", "\n".join(parts))


def _shown(count: int, pairs: Counter[tuple[int, int]]) -> list[int]:
    """Return the labels to show, in their order."""
    wrong, rows = Counter[int](), Counter[int]()
    for (label, answer), n in pairs.items():
        rows[label] += n
        if label != answer:
            wrong[label] += n
            wrong[answer] += n
    first = sorted(range(count), key=lambda label: (-wrong[label], -rows[label], label))
    return sorted(first[:MOST])


def _cell(x: int, y: int, count: int, most: int, right: bool) -> str:
    share = count / most
    color, opacity = ("#dd6b20" if right else "#4a5568"), 0.12 + 0.88 * share if count else 0.05
    box = (
        f'<rect x="{x + 1}" y="{y + 1}" width="{_CELL - 2}" height="{_CELL - 2}" rx="3" '
        f'fill="{color}" fill-opacity="{opacity:.2f}"/>'
    )
    if not count:
        return box
    fill = "#ffffff" if share > 0.6 else "#1f2937"
    middle = f'x="{x + _CELL // 2}" y="{y + 16}"'
    return f'{box}<text {middle} class="soft middle" style="fill:{fill}">{count}</text>'
