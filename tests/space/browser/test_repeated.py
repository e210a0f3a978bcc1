"""What went wrong only at some moments or speeds, a few times each."""

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import Account
from tests.space.datasets import TRAIN
from tests.support.running_space import Visitor, missing

if why := missing("gradio", "playwright", browser=True):
    pytest.skip(why, allow_module_level=True)

pytestmark = pytest.mark.slow

ROLES = ("", "input", "output")


def test_a_chosen_match_is_planned_by_one_request_however_fast_one_types(
    visitor: Visitor, user: Account
) -> None:
    page, box = visitor.page, visitor.page.locator("#lm-dataset")
    for name, delay in (("amber-notes", 60), ("beryl-notes", 300)):
        repo = user.dataset(name, {"train.jsonl": TRAIN})
        box.fill("")
        box.press_sequentially(name[:6], delay=delay)
        option = page.get_by_role("option", name=repo)
        option.wait_for()
        expected = requests(visitor) + 2  # the plan, and right answers after it
        with page.expect_request(lambda _, most=expected: requests(visitor) == most):
            option.click()
        visitor.wait_for_plan(repo)
        page.wait_for_timeout(1000)
        assert requests(visitor) == expected


def requests(visitor: Visitor) -> int:
    return sum("queue/join" in url for url in visitor.requests)


@pytest.fixture
def slowed(visitor: Visitor) -> Iterator[Any]:
    """The page with a CPU that is six times slower."""
    devtools = visitor.context.new_cdp_session(visitor.page)
    devtools.send("Emulation.setCPUThrottlingRate", {"rate": 6})
    yield visitor.page
    devtools.send("Emulation.setCPUThrottlingRate", {"rate": 1})


def test_a_role_that_was_chosen_by_keyboard_is_kept(
    visitor: Visitor, slowed: Any, user: Account
) -> None:
    odd = [{"left": f"how was {i}", "right": "very kind", "mark": str(i)} for i in range(40)]
    content = "".join(json.dumps(row) + "\n" for row in odd).encode()
    visitor.enter_dataset(user.dataset("odd-columns", {"train.jsonl": content}))
    box = slowed.get_by_label("Role of right")
    box.wait_for()
    for key, wanted in (("Arrow", "output"), ("Enter", "input"), ("Tab", "output")):
        box.focus()
        if key == "Arrow":
            for _ in range(ROLES.index(wanted) - ROLES.index(box.input_value())):
                slowed.keyboard.press("ArrowDown")
        else:
            slowed.keyboard.type(wanted)
            slowed.keyboard.press(key)
        slowed.locator(f"[data-link*='{wanted}%3Dright']").wait_for(state="attached")
        assert box.input_value() == wanted


def test_making_is_canceled_at_any_moment(visitor: Visitor, user: Account) -> None:
    moments = random.Random(0)
    page, work = visitor.page, visitor.page.locator("#lm-work")
    visitor.plan(user.dataset("crimson-notes", {"train.jsonl": TRAIN}))
    ready = page.get_by_role("heading", name="Your adapter is ready")
    for _ in range(2):
        pressed = False
        while not pressed:  # the button may not be there yet, or no more
            page.locator("#lm-make").click()
            page.wait_for_timeout(moments.randint(0, 1500))
            pressed = page.evaluate("""() => {
                const cancel = document.querySelector('#lm-cancel');
                if (!cancel?.checkVisibility()) return false;
                cancel.click();
                return true;
            }""")
        work.get_by_text("Canceled").wait_for()
        page.wait_for_timeout(600)
        assert work.inner_text() == "Canceled"
        assert not ready.is_visible()
