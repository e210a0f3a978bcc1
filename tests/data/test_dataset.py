"""Opening datasets: columns, cells, local files and Hub repos, through ``plan``."""

import json
import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import snapshot_download

from hf_lorameta import generate, plan
from hf_lorameta.cards.results import Drawn
from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.data.columns.rows import read_rows
from hf_lorameta.data.counts.profile import profile_rows
from hf_lorameta.data.dataset import DatasetInfo, as_dataset, open_dataset
from hf_lorameta.data.sources.memory import rows_in_memory
from hf_lorameta.data.sources.raw_dataset import RawDataset
from hf_lorameta.errors import ColumnsError, EmptyDatasetError
from hf_lorameta.hub.repo import PinnedRepo
from hf_lorameta.pipeline.rows import draw_rows
from hf_lorameta.remarks import Remark
from hf_lorameta.types import right_outputs
from tests.conftest import Account, Built, Shell, rows, touched
from tests.support.codes import raises_code

RECORDS = [json.loads(line) for line in rows(0).splitlines()]


def read(
    records: list[dict[str, Any]], columns: Columns, labels: dict[str, list[str]] | None = None
) -> list[tuple[str, str]]:
    rows = partial(iter, records)
    raw = RawDataset(list(records[0]), labels or {}, None, "train", rows, rows)
    return list(read_rows(raw, columns))


# --- cells --------------------------------------------------------------------------------------


def test_cells_are_converted_to_text() -> None:
    records: list[dict[str, Any]] = [
        {"q": "a", "a": ["first", "second"]},
        {"q": 3, "a": 1.5},
        {"q": None, "a": True},
        {"q": "b", "a": {"text": ["SQuAD", "more"], "answer_start": [1, 2]}},
        {"q": ["x", "y"], "a": []},
    ]
    assert read(records, Columns(input="q", output="a")) == [
        ("a", "first, second"),
        ("3", "1.5"),
        ("", "true"),
        ("b", "SQuAD"),
        ("x\ny", ""),
    ]
    labels = {"a": ["neg", "pos"]}
    records = [{"q": "a", "a": 1}, {"q": "b", "a": -1}, {"q": "c", "a": 2}]
    found = read(records, Columns(input="q", output="a"), labels)
    assert found == [("a", "pos"), ("b", ""), ("c", "")]
    with pytest.raises(ColumnsError, match="dict"):
        read([{"q": {"x": 1}, "a": "b"}], Columns(input="q", output="a"))


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["0", "1", "", "2"], ["0", "1", "", "2"]),
        (["3.0", "4.5", "", "5"], ["3.0", "4.5", "", "5.0"]),
    ],
)
def test_integers_beside_a_missing_one_are_no_decimals(
    tmp_path: Path, cells: list[str], expected: list[str]
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "".join(f"It rains,{cell}\n" for cell in cells * 6))
    dataset = open_dataset(path, columns="input=text,output=label")
    assert [output for _, output in dataset.rows()] == expected * 6
    assert ("holds numbers" in str(dataset.remarks)) == (
        expected == cells
    )  # a note that labels are numbers
    records = [{"text": "It rains", "label": float(cell or "nan")} for cell in cells]
    assert [output for _, output in open_dataset(records).rows()] == expected


_SUMS = ["8", "2", "24", "120"]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"c": _SUMS, "a": 2}, {"c": _SUMS, "a": 0}], ["24", "8"]),
        ([{"c": _SUMS, "a": 3}, {"c": _SUMS, "a": 4}], ["24", "120"]),  # counted from 1
        ([{"c": _SUMS, "a": 2}, {"c": _SUMS, "a": 120}], ["2", "120"]),  # texts
        ([{"c": _SUMS, "a": "2"}, {"c": _SUMS, "a": "8"}], ["2", "8"]),
        ([{"c": ["1", "0"], "a": 0}, {"c": ["1", "0"], "a": 1}], ["1", "0"]),  # numbers, not texts
        ([{"c": _SUMS, "a": 2.0}, {"c": _SUMS, "a": None}], ["24", ""]),
        ([{"c": {"A": None, "B": "two", "C": "three"}, "a": "B"}], ["two"]),
        ([{"c": ["", "two", "three"], "a": "B"}], ["two"]),
    ],
)
def test_the_right_choice_is_found_by_its_number_or_letter(
    rows: list[dict[str, Any]], expected: list[str]
) -> None:
    columns = Columns(input="q", choices="c", output="a")
    dataset = open_dataset([{"q": "Which?"} | row for row in rows], columns=columns)
    assert [output for _, output in dataset.rows()] == expected
    assert not any(
        line in ("- ", "- None") for row in dataset.rows() for line in row[0].split("\n")
    )


def test_class_labels_are_numbers_of_choices() -> None:
    records = [{"q": "Which?", "c": ["2", "1", "0"], "a": number} for number in (2, 1, -1)]
    columns = Columns(input="q", choices="c", output="a")
    found = read(records, columns, {"a": ["A", "B", "C"]})
    assert [output for _, output in found] == ["0", "1", ""]
    with pytest.raises(ColumnsError, match="column a contains a dict"):
        read([{"q": "Which?", "c": ["x", "y"], "a": {"x": "1", "y": "2"}}], columns)


def test_an_empty_choice_keeps_the_letters_of_the_others() -> None:
    row = {"question": "Which?", "A": "", "B": "two", "C": "three", "answer": "B"}
    columns = "input=question,choices=A,choices=B,choices=C,output=answer"
    dataset = open_dataset([row], columns=columns)
    assert list(dataset.rows()) == [("Which?\n- two\n- three", "two")]
    numbered = [{**row, "A": "one", "C": "", "answer": number} for number in (1, 2)]
    dataset = open_dataset(numbered, columns=columns)
    assert [output for _, output in dataset.rows()] == ["one", "two"]


def test_chats_are_split_before_the_last_answer() -> None:
    chat = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "image"}]},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "more"},
        {"role": "assistant", "content": "bye"},
        {"role": "user", "content": "still there?"},
    ]
    share = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    silent = [{"role": "user", "content": "q"}]
    found = read([{"m": m} for m in (chat, share, silent, None)], Columns(messages="m"))
    assert found == [
        ("be kind\n\nhi\n\nhello\n\nmore", "bye"),
        ("q", "a"),
        ("q", ""),
        ("", ""),  # counted as left out
    ]


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "value": "hi"}, {"type": "image", "value": "iVBOR"}],
        [{"type": "input_text", "text": "hi"}],
        [{"type": "text", "content": "hi"}],
        ["hi"],
        {"parts": ["hi"]},
    ],
)
def test_the_texts_in_the_parts_of_a_turn_are_read(content: Any) -> None:
    chat = [{"role": "user", "content": content}, {"role": "assistant", "content": "hello"}]
    assert open_dataset([{"messages": chat}]).head(1) == [("hi", "hello")]


def test_bad_chats_of_kto_are_left_out_of_all_rows() -> None:
    rows: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "a"}],
         "label": i % 2 == 0}
        for i in range(6)
    ]  # fmt: skip
    opened = open_dataset(rows)
    assert [prompt for prompt, _ in opened.rows()] == ["q0", "q2", "q4"]
    assert opened.unread == ()
    assert open_dataset([row | {"label": int(row["label"])} for row in rows]).unread == ("label",)


def test_the_other_right_outputs_go_where_a_row_goes() -> None:
    listed = [{"question": f"Is it {i}?", "answers": [f"A {i}", "", f"B {i}"]} for i in range(20)]
    columns = [{"source": f"It {i}.", "ref1": f"A {i}", "ref2": f"B {i}"} for i in range(20)]
    for records in (listed, columns):
        dataset = open_dataset(records)
        assert dataset.remarks[0].code == "outputs.several"
        drawn = draw_rows(Drawn(20, 8, 4, 4), [*dataset.rows()], 0)
        for _, output in pickle.loads(pickle.dumps(drawn.used)):
            assert right_outputs(output) == (output, output.replace("A", "B"))
    many = [{"question": "a b?", "answer": ["c", "d" * 20_000, *map(str, range(1000))]}] * 4
    assert len(right_outputs(open_dataset(many).head(1)[0][1])) < 30
    dataset = open_dataset([{"question": "a b?", "answer": ["c"]}] * 4)
    assert type(dataset.head(1)[0][1]) is str


def test_tokens_that_end_an_output_are_left_out() -> None:
    rows = [
        {"question": f"Is it {i}?", "answer": f"It is.{'<|endoftext|>' * (i % 3)}"}
        for i in range(9)
    ]
    dataset = open_dataset(rows)
    assert {output for _, output in dataset.rows()} == {"It is."}
    assert [remark.code for remark in dataset.remarks] == ["outputs.end-token"]
    several = open_dataset([{"question": "a b?", "answers": ["c</s>", "<s>d </s>", "e"]}] * 4)
    assert right_outputs(several.head(1)[0][1]) == ("c", "d", "e")


def test_blank_inputs_are_refused_and_blank_outputs_left_out() -> None:
    image = {"role": "user", "content": [{"type": "image", "url": "a.png"}]}
    chat = {"messages": [image, {"role": "assistant", "content": "A cat."}]}
    pair = {"input": " ", "output": "A cat."}
    asking: dict[str, Any] = {"instruction": "What is it?"}
    for row, options in ((chat, {}), (pair, {}), (pair, asking)):
        with raises_code("inputs.all-blank", match="3"):
            open_dataset([row] * 3, **options)
    asked = pair | {"instruction": "What is it?"}
    assert open_dataset([asked]).head(1) == [("What is it?\n\nInput:  \nOutput:", "A cat.")]
    unlabeled = [{"input": f"question {i}", "output": ""} for i in range(5)]
    with raises_code("inputs.all-blank", match="3"):
        open_dataset([*unlabeled, *[pair] * 3])
    assert open_dataset([pair, pair | {"input": "a"}]).head(1) == [(" ", "A cat.")]
    for blank, level in ((1, "note"), (2, "doubt")):
        cells = [{"input": "a" * (i >= blank), "output": "ab"[i % 2]} for i in range(12)]
        remark = Remark(level, f"Blank inputs among the first 12: {blank}.", code="inputs.blank")  # type: ignore[arg-type]
        assert remark in open_dataset(cells).remarks
    rows = [("q", "a"), ("q", " \n"), ("q", "")]
    profile = profile_rows(rows, lambda texts: [[0] * len(text) for text in texts], 1)
    assert (profile.rows, profile.left_out) == (1, 2)


def test_a_column_of_system_prompts_is_read_as_the_first_turn() -> None:
    share = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    rows: list[dict[str, Any]]
    rows = [{"s": "be kind", "m": share}, {"s": None, "m": share}, {"s": "be kind", "m": None}]
    columns = Columns(instruction="s", messages="m")
    assert read(rows, columns) == [("be kind\n\nq", "a"), ("q", "a"), ("", "")]
    asked = columns.with_prompt("Answer.", None)
    assert read(rows[:1], asked) == [("Answer.\n\nInput: be kind\n\nq\nOutput:", "a")]
    columns = columns.with_prompt(None, "User: {input}\nAssistant:")
    assert read(rows[:1], columns) == [("User: be kind\n\nq\nAssistant:", "a")]


# --- files --------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """The same rows in every format."""
    import pyarrow as pa
    import pyarrow.feather
    import pyarrow.parquet

    names = ("jsonl", "ndjson", "json", "csv", "tsv", "parquet", "arrow", "feather")
    paths = {ending: tmp_path / f"rows.{ending}" for ending in names}
    for ending in ("jsonl", "ndjson"):
        paths[ending].write_bytes(rows(0))
    paths["json"].write_text(json.dumps(RECORDS))
    for ending, mark in (("csv", ","), ("tsv", "\t")):
        lines = [mark.join(("input", "output")), *(mark.join(r.values()) for r in RECORDS)]
        paths[ending].write_text("\n".join(lines) + "\n")
    table = pa.Table.from_pylist(RECORDS)
    pyarrow.parquet.write_table(table, paths["parquet"])
    pyarrow.feather.write_feather(table, paths["feather"])
    with pa.ipc.new_stream(paths["arrow"], table.schema) as stream:
        stream.write_table(table)
    return paths


def test_file_formats_give_the_same_plan(cli: Shell, bank: Built, files: dict[str, Path]) -> None:
    plans = {
        ending: cli("plan", "-d", path, "--bank", bank.folder, "--json", "-q").json
        for ending, path in files.items()
    }
    first = plans["jsonl"]
    assert first["dataset"]["rows"] == 24
    assert first["dataset"]["id"] is None  # local paths stay private
    assert first["dataset"]["private"] is True
    assert first["neighbors"][0]["dataset"] == f"{bank.owner.name}/e0"
    for ending, other in plans.items():
        assert other["neighbors"] == first["neighbors"], ending
        assert other["dataset"]["revision"].startswith("sha256:")
        assert str(files[ending].parent) not in json.dumps(other)


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("rows.doc", "hello", "file.unknown-ending"),
        ("empty.jsonl", "", "rows.none"),
        ("empty.csv", "", "rows.none"),
        ("empty.db", "", "rows.none"),
        ("packed.csv", "PK\3\4", "file.of-another-kind"),
        ("folder/packed.csv", "PK\3\4", "file.of-another-kind"),
        ("a.jsonl", "version https://git-lfs.github.com/spec/v1\noid", "file.lfs-pointer"),
        ("empty.parquet", "", "rows.none"),
        ("numbers.jsonl", "1\n2\n", "rows.not-objects"),
        ("head.csv", "input,output\n", "rows.none"),
        ("bad.json", "{{{", "file.not-json"),
        ("bad.parquet", "PAR1", "dataset.unreadable"),
        ("bad.csv.gz", "a,b", "dataset.unreadable"),
        ("bad.tsv.gz", "a\tb", "dataset.unreadable"),
        ("bad.txt.xz", "a b", "dataset.unreadable"),
        ("bad.feather", "FEA1", "dataset.unreadable"),
        ("rows.parquet.gz", "PAR1", "file.unread-compression"),
        ("late.jsonl", '{"input": "a", "output": "b"}\n' * 9 + "{oops", "file.not-json"),
        ("binary.jsonl", "\x00\x01\x02", "file.not-text"),
        ("image.csv", "\x89PNG\r\n\x1a\n", "file.not-text"),
        ("deep.jsonl", '{"input": "a", "output": "b"}\n' + "[" * 200_000, "file.not-json"),
        ("odd.jsonl", '{"input": "a", "extra": "b"}\n', "outputs.none"),
        ("blank.jsonl", '{"input": "a", "output": ""}\n', "outputs.none"),
        ("null.jsonl", '{"input": "a", "output": null}\n', "outputs.none"),
        ("two.jsonl", '{"prompt": "a", "completion": "b", "response": "c"}\n', "columns.unclear"),
        ("other.jsonl", '{"a": "b", "c": "d"}\n', "columns.unclear"),
        ("nested.jsonl", '{"input": {"a": 1}, "output": "x"}\n', "columns.unclear"),
    ],
)
def test_unusable_files_are_dataset_errors(
    tmp_path: Path, name: str, content: str, code: str
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    with raises_code(code):
        plan(tmp_path / name.partition("/")[0])


@pytest.mark.parametrize(
    ("name", "content", "split", "advice"),
    [
        ("empty.csv", "", None, "add rows to it, or name another dataset"),
        ("head.csv", "input,output\n", None, "add rows to it, or name another dataset"),
        ("head.csv", "input,output\n", "train", "add rows to it, or name another dataset"),
        ("rows.csv", "input,output\na,b\n", "train[5:]", "name another --split"),
    ],
)
def test_advice_for_a_file_without_rows_names_a_split_only_if_there_is_another(
    tmp_path: Path, name: str, content: str, split: str | None, advice: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(EmptyDatasetError) as raised:
        open_dataset(tmp_path / name, split=split)
    assert raised.value.hint == advice


@pytest.mark.parametrize(
    ("name", "advice"),
    [("column", "name it columns="), ("instructions", "name it instruction="), ("rank", "recipe=")],
)
def test_arguments_with_unknown_names_are_refused(name: str, advice: str) -> None:
    wrong: Any = {name: 3}
    with raises_code("dataset.unknown-argument", match=name) as caught:
        open_dataset(RECORDS, **wrong)
    assert advice in caught.value.hint
    for function in (plan, generate) if name != "rank" else ():
        with raises_code("recipe.invalid", match=name):
            function(RECORDS, **wrong)


def test_a_dataset_in_the_cache_is_read_without_the_hub(
    cli: Shell, bank: Built, user: Account
) -> None:
    card = b"---\nconfigs:\n- {config_name: default, data_files: x/*.jsonl}\n---\n"
    dataset = user.dataset("d", {"x/a.jsonl": rows(1), "README.md": card})
    plan = ("plan", "-d", dataset, "--bank", bank.folder, "--json")
    expected = cli(*plan).json  # it streams the rows, which leaves the card in the cache
    offline = "import huggingface_hub.constants as c; c.HF_HUB_OFFLINE = True"
    missing = cli(*plan, code=6, before=offline).err
    assert f"hf download --repo-type dataset {dataset}" in missing
    snapshot_download(
        dataset, repo_type="dataset", cache_dir=cli.home / "hub", endpoint=cli.hub.url, token=False,
        allow_patterns=["README.md", "x/*"],
    )  # fmt: skip
    cli.hub.clear_requests()
    pinned = ("--revision", expected["dataset"]["revision"])
    for options in ((), pinned):
        read = cli(*plan, *options, before=offline).json
        assert read["neighbors"] == expected["neighbors"]
    assert cli.hub.requests == []
    other = cli(*plan, "--revision", "0" * 40, before=offline, code=6).err
    assert "the cache" in other


def test_a_field_beside_others_with_texts_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row = {"input": "Book it.", "output": {"intent": "book", "slots": {"city": "Rome"}}}
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(ColumnsError, match="intent, slots") as caught:
        list(open_dataset(path).rows())
    assert caught.value.columns == Columns(input="input", output="output.intent")
    assert caught.value.hint == "add --columns input=input,output=output.intent"
    assert list(open_dataset(path, columns=caught.value.columns).rows()) == [("Book it.", "book")]


def test_names_that_match_no_dataset_are_errors(cli: Shell, bank: Built, tmp_path: Path) -> None:
    for name in ("missing.jsonl", str(tmp_path), "word", "a/b/c", "../x", "a/../b.csv"):
        cli("plan", "-d", name, "--bank", bank.folder, code=3)
    (tmp_path / "dd.jsonl").mkdir()
    assert "a folder without" in cli("plan", "-d", "dd.jsonl", "--bank", bank.folder, code=3).err
    assert "not found" in cli("plan", "-d", "nobody/nothing", "--bank", bank.folder, code=6).err
    assert "--dataset" in cli("plan", "--bank", bank.folder, code=2).err


def test_columns_and_max_rows_of_a_file_are_selected(
    cli: Shell, bank: Built, tmp_path: Path
) -> None:
    lines = [json.dumps({"q": r["input"], "a": r["output"], "n": 1}) for r in RECORDS]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    plan = ("plan", "-d", "rows.jsonl", "--bank", bank.folder, "--json")
    assert "q, a, n" in cli(*plan, code=3).err
    result = cli(*plan, "--columns", "input=q,output=a", "--max-rows", 5).json
    assert result["dataset"]["columns"] == {"input": "q", "output": "a"}
    assert result["dataset"]["rows"] == 5
    assert "no column x" in cli(*plan, "--columns", "input=q,output=x", code=3).err
    assert "role=column" in cli(*plan, "--columns", "q,a", code=2).err
    named = ("--columns", "input=q,output=a")
    assert "no split 'test'" in cli(*plan, *named, "--split", "test", code=3).err
    cli(*plan, *named, "--max-rows", -1, code=2)


def test_dataset_info_can_be_pickled(files: dict[str, Path]) -> None:
    dataset = open_dataset(files["jsonl"])
    info = pickle.loads(pickle.dumps(dataset.info))
    assert info == dataset.info
    assert type(info) is DatasetInfo
    assert (info.columns, info.split, info.prompts_only) == (dataset.columns, "train", False)
    assert dataset.head(2) == [tuple(record.values()) for record in RECORDS[:2]]


# --- the Hub ------------------------------------------------------------------------------------

CARD = b"""---
license: mit
configs:
- config_name: easy
  data_files: [{split: train, path: easy.jsonl}, {split: test, path: test.jsonl}]
- config_name: hard
  data_files: [{split: validation, path: hard.jsonl}, {split: test, path: test.jsonl}]
---
"""


def test_config_split_and_revision_are_selected(
    cli: Shell, bank: Built, user: Account, tmp_path: Path
) -> None:
    files = {"easy.jsonl": rows(0), "hard.jsonl": rows(1, 9), "test.jsonl": rows(2, 7)}
    repo = user.dataset("d", files | {"README.md": CARD})
    old = cli.hub.commits(repo, repo_type="dataset")[0].sha
    cli.hub.commit(repo, {"easy.jsonl": rows(3, 5)}, repo_type="dataset")
    plan = ("plan", "-d", repo, "--bank", bank.folder, "--json")
    unclear = cli(*plan, code=3).err
    assert "easy" in unclear
    assert "hard" in unclear
    cli(*plan, "--config", "none", code=3)
    dataset = cli(*plan, "--config", "easy").json["dataset"]
    assert (dataset["id"], dataset["config"], dataset["split"], dataset["rows"]) == (
        repo,
        "easy",
        "train",
        5,
    )
    assert dataset["revision"] == cli.hub.commits(repo, repo_type="dataset")[0].sha
    dataset = cli(*plan, "--config", "easy", "--revision", old).json["dataset"]
    assert (dataset["revision"], dataset["rows"]) == (old, 24)
    open_ = cli(*plan, "--config", "hard", code=3).err
    assert "validation, test" in open_
    assert "--split validation" in open_
    dataset = cli(*plan, "--config", "hard", "--split", "test").json["dataset"]
    assert (dataset["split"], dataset["rows"]) == ("test", 7)
    assert "no split 'dev'" in cli(*plan, "--config", "hard", "--split", "dev", code=3).err
    assert "revision" in cli(*plan, "--revision", "v9", code=6).err


LABELED = b"""---
dataset_info:
  features:
  - {name: text, dtype: string}
  - name: label
    dtype: {class_label: {names: {'0': sun, '1': milk}}}
---
"""


def test_class_labels_are_converted_to_names(cli: Shell, bank: Built, user: Account) -> None:
    lines = b"".join(b'{"text": "say", "label": 1}\n' for _ in range(20))
    repo = user.dataset("d", {"train.jsonl": lines, "README.md": LABELED})
    plan = ("plan", "-d", repo, "--bank", bank.folder, "--json", "--metric", "kl")
    result = cli(*plan).json
    assert result["dataset"]["columns"] == {"input": "text", "output": "label"}
    assert result["neighbors"][0]["dataset"] == f"{bank.owner.name}/e1"  # milk's topic


@pytest.mark.parametrize(
    ("config", "stated", "read"),
    [("default", "en de", "en de"), (None, "en", "en"), ("x", "en", "en"), ("x", "en de", "")],
)
def test_the_languages_of_several_configurations_are_not_those_of_each(
    config: str | None, stated: str, read: str
) -> None:
    repo = PinnedRepo("me/d", "dataset", "1" * 40, languages=tuple(stated.split()))
    raw = replace(rows_in_memory(RECORDS, None), config=config, repo=repo)
    assert as_dataset(raw).languages == tuple(read.split())


def test_a_private_dataset_is_previewed_with_a_token(cli: Shell, user: Account) -> None:
    repo = user.dataset("d", {"train.jsonl": rows(0)}, private=True)
    code = "from hf_lorameta.data.preview import preview; from hf_lorameta.hub.client import Hub; "
    code += f"print(preview({repo!r}, Hub({user.token!r})).names); raise SystemExit(0)"
    assert cli(before=code).out == "['input', 'output']\n"


def test_tables_of_words_become_sentences_as_the_error_says() -> None:
    pandas = pytest.importorskip("pandas")
    words = [("Rome", "B"), ("is", "O"), ("big", "O")] * 3
    rows = pandas.DataFrame(
        {"sentence_id": None if i % 3 else f"s{i}", "word": word, "pos": "X", "tag": tag}
        for i, (word, tag) in enumerate(words)
    )
    with pytest.raises(ColumnsError, match="each row is a single word") as caught:
        open_dataset(rows)
    code = str(caught.value).partition("sentences: ")[2].partition("; all columns")[0]
    assert open_dataset(eval(code, {"rows": rows})).head(1) == [("Rome is big", "B O O")]
    assert open_dataset(rows, columns=caught.value.columns).head(1) == [("Rome", "B")]
    within = [{"sentence": "Rome is big", "word": word, "label": tag} for word, tag in words]
    assert open_dataset(within).head(1) == [("Rome", "B")]


def test_unreadable_repos_are_errors(cli: Shell, bank: Built, user: Account) -> None:
    def plan(repo: str, code: int, token: str | None = None) -> str:
        return cli("plan", "-d", repo, "--bank", bank.folder, code=code, token=token).err

    script = user.dataset("script", {"script.py": b"import datasets\n"})
    assert "refs/convert/parquet" in plan(script, 6)
    hidden = user.dataset("hidden", {"train.jsonl": rows(0)}, private=True)
    assert "or it is private" in plan(hidden, 6)
    plan(hidden, 0, user.token)
    gated = user.dataset("gated", {"train.jsonl": rows(0)}, gated=True)
    reader = cli.hub.add_user(f"{user.name}-reader")
    for token in (None, reader):
        said = plan(gated, 6, token)
        assert "is gated" in said
        assert f"{cli.hub.url}/datasets/{gated}" in said
    cli.hub.grant_access(gated, f"{user.name}-reader", "dataset")
    plan(gated, 0, reader)
    assert "no rows" in plan(user.dataset("empty", {"train.jsonl": b""}), 3)
    assert "no data files" in plan(user.dataset("none", {"README.md": b"# x\n"}), 3)
    late = rows(0) + b"{oops"
    assert "cannot be read" in plan(user.dataset("late", {"train.jsonl": late}), 3)
    assert "token" in plan(hidden, 6, "hf_" + "x" * 34)


def test_only_the_first_rows_are_fetched(cli: Shell, bank: Built, user: Account) -> None:
    repo = user.dataset("big", {f"train-{i}.jsonl": rows(0) for i in range(5)})
    result = cli("plan", "-d", repo, "--bank", bank.folder, "--json", "--max-rows", 10).json
    assert result["dataset"]["rows"] == 10
    assert touched(cli.hub, "train-0.jsonl")
    assert not touched(cli.hub, "resolve", "train-4.jsonl")


def test_dates_that_datasets_reads_as_timestamps_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "dates.jsonl"
    lines = [{"input": f"day {i}", "output": f"2024-07-{i:02}"} for i in range(1, 4)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    expected = [(line["input"], line["output"]) for line in lines]
    assert list(open_dataset(path).rows()) == expected


@pytest.mark.parametrize("option", ["config", "revision"])
@pytest.mark.parametrize(
    ("name", "what"),
    [
        ([{"input": "a", "output": "b"}], "rows in memory"),
        (["a.jsonl", "b.jsonl"], "a list of files"),
        ("a.jsonl", "a.jsonl is a file"),
    ],
)
def test_what_has_no_configuration_or_revision_refuses_one(
    name: Any, what: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("a.jsonl", "b.jsonl"):
        Path(file).write_text('{"input": "a", "output": "b"}\n')
    assert open_dataset(name).head(1) == [("a", "b")]
    with raises_code("dataset.no-config-or-revision", match=what) as raised:
        open_dataset(name, **{option: "x"})  # type: ignore[arg-type]
    assert "leave out" in str(raised.value.hint)
