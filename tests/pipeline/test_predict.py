"""Answers for a whole file: right ones, in any format, and after any interruption."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hf_lorameta import Columns, Recipe  # noqa: E402
from hf_lorameta.cards.confusion import CONFUSION_FILE, render_confusion  # noqa: E402
from hf_lorameta.cards.record import (  # noqa: E402
    RECIPE_FILE,
    BaseModelRecord,
    DatasetRecord,
    Record,
    read_record,
)
from hf_lorameta.data.questions import open_questions  # noqa: E402
from hf_lorameta.data.reading import Reading  # noqa: E402
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator  # noqa: E402
from hf_lorameta.errors import AdapterError, ColumnsError, UsageError  # noqa: E402
from hf_lorameta.hub.client import Hub  # noqa: E402
from hf_lorameta.pipeline import answering  # noqa: E402
from hf_lorameta.pipeline import predict as predicting  # noqa: E402
from hf_lorameta.pipeline.adapter_folder import COEFFICIENTS_FILE  # noqa: E402
from hf_lorameta.pipeline.choose import (  # noqa: E402
    LABELS,
    Choice,
    Counted,
    choice_in,
    fitted,
    labels_in,
    record_of,
)
from hf_lorameta.pipeline.journal import Journal  # noqa: E402
from hf_lorameta.pipeline.predict import open_task, predict  # noqa: E402
from tests.engines.test_torch_evaluator import save_adapter, save_base  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = ("a rose", "no", "an answer")
CHOICE = Choice(
    labels=NAMES,
    temperature=2.0,
    counted=(
        Counted(probability=0.9, answer=0, right=0),
        Counted(probability=0.5, answer=1, right=0),
    ),
)
COLUMNS = {"input": "text", "output": "label", "instruction_text": "Sort it."}


def write_recipe(folder: Path, choice: Choice | None = None, columns: Any = None) -> Path:
    """Write what a generated adapter has beside the two files of PEFT."""
    record = Record(
        recipe=Recipe().model_dump(),
        dataset=DatasetRecord(
            id=None, private=True, proposed_instruction=False, revision=None, config=None,
            split="train", columns=Columns(**(columns or COLUMNS)), rows=8, tokens=80,
        ),
        library="hf-lorameta", private=True, base_license=None, bank=None, remarks=(),
        base_model=BaseModelRecord(id="o/base", revision=None), general_coefficient=None,
        output_prior=None, scale=1.0, effective_number=0.0, rank=2,
        stages={LABELS: choice.model_dump(mode="json")} if choice else {},
    )  # fmt: skip
    (folder / RECIPE_FILE).write_text(record.model_dump_json())
    (folder / COEFFICIENTS_FILE).write_text("[]")
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    folder = save_adapter(tmp_path_factory.mktemp("adapter") / "a", base=str(base))
    return write_recipe(folder, CHOICE)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predicting, "BLOCK", 8)


@pytest.fixture(autouse=True)
def one_base_model(base: Path, monkeypatch: pytest.MonkeyPatch, loaded: TorchEvaluator) -> None:
    """Load the base model once for all tests."""
    monkeypatch.setattr(predicting, "open_evaluator", lambda *_: loaded)
    monkeypatch.setattr(answering, "_evaluator", lambda _: loaded)


@pytest.fixture(scope="module")
def loaded(base: Path) -> TorchEvaluator:
    return TorchEvaluator.from_folder(base, "float32")


def write_rows(path: Path, count: int = 30) -> Path:
    words = ("red", "say", "one", "two", "it", "x")
    lines = [{"id": i, "text": f"{words[i % 6]} {words[i // 6 % 6]}"} for i in range(count)]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_every_row_gets_one_of_the_labels_in_its_order(adapter: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl")
    written = open_task(adapter, data, tmp_path / "out.jsonl").run()
    rows = read(tmp_path / "out.jsonl")
    assert [{"id": row["id"], "text": row["text"]} for row in rows] == read(data)
    assert {row["answer"] for row in rows} <= set(NAMES)
    assert all(1 / len(NAMES) <= row["probability"] <= 1 for row in rows)
    assert (written.rows, written.answered) == (30, 30)
    found = predict(adapter, [row["text"] for row in rows])
    assert [(one.answer, one.probability) for one in found] == [
        (row["answer"], row["probability"]) for row in rows
    ]


def test_answers_below_the_probability_are_empty(adapter: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl")
    rows = read(_run(adapter, data, tmp_path / "all.jsonl"))
    sure = sorted(row["probability"] for row in rows)[15]
    written = open_task(adapter, data, tmp_path / "sure.jsonl", sure=sure).run()
    chosen = read(tmp_path / "sure.jsonl")
    assert [row["answer"] for row in chosen] == [
        row["answer"] if row["probability"] >= sure else "" for row in rows
    ]
    assert written.answered == sum(row["probability"] >= sure for row in rows)
    assert CHOICE.answered(0.7) == (1, 1)
    with pytest.raises(UsageError):
        open_task(adapter, data, tmp_path / "x.jsonl", sure=1.5)


def _run(adapter: Path, data: Path, path: Path, **options: Any) -> Path:
    open_task(adapter, data, path, **options).run()
    return path


@pytest.mark.parametrize("stop", range(5))
def test_a_run_that_ends_anywhere_goes_on_to_the_same_bytes(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    data = write_rows(tmp_path / "rows.jsonl")
    whole = _run(adapter, data, tmp_path / "whole.csv").read_bytes()
    calls, add = list[int](), Journal.add

    def stopping(journal: Journal, number: int, answers: Any) -> None:
        if len(calls) == stop:
            raise KeyboardInterrupt
        calls.append(number)
        add(journal, number, answers)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", stopping)
        if stop == 4:  # after all answers, while they are written
            patch.setattr(Journal, "read", lambda journal, number: stopping(journal, number, ()))
        with pytest.raises(KeyboardInterrupt):
            _run(adapter, data, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()
    assert calls == list(range(stop))
    asked = list[int]()

    def noting(journal: Journal, number: int, answers: Any) -> None:
        asked.append(number)
        add(journal, number, answers)

    monkeypatch.setattr(Journal, "add", noting)
    assert _run(adapter, data, tmp_path / "out.csv").read_bytes() == whole
    assert asked == list(range(stop, 4))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["out.csv", "rows.jsonl", "whole.csv"]


def test_an_executor_gives_the_same_bytes(adapter: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl")
    whole = _run(adapter, data, tmp_path / "whole.csv").read_bytes()
    with ThreadPoolExecutor(3) as executor:
        open_task(adapter, data, tmp_path / "out.csv").run(executor=executor)
    assert (tmp_path / "out.csv").read_bytes() == whole


def test_without_a_recipe_answers_are_texts(base: Path, tmp_path: Path) -> None:
    folder = save_adapter(tmp_path / "a", base=str(base))
    task = open_task(folder, write_rows(tmp_path / "rows.jsonl"), tmp_path / "o.jsonl",
                     columns="input=text", max_tokens=3)  # fmt: skip
    assert task.predictor.choice is None
    task.run()
    rows = read(tmp_path / "o.jsonl")
    assert len(rows) == 30
    assert all(0 < row["probability"] <= 1 for row in rows)


def test_blank_rows_have_no_answer_and_own_columns_are_kept(adapter: Path) -> None:
    data = [{"text": "red", "answer": "mine"}, {"text": " ", "answer": "mine"}]
    blank = predict(adapter, data)[1]
    assert blank == answering.Prediction("")
    assert predicting.added_columns(["answer", "predicted_answer", "probability"]) == (
        "predicted_predicted_answer",
        "predicted_probability",
    )


def test_several_labels_have_a_probability_each(base: Path, tmp_path: Path) -> None:
    folder = save_adapter(tmp_path / "a", base=str(base))
    choice = Choice(labels=("no", "a rose, no", "a rose"), several=True)
    write_recipe(folder, choice)
    for one in predict(folder, ["red", "say it", "x"]):
        assert len(one.each) == len(one.answer.split(", "))
        assert one.probability is not None
        assert all(part >= one.probability - 1e-3 for part in one.each)


def test_choices_of_a_row_are_its_labels(base: Path, tmp_path: Path) -> None:
    folder = save_adapter(tmp_path / "a", base=str(base))
    write_recipe(folder, columns={"input": "text", "choices": "options", "output": "right"})
    rows = [{"text": "red", "options": ["a rose", "no"]}, {"text": "x", "options": ["y", "it"]}]
    found = predict(folder, rows)
    assert all(one.answer in row["options"] for one, row in zip(found, rows, strict=True))


def test_bad_input_is_an_error_that_says_what_to_do(
    adapter: Path, base: Path, tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "out.csv").write_text("mine")
    for path, option in (("out.csv", "overwrite"), ("out.txt", "output")):
        with pytest.raises(UsageError) as caught:
            open_task(adapter, data, tmp_path / path)
        assert option in caught.value.hint
    with pytest.raises(UsageError):
        open_task(adapter, data, data, overwrite=True)
    assert data.read_bytes()
    other = tmp_path / "other.jsonl"
    other.write_text('{"message": "a"}\n' * 3)
    with pytest.raises(ColumnsError) as missing:
        open_task(adapter, other, tmp_path / "o.csv")
    assert "input=message" in missing.value.hint
    with pytest.raises(AdapterError):
        open_task(tmp_path / "none", data, tmp_path / "o.csv")
    renamed = open_task(adapter, other, tmp_path / "o.csv", columns="input=message")
    assert renamed.questions.of({"message": "hi"}).prompt.startswith("Sort it.")


def test_a_full_disk_loses_no_answer(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_rows(tmp_path / "rows.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr(predicting, "rows_written", full_writer)
        with pytest.raises(UsageError) as caught:
            _run(adapter, data, tmp_path / "out.csv")
    assert "space" in caught.value.hint
    asked = list[int]()
    monkeypatch.setattr(Journal, "add", lambda _, number, answers: asked.append(number))
    _run(adapter, data, tmp_path / "out.csv")
    assert not asked


def full_writer(path: Path, *_: object) -> Any:
    from hf_lorameta.files import writing

    with writing(path, UsageError, "name another file"):
        raise OSError(28, "No space left on device")


def test_a_conversation_is_answered_after_its_last_turn(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    asked = [*turns, {"role": "user", "content": "c"}]
    data = [{"messages": turns}, {"messages": asked}]
    questions = open_questions(data, Columns(messages="messages"), Hub(False), Reading())
    assert "c" in questions.of(data[1]).prompt
    assert "b" not in questions.of(data[0]).prompt


def test_labels_are_outputs_that_repeat() -> None:
    rows = [("a", "x"), ("b", "y"), ("c", "x"), ("d", "x")]
    assert labels_in(rows) == ("x", "y")
    assert labels_in(rows[:3]) == ()
    assert labels_in([("a", "x")] * 9) == ()
    texts = [(f"{i}", f"a text of many words that is no label, {i}") for i in range(9)]
    assert labels_in([*texts, texts[0]]) == labels_in([]) == ()


def test_the_record_can_be_read_again_and_another_is_no_choice(tmp_path: Path) -> None:
    import numpy as np

    choice = fitted(["x", "y"], [(np.log([[0.9, 0.1], [0.6, 0.4]]), [0, 1])])
    write_recipe(tmp_path, choice)
    record = read_record(tmp_path)
    assert choice_in(record) == choice
    assert isinstance(record, Record)
    assert choice_in(record.model_copy(update={"stages": {LABELS: {"x": 1}}})) is None
    assert choice_in(None) is None
    assert fitted(["x", "y"], []).temperature == 1.0
    assert [row.right for row in choice.counted] == [0, 1]
    card = record_of(choice)
    assert card.tags == ("decision-model",)
    assert card.pictures == {CONFUSION_FILE: render_confusion(["x", "y"], [(0, 0), (1, 0)])}
    assert not record_of(fitted(["x", "y"], [])).pictures


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_killed_command_goes_on(adapter: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", 600)  # in three blocks
    command = [sys.executable, "-m", "hf_lorameta", "predict", str(adapter), str(data), "-o"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, tmp_path / "whole.csv"], check=True, env=environment)
    with subprocess.Popen([*command, tmp_path / "out.csv"], env=environment) as process:
        journal = tmp_path / ".out.csv.answers"
        while process.poll() is None and not (journal.exists() and journal.read_bytes()[66:]):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "out.csv").exists()
    before = journal.stat().st_size
    assert before
    subprocess.run([*command, tmp_path / "out.csv"], check=True, env=environment)
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not journal.exists()
