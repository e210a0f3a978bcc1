"""Modules of the Space that need neither a browser nor Gradio."""

import os
import re
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pyarrow
import pyarrow.parquet
import pytest

from hf_lorameta import Bank, DatasetTooLargeError, LoraMetaError, Plan, Recipe, bank_map, plan
from hf_lorameta.demo.run import DATA_FOLDER
from tests.plain_bank import plain_bank
from tests.running_space import SPACE

sys.path.insert(0, str(SPACE))
try:
    import jobs
    import map_view
    import page_text
    import plan_view
    import planning
    import reader_process
    import settings
    from bank_loader import BankLoader
    from dataset_request import DatasetRequest
    from html_blocks import note, progress_html
finally:
    sys.path.remove(str(SPACE))

T = TypeVar("T")
TRAIN = DATA_FOLDER / "train.jsonl"
NASTY = '"><script>alert(1)</script>'


@pytest.fixture(autouse=True)
def space_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes started by a test import the Space's modules."""
    monkeypatch.syspath_prepend(str(SPACE))


@pytest.fixture(scope="module")
def bank_loader() -> BankLoader:
    return BankLoader(settings.Settings()).start()


@pytest.fixture(scope="module")
def guest_book() -> Plan:
    return plan(TRAIN)


# --- jobs ---------------------------------------------------------------------------------------


def forever(job: jobs.Job) -> None:
    while True:
        job.check()
        time.sleep(0.01)


def stream(work: Callable[[jobs.Job], T], time_limit: float) -> Generator[jobs.Step, None, T]:
    return jobs.stream_job(work, time_limit, lambda step: step)


def test_a_job_yields_its_steps_and_returns_its_result() -> None:
    def work(job: jobs.Job) -> int:
        job.report("halfway", 1, 2)
        time.sleep(0.5)
        return 7

    def collect() -> Generator[jobs.Step, None, None]:
        results.append((yield from stream(work, 10)))

    results: list[int] = []
    assert jobs.Step("halfway", 1, 2) in list(collect())
    assert results == [7]


def test_a_job_ends_at_its_time_limit() -> None:
    with pytest.raises(jobs.TimeLimitError, match="longer than 1 s"):
        list(stream(forever, 0.6))


def test_closing_the_generator_of_a_job_ends_its_work() -> None:
    ended: list[type[BaseException]] = []

    def work(job: jobs.Job) -> None:
        try:
            forever(job)
        except BaseException as error:
            ended.append(type(error))
            raise

    running = stream(work, 60)
    next(running)
    running.close()
    deadline = time.monotonic() + 10
    while not ended and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ended == [jobs.Canceled]


# --- readers ------------------------------------------------------------------------------------


def test_the_recipe_states_the_row_limit_only_if_it_was_reached(bank_loader: BankLoader) -> None:
    request, job = DatasetRequest(file=str(TRAIN)), jobs.Job(120)
    complete = planning.make_plan(bank_loader, request, Recipe(), 1000, False, job)
    assert complete.plan.to_dict() == plan(TRAIN).to_dict()
    limited = planning.make_plan(bank_loader, request, Recipe(), 50, False, job)
    assert limited.plan.to_dict() == plan(TRAIN, recipe=Recipe(max_rows=50)).to_dict()
    assert [len(p.samples) for p in (complete, limited)] == [3, 3]


def test_an_unreadable_file_gives_an_error_without_its_path(
    bank_loader: BankLoader, tmp_path: Path
) -> None:
    path = tmp_path / "broken.parquet"
    path.write_bytes(b"PAR1 no")
    request = DatasetRequest(file=str(path))
    with pytest.raises(LoraMetaError, match=r"broken\.parquet cannot be read") as caught:
        planning.make_plan(bank_loader, request, Recipe(), 10, False, jobs.Job(60))
    assert str(tmp_path) not in str(caught.value)


def test_a_reader_that_hangs_or_dies_raises_an_error() -> None:
    with pytest.raises(jobs.TimeLimitError):
        reader_process.read_first(jobs.Job(1.0), hang)
    with pytest.raises(reader_process.ReaderError, match="reader process ended"):
        reader_process.read_first(jobs.Job(60), die)


@pytest.mark.parametrize("name", ["allocate", "abort", "send_too_much"])
def test_a_reader_that_needs_too_much_memory_ends_with_a_sentence(name: str) -> None:
    with pytest.raises(DatasetTooLargeError, match=r"^The (dataset needs more|rows of)"):
        reader_process.read_first(jobs.Job(60), globals()[name])


def test_a_bomb_ends_with_a_sentence(bank_loader: BankLoader, tmp_path: Path) -> None:
    path = tmp_path / "bomb.parquet"
    indices = pyarrow.array([0], pyarrow.int32())
    outputs = pyarrow.DictionaryArray.from_arrays(indices, pyarrow.array(["a " * 50_000_000]))
    table = pyarrow.table({"input": ["q"], "output": outputs})
    pyarrow.parquet.write_table(table, path, compression="zstd")
    request = DatasetRequest(file=str(path))
    with pytest.raises(DatasetTooLargeError, match=r"^bomb\.parquet has a row of 100 MB"):
        planning.make_plan(bank_loader, request, Recipe(), 10, False, jobs.Job(60))


def allocate() -> Iterator[bytes]:
    yield bytes(reader_process.MEMORY_BYTES)


def abort() -> Iterator[int]:
    os.abort()
    yield 1


def send_too_much() -> Iterator[bytes]:
    yield bytes(reader_process.MESSAGE_BYTES)


def hang() -> Iterator[int]:
    time.sleep(600)
    yield 1


def die() -> Iterator[int]:
    os._exit(1)
    yield 1


# --- settings -----------------------------------------------------------------------------------


def test_settings_are_read_from_variables() -> None:
    variables = {"HF_LORAMETA_BANK": "u/b", "HF_LORAMETA_MAX_ROWS": "7", "SPACE_ID": "u/s"}
    read = settings.read_settings(variables)
    assert (read.bank, read.max_rows, read.space_id, read.sign_in) == ("u/b", 7, "u/s", "none")
    assert settings.read_settings(variables | {"OAUTH_CLIENT_ID": "x"}).sign_in == "oauth"
    with pytest.raises(SystemExit, match="HF_LORAMETA_QUEUE=lots: expected an integer"):
        settings.read_settings(variables | {"HF_LORAMETA_QUEUE": "lots"})
    public = settings.read_settings({"GRADIO_SERVER_NAME": "0.0.0.0"})
    assert public.sign_in == "none", "other people would act with this machine's token"


def test_a_bank_for_another_base_model_is_refused() -> None:
    loader = BankLoader(settings.Settings(base_model="other/model")).start()
    with pytest.raises(LoraMetaError, match="this Space is for other/model"):
        loader.wait(jobs.Job(60))
    assert loader.state == "failed"


# --- views -------------------------------------------------------------------------------------


def renamed(plan: Plan, name: str) -> Plan:
    """Return the plan for a bank whose datasets and licenses are all called `name`."""
    bank = Bank.from_pretrained()
    entries = [e.model_copy(update={"dataset": name, "license": name}) for e in bank.index.entries]
    bank.index = bank.index.model_copy(update={"entries": tuple(entries)})
    return replace(plan, bank=bank)


def test_all_views_escape_names(guest_book: Plan) -> None:
    bad = renamed(guest_book, f"user/{NASTY}")
    map_ = bank_map(bad.bank, bad.recipe.metric)
    pages = [
        plan_view.plan_html(bad),
        map_view.map_html(bad, map_),
        plan_view.samples_html(NASTY, NASTY, NASTY, [(NASTY, NASTY)]),
        note("error", NASTY, [NASTY]),
        progress_html(NASTY, 1, 2),
    ]
    for page in pages:
        assert "<script" not in page
        assert "&lt;script&gt;" in page.replace("<wbr>", "")


def test_bar_widths_are_proportional_to_the_coefficients(guest_book: Plan) -> None:
    page = plan_view.plan_html(guest_book)
    widths = [float(w) for w in re.findall(r'<i[^>]* style="width:([\d.]+)%"', page)]
    c = [n.coefficient for n in guest_book.neighbors()]
    assert widths == [pytest.approx(100 * abs(x) / max(map(abs, c)), abs=0.06) for x in c]
    assert page.count("lm-negative") == sum(x < 0 for x in c)


def test_the_map_shows_every_dataset_inside_the_chart(guest_book: Plan) -> None:
    page = map_view.map_html(guest_book, bank_map(guest_book.bank, guest_book.recipe.metric))
    circles = re.findall(r'cx="([-\d.]+)" cy="([-\d.]+)"', page)
    assert len(circles) == len(guest_book.bank)
    for x, y in circles:
        assert 0 < float(x) < map_view.WIDTH
        assert 0 < float(y) < map_view.HEIGHT
    assert "your dataset" in page


def test_a_pack_states_its_retained_energy(tmp_path: Path) -> None:
    from hf_lorameta.bank.pack import pack

    bank = plain_bank()
    content = page_text.bank_content_html(bank)
    assert content == "26 adapters for <b>HuggingFaceTB/SmolLM2-135M-Instruct</b>"
    packed = pack(bank, tmp_path / "pack", basis=4)
    assert packed.index.packing
    energy = f"{packed.index.packing.retained_whole:.1%}"
    assert page_text.bank_content_html(packed) == (
        f"{content}, packed: {energy} of the update energy"
    )


def test_samples_mark_empty_texts_and_clip_long_ones() -> None:
    rows: Any = [("", "x" * 1000)]
    page = plan_view.samples_html("n", "train", "c", rows)
    assert "(empty)" in page
    assert len(page) < 1000
