"""The page for everybody: small screens, zoom, keyboards, screen readers, contrast, motion."""

from itertools import pairwise
from typing import Any

import pytest

from hf_lorameta.localhub.faults import Fault
from tests.conftest import Account, Shell, Web
from tests.running_space import Visitor, missing
from tests.space.datasets import TRAIN

if why := missing("gradio", "playwright", browser=True):
    pytest.skip(why, allow_module_level=True)

from playwright.sync_api import expect


@pytest.mark.parametrize(("width", "dark"), [(320, True), (360, False)])
def test_a_narrow_screen_does_not_scroll_sideways(
    web: Web, chromium: Any, user: Account, width: int, dark: bool
) -> None:
    phone = Visitor(chromium, web.space.url, dark=dark, width=width, height=780)
    expect(phone.page.locator(".dark")).to_have_count(int(dark))
    phone.plan(user.dataset("book", {"train.jsonl": TRAIN}))
    assert phone.page.locator("#lm-make").evaluate("e => e.getBoundingClientRect().bottom <= 780")
    phone.make()
    phone.open_all_sections()
    assert phone.page.evaluate("document.documentElement.scrollWidth") <= width
    phone.close()


def test_nothing_moves_for_a_visitor_who_prefers_reduced_motion(
    web: Web, chromium: Any, cli: Shell, user: Account
) -> None:
    repo = user.dataset("still", {"train.jsonl": TRAIN})
    cli.hub.add_fault(Fault("delay", path=f"datasets/{repo}", seconds=0.3))
    moving = []
    for still in (False, True):
        visitor = Visitor(chromium, web.space.url, still=still)
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


@pytest.mark.skipif(bool(missing("axe_playwright_python")), reason="axe is not installed")
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_no_barrier(web: Web, chromium: Any, user: Account, dark: bool) -> None:
    from axe_playwright_python.sync_playwright import Axe

    visitor = Visitor(chromium, web.space.url, dark=dark)
    visitor.plan(user.dataset("book", {"train.jsonl": TRAIN}))
    visitor.make()
    visitor.open_all_sections()
    result = Axe().run(visitor.page)
    assert result.violations_count == 0, result.generate_report()
    visitor.close()


def test_plans_and_results_are_announced_once(visitor: Visitor, user: Account) -> None:
    visitor.page.evaluate("""() => {
        window.log = [];
        new MutationObserver(() => window.log.push(
            [Date.now(), document.getElementById('lm-announcer').textContent]))
            .observe(document.getElementById('lm-announcer'), {childList: true});
    }""")
    visitor.plan(user.dataset("book", {"train.jsonl": TRAIN}))
    visitor.make()
    visitor.page.wait_for_function("window.log.some(([, text]) => text.includes('ready'))")
    visitor.page.wait_for_timeout(1000)
    log = visitor.page.evaluate("window.log")
    texts = [text for _, text in log]
    assert sum("Likely to help" in text for text in texts) == 1
    assert sum("Your adapter is ready" in text for text in texts) == 1
    assert not any("queue" in text for text in texts)
    progress = [at for at, text in log if "Likely" not in text and "ready" not in text]
    assert all(b - a >= 4500 for a, b in pairwise(progress))
