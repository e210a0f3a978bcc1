"""The chart of the coefficients."""

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_lorameta.cards import svg
from hf_lorameta.cards.chart import render_chart
from tests.cards.examples import SVG, many, neighbor


def test_chart_is_self_contained_and_has_a_description() -> None:
    drawn = render_chart(many(30), "kl")
    root = ET.fromstring(drawn)
    assert root.get("role") == "img"
    ids = {e.get("id") for e in root.iter()}
    assert set((root.get("aria-labelledby") or "").split()) <= ids
    description = root.findtext(f"{SVG}desc") or ""
    assert "task-0: coefficient 25.0%, distance 0.100" in description
    assert not re.search(r"href|url\(|@import|<image|<script|<foreignObject", drawn)
    assert set(re.findall(r"https?://[^\"]+", drawn)) == {"http://www.w3.org/2000/svg"}


def test_bar_widths_are_proportional_to_the_coefficients() -> None:
    used = many(30)
    root = ET.fromstring(render_chart(used, "kl"))
    widths = [float(r.get("width", "0")) for r in root.findall(f"{SVG}rect")][1:]
    expected = [n.coefficient / used[0].coefficient for n in used[:12]]
    assert [w / widths[0] for w in widths] == pytest.approx(expected, abs=0.002)
    texts = [e.text for e in root.findall(f"{SVG}text")]
    assert "task-11" in texts
    assert "task-12" not in texts
    rest = sum(n.coefficient for n in used[12:])
    assert f"18 more, {rest:.1%} in total" in texts
    assert "12 of 30 coefficients · distance: Kullback–Leibler divergence" in texts


def test_a_bar_has_the_title_of_its_dataset_if_the_bank_states_one() -> None:
    used = (neighbor(0, 0.6, title="Requests <their intent>"), neighbor(1, 0.4))
    texts = [e.text for e in ET.fromstring(render_chart(used, "kl")).findall(f"{SVG}text")]
    assert {"Requests <their intent>", "task-1"} <= set(texts)
    assert "task-0" not in texts


@pytest.mark.parametrize(("metric", "lines"), [("kl", 2), ("js-task", 3)])
@pytest.mark.parametrize("count", [1, 12, 13, 500])
def test_all_elements_are_inside_the_panel(count: int, metric: str, lines: int) -> None:
    root = ET.fromstring(render_chart(many(count), metric))
    width, height = float(root.get("width", "0")), float(root.get("height", "0"))
    for element in (*root.findall(f"{SVG}text"), *root.findall(f"{SVG}rect")):
        right = float(element.get("x", "0")) + float(element.get("width", "0"))
        bottom = float(element.get("y", "0")) + float(element.get("height", "0"))
        assert 0 <= right <= width
        assert bottom <= height
    head = [e.text or "" for e in root.findall(f"{SVG}text") if e.get("x") == "24"]
    assert len(head) == lines  # a long title of a metric is wrapped
    assert max(map(len, head)) <= 100


def test_long_names_are_cut_in_the_middle() -> None:
    long = "task123_" + "very_" * 20 + "long_question_generation"
    drawn = render_chart((neighbor(0, 1.0, dataset=f"org/{long}"),), "kl")
    (label,) = [t for t in re.findall(r">([^<]*)</text>", drawn) if "…" in t]
    assert label.startswith("task123_")
    assert label.endswith("_generation")
    assert long in drawn  # in the description


@given(st.text(max_size=80), st.integers(3, 60))
def test_shortened_name_fits_and_keeps_its_ends(name: str, cells: int) -> None:
    cut = svg.shorten(name, cells)
    assert svg._cells(cut) <= cells
    if cut != name:
        head, tail = cut.split("…", 1) if "…" not in name else ("", "")
        assert name.startswith(head)
        assert name.endswith(tail)


@pytest.mark.parametrize(("coefficients", "gray"), [((0.0, 0.0), 0), ((1.5, -0.25), 1)])
def test_zero_is_drawn_and_negative_coefficients_have_another_color(
    coefficients: tuple[float, float], gray: int
) -> None:
    drawn = render_chart([neighbor(i, c) for i, c in enumerate(coefficients)], "kl")
    assert drawn.count('fill="#718096"') == gray
    ET.fromstring(drawn)
