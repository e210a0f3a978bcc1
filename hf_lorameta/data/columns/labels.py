"""Labels as outputs: different spellings of a label, and several labels in one output."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from hf_lorameta.data.columns.table_view import are_labels

Form = Literal["one", "several", "tags"]
"""What outputs are: a text or label, labels that apply together, or a tag for each word."""
NONE = "none"
"""The output of a row to which no label applies."""
JOINED = {"one": "\n", "several": ", ", "tags": " "}
"""What separates the labels of an output."""
_MARKS = (",", ";", "|", "#")
_DECIMAL = re.compile(r"\d+,\d+")
_MAX = 1000
"""Labels whose spelling is remembered."""


def separator(cells: Sequence[Any]) -> str | None:
    """Return what separates the labels in texts, or "" between the items of lists; None if nothing.

    Labels of several texts are the same few in other combinations, unlike parts of a name. Numbers
    of which each has one comma are decimal.

    Example:
        >>> separator(["joy", "joy, awe", "awe"] * 3), separator(["Rome, IT", "Oslo, NO"] * 4)
        (',', None)
        >>> separator([["joy"], ["joy", "awe"], []] * 4), separator([["a"], ["b", "c"]])
        ('', None)
        >>> separator(["3", "1,3", "1"] * 4), separator(["4,5", "4,0"] * 4)
        (',', None)
    """
    lists = [cell for cell in cells if isinstance(cell, (list, tuple))]
    if lists:
        items = [item for cell in lists for item in cell]
        texts = all(isinstance(item, (str, int)) for item in items)
        return "" if texts and are_labels(list(map(str, items))) else None
    whole = [cell for cell in cells if isinstance(cell, str) and cell.strip()]
    if all(map(_DECIMAL.fullmatch, whole)):
        return None
    for mark in _MARKS:
        labels = [label.strip() for cell in whole for label in cell.split(mark)]
        if len(whole) < len(labels) and are_labels(labels) and all(labels):
            return mark if len(set(labels)) <= len(set(whole)) else None
    return None


class Labels:
    """The labels of outputs, in their most frequent spelling and in a fixed order.

    Args:
        cells: labels of each row of a sample, as they are spelled there.
        names: all labels in order, if they are known.

    Attributes:
        respelled: how many of the sample are not in their most frequent spelling.
        several: whether some rows of the sample have several labels.

    Example:
        >>> labels = Labels([["Joy"], ["joy ", "awe"], ["Joy"], ["awe"]] * 2)
        >>> labels.respelled, labels.joined(["joy", "AWE", "Joy"])
        (2, 'awe, Joy')
        >>> Labels([[" ham"], [" spam"]] * 4).respelled
        0
    """

    def __init__(self, cells: Sequence[Sequence[str]], names: Sequence[str] = ()) -> None:
        found = [label for cell in cells for label in cell if label.strip()]
        counts = Counter(found if are_labels(found) else ()).most_common()
        frequent = {_key(label): label for label, _ in reversed(counts)}
        self._known = {key: label.strip() for key, label in frequent.items()}
        self._order = {name: number for number, name in enumerate(names)}
        self.respelled = sum(n for label, n in counts if frequent[_key(label)] != label)
        self.several = any(len(set(cell)) > 1 for cell in cells)

    def spelled(self, label: str) -> str:
        """Return a label in its most frequent spelling; other texts as they are."""
        if not self._known or not label.strip():
            return label
        if len(self._known) < _MAX:
            self._known.setdefault(_key(label), label.strip())
        return self._known.get(_key(label), label)

    def joined(self, labels: Sequence[str]) -> str:
        """Return several labels as one output."""
        named = {self.spelled(label) for label in labels}
        order = sorted(named, key=lambda label: (self._order.get(label, 0), label.casefold()))
        return JOINED["several"].join(order)


def _key(label: str) -> str:
    """Return what spellings of the same label have in common."""
    return label.strip().casefold()
