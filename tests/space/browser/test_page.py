"""The page in a real browser, against the loopback Hub."""

import re
import shlex
import zipfile
from pathlib import Path
from typing import Any

import pytest

from hf_lorameta.formats.lora_file import WEIGHTS_FILE
from hf_lorameta.formats.peft_config import CONFIG_FILE
from tests.conftest import Account, Shell, Web
from tests.space.datasets import TRAIN, lines
from tests.space.forbidden_words import forbidden_words
from tests.support.fault_hub import Fault
from tests.support.running_space import VERDICT_IN_VIEW, Visitor, missing

if why := missing("gradio", "playwright", browser=True):
    pytest.skip(why, allow_module_level=True)

from playwright.sync_api import expect

ASKED = re.compile("/run|queue/join")
"""URL that the page asks for whatever a visitor does."""
SEARCH = re.compile("component_server")
"""URL that the page asks for matching datasets."""
COPIED = "async (text) => (await navigator.clipboard.readText()).trim() === text"
NASTY = '<img src=x onerror="window.pwned=1"><script>window.pwned=1</script>'


def owned_dataset(web: Web, name: str, **kind: Any) -> str:
    """Create a dataset of the account that Gradio's mocked sign-in uses."""
    return web.owner.dataset(name, {"train.jsonl": TRAIN}, **kind)


# --- from a dataset to an adapter ---------------------------------------------------------------


def test_signed_out_verdict_adapter_and_download(
    visitor: Visitor, cli: Shell, user: Account, tmp_path: Path
) -> None:
    repo, page = user.dataset("book", {"train.jsonl": TRAIN}), visitor.page
    visitor.plan(repo)
    plan = cli("plan", "-d", repo, "--json").json
    expect(page.locator("#lm-verdict")).to_contain_text("until right answers are counted")
    visitor.open_section("Details")
    expect(page.locator("#lm-figures tr")).to_have_count(10)
    best = plan["neighbors"][0]
    first = f"{best['title']}{100 * best['coefficient']:.1f} %"
    expect(page.locator("#lm-figures .lm-first")).to_have_text(first)
    expect(page.locator("#lm-figures")).to_contain_text("252 rows")
    visitor.open_section("Another base model")
    code = page.locator("#lm-other-base code", has_text="hf-lorameta generate").inner_text()
    command = shlex.split(code.splitlines()[-1])
    assert "org/model was not found" in cli(*command[1:], code=6).err
    visitor.make()
    expect(page.get_by_role("heading", name="Your adapter is ready")).to_be_focused()
    expect(page.locator("#lm-make")).to_be_hidden()
    expect(page.locator("#lm-download")).to_have_text("Download, 3 MB")
    expect(page.locator("#lm-download-gguf")).to_contain_text("GGUF")
    with page.expect_download() as download:
        page.locator("#lm-download").click()
    download.value.save_as(tmp_path / "adapter.zip")
    cli("generate", "-d", repo, "-o", tmp_path / "cli")
    with zipfile.ZipFile(tmp_path / "adapter.zip") as opened:
        downloaded = {name: opened.read(name) for name in opened.namelist()}
    assert downloaded == {path.name: path.read_bytes() for path in (tmp_path / "cli").iterdir()}
    expect(page.locator("#lm-save")).to_contain_text("Sign in to save the adapter to your account")
    visitor.open_section("Use it")
    for text in ("AutoTokenizer.from_pretrained", "llama serve", "ollama create"):
        expect(page.locator("#lm-usage")).to_contain_text(text)
    visitor.context.grant_permissions(["clipboard-read", "clipboard-write"])
    blocks = page.locator("#lm-usage .code_wrap").all()
    assert len(blocks) == page.locator("#lm-usage pre").count() > 5
    for block in blocks:
        block.get_by_role("button").click()
        page.wait_for_function(COPIED, arg=block.locator("code").inner_text().strip())
    tabbing_requests_nothing(visitor, cli)
    assert [r for r in cli.hub.requests if repo in r.path] == []


def tabbing_requests_nothing(visitor: Visitor, cli: Shell) -> None:
    """Press Tab through all controls, which must keep the result."""
    page, count = visitor.page, -1
    while count != len(visitor.requests):  # what follows the result
        count = len(visitor.requests)
        page.wait_for_timeout(1000)
    cli.hub.clear_requests()
    page.locator("#lm-dataset").focus()
    for _ in range(100):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):
            break
    page.wait_for_timeout(1000)  # changes of a form are sent after a moment
    assert page.get_by_role("heading", name="Your adapter is ready").is_visible()
    assert cli.hub.requests == []
    assert not [url for url in visitor.requests[count:] if re.search("queue/join|/run", url)]


def test_a_found_dataset_is_chosen_by_keyboard_and_a_late_answer_keeps_the_list(
    visitor: Visitor, user: Account
) -> None:
    repo, page = user.dataset("quaint-diary", {"train.jsonl": TRAIN}), visitor.page
    box = page.get_by_role("combobox", name="Name or link")
    box.press_sequentially("quaint-d", delay=30)
    page.get_by_role("option", name=repo).wait_for()
    box.press("ArrowDown")
    box.press("Enter")
    visitor.wait_for_plan(repo)
    assert box.input_value() == repo
    repo, option = user.dataset("olive-diary", {"train.jsonl": TRAIN}), page.get_by_role("option")
    box.fill("")
    box.press_sequentially("olive")
    page.get_by_role("option", name=repo).wait_for()
    with visitor.held(SEARCH) as wait_for_one:
        box.press_sequentially("-d")
        wait_for_one()
        box.press("ArrowDown")
    page.wait_for_timeout(500)
    expect(option.first).to_have_attribute("aria-selected", "true")
    box.press("Enter")
    visitor.wait_for_plan(repo)


def test_a_link_chooses_a_dataset_and_its_reading_in_sight_and_verdicts_come_into_view_on_a_phone(
    web: Web, chromium: Any, context: Any, user: Account
) -> None:
    repo = user.dataset("linked", {"train.jsonl": TRAIN})
    link = f"{web.space.url}/?dataset={repo}&template={{prompt}}%20%3C&example=1&file=/x.csv"
    visitor = Visitor(chromium, link, context=context, width=360, height=780)
    visitor.wait_for_plan(repo)
    status, page = visitor.page.locator("#lm-status"), visitor.page
    expect(page.get_by_role("combobox", name="Name or link")).to_have_value(repo)
    expect(page.locator(f"#lm-verdict [data-announce^='{repo}']")).to_have_count(1)
    expect(status).to_contain_text("Template: {prompt} <")
    visitor.wait_for_end()
    visitor.open_section("Prompt")
    form = page.get_by_label("Form, if not the usual one")
    expect(form).to_have_value("{prompt} <")
    form.fill("{prompt} =>")
    page.get_by_role("button", name="Use this prompt").click()
    page.locator("[data-link*='template=%7Bprompt%7D+%3D']").wait_for(state="attached")
    expect(status).not_to_contain_text("link")
    page.goto(link)  # rather than what this tab had of the dataset
    expect(status).to_contain_text("Template: {prompt} <")
    visitor.wait_for_plan(repo)
    page.evaluate("scrollTo(0, 0)")
    visitor.plan(user.dataset("next", {"train.jsonl": TRAIN}))
    page.wait_for_function(VERDICT_IN_VIEW)
    visitor.close()


def test_an_example_is_planned_and_the_html_of_a_dropped_file_is_shown_as_text(
    visitor: Visitor,
) -> None:
    drop = """(form, text) => {
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([text], 'dropped.jsonl'));
        form.dispatchEvent(new DragEvent('drop', {dataTransfer, bubbles: true}));
    }"""
    page = visitor.page
    expect(page.locator(".lm-example .lm-first")).to_contain_text(re.compile(r"of \d+ right"))
    page.get_by_role("button", name="Support tickets", exact=True).click()
    page.locator("#lm-verdict .lm-verdict").wait_for()
    expect(page.locator(".lm-example")).to_be_hidden()
    rows = lines([{"input": f"{NASTY} {i}", "output": NASTY} for i in range(30)])
    page.locator("form.lm-data").evaluate(drop, rows.decode())
    page.locator("#lm-verdict [data-announce^='dropped.jsonl']").wait_for()
    expect(page.locator("#lm-columns td").nth(1)).to_contain_text(NASTY)
    assert page.evaluate("window.pwned") is None
    assert page.locator("#lm-columns img, #lm-columns script").count() == 0


def test_an_example_replaces_a_trained_adapter_only_at_the_second_click(
    visitor: Visitor, web: Web
) -> None:
    page = visitor.page
    visitor.plan(web.owner.dataset("example", {"train.jsonl": TRAIN}))
    visitor.make()
    page.evaluate("document.querySelector('[data-focus]').dataset.training = ''")
    example = page.get_by_role("button", name="Support tickets", exact=True)
    example.click()
    page.get_by_text("To go on, click the example again.").wait_for()
    assert page.locator("[data-training]").is_visible()
    example.click()
    expect(page.locator("#lm-verdict [data-announce^='train.jsonl']")).to_be_attached()
    expect(page.locator("[data-focus]")).to_be_hidden()


def test_the_proposed_instruction_is_filled_in_and_no_choice_until_it_is_changed(
    visitor: Visitor, user: Account
) -> None:
    words = ("clear", "wet", "warm", "grey", "calm", "windy")
    rows = [
        {"text": f"{words[i % 6]} on day {i}", "label": ("sun", "rain")[i % 2]} for i in range(30)
    ]
    repo, page = user.dataset("weather", {"train.jsonl": lines(rows)}), visitor.page
    visitor.plan(repo)
    visitor.open_section("Prompt")
    box = page.get_by_label("Instruction, the same for all rows")
    expect(box).to_have_value("Classify the text as one of: rain, sun.")
    page.locator("[data-link]").evaluate("(shown) => shown.remove()")
    page.get_by_role("button", name="Use this prompt").click()
    visitor.wait_for_plan(repo)
    assert page.locator("[data-link*='instruction']").count() == 0
    box.fill("Is it sun or rain?")
    page.get_by_role("button", name="Use this prompt").dblclick()
    page.locator("[data-link*='instruction=Is+it+sun']").wait_for(state="attached")


def test_signing_in_or_reloading_keeps_the_adapter_of_an_uploaded_file(
    visitor: Visitor, web: Web, tmp_path: Path
) -> None:
    path, page = tmp_path / "mine.jsonl", visitor.page
    path.write_bytes(TRAIN)
    visitor.upload(path)
    page.locator("#lm-make").click()
    page.locator("#lm-cancel").wait_for()
    page.reload()
    expect(page.locator("#lm-problem")).to_contain_text("The page was left, which ended")
    visitor.make()
    visitor.sign_in(web.owner.name, web.owner.token)
    expect(page.get_by_role("heading", name="Your adapter is ready")).to_be_visible()
    expect(page.locator("#lm-problem")).to_be_empty()
    expect(page.locator("#lm-verdict [data-announce^='mine.jsonl']")).to_have_count(1)
    expect(page.get_by_role("button", name="Save to Hub")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="Your adapter is ready")).to_be_visible()
    with page.expect_popup() as opened:  # another tab, with a copy of this one's storage
        page.evaluate("open(location.href)")
    opened.value.locator("#lm-dataset").wait_for()
    opened.value.wait_for_timeout(1000)
    assert opened.value.locator("#lm-cancel, #lm-verdict").filter(visible=True).count() == 0
    opened.value.close()
    stored = "sessionStorage.getItem('lm-visit')"
    hide = """hidden => {
        Object.defineProperty(document, "hidden", {configurable: true, get: () => hidden});
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    for hidden in (True, False, True):  # a browser may discard a hidden tab without another event
        page.evaluate(hide, hidden)
        assert bool(page.evaluate(stored)) is hidden
    with page.expect_popup() as opened:  # goes on with what this tab has, and may replace it
        page.evaluate("open(location.href)")
    ready = opened.value.get_by_role("heading", name="Your adapter is ready")
    expect(ready).to_be_visible()
    page.get_by_role("button", name="Save to Hub").click()
    expect(page.locator("#lm-problem")).to_contain_text("goes on in another tab", timeout=20_000)
    opened.value.close()
    page.reload()
    expect(page.get_by_role("heading", name="Your adapter is ready")).to_be_visible()
    visitor.save()


def test_a_reload_after_the_clock_was_set_back_takes_another_dataset(
    web: Web, chromium: Any, user: Account
) -> None:
    visitor = Visitor(chromium, web.space.url)
    first, second = (user.dataset(name, {"train.jsonl": TRAIN}) for name in ("now", "before"))
    visitor.plan(first)
    set_back = "const now = Date.now; Date.now = () => now() - 86400000"
    visitor.page.add_init_script(set_back)
    visitor.page.reload()
    visitor.wait_for_plan(first)
    visitor.plan(second)
    visitor.close()


# --- the last choice wins -----------------------------------------------------------------------


def test_a_later_choice_replaces_a_slow_dataset_and_a_file_that_is_being_uploaded(
    visitor: Visitor, web: Web, cli: Shell, user: Account, tmp_path: Path
) -> None:
    slow, page = user.dataset("slow", {"train.jsonl": TRAIN}), visitor.page
    cli.hub.add_fault(Fault("hold", path=f"datasets/{slow}"))
    path = tmp_path / "rows.jsonl"
    path.write_bytes(TRAIN)
    visitor.enter_dataset(slow)
    page.locator("#lm-cancel").wait_for()
    visitor.upload(path)
    cli.hub.clear_faults()
    assert web.space.settled() == []
    page.wait_for_timeout(500)  # what was answered late would be shown now
    expect(page.locator("#lm-columns")).to_contain_text("rows.jsonl")
    expect(page.locator("#lm-verdict [data-announce^='rows.jsonl']")).to_have_count(1)
    page.wait_for_url(lambda url: "dataset=" not in url)
    with visitor.held(re.compile("/upload")):
        page.locator("#lm-file").set_input_files(path)
        page.get_by_text("Uploading rows.jsonl").wait_for()
        repo = user.dataset("later", {"train.jsonl": TRAIN})
        visitor.plan(repo)
    page.wait_for_timeout(500)
    assert page.locator("#lm-upload").inner_text() == ""
    expect(page.locator(f"#lm-verdict [data-announce^='{repo}']")).to_have_count(1)


def test_proposed_roles_are_taken_by_one_click_and_a_prompt_stays_when_others_are_chosen(
    visitor: Visitor, user: Account
) -> None:
    rows = lines([{"left": f"a note {i}", "right": f"b {i}", "more": "c"} for i in range(12)])
    repo, page = user.dataset("slow-answers", {"train.jsonl": rows}), visitor.page
    instruction = page.get_by_label("Instruction, the same for all rows")
    visitor.enter_dataset(repo)
    expect(page.locator(".lm-question")).to_contain_text("left → input, right → output")
    expect(page.get_by_label("Role of left")).to_have_value("input")
    expect(page.get_by_label("Role of right")).to_have_value("output")
    assert page.get_by_role("alert").count() == 0
    page.get_by_role("button", name="Use these columns").click()
    visitor.wait_for_plan(repo)
    page.get_by_label("Role of more").focus()
    page.keyboard.type("output")  # a role belongs to one column
    page.keyboard.press("Enter")
    page.locator("[data-link*='output%3Dmore']").wait_for(state="attached")
    expect(page.get_by_label("Role of right")).to_have_value("")
    expect(page.locator(".lm-question")).to_contain_text("left → input, more → output")
    page.get_by_label("Role of right").select_option("output")
    page.locator("[data-link*='output%3Dright']").wait_for(state="attached")
    expect(page.locator(".lm-warning")).to_contain_text("Only 12 rows were read")
    visitor.open_section("Prompt")
    with visitor.held(ASKED):
        page.get_by_label("Role of more").select_option("input")
        instruction.fill("Answer with one word.")
    page.locator("[data-link*='input%3Dmore']").wait_for(state="attached")
    expect(instruction).to_have_value("Answer with one word.")
    page.get_by_role("button", name="Use this prompt").click()
    page.locator("[data-link*='instruction=Answer']").wait_for(state="attached")
    page.get_by_label("Role of more").select_option("instruction")
    page.locator("[data-link*='instruction%3Dmore']").wait_for(state="attached")
    expect(instruction).to_have_value("")


def test_lora_the_method_and_how_to_call_this_server_are_explained_in_place(
    visitor: Visitor, web: Web
) -> None:
    page = visitor.page
    term = page.get_by_text("small matrices that are added")
    assert not term.is_visible()
    page.get_by_role("button", name="LoRA adapter", exact=True).click()
    expect(term).to_be_visible()
    page.keyboard.press("Escape")
    page.get_by_text("How it works").click()
    expect(page.locator(".lm-how li:visible")).to_have_count(6)
    paper = page.get_by_role("link", name="arXiv 2507.01806")
    assert paper.get_attribute("href") == "https://arxiv.org/abs/2507.01806"
    visitor.open_section("Run your own copy")
    expect(page.locator("#lm-own")).to_contain_text('Client("ann/space")')
    expect(page.locator("#lm-own")).to_contain_text("Duplicate this Space")


# --- signed in ----------------------------------------------------------------------------------


def test_signing_in_keeps_the_dataset_and_saving_creates_a_repo_which_no_other_name_replaces(
    visitor: Visitor, web: Web, cli: Shell, user: Account, tmp_path: Path
) -> None:
    repo, page = owned_dataset(web, "guests"), visitor.page
    name, replace = page.get_by_label("Name", exact=True), page.get_by_label("Replace what is")
    saved, save = page.locator("#lm-saved"), page.get_by_role("button", name="Save to Hub")
    visitor.plan(repo)
    page.wait_for_url(lambda url: url.endswith(f"?dataset={repo}"))
    visitor.sign_in(web.owner.name, web.owner.token)
    visitor.wait_for_plan(repo)
    visitor.make()
    target = f"{web.owner.name}/guests-SmolLM2-135M-Instruct-lorameta"
    expect(name).to_have_value(target)
    expect(save).to_have_class(re.compile(r"\bprimary\b"))
    visitor.context.clear_cookies()  # as a sign-in that has expired
    save.click()
    expect(saved).to_contain_text("Saving needs an account: sign in first")
    page.route(login := re.compile("/login/huggingface"), lambda route: route.fulfill(status=204))
    with page.expect_request(login) as asked:
        page.get_by_role("link", name="sign in again").click()
    assert asked.value.url.endswith(f"?dataset={repo}"), "where the sign-in returns to"
    visitor.sign_in(web.owner.name, web.owner.token)
    page.get_by_role("heading", name="Your adapter is ready").wait_for()
    visitor.save()
    link = saved.get_by_role("link", name=target)
    assert link.get_attribute("href") == f"{cli.hub.url}/{target}"
    before = cli.hub.repo(target)
    assert before is not None
    assert not before.private
    cli("generate", "-d", repo, "-o", tmp_path / "cli")
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        assert cli.hub.read(target, file) == (tmp_path / "cli" / file).read_bytes()

    name.fill("third-name")
    replace.check()
    visitor.save()
    expect(replace).not_to_be_checked()  # what was agreed to is done
    for _ in range(3):  # now and then, Gradio shows the signed-in user, but not the form below
        page.reload()
        page.get_by_role("heading", name="Your adapter is ready").wait_for()
        visitor.wait_for_end()
        if name.is_visible():
            break
    third = f"{web.owner.name}/third-name"
    expect(name).to_have_value(third)
    expect(replace).not_to_be_checked()
    expect(saved).to_contain_text("Your adapter is on the Hub")
    expect(saved.get_by_role("link")).to_have_text(third)
    expect(saved).not_to_contain_text("later")
    for other, message in (
        (third, f"{third} already holds"),
        (target, f"{target} already holds"),
        ("-x/y z", "not a valid repo id"),
        (f"{user.name}/not-mine", "may not"),
        (taken := user.adapter("taken"), f"{taken} already holds"),
    ):
        name.fill(other)
        save.click()
        saved.get_by_role("alert").filter(has_text=message).wait_for()
        assert forbidden_words(visitor.visible_text()) == []
    assert cli.hub.repo(target) == before

    page.get_by_label("private: only you").check()
    visitor.plan(owned_dataset(web, "next"))
    visitor.make()
    expect(name).to_have_value(re.compile("/next-"))
    expect(page.get_by_label("public: everybody")).to_be_checked()


STAYS_CANCELED = """() => {
    const now = Date.now(), shown = document.querySelector("#lm-work").innerText;
    if (shown !== "Canceled") window.otherShown = now;
    return now - window.otherShown > 1000;
}"""
"""Becomes true once nothing but "Canceled" was shown for a second."""


def test_cancel_holds_for_the_request_just_before_it(visitor: Visitor, web: Web) -> None:
    first, second, page = owned_dataset(web, "first"), owned_dataset(web, "second"), visitor.page
    for _ in range(2):
        visitor.enter_dataset(first)
        page.locator("#lm-cancel").wait_for()
        page.evaluate(
            """(second) => {
            document.querySelector('#lm-dataset').value = second;
            document.querySelector('#lm-data form').requestSubmit();
            document.querySelector('#lm-cancel').click();
            window.otherShown = Date.now();
        }""",
            second,
        )
        page.wait_for_function(STAYS_CANCELED)  # answers may arrive in another order before
        assert not page.locator("#lm-verdict").is_visible()


def test_cancel_saves_nothing_and_a_private_dataset_defaults_to_a_private_repo(
    visitor: Visitor, web: Web, cli: Shell
) -> None:
    repo, page = owned_dataset(web, "hidden", private=True), visitor.page
    visitor.enter_dataset(repo)
    visitor.wait_for_error("was not found")
    visitor.sign_in(web.owner.name, web.owner.token)
    visitor.plan(repo)
    visitor.make()
    target = f"{web.owner.name}/hidden-SmolLM2-135M-Instruct-lorameta"
    cli.hub.add_fault(Fault("hold", path=f"api/models/{target}"))
    page.get_by_role("button", name="Save to Hub").click()
    page.locator("#lm-cancel").click()
    page.locator("#lm-work", has_text="Canceled").wait_for()
    cli.hub.clear_faults()
    assert web.space.settled() == [], "the canceled job has ended"
    assert cli.hub.repo(target) is None
    cli.hub.add_fault(Fault("hold", path=f"api/models/{target}/commit"))
    page.get_by_role("button", name="Save to Hub").click()
    page.locator("#lm-work", has_text="this can no longer be canceled").wait_for()
    page.reload()
    expect(page.locator("#lm-saved")).to_contain_text("left while the adapter was being saved")
    cli.hub.clear_faults()
    assert web.space.settled() == []
    page.reload()
    page.get_by_text("(private)").wait_for()
    view = cli.hub.repo(target)
    assert view is not None
    assert view.private
