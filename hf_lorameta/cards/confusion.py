"""The picture of an adapter's confusions: which labels it answers for which."""

from collections import Counter
from collections.abc import Sequence

from hf_lorameta.cards.svg import picture, shorten, xml

CONFUSION_FILE = "confusion.svg"
MOST = 20
"""Labels in the picture."""
_WIDTH, _CELL, _LABEL_END, _LEFT, _TOP, _LABEL_CELLS = 760, 24, 250, 264, 116, 30


def render_confusion(labels: Sequence[str], pairs: Sequence[tuple[int, int]]) -> str:
    """Return the confusion matrix of counted rows, see `picture`.

    Args:
        labels: L of them; of more than `MOST`, those that are confused most are shown.
        pairs: the numbers of the right label and of the answer, of each row; at least one.
    """
    counts = Counter(pairs)
    shown = _shown(len(labels), counts)
    inside = {pair: n for pair, n in counts.items() if set(pair) <= set(shown)}
    right = sum(n for (label, answer), n in counts.items() if label == answer)
    rights = f"{right} of {len(pairs)} answers are right"
    lines = [f"Rows are the right labels, columns the answers with the same numbers; {rights}"]
    if len(shown) < len(labels):
        lines.append(
            f"The {len(shown)} of {len(labels)} labels that are confused most, with "
            f"{sum(inside.values())} of the {len(pairs)} rows"
        )
    most, parts = max(inside.values(), default=1), list[str]()
    for row, label in enumerate(shown):
        middle, base = _LEFT + _CELL * row + _CELL // 2, _TOP + _CELL * row + 17
        name = xml(shorten(labels[label], _LABEL_CELLS))
        parts += [
            f'<text x="{middle}" y="{_TOP - 8}" class="soft middle">{row + 1}</text>',
            f'<text x="{_LABEL_END}" y="{base}" class="end">{name} '
            f'<tspan class="soft">{row + 1}</tspan></text>',
        ]
    parts += [
        _cell(row, column, inside.get((label, answer), 0), most)
        for row, label in enumerate(shown)
        for column, answer in enumerate(shown)
    ]
    wrong = sorted((-n, pair) for pair, n in counts.items() if pair[0] != pair[1])
    described = [
        f"{labels[label]} answered as {labels[answer]}: {-n}" for n, (label, answer) in wrong[:MOST]
    ]
    size = _CELL * len(shown)
    return picture(
        max(_WIDTH, _LEFT + size + 24), _TOP + size + 22, "Labels and answers",
        "; ".join([rights, *described]), "Confusions", lines, "\n".join(parts),
    )  # fmt: skip


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


def _cell(row: int, column: int, count: int, most: int) -> str:
    x, y, share = _LEFT + _CELL * column, _TOP + _CELL * row, count / most
    color = "#dd6b20" if row == column else "#4a5568"
    opacity = 0.12 + 0.88 * share if count else 0.05
    box = (
        f'<rect x="{x + 1}" y="{y + 1}" width="{_CELL - 2}" height="{_CELL - 2}" rx="3" '
        f'fill="{color}" fill-opacity="{opacity:.2f}"/>'
    )
    if not count:
        return box
    fill = "#ffffff" if share > 0.6 else "#1f2937"
    middle = f'x="{x + _CELL // 2}" y="{y + 16}"'
    return f'{box}<text {middle} class="soft middle" style="fill:{fill}">{count}</text>'
