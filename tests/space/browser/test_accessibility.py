"""The page for everybody: small screens, zoom, keyboards, screen readers, contrast, motion."""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from tests.conftest import Account, Shell, Web
from tests.space.datasets import TRAIN, lines
from tests.support.fault_hub import Fault
from tests.support.running_space import VERDICT_IN_VIEW, Visitor, missing

if why := missing("gradio", "playwright", browser=True):
    pytest.skip(why, allow_module_level=True)

from playwright.sync_api import expect

BORDER_AND_PAGE = """(control) => [getComputedStyle(control).borderTopColor,
    getComputedStyle(document.querySelector('.gradio-container')).backgroundColor]"""

FITS = "(width) => document.documentElement.scrollWidth <= width"
WINDOWS = [(320, 780, "dark"), (360, 780, "light"), (640, 450, "light")]
"""Sizes and colors; a zoom of 200 % halves a window in CSS pixels, here from 1280 to 640."""


def test_nothing_moves_for_a_visitor_who_prefers_reduced_motion(
    web: Web, chromium: Any, context: Any, cli: Shell, user: Account
) -> None:
    repo = user.dataset("still", {"train.jsonl": TRAIN})
    cli.hub.add_fault(Fault("hold", path=f"datasets/{repo}"))
    moving = []
    for still in (False, True):
        visitor = Visitor(chromium, web.space.url, context=context, still=still)
        visitor.enter_dataset(repo)
        found = visitor.page.wait_for_function("""() =>
            document.querySelector('#lm-work .lm-moving')?.checkVisibility()
            && document.getAnimations()
                .filter((a) => a.playState === 'running' && a.effect.target.checkVisibility())
                .map((a) => a.effect.target.outerHTML.slice(0, 80))""")
        moving.append(found.json_value())
        visitor.close()
    assert moving[0], "the progress bar moves for others"
    assert moving[1] == []


def test_an_adapter_is_saved_by_keyboard_with_the_focus_in_place_and_announced_once(
    visitor: Visitor, web: Web, cli: Shell, user: Account
) -> None:
    repo, page = web.owner.dataset("typed", {"train.jsonl": TRAIN}), visitor.page
    visitor.sign_in(web.owner.name, web.owner.token)
    tab_to(page, page.get_by_role("combobox", name="Name or link"))
    page.evaluate(RECORD)
    page.keyboard.type(repo)
    page.keyboard.press("Enter")
    visitor.wait_for_plan(repo)
    page.wait_for_function(VERDICT_IN_VIEW)
    page.locator("#lm-dataset").focus()
    assert tab_to(page, page.locator("#lm-make")) <= 8, "it is near"
    page.keyboard.press("Enter")
    heading = page.get_by_role("heading", name="Your adapter is ready")
    expect(heading).to_be_focused()
    assert_announced_once(page)
    press(page, page.get_by_role("button", name="Save to Hub"))
    page.locator("#lm-saved").get_by_text("Your adapter is on the Hub").wait_for()
    visitor.wait_for_end()
    assert cli.hub.repo(f"{web.owner.name}/typed-SmolLM2-135M-Instruct-lorameta") is not None
    slow = user.dataset("slow", {"train.jsonl": TRAIN})
    cli.hub.add_fault(Fault("hold", path=f"datasets/{slow}"))
    visitor.enter_dataset(slow)
    page.locator("#lm-cancel").wait_for()
    page.locator("#lm-cancel").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#lm-work")).to_contain_text("Canceled")
    expect(page.locator("#lm-dataset")).to_be_focused()
    cli.hub.clear_faults()
    assert page.evaluate("window.longest") <= 1


def tab_to(page: Any, control: Any) -> int:
    """Press Tab until a control has the focus; return how often."""
    for tabs in range(100):
        if control.evaluate("(e) => e === document.activeElement"):
            return tabs
        page.keyboard.press("Tab")
    raise AssertionError(f"no Tab reaches {control}")


def press(page: Any, button: Any) -> None:
    """Press a button by keyboard."""
    tab_to(page, button)
    page.keyboard.press("Enter")


RECORD = """() => {
    window.log = [];
    new MutationObserver(() => window.log.push(
        [Date.now(), document.getElementById('lm-announcer').textContent]))
        .observe(document.getElementById('lm-announcer'), {childList: true});
    window.shown = [];
    new MutationObserver(() => window.shown.push(
        document.getElementById('lm-work')?.innerText ?? ''))
        .observe(document.body, {subtree: true, childList: true, characterData: true});
    window.looks = 0;  // with the focus nowhere, one after another
    window.longest = 0;
    setInterval(() => {
        window.looks = document.activeElement === document.body ? window.looks + 1 : 0;
        window.longest = Math.max(window.longest, window.looks);
    }, 250);
}"""
"""Records what is announced, and when, what the progress shows, and where the focus is."""


def assert_announced_once(page: Any) -> None:
    """Check what was announced of a plan and an adapter."""
    page.wait_for_function("window.log.some(([, text]) => text.includes('ready'))")
    page.wait_for_timeout(1000)
    log = page.evaluate("window.log")
    texts = [text for _, text in log]
    assert sum("was read" in text for text in texts) == 1
    assert sum("Your adapter is ready" in text for text in texts) == 1
    shown = page.evaluate("window.shown")
    assert any("Starting" in text for text in shown)
    assert not any(re.search(r"queue|processing|\d\.\ds", text) for text in [*texts, *shown])
    results = re.compile("was read|Unsure|ready")
    progress = [at for at, text in log if not results.search(text)]
    assert all(b - a >= 4500 for a, b in pairwise(progress))


@pytest.mark.skipif(bool(missing("axe_playwright_python")), reason="axe is not installed")
def test_a_narrow_or_zoomed_page_does_not_scroll_sideways_and_axe_finds_no_barrier(
    visitor: Visitor, web: Web, user: Account
) -> None:
    page = visitor.page

    def each_window() -> Iterator[tuple[int, int]]:
        for width, height, scheme in WINDOWS:
            page.set_viewport_size({"width": width, "height": height})
            page.emulate_media(color_scheme=scheme)
            expect(page.locator(".dark")).to_have_count(int(scheme == "dark"))
            page.wait_for_function(FITS, arg=width)
            file = page.locator("#lm-upload").bounding_box()
            assert file["x"] + file["width"] <= width, "the name of a file is broken into lines"
            yield width, height
        page.set_viewport_size({"width": 1280, "height": 900})

    page.locator("#lm-upload").evaluate("(name) => { name.textContent = 'n'.repeat(200); }")
    assert [*each_window()]
    visitor.sign_in(
        web.owner.name, web.owner.token
    )  # first: it would read the dataset before it once more, maybe later
    odd = user.dataset("odd", {"train.jsonl": lines([{"left": "a", "right": "b"}] * 12)})
    visitor.enter_dataset(odd)
    page.get_by_label("Role of left").select_option("input")
    page.get_by_label("Role of right").select_option("output")
    page.locator("#lm-verdict .lm-warning").wait_for()
    assert_no_barrier(visitor)
    visitor.plan(web.owner.dataset("book", {"train.jsonl": TRAIN}))
    for _, height in each_window():
        page.evaluate("window.scrollTo(0, 0)")
        box = page.locator("#lm-make").bounding_box()
        assert box["y"] + box["height"] <= height, "the main button is in view"
    visitor.make()
    visitor.open_all_sections()
    assert [*each_window()]
    assert_no_barrier(visitor, page.get_by_label("Replace what is there"))
    page.set_viewport_size({"width": 390, "height": 844})  # a phone
    assert_no_barrier(visitor, schemes=("light",))
    assert page.locator("#lm-dataset").bounding_box()["width"] > 300
    name = page.get_by_label("Name", exact=True)
    assert name.evaluate("(e) => e.scrollWidth <= e.clientWidth"), "the whole name is seen"


def assert_no_barrier(
    visitor: Visitor, *boxes: Any, schemes: tuple[str, ...] = ("dark", "light")
) -> None:
    """Look at the page in light and dark colors, and at check boxes, whose borders axe ignores."""
    from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]

    page = visitor.page
    for scheme in schemes:
        page.emulate_media(color_scheme=scheme)
        expect(page.locator(".dark")).to_have_count(int(scheme == "dark"))
        page.wait_for_function("!document.getAnimations().some((a) => a instanceof CSSTransition)")
        result = Axe().run(page)
        assert result.violations_count == 0, result.generate_report()
        assert min(contrasts_of_examples(page)) >= 4.5
        for box in boxes:
            assert contrast(box.evaluate(BORDER_AND_PAGE)) >= 3, "the box can be seen"


def contrasts_of_examples(page: Any) -> list[float]:
    """Return the contrast of the example in each empty text field, which axe leaves out."""
    colors = page.evaluate("""[...document.querySelectorAll('form [placeholder]')].map((field) =>
        [getComputedStyle(field, '::placeholder').color, getComputedStyle(field).backgroundColor])
    """)
    assert colors
    return list(map(contrast, colors))


def contrast(colors: list[str]) -> float:
    """Return the contrast of two colors of the form ``rgb(1, 2, 3)``."""
    dark, light = sorted(luminance(re.findall(r"[\d.]+", color)[:3]) for color in colors)
    return (light + 0.05) / (dark + 0.05)


def luminance(color: list[str]) -> float:
    """Return the relative luminance of red, green and blue from 0 to 255, as WCAG defines it."""
    shares = [float(part) / 255 for part in color]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return sum(w * s for w, s in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
