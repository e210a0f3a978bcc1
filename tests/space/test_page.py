"""The page in a real browser, against the loopback Hub."""

import zipfile
from pathlib import Path
from typing import Any

import pytest

from hf_lorameta.bank.bank import Bank
from hf_lorameta.localhub.faults import Fault
from tests.conftest import Account, Shell, Web
from tests.running_space import Visitor, missing
from tests.space.datasets import TRAIN, lines
from tests.space.forbidden_words import forbidden_words

if why := missing("gradio", "playwright", browser=True):
    pytest.skip(why, allow_module_level=True)

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
    assert page.locator("#lm-verdict").get_by_role("listitem").count() == 5
    assert "NewsMTSC (sentiment about a person)" in page.locator("#lm-verdict").inner_text()
    visitor.open_section("Details")
    top = page.locator(".lm-bars .lm-bar").nth(1)
    best = plan["neighbors"][0]
    assert top.locator("b").inner_text() == f"{100 * best['coefficient']:.1f} %"
    assert "180 rows" in page.locator(".lm-tiles").inner_text()
    assert page.locator("#lm-map circle").count() == len(Bank.embedded())
    visitor.make()
    page.wait_for_function("document.activeElement.textContent == '3 · Your adapter is ready'")
    with page.expect_download() as download:
        page.locator("#lm-download").click()
    download.value.save_as(tmp_path / "adapter.zip")
    cli("generate", "-d", repo, "-o", tmp_path / "cli")
    with zipfile.ZipFile(tmp_path / "adapter.zip") as opened:
        downloaded = {name: opened.read(name) for name in opened.namelist()}
    assert downloaded == {path.name: path.read_bytes() for path in (tmp_path / "cli").iterdir()}
    assert "Sign in at the top" in page.locator("#lm-save").inner_text()


def test_tabbing_through_all_controls_keeps_the_result_and_requests_nothing(
    visitor: Visitor, cli: Shell, user: Account
) -> None:
    repo, page = user.dataset("tabs", {"train.jsonl": TRAIN}), visitor.page
    visitor.plan(repo)
    visitor.open_section("Options")
    visitor.make()
    cli.hub.clear_requests()
    count = len(visitor.requests)
    page.locator("#lm-dataset").focus()
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):
            break
    assert page.get_by_role("heading", name="Your adapter is ready").is_visible()
    assert cli.hub.requests == []
    assert [url for url in visitor.requests[count:] if "queue/join" in url] == []


def test_the_example_works_and_can_be_tried_by_keyboard(visitor: Visitor) -> None:
    page = visitor.page
    page.get_by_role("button", name="Guest book notes").focus()
    page.keyboard.press("Enter")
    page.locator("#lm-verdict .lm-verdict").wait_for()
    page.locator("#lm-make").wait_for()
    page.locator("#lm-make").focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Your adapter is ready").wait_for()
    page.locator("#lm-cancel").wait_for(state="hidden")
    assert page.evaluate("document.activeElement.tagName") != "BODY"


def test_a_found_dataset_can_be_chosen_by_keyboard(visitor: Visitor, user: Account) -> None:
    repo, page = user.dataset("quaint-diary", {"train.jsonl": TRAIN}), visitor.page
    box = page.get_by_role("combobox", name="Name or link")
    box.press_sequentially("quaint-d", delay=30)
    page.get_by_role("option", name=repo).wait_for()
    box.press("ArrowDown")
    box.press("Enter")
    visitor.wait_for_plan(repo)
    assert box.input_value() == repo


# --- the last choice wins -----------------------------------------------------------------------


def test_a_later_choice_replaces_a_slow_one(
    visitor: Visitor, cli: Shell, user: Account, tmp_path: Path
) -> None:
    slow, page = user.dataset("slow", {"train.jsonl": TRAIN}), visitor.page
    cli.hub.add_fault(Fault("delay", path=f"datasets/{slow}", seconds=1.5))
    path = tmp_path / "rows.jsonl"
    path.write_bytes(TRAIN)
    visitor.enter_dataset(slow)
    page.locator("#lm-cancel").wait_for()
    visitor.upload(path)
    page.wait_for_timeout(4000)
    assert "rows.jsonl" in page.locator("#lm-columns").inner_text()
    assert page.locator("#lm-verdict [data-announce^='rows.jsonl']").count() == 1
    assert "dataset=" not in page.url


def test_roles_are_chosen_in_the_header_of_the_table(visitor: Visitor, user: Account) -> None:
    odd = [{"a,b": f"how was {i}", "c=d": "very kind", "x": "Answer."} for i in range(30)]
    repo, page = user.dataset("odd", {"train.jsonl": lines(odd)}), visitor.page
    visitor.enter_dataset(repo)
    assert "The columns fit no known layout" in visitor.error_text()
    page.get_by_label("Role of a,b").select_option("input")
    page.get_by_label("Role of c=d").select_option("output")
    visitor.wait_for_plan(repo)
    page.get_by_label("Role of x").select_option("output")  # a role belongs to one column
    page.locator("[data-link*='output%3Dx']").wait_for(state="attached")
    assert page.get_by_label("Role of c=d").input_value() == ""
    assert page.get_by_label("Role of a,b").input_value() == "input"


def test_options_gray_out_the_result_and_invalid_ones_stop_the_button(
    visitor: Visitor, cli: Shell, user: Account
) -> None:
    repo, page = user.dataset("book", {"train.jsonl": TRAIN}), visitor.page
    visitor.plan(repo)
    visitor.make()
    cli.hub.clear_requests()
    visitor.open_section("Options")
    box = page.get_by_label("Use only the k most similar")
    box.fill("2")
    box.press("Tab")
    page.get_by_text("Made from 2 adapters").wait_for()
    assert page.locator(".lm-old").count() == 1
    assert "The options have changed" in page.locator("#lm-stale").inner_text()
    box.fill("many")
    box.press("Tab")
    page.locator("#lm-option-error", has_text="must be a whole number").wait_for()
    assert page.locator("#lm-make").is_disabled()
    box.fill("")
    box.press("Tab")
    page.get_by_text("Made from 121 adapters").wait_for()
    assert page.locator("#lm-make").is_enabled()
    assert [r for r in cli.hub.requests if repo in r.path] == []


def test_html_in_an_uploaded_file_is_shown_as_text(visitor: Visitor, tmp_path: Path) -> None:
    path, page = tmp_path / "rows.jsonl", visitor.page
    path.write_bytes(lines([{"input": f"{NASTY} {i}", "output": NASTY} for i in range(30)]))
    visitor.upload(path)
    assert NASTY in page.locator("#lm-columns td").nth(1).inner_text()
    assert page.evaluate("window.pwned") is None
    assert page.locator("#lm-columns img, #lm-columns script").count() == 0


def test_errors_and_warnings_are_shown_as_messages(visitor: Visitor, user: Account) -> None:
    page = visitor.page
    visitor.enter_dataset("nobody/nothing-here")
    assert "was not found" in visitor.error_text()
    visitor.enter_dataset("../../etc/passwd")
    page.get_by_text("is not a dataset id").wait_for()
    assert forbidden_words(visitor.visible_text()) == []
    rows = [{"input": f"question {i}", "output": f"answer {i}"} for i in range(12)]
    visitor.plan(user.dataset("few", {"train.jsonl": lines(rows)}))
    assert "Only 12 rows were read" in page.locator(".lm-warning").inner_text()


# --- signed in ----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_signing_in_keeps_the_dataset_and_saving_creates_a_repo_that_peft_loads(
    visitor: Visitor, web: Web, cli: Shell, tmp_path: Path
) -> None:
    repo, page = owned_dataset(web, "guests"), visitor.page
    visitor.plan(repo)
    assert page.url.endswith(f"?dataset={repo}")
    visitor.sign_in()
    visitor.wait_for_plan(repo)
    visitor.make()
    target = f"{web.owner.name}/guests-SmolLM2-135M-Instruct-lorameta"
    assert page.get_by_label("Name", exact=True).input_value() == target
    page.get_by_role("button", name="Save to Hub").click()
    page.locator("#lm-saved").get_by_text("Your adapter is on the Hub").wait_for()
    link = page.locator("#lm-saved").get_by_role("link", name=target)
    assert link.get_attribute("href") == f"{cli.hub.url}/{target}"
    view = cli.hub.repo(target)
    assert view is not None
    assert not view.private
    for name in cli.hub.files(target):
        (tmp_path / name).write_bytes(cli.hub.read(target, name))
    assert_peft_loads(tmp_path)
    page.get_by_role("button", name="Save to Hub").click()
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
    visitor.make()
    page.get_by_role("button", name="Save to Hub").click()
    page.get_by_text("(private)").wait_for()
    view = cli.hub.repo(f"{web.owner.name}/hidden-SmolLM2-135M-Instruct-lorameta")
    assert view is not None
    assert view.private


def test_cancel_saves_nothing(visitor: Visitor, web: Web, cli: Shell) -> None:
    repo, page = owned_dataset(web, "canceled"), visitor.page
    visitor.sign_in()
    visitor.plan(repo)
    visitor.make()
    target = f"{web.owner.name}/canceled-SmolLM2-135M-Instruct-lorameta"
    cli.hub.add_fault(Fault("delay", path=f"api/models/{target}", seconds=5.0))
    page.get_by_role("button", name="Save to Hub").click()
    page.locator("#lm-cancel").click()
    page.locator("#lm-work", has_text="Cancelled").wait_for()
    cli.hub.clear_faults()
    assert web.space.settled(20) == [], "the canceled job has ended"
    assert cli.hub.repo(target) is None
    page.get_by_role("button", name="Save to Hub").click()
    page.get_by_text("Your adapter is on the Hub").first.wait_for()
    assert cli.hub.repo(target) is not None
