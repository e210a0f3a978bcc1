"""The page in a real browser, against the loopback Hub."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hf_lorameta.bank.bank import Bank
from hf_lorameta.demo.run import DATA_FOLDER
from hf_lorameta.localhub.faults import Fault
from tests.conftest import Account, Shell, Web
from tests.running_space import Visitor, browser, missing

if why := missing("gradio", "playwright", browser=True):
    pytest.skip(why, allow_module_level=True)

TRAIN = (DATA_FOLDER / "train.jsonl").read_bytes()
NASTY = '<img src=x onerror="window.pwned=1"><script>window.pwned=1</script>'


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.fixture
def visitor(web: Web, chromium: Any, cli: Shell) -> Iterator[Visitor]:
    """A visitor; at the end, the page must have contacted no other host and logged no error."""
    visitor = Visitor(chromium, web.space.url)
    try:
        yield visitor
        assert visitor.foreign_requests() == []
        assert visitor.errors == []
        assert web.owner.token not in visitor.page.content()
    finally:
        visitor.close()
    assert web.space.settled() == []


def owned_dataset(web: Web, name: str, **kind: Any) -> str:
    """Create a dataset of the account that Gradio's mocked sign-in uses."""
    return web.owner.dataset(name, {"train.jsonl": TRAIN}, **kind)


# --- signed out ---------------------------------------------------------------------------------


def test_signed_out_plan_generate_and_download(
    visitor: Visitor, cli: Shell, user: Account, tmp_path: Path
) -> None:
    repo, page = user.dataset("book", {"train.jsonl": TRAIN}), visitor.page
    assert page.locator("#lm-push").is_disabled()
    visitor.plan(repo)
    plan = cli("plan", "-d", repo, "--json").json
    best = plan["neighbors"][0]
    top = page.locator(".lm-bars .lm-bar").nth(1)
    assert best["dataset"].rpartition("/")[2] == top.locator(".lm-name").inner_text()
    assert top.locator("b").inner_text() == f"{100 * best['coefficient']:.1f} %"
    tiles = page.locator(".lm-tiles").inner_text()
    assert "180 rows" in tiles
    assert f"{plan['effective_number']:.1f}" in tiles
    assert page.locator("#lm-map circle").count() == len(Bank.embedded())
    assert page.locator("#lm-map .lm-you").count() == 1
    assert page.locator("#lm-samples li").count() == 3
    assert page.locator("#lm-push").is_disabled()
    page.locator("#lm-generate").click()
    page.get_by_text("Your adapter is ready").wait_for()
    with page.expect_download() as download:
        page.locator("#lm-download").click()
    download.value.save_as(tmp_path / "adapter.zip")
    cli("generate", "-d", repo, "-o", tmp_path / "cli")
    with zipfile.ZipFile(tmp_path / "adapter.zip") as opened:
        downloaded = {name: opened.read(name) for name in opened.namelist()}
    assert downloaded == {path.name: path.read_bytes() for path in (tmp_path / "cli").iterdir()}
    page.get_by_text("Model card", exact=True).click()
    card = page.locator("#lm-card")
    card.get_by_text("No training took place").wait_for()
    assert "base_model:" not in card.inner_text()


def test_a_suggested_dataset_can_be_chosen_by_keyboard(visitor: Visitor, user: Account) -> None:
    repo, page = user.dataset("quaint-diary", {"train.jsonl": TRAIN}), visitor.page
    page.get_by_label("Dataset id").focus()
    page.keyboard.type("quaint-d", delay=30)
    page.get_by_role("option", name=repo).wait_for()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.locator("#lm-plan .lm-bars").wait_for()
    assert repo in page.locator("#lm-samples").inner_text()
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "lm-generate":
            break
    page.keyboard.press("Enter")
    page.get_by_text("Your adapter is ready").wait_for()


def test_changing_options_plans_again_without_reading_the_dataset(
    visitor: Visitor, cli: Shell, user: Account
) -> None:
    repo, page = user.dataset("book", {"train.jsonl": TRAIN}), visitor.page
    visitor.plan(repo)
    cli.hub.clear_requests()
    page.get_by_text("Options", exact=True).click()
    page.get_by_label("Top k").fill("2")
    page.get_by_label("Top k").press("Tab")
    page.get_by_text("2 have a nonzero share").wait_for()
    assert page.locator(".lm-bars .lm-bar").count() == 3
    assert [r for r in cli.hub.requests if repo in r.path] == []


def test_html_in_an_uploaded_file_is_shown_as_text(visitor: Visitor, tmp_path: Path) -> None:
    path, page = tmp_path / "rows.jsonl", visitor.page
    rows = [{"input": f"{NASTY} {i}", "output": NASTY} for i in range(30)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page.get_by_role("tab", name="Upload a file").click()
    page.locator("#lm-file input[type=file]").set_input_files(path)
    page.locator("#lm-plan .lm-bars").wait_for()
    assert NASTY in page.locator("#lm-samples li").first.inner_text()
    assert page.evaluate("window.pwned") is None
    assert page.locator("#lm-samples img, #lm-samples script").count() == 0


def test_errors_and_warnings_are_shown_as_messages(visitor: Visitor, user: Account) -> None:
    odd = [{"<b>left</b>": "how was it", "right": "very kind"}] * 30
    lines = "".join(json.dumps(row) + "\n" for row in odd).encode()
    repo, page = user.dataset("odd", {"train.jsonl": lines}), visitor.page
    visitor.enter_dataset("nobody/nothing-here")
    assert "was not found" in visitor.error_text()
    visitor.enter_dataset("../../etc/passwd")
    page.get_by_text("is not a dataset id").wait_for()
    visitor.enter_dataset(repo)
    page.get_by_role("button", name="Read these columns").wait_for()
    assert "The columns fit no known layout" in visitor.error_text()
    for label in ("Input column", "Output column"):
        assert page.get_by_label(label).is_visible()
    rows = [{"input": f"question {i}", "output": f"answer {i}"} for i in range(12)]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    visitor.plan(user.dataset("few", {"train.jsonl": lines}))
    assert "Only 12 rows were read" in page.locator(".lm-warning").inner_text()


# --- signed in ----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_signed_in_push_creates_a_repo_that_peft_loads(
    visitor: Visitor, web: Web, cli: Shell, tmp_path: Path
) -> None:
    repo, page = owned_dataset(web, "guests"), visitor.page
    visitor.sign_in()
    visitor.plan(repo)
    target = f"{web.owner.name}/guests-SmolLM2-135M-Instruct-lorameta"
    page.locator("#lm-target", has_text=target).wait_for()
    page.locator("#lm-push").click()
    page.get_by_text("Your adapter is on the Hub").wait_for()
    link = page.locator("#lm-result").get_by_role("link", name=target)
    assert link.get_attribute("href") == f"{cli.hub.url}/{target}"
    view = cli.hub.repo(target)
    assert view is not None
    assert not view.private
    for name in cli.hub.files(target):
        (tmp_path / name).write_bytes(cli.hub.read(target, name))
    assert_peft_loads(tmp_path)
    page.locator("#lm-push").click()
    assert "already holds" in visitor.error_text()
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("button", name="Sign in").wait_for()


def assert_peft_loads(folder: Path) -> None:
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    shape = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 32}
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, **heads))
    model = peft.PeftModel.from_pretrained(model.to_empty(device="cpu"), folder)
    stored = peft.utils.load_peft_weights(str(folder), device="cpu")
    loaded = {
        name.replace(".default", ""): value
        for name, value in model.named_parameters()
        if ".lora_" in name
    }
    assert set(stored) == set(loaded)
    assert all(torch.equal(loaded[name], stored[name].to(loaded[name].dtype)) for name in stored)


def test_a_private_dataset_defaults_to_a_private_repo(
    visitor: Visitor, web: Web, cli: Shell
) -> None:
    repo, page = owned_dataset(web, "hidden", private=True), visitor.page
    visitor.enter_dataset(repo)
    assert "was not found" in visitor.error_text()
    visitor.sign_in()
    visitor.plan(repo)
    page.locator("#lm-target", has_text="creates the private repo").wait_for()
    page.locator("#lm-push").click()
    page.get_by_text("(private)").wait_for()
    view = cli.hub.repo(f"{web.owner.name}/hidden-SmolLM2-135M-Instruct-lorameta")
    assert view is not None
    assert view.private


def test_cancel_publishes_nothing(visitor: Visitor, web: Web, cli: Shell) -> None:
    repo, page = owned_dataset(web, "canceled"), visitor.page
    visitor.sign_in()
    visitor.plan(repo)
    target = f"{web.owner.name}/canceled-SmolLM2-135M-Instruct-lorameta"
    cli.hub.add_fault(Fault("delay", path=f"api/models/{target}", seconds=2.0))
    page.locator("#lm-push").click()
    page.locator("#lm-work [role=progressbar]").wait_for()
    page.locator("#lm-cancel").click()
    page.get_by_text("Nothing was published").wait_for()
    page.wait_for_timeout(3000)
    assert cli.hub.repo(target) is None
    assert page.locator("#lm-result").count() == 0 or not page.locator("#lm-result").is_visible()
    cli.hub.clear_faults()
    page.locator("#lm-push").click()
    page.get_by_text("Your adapter is on the Hub").wait_for()
    assert cli.hub.repo(target) is not None


# --- small screens and screen readers -----------------------------------------------------------


def test_a_narrow_dark_screen_does_not_scroll_sideways(
    web: Web, chromium: Any, user: Account
) -> None:
    phone = Visitor(chromium, web.space.url, dark=True, width=360, height=780)
    assert phone.page.locator(".dark").count()
    phone.plan(user.dataset("book", {"train.jsonl": TRAIN}))
    assert phone.page.evaluate("document.documentElement.scrollWidth") <= 360
    boxes = [phone.page.locator(s).bounding_box() for s in ("#lm-plan", "#lm-map", "#lm-generate")]
    tops = [box["y"] for box in boxes if box]
    assert tops == sorted(tops)
    assert len(tops) == 3
    phone.close()


def test_every_control_has_a_name_for_screen_readers(visitor: Visitor, user: Account) -> None:
    visitor.plan(user.dataset("book", {"train.jsonl": TRAIN}))
    page = visitor.page
    nameless = page.evaluate("""() => [...document.querySelectorAll(
        'button, a[href], input, textarea, select, svg[role=img], [role=progressbar]')]
        .filter(e => e.offsetParent !== null || e.tagName === 'svg')
        .filter(e => e.checkVisibility && e.checkVisibility())
        .filter(e => !(e.innerText || e.textContent || '').trim()
            && !e.getAttribute('aria-label') && !e.getAttribute('aria-labelledby')
            && !e.title && !(e.labels && e.labels.length))
        .map(e => e.outerHTML.slice(0, 160))""")
    assert nameless == []
    assert page.locator("h1").count() == 1
    assert page.get_by_role("status").count() >= 3
    rows = page.get_by_role("table", name="Coefficients of the bank datasets").get_by_role("row")
    assert rows.count() == 11
