"""The Space's steps without a browser or Gradio: jobs, settings, readers, what is drawn."""

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hf_lorameta import Bank, LoraMetaError, Plan, Recipe, bank_map, plan
from hf_lorameta.demo.run import DATA_FOLDER
from tests.running_space import SPACE

sys.path.insert(0, str(SPACE))
try:
    import isolate
    import jobs
    import map_view
    import plan_view
    import service
    import settings
    from bank_loader import BankLoader
finally:
    sys.path.remove(str(SPACE))

TRAIN = DATA_FOLDER / "train.jsonl"
NASTY = '"><script>alert(1)</script>'


@pytest.fixture(autouse=True)
def pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes started here find the Space's modules, too."""
    monkeypatch.syspath_prepend(str(SPACE))


@pytest.fixture(scope="module")
def keeper() -> BankLoader:
    return BankLoader(settings.Settings()).start()


@pytest.fixture(scope="module")
def made() -> Plan:
    return plan(TRAIN)


# --- jobs ---------------------------------------------------------------------------------------


def forever(job: jobs.Job) -> None:
    while True:
        job.check()
        time.sleep(0.01)


def test_a_job_reports_its_steps_and_what_it_made() -> None:
    def work(job: jobs.Job) -> int:
        job.say("midpoint_xlogx", 1, 2)
        time.sleep(0.5)
        return 7

    seen = list(jobs.run(work, 10))
    assert jobs.Step("midpoint_xlogx", 1, 2) in seen
    assert seen[-1] == jobs.Finished(7)
    assert jobs.finish(work, 10) == 7


def test_a_job_ends_when_its_time_is_up() -> None:
    with pytest.raises(jobs.TimeLimitError, match="longer than 1 s"):
        jobs.finish(forever, 0.6)


def test_closing_the_reports_ends_the_work() -> None:
    ended: list[type[BaseException]] = []

    def work(job: jobs.Job) -> None:
        try:
            forever(job)
        except BaseException as error:
            ended.append(type(error))
            raise

    running = jobs.run(work, 60)
    next(running)
    running.close()
    deadline = time.monotonic() + 10
    while not ended and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ended == [jobs.Cancelled]


# --- readers ------------------------------------------------------------------------------------


def test_the_row_limit_stands_in_the_recipe_only_where_it_cut(keeper: BankLoader) -> None:
    asked = service.DatasetRequest(file=str(TRAIN))
    job = jobs.Job(120)
    whole = service.make_plan(keeper, asked, Recipe(), 1000, False, job)
    assert whole.plan.to_dict() == plan(TRAIN).to_dict()
    cut = service.make_plan(keeper, asked, Recipe(), 50, False, job)
    assert cut.plan.to_dict() == plan(TRAIN, recipe=Recipe(max_rows=50)).to_dict()
    assert [len(p.samples) for p in (whole, cut)] == [3, 3]
    with pytest.raises(service.RequestError, match="not kept"):
        whole.plan.dataset.head(1)


def test_a_file_that_cannot_be_read_is_a_sentence_without_its_place(
    keeper: BankLoader, tmp_path: Path
) -> None:
    path = tmp_path / "broken.parquet"
    path.write_bytes(b"PAR1 no")
    asked = service.DatasetRequest(file=str(path))
    with pytest.raises(LoraMetaError, match=r"broken\.parquet cannot be read") as caught:
        service.make_plan(keeper, asked, Recipe(), 10, False, jobs.Job(60))
    assert str(tmp_path) not in str(caught.value)


def test_a_reader_that_hangs_or_dies_harms_nobody() -> None:
    with pytest.raises(jobs.TimeLimitError):
        isolate.first(jobs.Job(1.0), hang)
    with pytest.raises(isolate.ReaderError, match="its reader ended"):
        isolate.first(jobs.Job(60), die)


def hang() -> Iterator[int]:
    time.sleep(600)
    yield 1


def die() -> Iterator[int]:
    import os

    os._exit(1)
    yield 1


# --- settings -----------------------------------------------------------------------------------


def test_settings_are_read_from_variables() -> None:
    told = {"HF_LORAMETA_BANK": "u/b", "HF_LORAMETA_MAX_ROWS": "7", "SPACE_ID": "u/s"}
    read = settings.read_settings(told)
    assert (read.bank, read.max_rows, read.space_id, read.sign_in) == ("u/b", 7, "u/s", "none")
    assert settings.read_settings(told | {"OAUTH_CLIENT_ID": "x"}).sign_in == "oauth"
    with pytest.raises(SystemExit, match="HF_LORAMETA_QUEUE=lots: expected a whole number"):
        settings.read_settings(told | {"HF_LORAMETA_QUEUE": "lots"})
    open_to_all = settings.read_settings({"GRADIO_SERVER_NAME": "0.0.0.0"})
    assert open_to_all.sign_in == "none", "strangers would act with this machine's token"


def test_a_bank_for_another_base_model_is_refused() -> None:
    keeper = BankLoader(settings.Settings(base_model="other/model")).start()
    with pytest.raises(LoraMetaError, match="this Space is for other/model"):
        keeper.wait(jobs.Job(60))
    assert keeper.state == "failed"


# --- what is drawn ------------------------------------------------------------------------------


def renamed(made: Plan, name: str) -> Plan:
    """The same plan over a bank whose datasets have another name."""
    bank = Bank.from_pretrained()
    entries = [e.model_copy(update={"dataset": name, "license": name}) for e in bank.index.entries]
    bank.index = bank.index.model_copy(update={"entries": tuple(entries)})
    return Plan(bank, made.dataset, made.recipe, made.profile, made.distances, made.coefficients)


def test_names_of_others_are_escaped_everywhere(made: Plan) -> None:
    bad = renamed(made, f"user/{NASTY}")
    drawn = bank_map(bad.bank, made.recipe.metric)
    pages = [
        plan_view.plan_html(bad),
        map_view.map_html(bad, drawn),
        plan_view.samples_html(NASTY, NASTY, NASTY, [(NASTY, NASTY)]),
        plan_view.note("error", NASTY, [NASTY]),
        plan_view.progress_html(NASTY, 1, 2),
    ]
    for page in pages:
        assert "<script" not in page
        assert "&lt;script&gt;" in page.replace("<wbr>", "")


def test_bars_are_as_long_as_the_coefficients(made: Plan) -> None:
    page = plan_view.plan_html(made)
    widths = [float(w) for w in re.findall(r'<i[^>]* style="width:([\d.]+)%"', page)]
    c = [n.coefficient for n in made.neighbors()]
    assert widths == [pytest.approx(100 * abs(x) / max(map(abs, c)), abs=0.06) for x in c]
    assert page.count("lm-against") == sum(x < 0 for x in c)


def test_the_map_shows_every_dataset_inside_the_picture(made: Plan) -> None:
    page = map_view.map_html(made, bank_map(made.bank, made.recipe.metric))
    circles = re.findall(r'cx="([-\d.]+)" cy="([-\d.]+)"', page)
    assert len(circles) == len(made.bank)
    for x, y in circles:
        assert 0 < float(x) < map_view.WIDTH
        assert 0 < float(y) < map_view.HEIGHT
    assert "your dataset" in page


def test_a_pack_is_called_one(tmp_path: Path) -> None:
    from hf_lorameta.bank.pack import pack

    bank = Bank.from_pretrained()
    whole = plan_view.holdings(bank)
    assert whole == "26 adapters for <b>HuggingFaceTB/SmolLM2-135M-Instruct</b>"
    made = pack(bank, tmp_path / "pack", basis=4)
    assert made.index.packing
    kept = f"{made.index.packing.retained_whole:.1%}"
    assert plan_view.holdings(made) == f"{whole}, packed: {kept} of their updates kept"


def test_an_empty_text_is_said_to_be_empty() -> None:
    rows: Any = [("", "x" * 1000)]
    page = plan_view.samples_html("n", "train", "c", rows)
    assert "(empty)" in page
    assert len(page) < 1000
