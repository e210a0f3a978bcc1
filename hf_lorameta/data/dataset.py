"""A dataset as a stream of (input, output) rows: where it lies, which columns are read, and how.

A dataset is a Hub id or a local jsonl, json, csv, tsv or parquet file. Its columns are found by
themselves for the layouts in `LAYOUTS`, and `PROMPTS` for datasets that hold nothing but inputs;
more than one reading is an error, never a guess.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from itertools import islice
from pathlib import Path

from hf_lorameta.data.columns import (
    Columns,
    find_columns,
    require_columns,
)
from hf_lorameta.data.rows import read_rows
from hf_lorameta.errors import DatasetError, UsageError
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.dataset_repo import RawDataset, pick_split, raw_dataset
from hf_lorameta.hub.errors import reading
from hf_lorameta.hub.repo import PinnedRepo
from hf_lorameta.types import Row

_FORMATS = {
    ".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".tsv": "csv",
    ".parquet": "parquet",
}  # fmt: skip


@dataclass(frozen=True)
class DatasetInfo:
    """A dataset's identity and columns, without its rows; can be pickled.

    Attributes:
        id: Hub id; None for a local file, whose path stays private.
        revision: commit hash, or ``sha256:…`` of a local file.
        config: configuration, None if the dataset has none.
        split: name of the split.
        columns: the columns read as input and output.
        private: whether the dataset is not public; True for local files.
        license: license from the dataset card, None if it states none.
    """

    id: str | None
    revision: str
    config: str | None
    split: str
    columns: Columns
    private: bool
    license: str | None

    @property
    def prompts_only(self) -> bool:
        """Whether the columns hold inputs and no outputs."""
        return not (self.columns.output or self.columns.messages)


@dataclass(frozen=True)
class Dataset(DatasetInfo):
    """A `DatasetInfo` with a stream of rows.

    Attributes:
        rows: returns a fresh iterator over (input, output) pairs.
    """

    rows: Callable[[], Iterator[Row]]

    @property
    def info(self) -> DatasetInfo:
        """The dataset without its rows."""
        return DatasetInfo(**{f.name: getattr(self, f.name) for f in fields(DatasetInfo)})

    def head(self, count: int) -> list[Row]:
        """Return the first rows."""
        return list(islice(self.rows(), count))


def open_dataset(
    name: str | Path,
    hub: Hub | None = None,
    *,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    columns: Columns | None = None,
) -> Dataset:
    """Find a dataset, pin it, and find its columns.

    Args:
        name: Hub id, or path of a local file ending in .jsonl, .json, .csv, .tsv or .parquet.
        hub: connection; None opens one when needed.
        config: configuration of a Hub dataset.
        split: None is train, or the only one.
        revision: branch, tag or commit of a Hub dataset.
        columns: None finds them.

    Raises:
        DatasetError: no such file, config or split, or an unreadable one.
        ColumnsError: the columns fit no layout, or more than one.
        UnlabeledDatasetError: inputs, and other columns that may or may not hold outputs.
        EmptyDatasetError: no rows.
        HubError: the repo is missing, private, gated, scripted, or out of reach.
    """
    repo, raw = _open(name, hub, config, split, revision)
    found = columns or find_columns(raw.columns, raw.labels)
    require_columns(found, raw.columns)
    path = Path(name)
    if repo is None:
        identity: tuple[str | None, str, bool, str | None] = (None, _digest(path), True, None)
    else:
        identity = (repo.repo_id, repo.sha, repo.private, repo.license)
    repo_id, sha, private, license_ = identity
    return Dataset(
        repo_id, sha, raw.config, raw.split, found, private, license_,
        lambda: read_rows(raw, found),
    )  # fmt: skip


def column_names(
    name: str | Path,
    hub: Hub | None = None,
    *,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
) -> list[str]:
    """Names of a dataset's columns, to choose from where `open_dataset` found no layout.

    Args:
        name: as for `open_dataset`, and so are the others.
        hub: connection.
        config: configuration.
        split: split.
        revision: revision.

    Raises:
        DatasetError: no such file, config or split, or an unreadable one.
        HubError: the repo is missing, private, gated, scripted, or out of reach.
    """
    return _open(name, hub, config, split, revision)[1].columns


def _open(
    name: str | Path,
    hub: Hub | None,
    config: str | None,
    split: str | None,
    revision: str | None,
) -> tuple[PinnedRepo | None, RawDataset]:
    """The pinned repo, None for a local file; and its rows."""
    path = Path(name)
    if is_local(path):
        if config or revision:
            raise UsageError(f"{path} is a file: it has neither configuration nor revision")
        return None, _local(path, split)
    if path.exists() and not _looks_like_id(str(name)):
        raise DatasetError(
            f"{path} is not one of {', '.join(sorted(_FORMATS))}", hint="name a file, or a Hub id"
        )
    hub = hub or Hub()
    repo = hub.resolve(_checked_id(str(name)), "dataset", revision)
    return repo, hub.rows(repo, config, split)


def is_local(path: Path) -> bool:
    """A file, or what must be meant as one: a repo can be called user/rows.csv, but seldom is."""
    file = path.suffix.lower() in _FORMATS
    return file and (path.exists() or len(path.parts) != 2 or path.parent.is_dir())


def _looks_like_id(name: str) -> bool:
    return len(Path(name).parts) == 2 and not name.startswith((".", "/", "~"))


def _checked_id(name: str) -> str:
    if not _looks_like_id(name) or ".." in name:
        raise DatasetError(
            f"{name} is neither a file here nor a Hub id of the form user/name",
            hint="hf-lorameta plan --dataset user/name",
        )
    return name


def _local(path: Path, split: str | None) -> RawDataset:
    import datasets

    if not path.is_file():
        raise DatasetError(f"{path}: no such file", hint="name a file, or a Hub id: user/name")
    datasets.disable_progress_bars()
    options = {"sep": "\t"} if path.suffix.lower() == ".tsv" else {}
    kind = _FORMATS[path.suffix.lower()]
    name = pick_split(path.name, ["train"], None if split in (None, "train") else split)
    with _reading(path):
        stream = datasets.load_dataset(
            kind, data_files={name: str(path)}, split=name, streaming=True, **options
        )
    return raw_dataset(stream, name, partial(_reading, path))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Around reading rows of a local file: what is wrong with it, and where that can be told."""
    try:
        with reading(str(path)):
            yield
    except DatasetError:
        line = _odd_line(path)
        if line is None:
            raise
        raise DatasetError(
            f"{path} cannot be read: line {line} is no JSON value of its own, in UTF-8",
            hint="mend that line: expected is one JSON object a line",
        ) from None


def _odd_line(path: Path) -> int | None:
    """The first that is no JSON value of its own, from 1; None where that cannot be told."""
    if path.suffix.lower() not in (".jsonl", ".ndjson"):
        return None
    try:
        with path.open("rb") as file:
            return next((n for n, line in enumerate(file, 1) if not _is_json(line)), None)
    except OSError:
        return None


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line.decode("utf-8-sig").strip() or "null")
    except (ValueError, RecursionError):  # not UTF-8, not JSON, or nested without end
        return False
    return True


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
