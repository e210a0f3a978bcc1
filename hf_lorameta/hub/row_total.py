"""The number of rows of a split, where it is known without reading them."""

from collections.abc import Sequence
from typing import Any

from hf_lorameta.hub.limited_stream import open_file
from hf_lorameta.hub.split_names import slice_bounds, split_name

_MOST_FILES = 16


def row_total(builder: Any, split: str) -> int | None:
    """Return the number of rows of a split, as its Parquet files or else its card states it.

    Args:
        builder: a `datasets.DatasetBuilder`.
        split: name of a split, or a slice.

    Returns:
        None if nothing states it, if the files cannot be read, or if there are more than 16.
    """
    name = split_name(split)
    total = None
    if builder.__module__.endswith(".parquet") and builder.config.filters is None:
        total = _rows_of_parquet(builder, builder.config.data_files[name])
    stated = (builder.info.splits or {}).get(name)
    if total is None and stated is not None:
        total = stated.num_examples
    if not isinstance(total, int) or total < 1:
        return None
    return len(range(total)[slice(*slice_bounds(split))])


def _rows_of_parquet(builder: Any, files: Sequence[Any]) -> int | None:
    import pyarrow
    import pyarrow.parquet as parquet

    if len(files) > _MOST_FILES:
        return None
    total = 0
    for path in files:
        try:
            with open_file(builder, str(path)) as file:
                total += parquet.ParquetFile(file).metadata.num_rows
        except (OSError, pyarrow.ArrowInvalid):  # the plan needs the rows, not their number
            return None
    return total
