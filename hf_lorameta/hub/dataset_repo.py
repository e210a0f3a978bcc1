"""Read dataset repos with `datasets`: configurations, splits and streams of rows.

`datasets` retries by itself. Its requests go through `huggingface_hub`, which retries five times
within 23 s; the further retries that `datasets` adds around those are switched off.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hf_lorameta.errors import DatasetError, EmptyDatasetError, UsageError
from hf_lorameta.hub.errors import opening, reading
from hf_lorameta.hub.repo import PinnedRepo

Token = str | Literal[False] | None
"""A token, None for the saved one, False for none."""


@dataclass(frozen=True)
class RawDataset:
    """Rows of one split as the files have them.

    Attributes:
        columns: column names.
        labels: class names of each class-label column.
        config: name of the configuration.
        split: name of the split.
        rows: returns a fresh iterator over the rows.
    """

    columns: list[str]
    labels: dict[str, list[str]]
    config: str | None
    split: str
    rows: Callable[[], Iterator[dict[str, Any]]]


def list_choices(
    repo: PinnedRepo, config: str | None = None, token: Token = None
) -> tuple[list[str], list[str]]:
    """List the configurations of a dataset repo, and the splits of one.

    Args:
        repo: the dataset repo.
        config: None is the default configuration; if there is none, no splits are listed.
        token: for private and gated repos.

    Returns:
        Names of the configurations, and of the splits.

    Raises:
        UsageError: a local folder shadows the repo.
        DatasetError: the repo cannot be read as a dataset.
        HubError: it is gated, needs a script, or the Hub failed.
    """
    import datasets

    _check_not_shadowed(repo.repo_id)
    options = {"revision": repo.sha, "token": token}
    with _single_retry_layer(), opening(repo.repo_id):
        configs = datasets.get_dataset_config_names(repo.repo_id, **options)
        chosen = config or ("default" if "default" in configs else configs[0])
        if config is None and chosen != "default" and len(configs) > 1:
            return list(configs), []
        splits = datasets.get_dataset_split_names(repo.repo_id, chosen, **options)
    return list(configs), list(splits)


def open_split(
    repo: PinnedRepo, config: str | None = None, split: str | None = None, token: Token = None
) -> RawDataset:
    """Open one split of a dataset repo as a stream.

    Args:
        repo: the dataset repo.
        config: None is the only configuration, or the one named default.
        split: None is train, or the only split.
        token: for private and gated repos.

    Raises:
        UsageError: a local folder shadows the repo.
        ScriptDatasetError: the dataset needs a loading script.
        EmptyDatasetError: it has no data files or no rows.
        DatasetError: there is no such configuration or split, or several and none is named.
        HubError: the repo is gated, or the Hub failed.
    """
    import datasets

    _check_not_shadowed(repo.repo_id)
    datasets.disable_progress_bars()
    with _single_retry_layer(), opening(repo.repo_id):
        streams = datasets.load_dataset(
            repo.repo_id, config, streaming=True, revision=repo.sha, token=token
        )
    split = pick_split(repo.repo_id, list(streams), split)

    @contextmanager
    def guard() -> Iterator[None]:
        with _single_retry_layer(), reading(repo.repo_id):
            yield

    return raw_dataset(streams[split], split, guard)


def pick_split(name: str, splits: Sequence[str], requested: str | None) -> str:
    """Return the requested split, else train, else the only one.

    Raises:
        DatasetError: the split does not exist, or several do and none is requested.

    Example:
        >>> pick_split("o/d", ["test", "train"], None)
        'train'
    """
    if requested is None and ("train" in splits or len(splits) == 1):
        return "train" if "train" in splits else splits[0]
    if requested in splits:
        return str(requested)
    problem = f"has no split {requested!r}" if requested else "has no split named train"
    raise DatasetError(f"{name} {problem}, only {', '.join(splits)}", hint=f"--split {splits[0]}")


def raw_dataset(
    stream: Any, split: str, guard: Callable[[], AbstractContextManager[None]]
) -> RawDataset:
    """Read the first row of a streamed split to learn its columns.

    Args:
        stream: a `datasets.IterableDataset`.
        split: name of the split.
        guard: context manager that translates the errors of reading rows.

    Raises:
        EmptyDatasetError: there is no row.
        LoraMetaError: the row cannot be read; as `guard` translates it.
    """
    with guard():
        first = next(iter(stream), None)
    if first is None:
        raise EmptyDatasetError(
            f"the split {split} has no rows", hint="choose another with --split"
        )
    labels = {
        name: list(feature.names)
        for name, feature in (stream.features or {}).items()
        if hasattr(feature, "names") and hasattr(feature, "int2str")
    }
    config = getattr(getattr(stream, "info", None), "config_name", None)

    def rows() -> Iterator[dict[str, Any]]:
        with guard():
            yield from stream

    return RawDataset(list(first), labels, config, split, rows)


def _check_not_shadowed(repo_id: str) -> None:
    """Raise UsageError if `datasets` would read a local folder instead of the repo."""
    if Path(repo_id).exists():
        raise UsageError(
            f"a local folder is named {repo_id} and would be read instead of the Hub repo",
            hint="run the command in another folder",
        )


# --- retries of datasets ------------------------------------------------------------------------

_SINGLE_ATTEMPT = {
    "STREAMING_OPEN_MAX_RETRIES": 1,  # the number of attempts
    "STREAMING_OPEN_RETRY_INTERVAL": 0,  # slept after the last attempt, too
    "STREAMING_READ_MAX_RETRIES": 1,
    "STREAMING_READ_RETRY_INTERVAL": 0,
    "STREAMING_READ_SERVER_UNAVAILABLE_RETRY_INTERVAL": 0,
    "STREAMING_READ_RATE_LIMIT_RETRY_INTERVAL": 0,
}
_config_lock = threading.Lock()
_config_users = 0
_saved_config: dict[str, int] = {}


@contextmanager
def _single_retry_layer() -> Iterator[None]:
    """Switch off the retries of `datasets` (up to 20 min per read) until the last user leaves."""
    import datasets

    global _config_users
    with _config_lock:
        if _config_users == 0:
            _saved_config.update({name: getattr(datasets.config, name) for name in _SINGLE_ATTEMPT})
            for name, value in _SINGLE_ATTEMPT.items():
                setattr(datasets.config, name, value)
        _config_users += 1
    try:
        yield
    finally:
        with _config_lock:
            _config_users -= 1
            if _config_users == 0:
                for name, value in _saved_config.items():
                    setattr(datasets.config, name, value)
