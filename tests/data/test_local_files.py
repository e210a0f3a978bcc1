"""Local files: separators, encodings, compression, several files, slices."""

import bz2
import gzip
import io
import json
import lzma
import re
import shlex
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import hf_lorameta.data
from hf_lorameta.data.dataset import open_dataset
from hf_lorameta.data.sources import raw_dataset
from hf_lorameta.data.sources.files import other_name
from hf_lorameta.data.sources.formats import COMPRESSIONS, FORMATS, UNREAD
from hf_lorameta.data.sources.json_rows import rows_by_path
from hf_lorameta.data.sources.text_formats import encoding_of, guess_encoding
from hf_lorameta.errors import ColumnsError, DatasetError, EmptyDatasetError
from hf_lorameta.files import sha256
from hf_lorameta.hub.client import Hub
from tests.conftest import Built, Shell
from tests.support.codes import raises_code

PAIRS = [(f"question {i}, or so; café", f"answer {i}") for i in range(20)]
LINES = b"".join(json.dumps({"input": q, "output": a}).encode() + b"\n" for q, a in PAIRS)


def test_help_lists_all_formats_and_the_guide_all_compressions(cli: Shell) -> None:
    assert set(re.findall(r"\.\w+", cli("plan", "--help").out)) >= set(FORMATS)
    guide = Path(hf_lorameta.data.__file__).with_name("README.md").read_text("utf-8")
    named = guide.partition("are read compressed, too (")[2].partition(")")[0]
    assert re.findall(r"\.\w+", named) == list(COMPRESSIONS)


def csv_of(mark: str) -> str:
    rows = [("question", "answer"), *PAIRS]
    return "".join(mark.join(f'"{cell}"' for cell in row) + "\n" for row in rows)


def test_threads_can_open_files_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets.utils import tqdm

    both, here, get_lock = threading.Barrier(2), threading.local(), tqdm.get_lock

    def at_once() -> object:
        """Wait for the other thread, which has found no lock either; tqdm's own thread does not."""
        if threading.current_thread().name.startswith("open") and not hasattr(here, "waited"):
            here.waited = True
            both.wait(timeout=30)
        return get_lock()

    for bars in tqdm.__mro__:
        if "_lock" in vars(bars):
            monkeypatch.delattr(bars, "_lock")
    monkeypatch.setattr(tqdm, "get_lock", at_once)
    paths = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]
    for path in paths:
        path.write_bytes(LINES)
    with ThreadPoolExecutor(2, thread_name_prefix="open") as pool:
        opened = list(pool.map(open_dataset, paths))
    assert [list(dataset.rows()) for dataset in opened] == [PAIRS, PAIRS]


def test_a_file_is_read_without_a_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.load.get_session", pytest.fail)
    (tmp_path / "a.jsonl").write_bytes(LINES)
    assert list(open_dataset(tmp_path / "a.jsonl").rows()) == PAIRS


def test_a_letter_cut_off_at_the_end_of_a_block_is_no_utf8() -> None:
    cut_off = b"a" * ((1 << 20) - 1) + b"\xe9"
    assert encoding_of(io.BytesIO(cut_off)) != "utf-8"
    assert encoding_of(io.BytesIO(cut_off + b"\xa9"), whole=False) == "utf-8", "it may go on"


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_separator_and_encoding_of_a_csv_are_found(
    tmp_path: Path, mark: str, encoding: str
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(csv_of(mark), encoding=encoding)
    dataset = open_dataset(path)
    assert list(dataset.rows()) == PAIRS
    assert bool(dataset.remarks) == (not encoding.startswith("utf-8"))


@pytest.mark.parametrize(
    ("ending", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
@pytest.mark.parametrize("kind", [".jsonl", ".csv", ".txt"])
def test_compressed_files_are_read_as_they_are(
    tmp_path: Path, ending: str, compress: Callable[[bytes], bytes], kind: str
) -> None:
    content = {".jsonl": LINES, ".csv": csv_of(";").encode(), ".txt": b"one\ntwo\n"}[kind]
    plain, packed = tmp_path / f"rows{kind}", tmp_path / f"rows{kind}{ending}"
    plain.write_bytes(content)
    packed.write_bytes(compress(content))
    assert list(open_dataset(packed).rows()) == list(open_dataset(plain).rows())
    assert open_dataset(packed).revision == f"sha256:{sha256(packed)}"


@pytest.mark.parametrize("indent", [None, 2])
def test_rows_below_a_key_of_a_json_object_are_read(tmp_path: Path, indent: int | None) -> None:
    path = tmp_path / "rows.json"
    rows = [{"input": q, "output": a} for q, a in PAIRS]
    path.write_text(json.dumps({"version": "1.0", "data": rows}, indent=indent))
    dataset = open_dataset(path)
    assert list(dataset.rows()) == PAIRS
    assert "below data" in str(dataset.remarks)
    path.write_text(json.dumps({"train": rows[:12], "test": rows[12:]}, indent=indent))
    assert list(open_dataset(path).rows()) == PAIRS[:12]
    assert list(open_dataset(path, split="test").rows()) == PAIRS[12:]
    with raises_code("split.unknown", match="train, test"):
        open_dataset(path, split="dev")


def test_keys_of_a_json_object_need_not_be_names_of_splits(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    row = [{"input": "a", "output": "b"}]
    path.write_text(json.dumps({"train-set": row, "a b": row * 2}))
    for key, count in {"train-set": 1, "a b": 2}.items():
        assert list(open_dataset(path, split=key).rows()) == [("a", "b")] * count


def test_several_json_files_may_be_one_object_each(tmp_path: Path) -> None:
    for name, pair in zip("ab", PAIRS, strict=False):
        rows = [{"input": pair[0], "output": pair[1]}] * 3
        (tmp_path / f"{name}.json").write_text(json.dumps({"data": rows}))
    assert list(open_dataset(f"{tmp_path}/*.json").rows()) == [PAIRS[0]] * 3 + [PAIRS[1]] * 3
    for name, pair in zip("ab", PAIRS, strict=False):  # one row each
        (tmp_path / f"{name}.json").write_text(json.dumps({"input": pair[0], "output": pair[1]}))
    assert list(open_dataset(f"{tmp_path}/*.json").rows()) == PAIRS[:2]


def test_later_rows_of_json_lines_may_have_other_columns_and_types(tmp_path: Path) -> None:
    later = [{"output": 1, "extra": [2]}, {"input": "\ud83d", "output": {"text": "b"}}]
    more = b"".join(json.dumps(row).encode() + b"\n" for row in later)
    (tmp_path / "rows.jsonl").write_bytes(LINES * 2 + more)
    read = list(open_dataset(tmp_path / "rows.jsonl").rows())
    assert read == [*PAIRS, *PAIRS, ("", "1"), ("?", "b")]


@pytest.mark.parametrize("more", [{}, {"id": 1}])
def test_a_json_object_with_a_list_of_turns_is_one_chat(
    tmp_path: Path, more: dict[str, int]
) -> None:
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    (tmp_path / "chat.json").write_text(json.dumps(more | {"conversations": turns}, indent=1))
    assert list(open_dataset(tmp_path / "chat.json").rows()) == [("a", "b")]


def test_a_file_of_text_with_another_ending_is_to_be_named_txt(tmp_path: Path) -> None:
    (tmp_path / "train.label").write_text("DESC:manner How?\n")
    with raises_code("file.unknown-ending") as error:
        open_dataset(str(tmp_path / "train.label"))
    assert ".txt to its name" in error.value.hint


@pytest.mark.parametrize("end", UNREAD)
def test_a_file_of_another_format_is_to_be_converted(tmp_path: Path, end: str) -> None:
    assert end not in FORMATS
    (tmp_path / f"rows{end}").write_bytes(b"PK")
    with raises_code("file.unknown-ending") as error:
        open_dataset(tmp_path / f"rows{end}")
    assert error.value.hint.split()[0] == UNREAD[end].split()[0]
    assert ".txt to its name" not in error.value.hint


@pytest.mark.parametrize("name", ["data/nlu.unread", "data/reviews", "data/~draft.unread"])
def test_no_name_of_a_file_on_this_disk_is_sent_to_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Hub, "resolve", lambda *_: pytest.fail("a name was sent"))
    (tmp_path / "data").mkdir()
    (tmp_path / name).write_bytes(b"PK\0")
    with raises_code("file.unknown-ending", match=name):
        open_dataset(name)
    with raises_code("file.unknown-ending", match=name):
        open_dataset([name])


def test_a_folder_is_read_without_the_hub_whatever_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Hub, "resolve", lambda *_: pytest.fail("a name was sent"))
    (tmp_path / "data" / "mails").mkdir(parents=True)
    (tmp_path / "data" / "mails" / "train.jsonl").write_bytes(LINES)
    assert list(open_dataset("data/mails").rows()) == PAIRS
    with raises_code("folder.no-revision", match="hf://data"):
        open_dataset("data/mails", revision="main")


def test_a_file_with_another_name_is_not_proposed(tmp_path: Path) -> None:
    (tmp_path / "40_sts_train.csv").write_text("a,b\n")
    assert "40_sts_train" not in str(other_name(tmp_path / "12_rasa_train.unread"))


def test_two_files_with_as_many_lines_are_to_be_joined(tmp_path: Path) -> None:
    for name, word in (("all.nl", "list files"), ("all.cm", "ls"), ("all.log", "x\n")):
        (tmp_path / name).write_text(f"{word}\n" * 12)
    with raises_code("file.unknown-ending") as error:
        open_dataset(tmp_path / "all.nl")
    command = error.value.hint.partition(": ")[2].partition(", and name")[0]
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    assert list(open_dataset(tmp_path / "rows.tsv").rows()) == [("list files", "ls")] * 12


def test_a_note_has_the_command_for_lines_that_may_begin_with_labels(tmp_path: Path) -> None:
    lines = [f"{['ham', 'spam'][i % 2]} How did it go {i} ?" for i in range(20)]
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n")
    dataset = open_dataset(tmp_path / "train.txt")
    assert dataset.columns.names() == ["text"]
    note = next(remark.text for remark in dataset.remarks if "label: " in remark.text)
    command = note.partition("label: ")[2].partition(", and name")[0]
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    rows = list(open_dataset(tmp_path / "rows.tsv").rows())
    assert rows[0] == ("How did it go 0 ?", "ham")


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("{i}. Then do it", id="numbered"),
        pytest.param("{i} eggs and some milk", id="counted"),
        pytest.param("Ann: is it {i} or not", id="speakers"),
        pytest.param("What is it that he did {i} times?", id="questions"),
        pytest.param("He said </s> is {i} of them", id="a mark"),
        pytest.param("He said it {i} times </s>", id="an end"),
        pytest.param("see http://a.b/{i} or c/d", id="slashes"),
    ],
)
def test_texts_are_not_taken_for_another_layout(tmp_path: Path, line: str) -> None:
    lines = [line.replace("{i}", f"{i % 4 + 1}") for i in range(20)]
    lines[7] = "Who is\tit? She said so."
    (tmp_path / "texts.txt").write_text("\n".join(lines) + "\n")
    assert open_dataset(tmp_path / "texts.txt").head(1) == [("", lines[0].removesuffix(" </s>"))]


def test_files_of_a_folder_in_several_encodings_are_not_to_be_downloaded(tmp_path: Path) -> None:
    for name, encoding in (("a.csv", "utf-16"), ("b.csv", "cp1252")):
        text = "text,label\n" + "Grüße aus Übersee,ä\n" * 20
        (tmp_path / name).write_bytes(text.encode(encoding))
    with pytest.raises(DatasetError) as error:
        list(open_dataset(tmp_path).rows())
    assert "hf download" not in error.value.hint


def test_a_byte_that_is_not_utf8_in_a_file_that_is_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"text,label\n" + "Grüße,a\n".encode() * 20 + b"Only \xa35,b\n")
    with raises_code("file.mixed-encodings", match="line 22 .* £") as error:
        open_dataset(path)
    assert "iconv -c -f utf-8" in error.value.hint


@pytest.mark.parametrize(
    ("last", "code"),
    [("a,b,c\n", "rows.too-many-fields"), ('"a,b\n', "file.open-quotation")],
)
def test_a_line_of_a_csv_that_is_not_well_formed_is_named(
    tmp_path: Path, last: str, code: str
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "so good,b\n" * 2000 + last)
    with raises_code(code):
        list(open_dataset(path).rows())


def test_where_nothing_is_plausible_three_rows_are_shown_and_no_guess(
    cli: Shell, bank: Built
) -> None:
    names = ("alpha", "beta", "gamma", "delta")
    rows = [{name: f"{name} {i} so it is" for name in names} for i in range(24)]
    (cli.cwd / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    asked = cli("plan", "rows.jsonl", "--bank", bank.folder, code=3).err
    assert "alpha: alpha 2 so it is\n  beta: beta 2 so it is" in asked
    assert "alpha 3" not in asked
    assert "add --columns input=COLUMN,output=COLUMN" in asked
    assert "alpha 0" not in cli("plan", "rows.jsonl", "-q", "--bank", bank.folder, code=3).err


def test_a_path_that_ends_like_a_file_is_none_of_the_hub(tmp_path: Path) -> None:
    with raises_code("file.not-found"):
        open_dataset("data/trian.csv")
    (tmp_path / "data").mkdir()
    with pytest.raises(DatasetError) as error:
        open_dataset(tmp_path / "date" / "rows.csv")
    assert f"name {tmp_path / 'data'}, or" in error.value.hint


@pytest.mark.parametrize("name", ["row.jsonl", "rows.jsnl", "Rows.json"])
def test_a_file_with_a_similar_name_is_proposed(tmp_path: Path, name: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(LINES)
    (tmp_path / "README.md").write_text("# Rows\n")
    with pytest.raises(DatasetError) as error:
        open_dataset(tmp_path / name)
    assert f"name {tmp_path / 'rows.jsonl'}, or a Hub id" in error.value.hint


def test_the_only_column_of_a_file_may_hold_inputs(cli: Shell, bank: Built) -> None:
    path = cli.cwd / "mails.jsonl"
    path.write_text("".join(json.dumps({"my mail": f"Dear {q}"}) + "\n" for q, _ in PAIRS))
    plan = ("plan", "-d", path, "--bank", bank.folder)
    as_input = "--columns 'input=my mail'"
    assert f"add {as_input}." in cli(*plan).err
    assert "no outputs" in cli(*plan, *shlex.split(as_input)).err
    assert as_input not in cli(*plan, "--columns", "output=my mail").err


@pytest.mark.parametrize(
    ("content", "line"),
    [("null\n{}\n", 1), ("{}\nnull", 2), (" null \r\n{}\n", 1), ("null\nnull", 1),
     ("nullx\n{}\n", 1), ("{}\n null{\n", 2), ("\n[null, {}]", 1), ("[{}, null]", 2)],
)  # fmt: skip
def test_a_row_that_is_null_is_named_before_pyarrow_crashes(
    tmp_path: Path, content: str, line: int
) -> None:
    path = tmp_path / f"rows.json{'' if '[' in content else 'l'}"
    path.write_text(content.replace("{}", json.dumps({"input": "a", "output": "b"})), newline="")
    code = "file.not-json" if "nullx" in content or "null{" in content else "rows.not-objects"
    with raises_code(code, match=f"line {line} "):
        open_dataset(path)


def test_each_line_may_be_a_list_or_a_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps([f"question {i}?", f"an answer {i}"]) + "\n" for i in "abc"))
    columns = "input=column_1,output=column_2"
    rows = [(f"question {i}?", f"an answer {i}") for i in "abc"]
    assert list(open_dataset(path, columns=columns).rows()) == rows
    path.write_text('"a b"\n"c d"\n')
    assert [text for _, text in open_dataset(path).rows()] == ["a b", "c d"]


@pytest.mark.parametrize("form", ["lines", "list", "memory", "later"])
def test_rows_that_are_nested_too_deep_are_refused(form: str, tmp_path: Path) -> None:
    turns: object = "a"
    for _ in range(400):
        turns = [{"role": "user", "content": turns}]
    row, flat = {"messages": turns, "output": "b"}, {"messages": "a", "output": "b"}
    rows = [flat] * 40 + [row] if form == "later" else [row, row]
    path = tmp_path / f"deep.json{'' if form == 'list' else 'l'}"
    path.write_text(json.dumps(rows) if form == "list" else "\n".join(map(json.dumps, rows)))
    columns = "input=messages,output=output" if form == "later" else None
    with raises_code("rows.too-deep"):
        list(open_dataset(rows if form == "memory" else path, columns=columns).rows())


def test_null_inside_an_object_of_several_lines_is_a_missing_value(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('{"output":\nnull,\n"input": "a"}\n')
    assert list(open_dataset(path).rows()) == [("a", "")]
    path.write_text('{"output": "b",\n"input": "a"}\n{"output": "c",\n"input": "b"}\n')
    with raises_code("file.not-json", match="3") as caught:
        open_dataset(path)
    assert "jq -c" in str(caught.value.hint)
    path.write_text('{"input": "a"}\n{"input":\n')
    with raises_code("file.not-json", match="2"):
        open_dataset(path)


def test_a_folder_that_cannot_be_listed_holds_no_similar_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert other_name(tmp_path / "rows.jsonl") == ["name a file", "a Hub id: user/name"]


def test_a_folder_of_a_similar_name_is_named_only_if_that_of_the_file_is_missing(
    tmp_path: Path,
) -> None:
    for name in ("data", "data2"):
        (tmp_path / name).mkdir()
    assert other_name(tmp_path / "data" / "no.csv")[0] == "name a file"
    assert other_name(tmp_path / "data22" / "no.csv")[0] == f"name {tmp_path / 'data2'}"


def test_the_link_of_a_dataset_is_answered_with_its_id() -> None:
    with raises_code("dataset.not-found") as caught:
        open_dataset("https://huggingface.co/datasets/user/name/viewer")
    assert caught.value.hint == "name it user/name"


def test_json_lines_are_told_by_their_first_two_lines() -> None:
    assert rows_by_path(io.BytesIO(LINES + b"{oops"), "rows.json") == {}


def test_a_file_that_begins_with_a_list_is_not_read_for_an_object() -> None:
    assert rows_by_path(io.BytesIO(b' [{"a": 1},\noops'), "rows.json") == {}


def test_an_object_that_holds_rows_may_begin_behind_an_empty_line() -> None:
    file = io.BytesIO(b'\n{"train": [{"input": "a"}],\n"test": [{"input": "b"}]}')
    assert list(rows_by_path(file, "rows.json")) == ["train", "test"]


def test_several_files_are_one_dataset_with_one_digest(tmp_path: Path) -> None:
    half = len(LINES.splitlines()) // 2
    parts = LINES.splitlines(keepends=True)
    (tmp_path / "a.jsonl").write_bytes(b"".join(parts[:half]))
    (tmp_path / "b.jsonl").write_bytes(b"".join(parts[half:]))
    by_glob = open_dataset(f"{tmp_path}/*.jsonl")
    assert list(by_glob.rows()) == PAIRS
    assert by_glob.revision != open_dataset(tmp_path / "a.jsonl").revision
    with raises_code("file.not-found"):
        open_dataset(f"{tmp_path}/*.csv")


def test_a_note_names_json_files_without_a_column_in_common(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "b.jsonl").write_text('{"sentence": "so"}\n')
    (tmp_path / "c.jsonl").write_text("")
    both = open_dataset([tmp_path / name for name in ("a.jsonl", "c.jsonl", "b.jsonl")])
    assert both.remarks[0].code == "files.no-common-column"
    assert not open_dataset([tmp_path / "a.jsonl", tmp_path / "c.jsonl"]).remarks


@pytest.mark.parametrize("name", ["b.jsonl", "b.tsv"])
def test_files_of_several_formats_are_no_dataset(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(csv_of(","))
    (tmp_path / name).write_bytes(LINES)
    with raises_code("files.formats-differ", match=name[1:]):
        open_dataset([tmp_path / "a.csv", tmp_path / name])


def test_a_file_that_is_deleted_while_it_is_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(csv_of(","))

    def pick(*_: object) -> str:
        path.unlink()
        return "train"

    monkeypatch.setattr(raw_dataset, "pick_split", pick)
    with raises_code("file.unreadable", match="rows.csv"):
        open_dataset(path)


def test_of_several_files_the_malformed_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "b.jsonl").write_bytes(LINES + b"{oops")
    with pytest.raises(DatasetError, match=r"b\.jsonl cannot be read: line 21 "):
        list(open_dataset(f"{tmp_path}/*.jsonl").rows())
    for name, content in (("a.csv", csv_of(",")), ("b.csv", 'question,answer\n"a')):
        (tmp_path / name).write_text(content)
    with pytest.raises(DatasetError, match=r"\*\.csv cannot be read"):
        list(open_dataset(f"{tmp_path}/*.csv").rows())


@pytest.mark.parametrize("name", ["~/rows.jsonl", "~/*.jsonl"])
def test_names_may_start_with_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "rows.jsonl").write_bytes(LINES)
    assert list(open_dataset(name).rows()) == PAIRS


def test_names_with_wildcards_that_exist_are_files(tmp_path: Path) -> None:
    (tmp_path / "rows[1].jsonl").write_bytes(LINES)
    assert open_dataset(tmp_path / "rows[1].jsonl").head(1) == PAIRS[:1]


def test_a_slice_of_a_split_is_read_and_recorded(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(LINES)
    for split, expected in (
        ("train[:3]", PAIRS[:3]), ("train[5:]", PAIRS[5:]), ("train[2:4]", PAIRS[2:4]),
    ):  # fmt: skip
        dataset = open_dataset(path, split=split)
        assert (list(dataset.rows()), dataset.split) == (expected, split)
    with pytest.raises(EmptyDatasetError):
        open_dataset(path, split="train[50:]")
    with pytest.raises(EmptyDatasetError) as empty:
        open_dataset([{"input": "a", "output": "b"}], split="train[50:]")
    assert empty.value.hint == "name another --split"
    for split in ("train[:10%]", "train[-5:]", "test[:5]"):
        with pytest.raises(DatasetError, match="has no split") as caught:
            open_dataset(path, split=split)
        part = split.partition("[")[0]
        assert ("train[:1000]" in caught.value.hint) == (part == "train")


# --- single words and separators ------------------------------------------------------------------


def test_a_file_of_single_words_is_asked_about(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("rain\nsun\n\nsnow\n" * 4)
    with pytest.raises(ColumnsError, match="is a single word") as error:
        open_dataset(tmp_path / "words.txt")
    assert open_dataset(tmp_path / "words.txt", columns=error.value.columns).head(1) == [
        ("", "rain")
    ]


def test_separators_in_texts_without_quotation_marks_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\n" + "«so, good»,pos\n«it, bad»,neg\n" * 12)
    with raises_code("rows.too-many-fields") as error:
        open_dataset(tmp_path / "rows.csv")
    assert "double quotes" in error.value.hint


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Så är det på ön", "cp1252"),
        ("Jeg går på skolen", "cp1252"),
        ("Perché non è già qui", "cp1252"),
        ("Zażółć gęślą jaźń", "cp1250"),
        ("Příliš žluťoučký kůň", "cp1250"),
    ],
)
def test_western_texts_are_told_from_those_of_central_europe(text: str, encoding: str) -> None:
    assert guess_encoding(f"{text}\n".encode(encoding)) == encoding
