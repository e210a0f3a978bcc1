"""The only room that touches the network.

Every repo is resolved to a commit first and read at that commit; the client's exceptions become
`hf_lorameta.errors`; rate limits and server errors are waited out. ``HF_ENDPOINT``, ``HF_TOKEN``,
``HF_HOME`` and ``HF_HUB_OFFLINE`` mean what they mean to `huggingface_hub`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_lorameta.errors import DatasetError, EmptyDatasetError, UsageError


@dataclass(frozen=True)
class RawDataset:
    """Rows of a dataset as its repo has them.

    Attributes:
        columns: column names.
        labels: for class-label columns, the names of the classes.
        config: the configuration read.
        split: the split read.
        rows: makes a fresh stream of rows.
    """

    columns: list[str]
    labels: dict[str, list[str]]
    config: str | None
    split: str
    rows: Callable[[], Iterator[dict[str, Any]]]


# --- datasets -----------------------------------------------------------------------------------


def check_not_shadowed(repo_id: str) -> None:
    """Insist that no local folder would be read in a dataset repo's place.

    Raises:
        UsageError: there is one.
    """
    if Path(repo_id).exists():  # the library would read it, and call it the repo
        raise UsageError(
            f"a folder called {repo_id} is here, and would be read instead of the Hub's",
            hint="run the command in another folder",
        )


def pick_split(name: str, splits: Sequence[str], wanted: str | None) -> str:
    """The split asked for, else train, else the only one.

    Raises:
        DatasetError: it does not exist, or none was named and the choice is open.

    Example:
        >>> pick_split("o/d", ["test", "train"], None)
        'train'
    """
    if wanted is None and ("train" in splits or len(splits) == 1):
        return "train" if "train" in splits else splits[0]
    if wanted in splits:
        return str(wanted)
    problem = f"has no split {wanted!r}" if wanted else "has no split called train"
    raise DatasetError(f"{name} {problem}, only {', '.join(splits)}", hint=f"--split {splits[0]}")


def raw_dataset(
    stream: Any,
    split: str,
    guard: Callable[[], AbstractContextManager[None]],
) -> RawDataset:
    """Look at one row of a streamed split to learn its columns.

    Args:
        stream: a `datasets.IterableDataset`.
        split: its name.
        guard: stands around all reading of rows, translating errors.

    Raises:
        EmptyDatasetError: there is no row.
        DatasetError: what `guard` makes of malformed data.
    """
    with guard():
        first = next(iter(stream), None)
    if first is None:
        raise EmptyDatasetError(f"the split {split} has no rows", hint="name another with --split")
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
