"""`plan`, `generate` and `evaluate` as a Python program calls them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hf_lorameta
from hf_lorameta import Bank, Recipe
from hf_lorameta.data.dataset import open_dataset
from hf_lorameta.errors import (
    EmptyDatasetError,
)
from hf_lorameta.formats.peft_config import CONFIG_FILE
from hf_lorameta.pipeline import progress
from hf_lorameta.types import Row
from tests.support.codes import raises_code
from tests.support.plain_bank import plain_bank
from tests.training import tiny

LINES = [{"question": f"What is {i}?", "answer": "odd" if i % 2 else "even"} for i in range(30)]


def in_memory(kind: str) -> Any:
    if kind == "list":
        return LINES
    if kind == "pandas":
        return pytest.importorskip("pandas").DataFrame(LINES)
    import datasets

    rows = datasets.Dataset.from_list(LINES)
    return datasets.DatasetDict({"train": rows, "test": rows}) if kind == "dict" else rows


def test_an_empty_split_is_none() -> None:
    assert hf_lorameta.open_dataset(LINES, split="").split == "train"


@pytest.mark.parametrize("kind", ["list", "pandas", "datasets", "dict"])
def test_rows_in_memory_give_the_plan_of_the_same_file(kind: str, tmp_path: Path) -> None:
    path, bank = tiny.write_task(tmp_path, "rows", LINES), plain_bank()
    columns = {"input": "question", "output": "answer"}
    told = "Odd or even?"
    plan = hf_lorameta.plan(in_memory(kind), bank, columns=columns, split="train", instruction=told)
    expected = hf_lorameta.plan(path, bank, instruction=told).to_dict()
    assert expected["dataset"]["columns"]["instruction_text"] == told
    expected["dataset"] |= {"revision": "in memory", "config": None}
    for name, value in plan.to_dict().items():
        assert value == expected[name]
    assert plan.example is None


@pytest.mark.parametrize(
    ("rows", "columns", "expected"),
    [
        ([*LINES, {"question": None, "answer": "x"}], None, ("", "x")),
        ([["a", "b"]], "input=0,output=1", ("a", "b")),
        ([{"input": "a", "output": "b", "split": "c"}], None, ("a", "b")),
        ([{"input": "a", "output": "b", "features": "c"}], None, ("a", "b")),
    ],
    ids=["missing", "numbers", "split", "features"],
)
def test_cells_and_columns_of_a_data_frame_may_be_any(
    rows: list[Any], columns: str | None, expected: Row
) -> None:
    frame = pytest.importorskip("pandas").DataFrame(rows)
    assert list(open_dataset(frame, columns=columns).rows())[-1] == expected


@pytest.mark.parametrize("form", ["numpy", "torch", "pandas"])
@pytest.mark.parametrize("stream", [False, True])
def test_the_format_of_a_dataset_in_memory_does_not_matter(form: str, stream: bool) -> None:
    if form == "torch":
        pytest.importorskip("torch")
    rows = in_memory("datasets").with_format(form)
    rows = rows.to_iterable_dataset() if stream else rows
    read = hf_lorameta.open_dataset(rows, columns={"input": "question", "output": "answer"})
    assert list(read.rows()) == [(line["question"], line["answer"]) for line in LINES]


@pytest.mark.parametrize("kind", ["list", "pandas", "datasets", "dict"])
def test_a_slice_of_rows_in_memory_is_read(kind: str) -> None:
    rows = in_memory(kind)
    opened = open_dataset(rows, split="train[2:4]")
    assert list(opened.rows()) == [tuple(line.values()) for line in LINES[2:4]]
    assert len(list(opened.whole())) == len(LINES)
    assert len(list(open_dataset(rows, split="train[2:99]").rows())) == len(LINES) - 2
    with raises_code("split.unknown", match="train"):
        open_dataset(rows, split="dev")
    with pytest.raises(EmptyDatasetError):
        open_dataset(rows, split="train[30:]")


def test_a_slice_that_datasets_loaded_is_read_whole(tmp_path: Path) -> None:
    import datasets

    path = tiny.write_task(tmp_path, "rows", LINES)
    cache = str(tmp_path / "cache")
    rows = datasets.load_dataset("json", data_files=str(path), split="train[2:4]", cache_dir=cache)
    opened = open_dataset(rows)
    assert [question for question, _ in opened.rows()] == ["What is 2?", "What is 3?"]
    assert opened.split == "train[2:4]"


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            ("a", "b"),
        ),
        (
            {"context": "c", "question": "d", "answers": {"text": ["e"], "answer_start": [0]}},
            ("Context: c\nQuestion: d", "e"),
        ),
    ],
)
def test_lists_that_pandas_reads_as_arrays_are_read(
    tmp_path: Path, cells: dict[str, Any], expected: Row
) -> None:
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame([cells]).to_parquet(tmp_path / "rows.parquet")
    frame = pandas.read_parquet(tmp_path / "rows.parquet")
    assert list(open_dataset(frame).rows()) == [expected]


ROWS_LACK = "leave out train=, or lower check=, or name a dataset with more rows"
REFUSED: list[tuple[Callable[[], object], str, str]] = [
    (lambda: hf_lorameta.evaluate([]), "adapter.unnamed", "a folder or a Hub id"),
    (lambda: hf_lorameta.evaluate(""), "adapter.not-found", ""),
    (lambda: hf_lorameta.plan(""), "dataset.unnamed", ""),
    (lambda: hf_lorameta.plan(3), "dataset.unknown-type", "DataFrame"),
    (lambda: hf_lorameta.plan([]), "rows.none", ""),
    (lambda: hf_lorameta.plan(LINES, split="dev"), "split.unknown", 'add split="train"'),
    (
        lambda: hf_lorameta.generate(LINES, Recipe(top_k=2)),  # type: ignore[arg-type]
        "bank.not-a-bank", "name the argument: recipe=…",
    ),
    (
        lambda: hf_lorameta.generate(LINES, plain_bank(), train=16, check=24),
        "rows.too-few", ROWS_LACK,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("call", "code", "advice"), REFUSED)
def test_errors_name_arguments_of_python(
    call: Callable[[], object], code: str, advice: str
) -> None:
    with raises_code(code) as error:
        call()
    notes = " ".join(getattr(error.value, "__notes__", []))
    assert advice in notes
    assert "--" not in f"{error.value} {notes}".replace("hf-lorameta generate --dataset", "")


def test_bars_are_shown_for_long_stages_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stages: list[str] = []
    hf_lorameta.generate(LINES, plain_bank(), Recipe(top_k=2))
    assert capsys.readouterr().err == ""
    with monkeypatch.context() as changed:
        changed.setattr(progress, "_DELAY_SECONDS", 0)
        hf_lorameta.generate(LINES, plain_bank(), Recipe(top_k=2))
        generated = capsys.readouterr().err
        hf_lorameta.plan(LINES, plain_bank())
    assert "Combining: 100%" in generated
    assert "Reading rows" in generated
    assert "Reading rows" in capsys.readouterr().err
    generation = hf_lorameta.generate(
        LINES, plain_bank(), Recipe(top_k=2), progress=lambda title, *_: stages.append(title)
    )
    assert set(stages) == {"Reading rows", "Reading adapters", "Combining"}
    assert repr(generation) == (
        "Generation(rank 8 for a local dataset, of 2 adapters of local bank)"
    )


# --- with a loaded model -------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")
def test_a_loaded_model_fits_and_evaluates_and_is_the_same_afterwards(
    tiny_bank: Bank, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = tiny_bank.index.base_model
    model = AutoModelForCausalLM.from_pretrained(name).train()
    tokenizer = AutoTokenizer.from_pretrained(name)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    config, lines = model.generation_config, tiny.rows(3)
    loaded = (model, tokenizer)
    settings: dict[str, Any] = {"rank": 4, "train": 8, "check": 4}
    generation = hf_lorameta.generate(lines, tiny_bank, **settings, model=loaded)
    same = hf_lorameta.generate(lines, tiny_bank, **settings)
    checked, again = generation.outcome.check, same.outcome.check
    assert checked
    assert again
    assert checked.losses["base"] == pytest.approx(again.losses["base"], abs=0.1)  # another dtype
    folder = generation.save_pretrained(tmp_path / "adapter")
    report = hf_lorameta.evaluate(folder, lines, shots=2, generate=False, model=loaded)
    assert list(report.scores) == ["base", "generated", "2-shot"]
    assert checked.losses["generated"] <= checked.losses["base"]
    assert report.scores["base"].rows == len(lines) - 8 - 4 - 2
    assert report.scores["generated"].loss < report.scores["base"].loss
    assert model.training
    assert model.generation_config is config
    assert all(parameter.requires_grad for parameter in model.parameters())
    after = model.state_dict()
    assert set(after) == set(before)
    assert all(bool((after[k] == v).all()) for k, v in before.items())
    with raises_code("evaluate.no-dataset"):
        hf_lorameta.evaluate(folder, model=loaded)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")
def test_a_merge_is_evaluated_on_a_data_frame(
    tiny_bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = pytest.importorskip("pandas").DataFrame(tiny.rows(3))
    entry = tiny_bank.index.entries[0].adapter.replace("/", "--")
    folder = hf_lorameta.merge({entry: 1.0}, bank=tiny_bank).save_pretrained(tmp_path / "merged")
    options: dict[str, Any] = {"shots": 0, "generate": False}
    report = hf_lorameta.evaluate(folder, frame, **options)
    assert report.scores["generated"].rows == len(frame)
    with raises_code("evaluate.no-dataset"):
        hf_lorameta.evaluate(folder, **options)
    with pytest.raises(EmptyDatasetError):
        hf_lorameta.evaluate(folder, [], **options)
    base_model = tiny_bank.index.base_model
    config = json.loads((folder / CONFIG_FILE).read_bytes())
    (folder / CONFIG_FILE).write_text(json.dumps(config | {"base_model_name_or_path": None}))
    monkeypatch.chdir(base_model)  # an empty name is no path of the current folder
    with raises_code("adapter.no-base-model"):
        hf_lorameta.evaluate(folder, frame, **options)
    assert hf_lorameta.evaluate(folder, frame, base=base_model, **options) == report


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")
def test_several_adapters_are_evaluated_together(tiny_bank: Bank, tmp_path: Path) -> None:
    folders = [
        hf_lorameta.merge({entry.adapter.replace("/", "--"): 1.0}, bank=tiny_bank).save_pretrained(
            tmp_path / entry.name
        )
        for entry in tiny_bank.index.entries[:2]
    ]
    options: dict[str, Any] = {"shots": 2, "generate": False}
    report = hf_lorameta.evaluate(folders, tiny.rows(3), **options)
    names = [str(folder) for folder in folders]
    assert list(report.scores) == ["base", *names, "2-shot"]
    for name in names:
        alone = hf_lorameta.evaluate(name, tiny.rows(3), **options)
        assert alone.scores["generated"].loss == pytest.approx(report.scores[name].loss, rel=1e-2)
        assert alone.scores["base"] == report.scores["base"]
