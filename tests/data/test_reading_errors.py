"""What `datasets` and its readers raise becomes a sentence without names of classes."""

import pyarrow
import pytest

from hf_lorameta.data.sources.reading_errors import reading
from hf_lorameta.errors import DatasetError, EmptyDatasetError


def test_a_broken_file_is_named_without_the_class_of_the_error() -> None:
    with pytest.raises(DatasetError) as caught, reading("user/name"):
        raise pyarrow.ArrowInvalid("column 1: a row's text")
    assert str(caught.value) == "user/name cannot be read"
    assert "well-formed" in caught.value.hint
    assert "ArrowInvalid" not in caught.value.hint


def test_an_iterator_that_ends_at_once_has_no_rows() -> None:
    with pytest.raises(EmptyDatasetError, match="user/name has no rows"), reading("user/name"):
        raise RuntimeError("generator raised StopIteration") from StopIteration()
