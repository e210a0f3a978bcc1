"""Reading within limits: bombs are refused before they are unpacked, other rows are unchanged."""

import gc
import gzip
import io
import json
import re
import tomllib
from collections.abc import Callable, Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.spec import AbstractBufferedFile
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_lorameta import open_dataset
from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.data.sources import limited_stream, raw_dataset, reading_limits
from hf_lorameta.errors import DatasetTooLargeError, EmptyDatasetError

BOTH = Columns(input="input", output="output")


@pytest.fixture
def pool() -> Iterator[pa.MemoryPool]:
    """Arrow's memory, counted for this test."""
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    pa.set_memory_pool(pool)
    yield pool
    pa.set_memory_pool(before)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of at most 100 characters, and rows of at most 3,200 bytes."""
    monkeypatch.setattr(reading_limits, "MAX_TEXT", 100)
    monkeypatch.setattr(reading_limits, "MAX_ROW_BYTES", 3200)


def repeated(text: str, rows: int) -> pa.Table:
    """Return a table whose output column has the same text in all rows, stored once."""
    indices = pa.array(np.zeros(rows, np.int32))
    outputs = pa.DictionaryArray.from_arrays(indices, pa.array([text]))
    return pa.table({"input": ["q"] * rows, "output": outputs})


def write(folder: Path, ending: str, records: list[dict[str, Any]]) -> Path:
    path = folder / f"rows.{ending}"
    if ending == "parquet":
        # statistics repeat the text in the file, which matters with tiny limits only
        pq.write_table(pa.Table.from_pylist(records), path, write_statistics=False)
    elif ending == "json":
        path.write_text(json.dumps(records))
    elif ending == "jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    else:
        lines = [",".join(f'"{value}"' for value in record.values()) for record in records]
        path.write_text("\n".join(["input,output", *lines]) + "\n")
    return path


def test_a_parquet_file_with_one_huge_text_is_refused_unread(
    tmp_path: Path, pool: pa.MemoryPool
) -> None:
    path = tmp_path / "bomb.parquet"
    pq.write_table(repeated("a " * 20_000_000, 1), path, compression="zstd")
    written = pool.max_memory()
    assert path.stat().st_size < 40_000
    with pytest.raises(
        DatasetTooLargeError, match=r"bomb\.parquet has a row of more than 32 MB"
    ) as caught:
        open_dataset(path)
    assert caught.value.hint == "split the row"
    assert pool.max_memory() == written


def test_a_dictionary_that_repeats_a_text_is_unpacked_in_batches(
    tmp_path: Path, pool: pa.MemoryPool
) -> None:
    path = tmp_path / "bomb.parquet"
    pq.write_table(repeated("ab " * 300_000, 5000), path, compression="zstd")  # 4.5 GB unpacked
    rows = open_dataset(path).rows()
    assert next(rows) == ("q", "ab " * 300_000)
    assert pool.max_memory() < 600e6


class RemoteFile(AbstractBufferedFile):  # type: ignore[misc]
    """A file of fsspec, as those of the Hub are, whose ``readline`` takes no size."""

    def __init__(self, content: bytes) -> None:
        super().__init__(None, "rows.jsonl", block_size=1 << 12, size=len(content))
        self.content, self.fetched = content, 0

    def _fetch_range(self, start: int, end: int) -> bytes:
        self.fetched = max(self.fetched, end)
        return self.content[start:end]


@given(st.lists(st.binary(max_size=300).map(lambda line: line.replace(b"\n", b"")), max_size=20))
@settings(max_examples=30, deadline=None)
def test_lines_of_remote_files_are_read_up_to_the_limit(lines: list[bytes]) -> None:
    content = b"\n".join(lines) + b"\n" + b"x" * (5 << 20)
    remote = RemoteFile(content)
    file = limited_stream.limit_lines(remote, "rows.jsonl")
    expected = io.BytesIO(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading_limits, "MAX_ROW_BYTES", 32_000)
        for _ in lines or [b""]:
            assert file.readline() == expected.readline()
        with pytest.raises(DatasetTooLargeError, match=r"rows\.jsonl has a row of more"):
            file.readline()
    assert remote.fetched < len(content) / 2


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz"])
def test_a_long_line_of_json_is_not_read_to_its_end(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"bomb.{ending}"
    opener: Callable[..., Any] = gzip.open if ending.endswith("gz") else open
    with opener(path, "wb") as file:
        file.writelines([b'{"input": "q", "output": "%b"}\n' % (b"a" * 40_000)] * 300)
        file.write(b'{"input": "q", "output": "%b"}\n' % (b"a " * 40_000_000))
    with pytest.raises(DatasetTooLargeError, match=r" has a row of more than 32 MB"):
        list(open_dataset(path).rows())


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # `datasets` leaves CSV files open
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("ending", ["parquet", "jsonl", "json", "csv"])
def test_a_row_above_the_limit_is_refused_in_every_format(tmp_path: Path, ending: str) -> None:
    fitting = {"input": "q", "output": "ü" * 1300}  # 2,600 bytes of 3,200
    path = write(tmp_path, ending, [fitting, fitting])
    assert list(open_dataset(path).rows()) == [("q", "ü" * 100)] * 2
    path = write(tmp_path, ending, [fitting, fitting, {"input": "q", "output": "ü" * 1700}])
    with pytest.raises(DatasetTooLargeError, match="has a row of more than"):
        list(open_dataset(path).rows())
    gc.collect()


TEXTS = st.none() | st.text(max_size=9)
TURNS = st.lists(st.fixed_dictionaries({"role": TEXTS, "content": TEXTS}), max_size=3)
RECORDS = st.lists(st.fixed_dictionaries({"input": TEXTS, "output": TEXTS, "turns": TURNS}))
SCHEMA = pa.schema(
    {
        "input": pa.string(),
        "output": pa.string(),
        "turns": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
    }
)


@settings(max_examples=30)
@given(RECORDS, st.integers(1, 4), st.integers(1, 300))
def test_batches_do_not_change_the_rows_of_a_parquet_file(
    tmp_path_factory: pytest.TempPathFactory,
    records: list[dict[str, Any]],
    group: int,
    batch_bytes: int,
) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(records, SCHEMA), path, row_group_size=group)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limited_stream, "_BATCH_BYTES", batch_bytes)
        try:
            found = list(open_dataset(path, columns=BOTH).rows())
        except EmptyDatasetError:
            texts = [[(row[name] or "").strip() for name in ("input", "output")] for row in records]
            assert not any(map(all, texts))
            return
    assert found == [(row["input"] or "", row["output"] or "") for row in records]


def test_the_private_parts_of_datasets_that_are_replaced_are_as_expected() -> None:
    """`datasets` has no public way to bound a row before it is read, nor to retry less.

    So builders' methods and settings of retries are replaced, and pyproject.toml bounds its
    version: if this test fails with a newer one, `limited_stream.py` and `raw_dataset.py` need a
    look before the bound is raised.
    """
    from datasets import config
    from datasets.packaged_modules.arrow.arrow import Arrow
    from datasets.packaged_modules.csv.csv import Csv
    from datasets.packaged_modules.json.json import Json
    from datasets.packaged_modules.parquet.parquet import Parquet
    from datasets.packaged_modules.text.text import Text
    from datasets.utils import file_utils

    for builder in (Arrow, Csv, Json, Parquet, Text):
        assert callable(builder._generate_tables)
        assert list(signature(builder._cast_table).parameters)[:2] == ["self", "pa_table"]
    assert list(signature(Parquet._generate_tables).parameters)[1:] == ["files", "row_groups_list"]
    assert "open" in Json._generate_tables.__code__.co_names  # looked up in its module
    assert "paj" in Json._generate_tables.__code__.co_names
    assert Json._generate_tables.__closure__ is None
    assert file_utils.config is config  # read at each attempt
    for name in raw_dataset.SETTINGS:
        assert isinstance(getattr(config, name), int)
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert any(re.match("datasets.*<", line) for line in project["dependencies"])
