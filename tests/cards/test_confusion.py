"""The picture of confusions."""

import re
import xml.etree.ElementTree as ET
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from hf_lorameta.cards.confusion import MOST, render_confusion
from tests.cards.examples import SVG

PAIRS = st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), min_size=1, max_size=60)


def texts_at(root: ET.Element) -> dict[tuple[float, float], str]:
    """Return the texts of cells by their places."""
    found = root.findall(f"{SVG}text")
    cells = (e for e in found if "fill" in (e.get("style") or ""))
    return {(float(e.get("y", 0)), float(e.get("x", 0))): e.text or "" for e in cells}


def test_counts_are_in_the_cells_of_their_label_and_answer() -> None:
    pairs = [(0, 0)] * 5 + [(0, 1)] * 2 + [(2, 1)]
    root = ET.fromstring(render_confusion(["<a>", "b", "c"], pairs))
    places = texts_at(root)
    rows, columns = (sorted({place[axis] for place in places}) for axis in (0, 1))
    assert places == {
        (rows[0], columns[0]): "5",
        (rows[0], columns[1]): "2",
        (rows[1], columns[1]): "1",
    }
    step = columns[1] - columns[0]
    assert rows[1] - rows[0] == 2 * step, "label b has no rows"
    description = root.findtext(f"{SVG}desc") or ""
    assert description == "5 of 8 answers are right; <a> answered as b: 2; c answered as b: 1."


def test_of_many_labels_those_that_are_confused_most_are_shown() -> None:
    labels = [f"label {i}" for i in range(77)]
    pairs = [(i, i) for i in range(77)] + [(70, 71), (71, 70), (3, 76)]
    drawn = render_confusion(labels, pairs)
    names = re.findall(r">(label \d+) <tspan", drawn)
    assert len(names) == MOST
    assert {"label 3", "label 70", "label 71", "label 76"} <= set(names)
    assert names == sorted(names, key=lambda name: int(name.split()[1]))
    assert f"{MOST} of 77 labels" in drawn


@given(PAIRS, st.integers(2, 30))
def test_counts_add_up_and_all_is_inside_the_panel(
    pairs: list[tuple[int, int]], count: int
) -> None:
    pairs = [(label % count, answer % count) for label, answer in pairs]
    root = ET.fromstring(
        render_confusion([f"a long label, {i}\x00" * 3 for i in range(count)], pairs)
    )
    total = sum(map(int, texts_at(root).values()))
    assert total == len(pairs) if count <= MOST else total <= len(pairs)
    wrong = Counter(label != answer for label, answer in pairs)
    assert (root.findtext(f"{SVG}desc") or "").startswith(f"{wrong[False]} of {len(pairs)} ")
    width, height = float(root.get("width", "0")), float(root.get("height", "0"))
    for element in root.iter():
        assert 0 <= float(element.get("x", "0")) + float(element.get("width", "0")) <= width
        assert 0 <= float(element.get("y", "0")) <= height
