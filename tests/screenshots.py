"""Pictures of the Space in every state: ``python -m tests.screenshots FOLDER``.

Serves the Space against a loopback Hub, so nothing outside this machine is asked. Needs the extras
``space`` and ``dev``, and a chromium.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from hf_lorameta.demo.run import DATA_FOLDER
from hf_lorameta.localhub import LocalHub
from tests.running_space import RunningSpace, Visitor, browser, running_space

OWNER = "ann"
NEAR, FAR, ODD = f"{OWNER}/guestbook-notes", f"{OWNER}/csv-of-numbers", f"{OWNER}/two-columns"
PHONE = {"width": 390, "height": 844}


def seed(hub: LocalHub) -> str:
    """A user with a near, a far and an unreadable dataset; returns a token."""
    token = hub.add_user(OWNER)
    far = [{"input": f"{i * 7919 % 997:04d}", "output": f"{i * i % 1009:04d}"} for i in range(60)]
    odd = [{"left": "a", "right": "b"}]
    for name, rows in ((FAR, far), (ODD, odd)):
        hub.create_repo(name, repo_type="dataset")
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        hub.commit(name, {"train.jsonl": lines.encode()}, repo_type="dataset")
    hub.create_repo(NEAR, repo_type="dataset")
    hub.upload_folder(NEAR, DATA_FOLDER, repo_type="dataset")
    return token


def take(space: RunningSpace, folder: Path) -> list[Path]:
    """Every state, in the order in which a visitor meets them."""
    taken: list[Path] = []

    def shoot(page: Any, name: str, *, whole: bool = True) -> None:
        page.wait_for_timeout(500)
        path = folder / f"{len(taken) + 1:02d}-{name}.png"
        page.screenshot(path=path, full_page=whole)
        taken.append(path)

    with browser() as chromium:
        for dark in (False, True):
            mode = "dark" if dark else "light"
            ann = Visitor(chromium, space.url, dark=dark)
            page = ann.page
            shoot(page, f"empty-{mode}")
            page.get_by_label("Dataset id").press_sequentially("notes", delay=40)
            page.get_by_role("option").first.wait_for()
            shoot(page, f"search-{mode}", whole=False)
            ann.name(NEAR)
            page.locator(".lm-waiting").wait_for()
            page.screenshot(path=folder / f"{len(taken) + 1:02d}-planning-{mode}.png")
            taken.append(folder / f"{len(taken) + 1:02d}-planning-{mode}.png")
            page.locator("#lm-map svg").wait_for()
            shoot(page, f"plan-{mode}")
            ann.plan(FAR)
            page.locator(".lm-warning").wait_for()
            shoot(page, f"warning-{mode}")
            ann.name(f"{OWNER}/no-such-dataset")
            ann.error()
            shoot(page, f"error-{mode}", whole=False)
            ann.name(ODD)
            page.get_by_role("button", name="Read these columns").wait_for()
            shoot(page, f"columns-{mode}", whole=False)
            ann.close()
        ann = Visitor(chromium, space.url)
        ann.sign_in()
        ann.plan(NEAR)
        shoot(ann.page, "signed-in", whole=False)
        ann.page.get_by_text("Options", exact=True).click()
        shoot(ann.page, "options")
        ann.page.get_by_text("Options", exact=True).click()
        ann.page.locator("#lm-push").click()
        ann.page.locator("#lm-work .lm-progress").wait_for()
        ann.page.screenshot(path=folder / f"{len(taken) + 1:02d}-generating.png", full_page=True)
        taken.append(folder / f"{len(taken) + 1:02d}-generating.png")
        ann.page.get_by_text("Your adapter is on the Hub").wait_for()
        shoot(ann.page, "result")
        ann.page.get_by_text("The card", exact=True).click()
        shoot(ann.page, "card")
        ann.page.locator("#lm-push").click()
        ann.error()
        shoot(ann.page, "conflict")
        ann.close()
        for dark in (False, True):
            phone = Visitor(chromium, space.url, dark=dark, **PHONE)
            shoot(phone.page, f"phone-empty-{'dark' if dark else 'light'}")
            phone.plan(NEAR)
            shoot(phone.page, f"phone-plan-{'dark' if dark else 'light'}")
            phone.close()
    return taken


def main(folder: Path) -> None:
    """Take all pictures and name them."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home, LocalHub() as hub:
        token = seed(hub)
        with running_space(hub, Path(home), token=token) as space:
            for path in take(space, folder):
                print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
