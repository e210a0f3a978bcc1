"""Names that others chose appear on the card and on the chart as plain text."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from functools import cache

import pytest
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st

from hf_lorameta.cards import markdown
from hf_lorameta.cards.card_data import Card
from hf_lorameta.cards.chart import render_chart
from hf_lorameta.cards.model_card import render_card
from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.hub.repo import is_hub_id
from hf_lorameta.remarks import Remark
from tests.cards.examples import PLAIN, SVG, neighbor, of_dataset
from tests.support.local_hub import card_rules as hub_rules

HOSTILE = (
    "a|b",
    "a\nb",
    "a\r\n\n# Title\n\nb",
    "`code` ``x``",
    "</svg><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "]]>&lt;",
    "[x](javascript:alert(1))",
    "![x](https://evil.example/p.png)",
    "a\\|b\\",
    "---\nlicense: mit\n---",
    "```\nrm -rf /\n```",
    "<```",
    "\u202eevil\u2066",
    "\ud800",
    "\x00\x1b[31m",
    "\ufffe",
    "<!--",
    "$(rm -rf /)",
    "**b** _i_ ~~s~~ $x$",
    "| - | - |",
    "- item",
    "1. item",
    "",
)


def attacked(text: str) -> Card:
    """Return a card in which others chose every name and text."""
    bad = neighbor(
        0, 1.0, adapter=text, dataset=text, license=text, adapter_revision=text,
        dataset_revision=text,
    )  # fmt: skip
    names = (
        "base_model", "base_revision", "base_license", "bank_id", "bank_revision",
        "library_version",
    )  # fmt: skip
    remarks = (
        Remark("warning", text, code="rows.few"),
        Remark("unsure", text, code="verdict.equal"),
    )
    dataset = of_dataset(
        id=text, revision=text, config=text, split=text, license=text,
        columns=Columns(input=text, output=text),
    )  # fmt: skip
    others = {"neighbors": (bad,), "remarks": remarks, "example": (text, text)}
    return replace(PLAIN, **(dict.fromkeys(names, text) | others | dataset))


def outline(text: str) -> list[str]:
    """Return a card's headings, fences, list items and numbers of table cells."""
    shape = []
    for line in text.splitlines():
        if re.match(r"\s{0,3}(#|```|---|- )", line):
            shape.append(line.split()[0])
        elif line.lstrip().startswith("|"):
            cells = re.split(r"(?<!\\)\|", line)
            shape.append(f"{len(cells)} cells")
    return shape


@cache
def calm_outline(plain: str) -> list[str]:
    return outline(ModelCard(render_card(attacked(plain), plain)).text)


def check_attack(text: str) -> None:
    card = attacked(text)
    written = render_card(card, text)
    body = ModelCard(written).text
    prose = re.sub(r"^```.*?^```$", "", body, flags=re.DOTALL | re.MULTILINE)
    prose = re.sub(r"`[^`\n]+`", "", prose)
    tags = set(re.findall(r"<[^>]*>?", prose))
    assert tags <= {"<code>", "</code>"}
    assert not re.search(r"(?<!\\)!\[(?!Bar chart of the coefficients\])", prose)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", written)
    assert not re.search(r"(?<!\\)\]\((?!https://huggingface\.co/|neighbors\.svg)", prose)
    blocks = 4 + bool(markdown.clean(text)) + is_hub_id(text)  # vLLM; a public row
    assert len(re.findall("^```", body, re.MULTILINE)) == 2 * blocks
    assert hub_rules.check(written, "model") == ([], [])
    calm = calm_outline("calm" if is_hub_id(text) else "calm words")
    if markdown.clean(text):
        assert outline(body) == calm
    else:  # empty values drop their rows
        assert set(outline(body)) <= set(calm)
    written.encode("utf-8")

    drawn = render_chart(card.neighbors, "kl")
    root = ET.fromstring(drawn)
    assert {e.tag.removeprefix(SVG) for e in root.iter()} == {
        "svg", "title", "desc", "style", "rect", "text",
    }  # fmt: skip
    drawn.encode("utf-8")


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_are_escaped(text: str) -> None:
    check_attack(text)


@given(
    st.text(alphabet=st.sampled_from("a1 .-_|`<>&\\\n\r[]()!#*~$'\"{}:/\u2028\ud800é"), max_size=12)
)
def test_any_text_is_escaped(text: str) -> None:
    check_attack(text)


def test_ordinary_names_are_not_escaped() -> None:
    assert markdown.code("org/some_model-v0.2") == "`org/some_model-v0.2`"
    assert markdown.code("a|b") == "<code>a&#124;b</code>"
    assert markdown.prose("0.5 of my_rows are new") == "0.5 of my_rows are new"
    assert markdown.prose("1. x") == "&#49;. x"
