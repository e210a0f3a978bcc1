"""Local folders as datasets: laid out as a repo, or written by ``save_to_disk``."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from hf_lorameta.data.dataset import open_dataset
from tests.conftest import Account, Built, Shell, rows, write_files
from tests.data.shapes import zipped
from tests.support.codes import codes_of, raises_code

ROWS = [
    {"text": f"so {word}", "label": i % 2} for i, word in enumerate(["good", "bad", "warm", "cold"])
]
FEATURES = datasets.Features(
    {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["pos", "neg"])}
)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    split = datasets.Dataset.from_list(ROWS, features=FEATURES)
    both = datasets.DatasetDict({"train": split, "validation": split.select([1])})
    both.save_to_disk(tmp_path / "both")
    split.save_to_disk(tmp_path / "one")
    return tmp_path


def test_what_save_to_disk_wrote_is_read_with_its_class_names(saved: Path) -> None:
    for name in ("one", "both"):
        dataset = open_dataset(saved / name)
        assert (dataset.split, dataset.private, dataset.id) == ("train", True, None)
        assert list(dataset.rows())[:2] == [("so good", "pos"), ("so bad", "neg")]
    for split in ("validation", ("test", "validation")):
        assert open_dataset(saved / "both", split=split).head(9) == [("so bad", "neg")]


def test_the_revision_is_that_of_the_files(tmp_path: Path) -> None:
    def revision() -> str:
        return open_dataset(tmp_path).revision

    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.jsonl").write_bytes(rows(1))
    first = revision()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/x.jsonl").write_text("not read")
    assert revision() == first
    (tmp_path / "data/test.jsonl").write_bytes(rows(2))
    second = revision()
    (tmp_path / "data/test.jsonl").write_bytes(rows(3))
    assert len({first, second, revision()}) == 3
    with raises_code("folder.no-revision"):
        open_dataset(tmp_path, revision="main")


def test_folders_without_rows_are_errors(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    with raises_code("dataset.no-files"):
        open_dataset(tmp_path)


def test_a_folder_that_is_called_like_a_file_is_read_as_a_folder(tmp_path: Path) -> None:
    write_files(tmp_path, {"rows.csv/part-0.csv": FILLED, "a.csv": FILLED})
    assert len(list(open_dataset(tmp_path / "rows.csv").rows())) == 18
    assert len(list(open_dataset(f"{tmp_path}/*.csv").rows())) == 18
    with raises_code("dataset.several"):
        open_dataset([tmp_path / "a.csv", tmp_path / "rows.csv"])


@pytest.mark.parametrize("start", ["", "./"])
def test_a_folder_named_like_a_hub_id_is_read_and_the_hub_dataset_has_another_name(
    cli: Shell, bank: Built, user: Account, tmp_path: Path, start: str
) -> None:
    repo = user.dataset("d", {"train.jsonl": rows(2)})
    (tmp_path / repo).mkdir(parents=True)
    (tmp_path / repo / "train.jsonl").write_bytes(rows(1))
    plan, on_hub = ("plan", "--bank", bank.folder, "--json", "-d"), f"hf://datasets/{repo}"
    done = cli(*plan, f"{start}{repo}")
    assert done.json["dataset"]["id"] is None
    assert (on_hub in done.err) == (start == "")
    assert cli(*plan, on_hub).json["dataset"]["id"] == repo
    generate = ("generate", "--bank", bank.folder, "-o", "a", "-d", f"{start}{repo}")
    cli(*generate)
    card = (tmp_path / "a" / "README.md").read_text()
    assert user.name not in card.split("## ")[0]


def test_a_configuration_may_filter_the_rows(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).to_parquet(tmp_path / "rows.parquet")
    card = "---\nconfigs:\n- config_name: default\n  data_files: rows.parquet\n"
    (tmp_path / "README.md").write_text(f"{card}---\n")
    assert len(list(open_dataset(tmp_path).rows())) == len(ROWS)
    (tmp_path / "README.md").write_text(f"{card}  filters: [[label, '>', 0]]\n---\n")
    assert {output for _, output in open_dataset(tmp_path).rows()} == {"1"}


def test_a_folder_of_files_that_datasets_does_not_find_is_read_from_one(
    cli: Shell, bank: Built, user: Account, tmp_path: Path
) -> None:
    files = {
        f"rows/{name}.jsonlines": "".join(
            json.dumps({"input": f"{name} {i}", "output": "a"}) + "\n" for i in range(8)
        ).encode()
        for name in ("train", "test")
    }
    folder = write_files(tmp_path, files) / "rows"
    assert open_dataset(folder).head(1) == [("train 0", "a")]
    sliced = open_dataset(folder, split="test[2:4]")
    assert (sliced.split, sliced.head(9)) == ("test[2:4]", [("test 2", "a"), ("test 3", "a")])
    (folder / "train.jsonlines").rename(folder / "more.jsonlines")
    with raises_code("split.unknown", match="more, test") as error:
        open_dataset(folder)
    assert error.value.hint == "add --split more"
    (folder / "more.jsonlines").unlink()
    assert open_dataset(folder, split="train[1:2]").head(9) == [("test 1", "a")]
    dataset = user.dataset("d", files)
    assert (
        "hf download --repo-type dataset" in cli("plan", dataset, "--bank", bank.folder, code=3).err
    )


HEADER, FILLED = b"text,label\n", b"text,label\n" + b"so good,a\nso bad,b\n" * 9


@pytest.mark.parametrize("first", [b"", HEADER], ids=["no byte", "a header"])
def test_beside_an_empty_file_the_filled_one_is_read_or_its_split_named(
    tmp_path: Path, first: bytes
) -> None:
    write_files(tmp_path, {"parts/a.csv": first, "parts/b.csv": FILLED})
    assert len(list(open_dataset(tmp_path / "parts").rows())) == 18
    write_files(tmp_path, {"splits/train.csv": first, "splits/test.csv": FILLED})
    write_files(tmp_path, {"splits/validation.csv": first})
    with raises_code("rows.none-in-split") as raised:
        open_dataset(tmp_path / "splits")
    assert "--split test" in raised.value.hint
    assert len(list(open_dataset(tmp_path / "splits", split="test").rows())) == 18


def test_files_of_another_format_in_a_folder_are_left_out_with_a_note(tmp_path: Path) -> None:
    write_files(tmp_path, {"d/a.jsonl": rows(1), "d/b.jsonl": rows(2), "d/c.csv": FILLED})
    write_files(tmp_path, {"d/LICENSE.txt": b"MIT\n", "d/dataset_infos.json": b"{}"})
    remarks = open_dataset(tmp_path / "d").remarks
    assert codes_of(remarks) == ["files.left-out"]


@pytest.mark.parametrize(
    "files",
    [
        {"a.csv": b"", "b.csv": b""},
        {"a.txt": b""},
        {"train.csv": HEADER, "test.csv": HEADER},
        {"train.jsonl": b"", "test.jsonl": b""},
        {"train.jsonlines": b"", "test.jsonlines": b""},
        {"rows.zip": zipped({"train.csv": HEADER.decode(), "test.csv": ""})},
    ],
    ids=["files", "texts", "splits", "empty splits", "files of their own", "packed files"],
)
def test_no_split_is_named_where_none_has_rows(tmp_path: Path, files: dict[str, bytes]) -> None:
    write_files(tmp_path, {f"rows/{name}": content for name, content in files.items()})
    with raises_code("rows.none"):
        open_dataset(tmp_path / "rows")


def test_of_splits_in_memory_one_with_rows_is_named() -> None:
    filled = datasets.Dataset.from_list(ROWS)
    splits = {"train": filled.select([]), "test": filled}
    with raises_code("rows.none-in-split") as raised:
        open_dataset(datasets.DatasetDict(splits))
    assert "--split test" in raised.value.hint
    without: tuple[Any, ...] = ([], datasets.DatasetDict(train=splits["train"]))
    for empty in without:
        with raises_code("rows.none") as raised:
            open_dataset(empty)
        assert "split" not in raised.value.hint
