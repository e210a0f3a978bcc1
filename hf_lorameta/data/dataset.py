"""Open a dataset, a Hub repo or a local file, as a stream of (input, output) rows."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import islice
from pathlib import Path

from hf_lorameta.data.columns import Columns, find_columns, require_columns
from hf_lorameta.data.rows import read_rows
from hf_lorameta.errors import DatasetError, UsageError
from hf_lorameta.files import sha256
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.dataset_repo import RawDataset, pick_split, raw_dataset
from hf_lorameta.hub.errors import reading
from hf_lorameta.hub.repo import PinnedRepo, is_repo_id
from hf_lorameta.types import Row

_FORMATS = {
    ".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".tsv": "csv",
    ".parquet": "parquet",
}  # fmt: skip

_NUMBER = rb"(-?\d[\d.]*|true|false)\b"
_BARE_VALUE = re.compile(rb"(\xef\xbb\xbf)?\s*(%b|\[\s*(%b|\[))" % (_NUMBER, _NUMBER))


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
        gated: whether access to the dataset has to be asked for.
    """

    id: str | None
    revision: str
    config: str | None
    split: str
    columns: Columns
    private: bool
    license: str | None
    gated: bool = field(default=False, kw_only=True)

    @property
    def public(self) -> bool:
        """Whether anyone may read the rows."""
        return not self.private and not self.gated and self.id is not None

    @property
    def prompts_only(self) -> bool:
        """Whether the columns hold inputs and no outputs."""
        return not (self.columns.output or self.columns.messages)


@dataclass(frozen=True)
class Dataset(DatasetInfo):
    """A `DatasetInfo` with `rows`, which returns a fresh iterator over (input, output) pairs."""

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
    token: str | None = None,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    columns: Columns | None = None,
) -> Dataset:
    """Open a dataset, pinned to a commit or digest.

    Args:
        name: Hub id, or path of a local file (.jsonl, .ndjson, .json, .csv, .tsv or .parquet).
        hub: connection to the Hub; None creates one with `token`.
        token: for private and gated repos; None uses the saved one.
        config: configuration of a Hub dataset.
        split: None is train, or the only one.
        revision: branch, tag or commit of a Hub dataset.
        columns: None finds them, see `hf_lorameta.data.columns.find_columns`.

    Raises:
        DatasetError: no such file, config or split, or it cannot be read.
        ColumnsError: the columns fit no layout, or several.
        UnlabeledDatasetError: inputs, and other columns that may hold outputs.
        EmptyDatasetError: no rows.
        HubError: the repo is missing, private, gated or needs a script, or the Hub failed.
    """
    repo, raw = _open(name, hub or Hub(token), config, split, revision)
    columns = columns or find_columns(raw.columns, raw.labels)
    require_columns(columns, raw.columns)
    return Dataset(
        id=repo.repo_id if repo else None,
        revision=repo.sha if repo else f"sha256:{sha256(Path(name))}",
        config=raw.config,
        split=raw.split,
        columns=columns,
        private=repo.private if repo else True,
        license=repo.license if repo else None,
        gated=repo.gated if repo else False,
        rows=partial(read_rows, raw, columns),
    )


def column_names(
    name: str | Path,
    hub: Hub | None = None,
    *,
    token: str | None = None,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
) -> list[str]:
    """Return the names of a dataset's columns; the arguments are those of `open_dataset`.

    Raises:
        DatasetError: no such file, config or split, or it cannot be read.
        HubError: the repo is missing, private, gated or needs a script, or the Hub failed.
    """
    return _open(name, hub or Hub(token), config, split, revision)[1].columns


def _open(
    name: str | Path, hub: Hub, config: str | None, split: str | None, revision: str | None
) -> tuple[PinnedRepo | None, RawDataset]:
    """Return the pinned repo, None for a local file, and its rows."""
    path = Path(name)
    if is_local(path):
        if config or revision:
            raise UsageError(f"{path} is a file: it has neither configuration nor revision")
        return None, _open_file(path, split)
    if is_repo_id(str(name)):
        repo = hub.resolve(str(name), "dataset", revision)
        return repo, hub.rows(repo, config, split)
    if path.exists():
        endings = ", ".join(sorted(_FORMATS))
        raise DatasetError(f"{path} does not end in {endings}", hint="name a file, or a Hub id")
    raise DatasetError(
        f"{name} is neither a local file nor a Hub id of the form user/name",
        hint="hf-lorameta plan --dataset user/name",
    )


def is_local(path: Path) -> bool:
    """Whether a path is a local file, not a Hub id; user/rows.csv is one if the folder exists."""
    file = path.suffix.lower() in _FORMATS
    return file and (path.exists() or len(path.parts) != 2 or path.parent.is_dir())


def _open_file(path: Path, split: str | None) -> RawDataset:
    import datasets

    if path.is_dir():
        raise DatasetError(f"{path} is a folder", hint="name a file in it, or a Hub id: user/name")
    if not path.is_file():
        raise DatasetError(f"{path}: no such file", hint="name a file, or a Hub id: user/name")
    _refuse_bare_values(path)
    datasets.disable_progress_bars()
    suffix = path.suffix.lower()
    options = {"sep": "\t"} if suffix == ".tsv" else {}
    name = pick_split(path.name, ["train"], split)
    with _reading_file(path):
        stream = datasets.load_dataset(
            _FORMATS[suffix], data_files={name: str(path)}, split=name, streaming=True, **options
        )
    return raw_dataset(stream, name, partial(_reading_file, path))


@contextmanager
def _reading_file(path: Path) -> Iterator[None]:
    """Translate the errors of reading a local file; of JSON lines, name the malformed line."""
    try:
        with reading(str(path)):
            yield
    except DatasetError as error:
        line = _malformed_line(path)
        if line is None and type(error) is DatasetError:
            raise DatasetError(
                str(error), hint=f"check that it is a well-formed {path.suffix} file"
            ) from None
        if line is None:
            raise
        raise DatasetError(
            f"{path} cannot be read: line {line} is not a JSON value in UTF-8",
            hint="correct that line: each line must be one JSON object",
        ) from None


def _refuse_bare_values(path: Path) -> None:
    """Refuse JSON whose first row is a number, a boolean or a list, which `datasets` would read."""
    if _FORMATS[path.suffix.lower()] != "json":
        return
    with reading(str(path)), path.open("rb") as file:
        start = file.read(4096)
    if _BARE_VALUE.match(start):
        raise DatasetError(
            f"{path}: the rows are not objects or strings",
            hint='write each row as an object, such as {"input": "…", "output": "…"}',
        )


def _malformed_line(path: Path) -> int | None:
    """Number, from 1, of the first line that is not JSON; None if unknown."""
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
    except (ValueError, RecursionError):  # not UTF-8, not JSON, or nested too deeply
        return False
    return True
