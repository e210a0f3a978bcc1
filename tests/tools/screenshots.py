"""Screenshots of the Space in every state: ``python -m tests.tools.screenshots FOLDER``.

The Space runs against a loopback Hub, so no other machine is contacted. Needs the extras ``space``
and ``dev``, and chromium. The README's picture is the one called ``verdict-light``.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from hf_lorameta.demo.run import DATA_FOLDER
from tests.space.datasets import lines
from tests.support.full_hub import FullHub
from tests.support.plain_bank import too_strong_bank
from tests.support.running_space import RunningSpace, Visitor, browser, running_space

OWNER = "ann"
NEAR, FAR = f"{OWNER}/guestbook-notes", f"{OWNER}/csv-of-numbers"
UNKNOWN_COLUMNS = f"{OWNER}/two-columns"
MODEL_MS = 1_200_000
"""How long running the base model may take."""
PHONE: dict[str, Any] = {"width": 360, "height": 780}
LOOKS = {"light": None, "dark": None, "phone": PHONE}
"""Of a state that takes long to reach, with the size of the window if it changes."""


def create_datasets(hub: FullHub) -> str:
    """Add a user with a near dataset, a far one and one with unknown columns; return a token."""
    token = hub.add_user(OWNER)
    far = [{"input": f"{i * 7919 % 997:04d}", "output": f"{i * i % 1009:04d}"} for i in range(60)]
    for name, rows in ((FAR, far), (UNKNOWN_COLUMNS, [{"left": "a", "right": "b"}])):
        hub.create_repo(name, repo_type="dataset")
        hub.commit(name, {"train.jsonl": lines(rows)}, repo_type="dataset")
    hub.create_repo(NEAR, repo_type="dataset")
    hub.upload_folder(NEAR, DATA_FOLDER, repo_type="dataset")
    return token


class Camera:
    """Numbers and saves screenshots.

    Args:
        folder: where to save them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths: list[Path] = []

    def shoot(self, page: Any, name: str, *, full_page: bool = True, wait_ms: int = 500) -> None:
        """Save a screenshot after a short wait."""
        page.wait_for_timeout(wait_ms)
        path = self.folder / f"{len(self.paths) + 1:02d}-{name}.png"
        window = page.viewport_size
        if full_page:  # the bar is fixed at the bottom of the window
            height = page.evaluate("document.documentElement.scrollHeight")
            page.set_viewport_size(window | {"height": max(height, window["height"])})
        page.screenshot(path=path)
        page.set_viewport_size(window)
        self.paths.append(path)

    def shoot_looks(self, page: Any, name: str) -> None:
        """Save a screenshot in each of the `LOOKS`.

        Fields keep the height that they had in the first one.
        """
        window = page.viewport_size
        for look, size in LOOKS.items():
            page.set_viewport_size(size or window)
            page.emulate_media(color_scheme="dark" if look == "dark" else "light")
            self.shoot(page, f"{name}-{look}")
        page.set_viewport_size(window)


def shoot_verdicts(camera: Camera, visitor: Visitor, mode: str) -> None:
    """Search, verdicts, errors and columns of a signed-out visitor."""
    page = visitor.page
    camera.shoot(page, f"empty-{mode}")
    page.locator("#lm-dataset").press_sequentially("notes", delay=40)
    page.get_by_role("option").first.wait_for()
    camera.shoot(page, f"search-{mode}", full_page=False)
    visitor.enter_dataset(NEAR)
    page.locator("#lm-work .lm-progress").wait_for()
    camera.shoot(page, f"reading-{mode}", full_page=False, wait_ms=0)
    visitor.wait_for_plan(NEAR)
    camera.shoot(page, f"verdict-{mode}")
    visitor.open_all_sections()
    camera.shoot(page, f"details-{mode}")
    visitor.plan(FAR)
    camera.shoot(page, f"far-{mode}")
    visitor.enter_dataset(f"{OWNER}/no-such-dataset")
    visitor.wait_for_error("was not found")
    camera.shoot(page, f"error-{mode}", full_page=False)
    visitor.enter_dataset(UNKNOWN_COLUMNS)
    page.get_by_label("Role of left").wait_for()
    camera.shoot(page, f"columns-{mode}", full_page=False)
    why = "The files of other visitors leave no room. Try again in a few minutes."
    page.route("**/upload", lambda route: route.fulfill(status=429, json={"detail": why}))
    page.locator("#lm-file").set_input_files(DATA_FOLDER / "train.jsonl")
    page.get_by_text(why).wait_for()
    camera.shoot(page, f"refused-{mode}", full_page=False)


def shoot_phone(camera: Camera, phone: Visitor, mode: str) -> None:
    """The way from an empty page to an adapter, on a phone."""
    camera.shoot(phone.page, f"phone-empty-{mode}")
    phone.enter_dataset(UNKNOWN_COLUMNS)
    phone.page.get_by_label("Role of left").wait_for()
    camera.shoot(phone.page, f"phone-columns-{mode}")
    phone.plan(NEAR)
    camera.shoot(phone.page, f"phone-in-view-{mode}", full_page=False)  # before the page is moved
    camera.shoot(phone.page, f"phone-verdict-{mode}")
    phone.make()
    camera.shoot(phone.page, f"phone-result-in-view-{mode}", full_page=False)
    camera.shoot(phone.page, f"phone-result-{mode}")


def shoot_result(camera: Camera, visitor: Visitor, space: RunningSpace) -> None:
    """Making, trying, testing and saving of a signed-in visitor."""
    page = visitor.page
    visitor.sign_in(space)
    visitor.plan(NEAR)
    page.locator("#lm-make").click()
    page.locator("#lm-work .lm-progress").wait_for()
    camera.shoot(page, "making", full_page=False, wait_ms=0)
    page.get_by_role("heading", name="Your adapter is ready").wait_for()
    camera.shoot(page, "result-in-view", full_page=False)
    camera.shoot_looks(page, "result")
    if page.get_by_role("button", name="Compare the answers").count():
        shoot_test(camera, visitor)
    page.get_by_role("button", name="Save to Hub").click()
    page.get_by_text("Your adapter is on the Hub").first.wait_for()
    camera.shoot_looks(page, "saved")
    page.get_by_role("button", name="Save to Hub").click()
    visitor.wait_for_error("already holds")
    camera.shoot_looks(page, "conflict")
    visitor.open_section("Options")
    page.get_by_label("Use only the k most similar").fill("5")
    page.get_by_label("Rank of the adapter").fill("many")
    page.keyboard.press("Tab")
    page.locator("#lm-option-error [role=alert]").wait_for()
    camera.shoot_looks(page, "options")
    visitor.open_all_sections()
    camera.shoot_looks(page, "all-sections")


def shoot_test(camera: Camera, visitor: Visitor) -> None:
    """Trying and testing, on a machine that can run the base model."""
    page = visitor.page
    page.get_by_role("button", name="Compare the answers").click()
    page.locator(".lm-pair").wait_for(timeout=MODEL_MS)
    page.get_by_role("button", name="Count right answers").click()
    page.locator("#lm-report .lm-sample").first.wait_for(timeout=MODEL_MS)
    camera.shoot_looks(page, "tested")


def shoot_unlikely(camera: Camera, visitor: Visitor, space: RunningSpace) -> None:
    """Right answers counted unasked, which the adapter has fewer of, and saving it all the same."""
    page = visitor.page
    visitor.sign_in(space)
    visitor.enter_dataset(NEAR)
    page.locator("#lm-work [data-progress^='Counting']").wait_for()
    camera.shoot_looks(page, "counting")
    page.locator("#lm-cancel").click()
    page.get_by_text("Canceled").first.wait_for()
    camera.shoot_looks(page, "canceled")
    visitor.enter_dataset(NEAR)
    page.locator("#lm-verdict .lm-unlikely").wait_for(timeout=MODEL_MS)
    camera.shoot_looks(page, "unlikely")
    visitor.make()
    page.get_by_role("button", name="Save to Hub").click()
    page.locator("#lm-save-anyway").wait_for()
    camera.shoot_looks(page, "save-anyway")


def main(folder: Path) -> None:
    """Take all screenshots and print their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    camera = Camera(folder)
    with tempfile.TemporaryDirectory() as home, FullHub() as hub, browser() as chromium:
        token = create_datasets(hub)
        limit = str(MODEL_MS // 1000)  # also on a slow machine
        with running_space(hub, Path(home), token=token, HF_LORAMETA_TIME_LIMIT=limit) as space:
            for mode in ("light", "dark"):
                dark = mode == "dark"
                visitor = Visitor(chromium, space.url, dark=dark)
                shoot_verdicts(camera, visitor, mode)
                visitor.close()
                phone = Visitor(chromium, space.url, dark=dark, **PHONE)
                shoot_phone(camera, phone, mode)
                phone.close()
            visitor = Visitor(chromium, space.url)
            shoot_result(camera, visitor, space)
            visitor.close()
        bank = str(too_strong_bank(Path(home) / "bank"))
        with running_space(
            hub,
            Path(home),
            token=token,
            HF_LORAMETA_BANK=bank,
            HF_LORAMETA_NO_BASE="",
            HF_LORAMETA_TIME_LIMIT=limit,
        ) as space:
            visitor = Visitor(chromium, space.url)
            shoot_unlikely(camera, visitor, space)
            visitor.close()
    print(*camera.paths, sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
