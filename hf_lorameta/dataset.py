"""A dataset as a stream of (input, output) rows: where it lies, which columns are read, and how.

A dataset is a Hub id or a local jsonl, json, csv, tsv or parquet file. Its columns are found by
themselves for the layouts in `LAYOUTS`, and `PROMPTS` for datasets that hold nothing but inputs;
more than one reading is an error, never a guess.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from hf_lorameta.errors import ColumnsError, DatasetError, UnlabelledDatasetError, UsageError
from hf_lorameta.hub import Hub, RawDataset, Resolved, pick_split, raw_dataset
from hf_lorameta.hub_errors import reading
from hf_lorameta.manifest import Columns
from hf_lorameta.profile import Row

LAYOUTS: tuple[Columns, ...] = (
    Columns(instruction="instruction", input="input", output="output"),
    Columns(instruction="instruction", input="input", output="response"),
    Columns(input="input", output="output"),
    Columns(input="prompt", output="completion"),
    Columns(input="prompt", output="response"),
    Columns(input="question", output="answer"),
    Columns(input="instruction", output="output"),
    Columns(input="instruction", output="response"),
    Columns(messages="messages"),
    Columns(messages="conversations"),
)
"""Known layouts; one whose columns all belong to another found layout gives way to it."""

PROMPTS: tuple[Columns, ...] = (
    Columns(instruction="instruction", input="input"),
    *(Columns(input=name) for name in ("input", "prompt", "question", "instruction")),
)
"""Layouts without outputs; found only where there is no other column that could hold them."""

_NUMBERS = {"id", "idx", "index", "uid", "uuid"}
_INPUTS = {"input", "prompt", "question", "instruction"}
_ANSWERS = {
    "label", "labels", "label_text", "sentiment", "summary", "target", "class", "category",
    "answer", "answers", "output", "response", "completion", "highlights", "translation",
}  # fmt: skip
_PROMPTS = _INPUTS | {"context"}
_FORMATS = {
    ".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".tsv": "csv",
    ".parquet": "parquet",
}  # fmt: skip


@dataclass(frozen=True)
class Dataset:
    """A dataset that can be read.

    Attributes:
        id: Hub id, or None for a local file, whose path is nobody's business.
        revision: commit hash, or ``sha256:…`` of a local file.
        config: configuration read, None if the dataset has none.
        split: split read.
        columns: what was found, or told.
        private: whether strangers can see it; a local file counts as private.
        license: what the repo's card says.
        rows: makes a fresh stream of (input, output).
    """

    id: str | None
    revision: str
    config: str | None
    split: str
    columns: Columns
    private: bool
    license: str | None
    rows: Callable[[], Iterator[Row]]

    @property
    def prompts_only(self) -> bool:
        """Whether it has inputs and no outputs, by its columns."""
        return not (self.columns.output or self.columns.messages)

    def head(self, count: int) -> list[Row]:
        """The first rows."""
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
        UnlabelledDatasetError: inputs, and other columns that may or may not hold outputs.
        EmptyDatasetError: no rows.
        HubError: the repo is missing, private, gated, scripted, or out of reach.
    """
    repo, raw = _open(name, hub, config, split, revision)
    found = columns or find_columns(raw.columns, raw.labels)
    _require(found, raw.columns)
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
) -> tuple[Resolved | None, RawDataset]:
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


# --- columns ------------------------------------------------------------------------------------


def parse_columns(text: str) -> Columns:
    """Read the form ``input=question,output=answer`` of the command line.

    Raises:
        UsageError: a part is not of the form role=column, or the roles do not fit together.

    Example:
        >>> parse_columns("input=q,output=a").output
        'a'
    """
    parts = [part.strip().partition("=")[::2] for part in text.split(",")]
    pairs, roles = dict(parts), set(Columns.model_fields)
    if not set(pairs) <= roles or not all(pairs.values()) or len(pairs) < len(parts):
        raise UsageError(
            f"--columns {text}: expected role=column, roles are {', '.join(sorted(roles))}",
            hint="--columns input=question,output=answer",
        )
    return checked_columns(Columns(**pairs))


def checked_columns(columns: Columns) -> Columns:
    """Refuse roles that do not fit together: messages are alone, all else needs input or output.

    Raises:
        UsageError: messages with others, or neither messages nor input nor output.
    """
    texts = columns.input or columns.output
    if bool(columns.messages) == bool(texts) or (columns.messages and columns.instruction):
        raise UsageError(
            f"columns {describe(columns)}: expected input and output, one of them, or messages",
            hint="--columns input=question,output=answer",
        )
    return columns


def describe(columns: Columns) -> str:
    """The command line's form of a choice of columns.

    Example:
        >>> describe(Columns(input="q", output="a"))
        'input=q,output=a'
    """
    return ",".join(
        f"{role}={name}" for role, name in columns.model_dump(exclude_none=True).items()
    )


def find_columns(names: Sequence[str], labels: Mapping[str, object] = {}) -> Columns:
    """Find the layout that a dataset's columns have.

    Args:
        names: column names.
        labels: names of class-label columns.

    Raises:
        ColumnsError: none fits, or more than one; lists the columns.
        UnlabelledDatasetError: there is an input, no known output, and columns that may hold one.

    Example:
        >>> find_columns(["id", "question", "answer"]).output
        'answer'
        >>> find_columns(["text"]).output
        'text'
        >>> describe(find_columns(["id", "prompt"]))
        'input=prompt'
    """
    have = set(names)
    fitting = [layout for layout in LAYOUTS if set(layout.names()) <= have]
    best = [
        layout for layout in fitting
        if not any(set(layout.names()) < set(other.names()) for other in fitting)
    ]  # fmt: skip
    listed = ", ".join(names)
    if len(best) == 1:
        read = _PROMPTS if best[0].messages else set(best[0].names())
        unread = sorted(have & _PROMPTS - read)
        if unread:
            raise ColumnsError(
                f"{describe(best[0])} would leave {', '.join(unread)} unread; all: {listed}",
                hint=f"say so with --columns {describe(best[0])}, or put one in as instruction=",
            )
        return best[0]
    if best:
        readings = " or ".join(describe(layout) for layout in best)
        raise ColumnsError(
            f"the columns can be read as {readings}; all columns: {listed}",
            hint=f"choose one: --columns {describe(best[0])}",
        )
    if "text" in have and not labels and not have & _ANSWERS:
        return Columns(output="text")
    inputs = sorted(have & _INPUTS)
    if inputs and not have & (_ANSWERS | {"text"}):
        for layout in PROMPTS:
            if set(layout.names()) == have - _NUMBERS and not labels:
                return layout
        raise UnlabelledDatasetError(
            f"the dataset has inputs ({', '.join(inputs)}) and no outputs; all columns: {listed}",
            hint=f"name them: --columns input={inputs[0]},output=COLUMN; or if there are none: "
            f"--columns input={inputs[0]}",
        )
    raise ColumnsError(
        f"the columns fit no known layout; all columns: {listed}",
        hint="name those to read: --columns input=COLUMN,output=COLUMN",
    )


def _require(columns: Columns, names: Sequence[str]) -> None:
    missing = [name for name in columns.names() if name not in names]
    if missing:
        raise ColumnsError(
            f"no column {', '.join(missing)}; all columns: {', '.join(names)}",
            hint="name existing ones: --columns input=COLUMN,output=COLUMN",
        )


# --- rows ---------------------------------------------------------------------------------------


def read_rows(raw: RawDataset, columns: Columns) -> Iterator[Row]:
    """Yield (input, output) of every row; of a list of outputs, the first.

    Raises:
        ColumnsError: a cell holds neither text, number, list of texts nor chat turns.
    """
    for row in raw.rows():
        if columns.messages:
            yield from _from_messages(row.get(columns.messages))
            continue
        output = _text(row, columns.output, raw.labels)
        prompt = _text(row, columns.input, raw.labels)
        if columns.instruction:
            prompt = join_instruction(_text(row, columns.instruction, raw.labels), prompt)
        yield prompt, output


def join_instruction(instruction: str, text: str) -> str:
    """Put an instruction before an input the way the default bank's datasets do.

    Example:
        >>> join_instruction("Name the animal.", "woof")
        'Name the animal.\\n\\nInput: woof\\nOutput:'
        >>> join_instruction("Name an animal.", "")
        'Name an animal.'
    """
    return (
        f"{instruction}\n\nInput: {text}\nOutput:" if instruction and text else instruction or text
    )


def _text(row: Mapping[str, Any], column: str | None, labels: Mapping[str, list[str]]) -> str:
    value = row.get(column) if column else None
    if isinstance(value, (list, tuple)):
        value = value[0] if value else None
    if isinstance(value, Mapping) and isinstance(value.get("text"), (list, str)):
        return _text(value, "text", {})  # SQuAD's answers
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and column and column in labels:
        return labels[column][value] if 0 <= value < len(labels[column]) else ""
    if isinstance(value, (str, int, float)):
        return str(value)
    raise ColumnsError(
        f"column {column} holds {type(value).__name__}, expected text",
        hint="name a text column: --columns input=COLUMN,output=COLUMN",
    )


def _from_messages(turns: object) -> Iterator[Row]:
    """The last answer as output, all that was said before it as input."""
    if not isinstance(turns, (list, tuple)):
        return
    said = [_turn(turn) for turn in turns if isinstance(turn, Mapping)]
    answers = [i for i, (role, _) in enumerate(said) if role in ("assistant", "gpt", "model")]
    if not answers:
        yield "\n\n".join(text for _, text in said), ""
        return
    last = answers[-1]
    yield "\n\n".join(text for _, text in said[:last]), said[last][1]


def _turn(turn: Mapping[str, Any]) -> tuple[str, str]:
    role = str(turn.get("role") or turn.get("from") or "")
    content = turn.get("content") or turn.get("value") or ""
    if isinstance(content, (list, tuple)):  # parts, of which text is read
        content = "".join(str(p.get("text") or "") for p in content if isinstance(p, Mapping))
    return role, str(content)
