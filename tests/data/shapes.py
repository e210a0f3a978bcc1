"""What the tables of datasets share: made-up texts, files, and the record of a case."""

import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]
Make = Callable[[int], Record]
ROWS = 24
_WORDS = (
    "sun", "rain", "wind", "snow", "bread", "milk", "egg", "salt", "red", "blue", "green", "grey",
    "one", "two", "three", "four", "warm", "cold", "old", "new", "big", "small",
)  # fmt: skip


def text(seed: int, length: int = 8) -> str:
    """Return a made-up sentence."""
    words = [_WORDS[(seed * 5 + i * (3 + seed % 4)) % len(_WORDS)] for i in range(length)]
    return f"{' '.join(words).capitalize()} {seed}."


# --- writing a dataset --------------------------------------------------------------------------


def jsonl(records: Sequence[Record]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def csv_text(records: Sequence[Record], mark: str = ",") -> str:
    lines = [mark.join(records[0]), *(mark.join(map(str, r.values())) for r in records)]
    return "\n".join(lines) + "\n"


def parquet(records: Sequence[Record]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(list(records)), buffer)
    return buffer.getvalue()


def class_labels(**columns: list[str]) -> str:
    """Return a dataset card that names class labels; ``…__items`` is a list of them."""
    lines = ["---", "dataset_info:", "  features:"]
    for name, names in columns.items():
        numbered = ", ".join(f"'{i}': {n}" for i, n in enumerate(names))
        label = f"{{class_label: {{names: {{{numbered}}}}}}}"
        column = name.removesuffix("__items")
        kind = "list" if name != column else "dtype"
        lines.append(f"  - {{name: {column}, {kind}: {label}}}")
    return "\n".join([*lines, "---", ""])


def features(card: str, **types: str) -> str:
    """Add the other columns to a card of `class_labels`; a name with ``__items`` is a list."""
    lines = [
        f"  - {{name: {name.removesuffix('__items')}, "
        f"{'list' if name.endswith('__items') else 'dtype'}: {dtype}}}"
        for name, dtype in types.items()
    ]
    return card.replace("  features:\n", "\n".join(["  features:", *lines, ""]))


# --- a dataset and its row ----------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A dataset, and its first row as it is to be read.

    Attributes:
        name: of the case.
        files: of the dataset; one file is local unless there is a `card`.
        row: the first row with an output, as it is read.
        asks: how often errors have to ask first; the last proposal gives `row`.
        card: README.md of a Hub dataset.
        options: of the command.
        says: what the command has to say.
    """

    name: str
    files: dict[str, bytes]
    row: tuple[str, str]
    asks: int = False
    card: str | None = None
    options: tuple[str, ...] = ()
    says: tuple[str, ...] = ()


def case(
    name: str,
    make: Make,
    row: tuple[str, str],
    ending: str = "jsonl",
    **more: Any,
) -> Case:
    records = [make(i) for i in range(ROWS)]
    content = parquet(records) if ending == "parquet" else jsonl(records)
    return Case(name, {f"train.{ending}": content}, row, **more)


def turns(i: int, count: int = 2, role: str = "role", content: str = "content") -> list[Record]:
    names = ("user", "assistant") if role == "role" else ("human", "gpt")
    return [{role: names[k % 2], content: text(i + k)} for k in range(count)]


def choices(i: int) -> list[str]:
    return [text(i + k, 2) for k in range(4)]


SHOWN = "\n".join(f"- {choice}" for choice in choices(0))
CLASSES = ["negative", "neutral", "positive"]
LETTERS = list("ABCD")


# --- a repo of the Hub --------------------------------------------------------------------------


def rows_of(make: Make) -> list[Record]:
    return [make(i) for i in range(ROWS)]


def configs(named: dict[str, Sequence[str]], ending: str, info: str = "") -> str:
    """Return a card with configurations, each with its splits and globs of their files."""
    lines = ["---", *([info] if info else []), "configs:"]
    for name, splits in named.items():
        folder = "" if name == "default" else f"{name}/"
        lines += [f"- config_name: {name}", "  data_files:"]
        lines += [f"  - {{split: {s}, path: {folder}{s}-*.{ending}}}" for s in splits]
    return "\n".join([*lines, "---", ""])


def repo(
    name: str,
    named: dict[str, Sequence[str]],
    make: Make,
    row: tuple[str, str],
    info: str = "",
    **more: Any,
) -> Case:
    """Return a dataset of Parquet files, one for each split of each configuration."""
    content = parquet(rows_of(make))
    files = {
        f"{'' if config == 'default' else config + '/'}{split}-00000-of-00001.parquet": content
        for config, splits in named.items()
        for split in splits
    }
    return Case(name, files, row, card=configs(named, "parquet", info), **more)


def zipped(files: Mapping[str, str | bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def labeled(i: int) -> Record:
    return {"text": text(i), "label": i % 3}
