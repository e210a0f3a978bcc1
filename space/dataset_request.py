"""Validate and open the dataset that a visitor names or uploads.

A visitor's token is an argument of each call; nothing here stores it.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from hf_lorameta import Dataset, Hub, LoraMetaError, column_names, open_dataset, parse_columns
from jobs import Job
from reader_process import read_first

Credential = str | Literal[False] | None
"""A visitor's token; False if the visitor is signed out; None for this machine's saved token."""

FILE_TYPES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


class RequestError(LoraMetaError):
    """The visitor's input is invalid; the message says what is expected."""


@dataclass(frozen=True)
class DatasetRequest:
    """Which dataset to read, and how.

    Attributes:
        dataset: Hub id; empty if a file was uploaded.
        file: path of the uploaded file.
        config: configuration; None selects the only or default one.
        split: split; None selects train, or the only one.
        columns: ``input=question,output=answer``; None detects them.
    """

    dataset: str = ""
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
    if request.columns:
        parse_columns(request.columns)
    if request.file:
        if Path(request.file).suffix.lower() not in FILE_TYPES:
            name, types = Path(request.file).name, ", ".join(FILE_TYPES)
            raise RequestError(f"{name} is not one of {types}")
        return replace(request, dataset="", config=None, split=None)
    if not request.dataset.strip():
        raise RequestError("No dataset was named: type an id such as user/name, or upload a file")
    return replace(request, dataset=_validated_id(request.dataset))


def _validated_id(text: str) -> str:
    """Return a Hub id that cannot be read as a path or URL on this machine."""
    name = text.strip().removeprefix("https://huggingface.co/datasets/").removesuffix("/")
    if not REPO_ID.fullmatch(name) or ".." in name or "--" in name or len(name) > 96:
        raise RequestError(f"{name[:80]!r} is not a dataset id of the form user/name")
    if Path(name).suffix.lower() in FILE_TYPES or Path(name).exists():
        raise RequestError(f"{name!r} looks like a file: upload it instead")
    return name


def open_request(request: DatasetRequest, credential: Credential) -> Dataset:
    """Open the dataset of a validated request."""
    return open_dataset(
        request.file or request.dataset,
        Hub(credential),
        config=request.config,
        split=request.split,
        columns=parse_columns(request.columns) if request.columns else None,
    )


def list_splits(
    request: DatasetRequest, credential: Credential, job: Job
) -> tuple[list[str], list[str]]:
    """Return a Hub dataset's configurations, and the splits of the chosen or first one."""
    configs, splits = read_first(job, _read_splits, validated(request), credential)
    return configs, splits


def _read_splits(
    request: DatasetRequest, credential: Credential
) -> Iterator[tuple[list[str], list[str]]]:
    hub = Hub(credential)
    repo = hub.resolve(request.dataset, "dataset")
    configs, splits = hub.choices(repo, request.config)
    yield configs, splits or hub.choices(repo, configs[0])[1]


def list_columns(request: DatasetRequest, credential: Credential, job: Job) -> list[str]:
    """Return the dataset's column names."""
    return list(read_first(job, _read_columns, validated(request), credential))


def _read_columns(request: DatasetRequest, credential: Credential) -> Iterator[list[str]]:
    with hidden_path(request):
        yield column_names(
            request.file or request.dataset,
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
