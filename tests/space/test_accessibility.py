"""The page for everybody: small screens, zoom, keyboards, screen readers, contrast, motion."""

from itertools import pairwise
from typing import Any

import pytest

from hf_lorameta.localhub.faults import Fault
from tests.conftest import Account, Shell, Web
from tests.running_space import Visitor, missing
from tests.space.datasets import TRAIN, lines

if why := missing("gradio", "playwright", browser=True):
    pytest.skip(why, allow_module_level=True)


@pytest.mark.parametrize(
    ("width", "height", "dark"), [(320, 780, True), (360, 780, False), (640, 450, False)]
)
def test_a_narrow_or_zoomed_page_does_not_scroll_sideways(
    web: Web, chromium: Any, user: Account, width: int, height: int, dark: bool
) -> None:
    """A zoom of 200 % halves the size of a window in CSS pixels, here from 1280 to 640."""
    visitor = Visitor(chromium, web.space.url, dark=dark, width=width, height=height)
    page = visitor.page
    assert page.locator(".dark").count() == dark
    visitor.plan(user.dataset("book", {"train.jsonl": TRAIN}))
    box = page.locator("#lm-make").bounding_box()
    assert box["y"] + box["height"] <= height, "the main button is in view"
    visitor.make()
    visitor.open_all_sections()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    visitor.close()


def test_nothing_moves_for_a_visitor_who_prefers_reduced_motion(
    web: Web, chromium: Any, cli: Shell, user: Account
) -> None:
    repo = user.dataset("still", {"train.jsonl": TRAIN})
    cli.hub.add_fault(Fault("delay", path=f"datasets/{repo}", seconds=0.3))
    moving = []
    for still in (False, True):
        visitor = Visitor(chromium, web.space.url, still=still)
        visitor.enter_dataset(repo)
        visitor.page.locator("#lm-work .lm-progress").wait_for()
        moving.append(
            visitor.page.evaluate("""() => document.getAnimations()
                .filter((a) => a.playState === 'running' && a.effect.target.checkVisibility())
                .map((a) => a.effect.target.outerHTML.slice(0, 80))""")
        )
        visitor.close()
    assert moving[0], "the progress bar moves for others"
    assert moving[1] == []


def test_focus_never_falls_to_the_body(visitor: Visitor, user: Account) -> None:
    page = visitor.page
    page.evaluate("""() => {
        window.lost = [];
        setInterval(() => document.activeElement === document.body && window.lost.push(1), 250);
        document.querySelector('#lm-dataset').focus();
        window.lost = [];
    }""")
    visitor.plan(user.dataset("focus", {"train.jsonl": TRAIN}))
    page.locator("#lm-make").focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Your adapter is ready").wait_for()
    page.locator("#lm-make").focus()
    page.keyboard.press("Enter")
    page.locator("#lm-cancel").wait_for()
    page.locator("#lm-make").wait_for()
    assert len(page.evaluate("window.lost")) <= 1


@pytest.mark.skipif(bool(missing("axe_playwright_python")), reason="axe is not installed")
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_no_barrier(web: Web, chromium: Any, user: Account, dark: bool) -> None:
    visitor = Visitor(chromium, web.space.url, dark=dark)
    page = visitor.page
    visitor.enter_dataset("nobody/nothing-here")
    visitor.error_text()
    assert_no_barrier(visitor)
    odd = user.dataset("odd", {"train.jsonl": lines([{"left": "a", "right": "b"}] * 12)})
    visitor.enter_dataset(odd)
    page.get_by_label("Role of left").select_option("input")
    page.get_by_label("Role of right").select_option("output")
    page.locator("#lm-verdict .lm-warning").wait_for()
    assert_no_barrier(visitor)
    visitor.sign_in()
    visitor.plan(web.owner.dataset(f"book-{dark}", {"train.jsonl": TRAIN}))
    visitor.make()
    visitor.open_all_sections()
    page.get_by_label("Rank of the adapter").fill("many")
    page.keyboard.press("Tab")
    page.locator("#lm-option-error [role=alert]").wait_for()
    page.locator(".lm-old").wait_for()
    assert_no_barrier(visitor)
    visitor.close()


def assert_no_barrier(visitor: Visitor) -> None:
    from axe_playwright_python.sync_playwright import Axe

    result = Axe().run(visitor.page)
    assert result.violations_count == 0, result.generate_report()


def test_plans_and_results_are_announced_once(visitor: Visitor, user: Account) -> None:
    visitor.page.evaluate("""() => {
        window.log = [];
        new MutationObserver(() => window.log.push(
            [Date.now(), document.getElementById('lm-announcer').textContent]))
            .observe(document.getElementById('lm-announcer'), {childList: true});
    }""")
    visitor.plan(user.dataset("book", {"train.jsonl": TRAIN}))
    visitor.make()
    log = visitor.page.evaluate("window.log")
    texts = [text for _, text in log]
    assert sum("Likely to help" in text for text in texts) == 1
    assert sum("Your adapter is ready" in text for text in texts) == 1
    assert not any("queue" in text for text in texts)
    progress = [at for at, text in log if "Likely" not in text and "ready" not in text]
    assert all(b - a >= 4900 for a, b in pairwise(progress))
