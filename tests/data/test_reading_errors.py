"""What `datasets` and its readers raise becomes a sentence without names of classes."""

import errno
from pathlib import Path

import datasets
import pyarrow
import pytest
from huggingface_hub.constants import HF_HOME

from hf_lorameta.data.dataset import open_dataset
from hf_lorameta.data.sources.datasets_library import SETTINGS
from hf_lorameta.data.sources.reading_errors import reading
from hf_lorameta.errors import (
    ConnectionLostError,
    DatasetError,
    EmptyDatasetError,
)
from tests.support.codes import raises_code


def test_a_broken_file_is_named_without_the_class_of_the_error() -> None:
    with pytest.raises(DatasetError) as caught, reading("user/name"):
        raise pyarrow.ArrowInvalid("column 1: a row's text")
    assert str(caught.value) == "user/name cannot be read"
    assert "well-formed" in caught.value.hint
    assert "ArrowInvalid" not in caught.value.hint


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (OSError(errno.EIO, "Input/output error"), DatasetError, "rows.csv cannot be read: Input"),
        (
            OSError(errno.EACCES, "no", "/d/rows.csv"),
            DatasetError,
            "/d/rows.csv cannot be read: no",
        ),
        (OSError(errno.EROFS, "no", f"{HF_HOME}/hub/x"), OSError, f"no: .*{HF_HOME}/hub/x"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), ConnectionLostError, "no answer"),
    ],
)
def test_a_file_of_the_dataset_is_blamed_for_its_errors_only(
    error: OSError, expected: type[Exception], message: str
) -> None:
    with pytest.raises(expected, match=message), reading("rows.csv", local=True):
        raise error


def test_rows_in_another_encoding_than_the_first_ones_are_to_be_downloaded() -> None:
    with raises_code("file.other-encoding") as e, reading("user/name"):
        "Grüße".encode("latin-1").decode()
    assert "hf download --repo-type dataset user/name" in e.value.hint


def test_an_iterator_that_ends_at_once_has_no_rows() -> None:
    with pytest.raises(EmptyDatasetError, match="user/name has no rows"), reading("user/name"):
        raise RuntimeError("generator raised StopIteration") from StopIteration()


def test_columns_that_only_later_files_have_are_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    row = {"input": "a", "output": "b"}
    for name, rows in (("1", [row]), ("2", [row | {"extra": "text of a row"}])):
        datasets.Dataset.from_list(rows).to_parquet(tmp_path / f"{name}.parquet")
    capfd.readouterr()  # the bars of writing
    with raises_code("rows.other-columns"):
        list(open_dataset(f"{tmp_path}/*.parquet").rows())
    assert capfd.readouterr().err == ""


def test_datasets_still_has_the_settings_of_retries() -> None:
    assert all(isinstance(getattr(datasets.config, name), int) for name in SETTINGS)
