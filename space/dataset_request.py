"""Validate and open the dataset that a visitor names or uploads.

The generator functions run in a `reader_process`.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hf_lorameta import (
    Dataset,
    Hub,
    LoraMetaError,
    ReadingLimits,
    column_names,
    open_dataset,
    parse_columns,
)

Credential = str | Literal[False] | None
"""A visitor's token; False if the visitor is signed out; None for this machine's saved token."""

FILE_TYPES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


class RequestError(LoraMetaError):
    """The visitor's input is invalid; the message says what is expected."""


@dataclass(frozen=True)
class DatasetRequest:
    """Which dataset to read, and how; an empty string means the same as None.

    Attributes:
        dataset: Hub id; None if a file was uploaded.
        file: path of the uploaded file.
        config: configuration; None selects the only or default one.
        split: split; None selects train, or the only one.
        columns: ``input=question,output=answer``; None detects them.
    """

    dataset: str | None = None
    file: str | None = None
    config: str | None = None
    split: str | None = None
    columns: str | None = None


def validated(request: DatasetRequest) -> DatasetRequest:
    """Check a request before anything is read, and normalize it.

    Raises:
        RequestError: no dataset is named, or the id or file type is invalid.
        UsageError: the columns are not of the form role=column.
    """
    columns = request.columns or None
    if columns:
        parse_columns(columns)
    if request.file:
        if Path(request.file).suffix.lower() not in FILE_TYPES:
            name, types = Path(request.file).name, ", ".join(FILE_TYPES)
            raise RequestError(f"{name} is not one of {types}")
        return DatasetRequest(file=request.file, columns=columns)
    name = (request.dataset or "").strip()
    if not name:
        raise RequestError("No dataset was named: type an id such as user/name, or upload a file")
    config, split = request.config or None, request.split or None
    return DatasetRequest(_validated_id(name), None, config, split, columns)


def _validated_id(text: str) -> str:
    """Return a Hub id that cannot be read as a path or URL on this machine."""
    name = text.removeprefix("https://huggingface.co/datasets/").removesuffix("/")
    if not REPO_ID.fullmatch(name) or ".." in name or "--" in name or len(name) > 96:
        raise RequestError(f"{name[:80]!r} is not a dataset id of the form user/name")
    if Path(name).suffix.lower() in FILE_TYPES or Path(name).exists():
        raise RequestError(f"{name!r} looks like a file: upload it instead")
    return name


def open_request(request: DatasetRequest, credential: Credential, limits: ReadingLimits) -> Dataset:
    """Open the dataset of a validated request."""
    return open_dataset(
        request.file or request.dataset or "",
        Hub(credential),
        config=request.config,
        split=request.split,
        columns=parse_columns(request.columns) if request.columns else None,
        limits=limits,
    )


def read_splits(
    request: DatasetRequest, credential: Credential
) -> Iterator[tuple[list[str], list[str]]]:
    """Yield a Hub dataset's configurations, and the splits of the chosen or first one."""
    hub = Hub(credential)
    repo = hub.resolve(request.dataset or "", "dataset")
    configs, splits = hub.choices(repo, request.config)
    yield configs, splits or hub.choices(repo, configs[0])[1]


def read_columns(request: DatasetRequest, credential: Credential) -> Iterator[list[str]]:
    """Yield the dataset's column names."""
    with hidden_path(request):
        yield column_names(
            request.file or request.dataset or "",
            Hub(credential),
            config=request.config,
            split=request.split,
        )


@contextmanager
def hidden_path(request: DatasetRequest) -> Iterator[None]:
    """Replace the path of an uploaded file by its name in error messages."""
    try:
        yield
    except LoraMetaError as error:
        if request.file:
            message = str(error).replace(request.file, Path(request.file).name)
            error.args = (message, *error.args[1:])
        raise
