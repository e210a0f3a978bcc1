"""Open a dataset on the Hub, in local files or in memory as a stream of (input, output) rows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from hf_lorameta.data.chat_form import ChatForm
from hf_lorameta.data.columns.columns import Columns, require_columns
from hf_lorameta.data.columns.labels import Form
from hf_lorameta.data.columns.layouts import find_columns, likely_columns, unread_columns
from hf_lorameta.data.columns.rows import RowReader, read_rows
from hf_lorameta.data.columns.table_view import TableView
from hf_lorameta.data.first_rows import read_first_rows
from hf_lorameta.data.reading import Reading, reading_of
from hf_lorameta.data.sources.files import (
    are_names,
    is_local,
    open_files,
    other_name,
    refuse_stream,
    similar_file,
)
from hf_lorameta.data.sources.folders import is_folder, open_folder
from hf_lorameta.data.sources.hub_repos import open_repo
from hf_lorameta.data.sources.memory import rows_in_memory
from hf_lorameta.data.sources.raw_dataset import RawDataset
from hf_lorameta.data.sources.reading_errors import refusing_deep_rows
from hf_lorameta.data.sources.reading_limits import DEFAULT_LIMITS, ReadingLimits, cut
from hf_lorameta.data.sources.split_names import Splits
from hf_lorameta.data.unfolding import (
    find_unfolded,
    holds_rows,
    reads_pairs,
    states_outputs,
    unfolded,
)
from hf_lorameta.errors import (
    DatasetError,
    HubError,
    Option,
    UsageError,
)
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.repo import DATASET_LINK, ON_HUB, is_hub_id, is_repo_id, on_hub
from hf_lorameta.remarks import Remark
from hf_lorameta.types import Row

_MOST_PARTS = 12
"""Sheets, tables or lists of a file that are tried where none is named."""


@dataclass(frozen=True)
class DatasetInfo:
    """A dataset's identity and columns, without its rows; can be pickled.

    Attributes:
        id: Hub id; None for a local file, whose path stays private.
        revision: commit hash, or ``sha256:…`` of a local file.
        config: configuration, None if the dataset has none.
        split: name of the split; rows that are in none, as those of a file, count as train.
        columns: the columns read as input and output.
        private: whether the dataset is not public; True for local files.
        license: license from the dataset card, None if it states none.
        languages: codes of the languages that the dataset card states; none if it states several
            and a configuration was named, which may be in one of them.
        gated: whether access to the dataset has to be asked for.
        proposed: whether rows that are not public get an instruction that was derived from them;
            it may name their classes.
        form: what outputs are.
        remarks: what to know about how it is read, and why inputs may lack what an answer needs.
    """

    id: str | None
    revision: str
    config: str | None
    split: str
    columns: Columns
    private: bool
    license: str | None
    gated: bool = field(default=False, kw_only=True)
    proposed: bool = field(default=False, kw_only=True)
    languages: tuple[str, ...] = field(default=(), kw_only=True)
    form: Form = field(default="one", kw_only=True)
    remarks: tuple[Remark, ...] = field(default=(), kw_only=True)

    @property
    def public_id(self) -> str | None:
        """The id of a dataset on the public Hub, gated or not, which anyone may know; else None.

        Where it is None, an adapter's files contain neither id nor revision nor configuration.
        """
        return self.id if self.id and not self.private and is_hub_id(self.id) else None

    @property
    def has_public_rows(self) -> bool:
        """Whether anyone may read the rows."""
        return self.public_id is not None and not self.gated

    @property
    def prompts_only(self) -> bool:
        """Whether the columns hold inputs and no outputs."""
        return not (self.columns.output or self.columns.messages)


@dataclass(frozen=True)
class Dataset(DatasetInfo):
    """A `DatasetInfo` with its rows.

    Attributes:
        rows: returns a fresh iterator over (input, output) pairs; their texts are cut to
            `hf_lorameta.data.sources.reading_limits.MAX_TEXT` characters.
        whole: iterates over the whole split, ignoring any slice.
        first_rows: the first rows as they are read; only those with an output, if there are any.
        classes: names of the labels in outputs, if they are stated.
        unread: columns that are not read; last those that describe a row, such as ids and dates.
        limits: how much a plan counts.
        total: number of rows; None if it is not known without reading them.
        sampled: iterates over a part of the rows of a large split, evenly spread; else None.
        with_prompt: returns the dataset with an instruction and a template around every row, see
            `Columns.with_prompt`.
    """

    rows: Callable[[], Iterator[Row]]
    whole: Callable[[], Iterator[Row]]
    with_prompt: Callable[[str | None, str | ChatForm | None], "Dataset"]
    first_rows: tuple[Row, ...] = ()
    classes: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    limits: ReadingLimits = DEFAULT_LIMITS
    total: int | None = None
    sampled: Callable[[], Iterator[Row]] | None = None

    @property
    def info(self) -> DatasetInfo:
        """The dataset without its rows."""
        return DatasetInfo(**{f.name: getattr(self, f.name) for f in fields(DatasetInfo)})

    def head(self, count: int) -> list[Row]:
        """Return the first rows."""
        return list(islice(self.rows(), count))


def open_dataset(
    name: Any,
    hub: Hub | None = None,
    *,
    token: str | None = None,
    limits: ReadingLimits = DEFAULT_LIMITS,
    **options: Any,
) -> Dataset:
    """Open a dataset, pinned to a commit or digest. A dataset in memory counts as private.

    Args:
        name: path of a local folder that is laid out like a dataset repo or was written by
            ``save_to_disk``; path of a local file of one of the
            `hf_lorameta.data.sources.formats.FORMATS`, or a list of them; with wildcards, several
            files. Else a Hub id, which may begin with ``hf://datasets/``.
            Or a list of dictionaries, a `pandas.DataFrame`, a dataset of the
            library `datasets`, or an opened `Dataset`, which is returned as it is.
        hub: connection to the Hub; None creates one with `token`.
        token: for private and gated repos; None uses the saved one.
        limits: how much a plan counts.
        options: what is read and how: fields of `hf_lorameta.data.reading.Reading`.

    Raises:
        DatasetError: no such file, config or split, or it cannot be read.
        ColumnsError: the columns fit no layout, or several.
        UnlabeledDatasetError: there are inputs and no outputs.
        EmptyDatasetError: no rows, or blank inputs.
        UsageError: an instruction or a template does not fit the columns, or an argument is
            unknown.
        HubError: the repo is missing, private, gated or needs a script, or the Hub failed.

    Example:
        >>> open_dataset([{"prompt": "1+1=", "completion": 2}]).head(1)
        [('1+1=', '2')]
    """
    reading = reading_of(options)
    if isinstance(name, Dataset):
        return name
    hub = hub or Hub(token)

    def read(split: Splits) -> Dataset:
        raw = open_rows(name, hub, reading.model_copy(update={"split": split}))
        return as_dataset(raw, reading.columns, reading.instruction, reading.template, limits)

    try:
        return read(reading.split)
    except DatasetError as error:
        if found := _only_readable(read, error.parts):
            return found
        raise


def _only_readable(read: Callable[[str], Dataset], parts: Sequence[str]) -> Dataset | None:
    """Return the one part of a file, such as a sheet, that has inputs and outputs, if any has."""
    readable, asked = list[Dataset](), False
    for part in parts if len(parts) <= _MOST_PARTS else ():
        try:
            readable.append(read(part))
        except DatasetError as error:
            asked = asked or bool(error.columns and error.columns.input and error.columns.output)
    if len(readable) != 1 or (asked and not readable[0].columns.input):
        return None
    others = ", ".join(part for part in parts if part != readable[0].split)
    text = f"{readable[0].split} is read, as no rows of text were found in {others}."
    remark = Remark("note", text, code="split.only-readable")
    return replace(readable[0], remarks=(remark, *readable[0].remarks))


@refusing_deep_rows()
def as_dataset(
    raw: RawDataset,
    columns: Columns | None = None,
    instruction: str | None = None,
    template: str | ChatForm | None = None,
    limits: ReadingLimits = DEFAULT_LIMITS,
) -> Dataset:
    """Choose the columns of opened rows; arguments and errors are those of `open_dataset`."""
    repo, found = raw.repo, columns is None
    try:
        columns = columns or _find_columns(raw)
        raw = unfolded(raw, columns)
        table = TableView(raw.columns, raw.labels, raw.sample)
        require_columns(columns, raw.columns, partial(likely_columns, table))
        columns = columns.with_prompt(instruction, template)
        reader = RowReader(raw, columns)
        first_rows, remarks = read_first_rows(raw, reader)
        if found and columns.names() == [columns.output]:
            as_input = Option("columns", f"input={columns.output}")
            text = "The dataset is read as outputs without inputs."
            remarks.append(
                Remark("note", text, as_input, "To read them as inputs", code="inputs.none")
            )
    except DatasetError as error:
        error.row = _row_as_proposed(raw, error.columns)
        raise
    read, whole = partial(read_rows, columns=columns), raw.config in (None, "default")
    return Dataset(
        id=repo.repo_id if repo else None,
        revision=raw.revision,
        config=raw.config,
        split=raw.split,
        columns=columns,
        private=repo.private if repo else True,
        license=repo.license if repo else None,
        languages=repo.languages if repo and (whole or len(repo.languages) == 1) else (),
        gated=repo.gated if repo else False,
        remarks=tuple(remarks),
        rows=partial(read, raw),
        with_prompt=partial(as_dataset, raw, columns, limits=limits),
        whole=partial(read, replace(raw, rows=raw.whole)),
        first_rows=tuple((cut(prompt), cut(output)) for prompt, output in first_rows),
        classes=reader.classes,
        form=reader.form,
        unread=tuple(n for n in unread_columns(columns, table) if n != reader.verdict),
        limits=limits,
        total=raw.total,
        sampled=raw.sampled and partial(read, replace(raw, rows=raw.sampled)),
    )


def _find_columns(raw: RawDataset) -> Columns:
    """Find the columns of rows, or else of the items of a list that they hold."""
    if states_outputs(raw) and (found := find_unfolded(raw)):
        return found
    try:
        columns = find_columns(TableView(raw.columns, raw.labels, raw.sample))
    except DatasetError as error:
        if not reads_pairs(raw, error.columns) and (found := find_unfolded(raw)):
            return found
        raise
    read = (*columns.named("input"), *columns.named("output"))
    return (holds_rows(raw, read) and find_unfolded(raw)) or columns


def _row_as_proposed(raw: RawDataset, columns: Columns | None) -> Row | None:
    """Return a row as proposed columns read it; None if they do not read it as text."""
    if columns is None:
        return None
    raw = unfolded(raw, columns)
    try:
        return read_first_rows(raw, RowReader(raw, columns))[0][0]
    except DatasetError:
        return None


@refusing_deep_rows()
def open_rows(name: Any, hub: Hub, reading: Reading) -> RawDataset:
    """Open one split before its columns are chosen; `name` is that of `open_dataset`."""
    config, split, revision = reading.config, reading.split, reading.revision
    if not isinstance(name, str | Path):
        what = "a list of files" if are_names(name) else "rows in memory"
        _refuse_repo_options(f"{what}: there is", reading)
        if not are_names(name):
            return rows_in_memory(name, split)
        if others := [str(one) for one in name if not is_local(one)]:
            raise UsageError(
                f"{', '.join(others)}: several datasets are read as one only if all are files",
                code="dataset.several",
                hint="name one",
            )
        return open_files(name, split)
    if not str(name):
        raise UsageError(
            "no dataset was named",
            code="dataset.unnamed",
            hint=[Option("dataset", "user/name"), "name a file"],
        )
    if is_local(name):
        _refuse_repo_options(f"{name} is a file: it has", reading)
        return open_files(name, split)
    if is_folder(name):
        if revision:
            raise UsageError(
                f"{name} is a folder: it has no revision{_same_on_hub(name)}",
                code="folder.no-revision",
            )
        raw = open_folder(name, config, split)
        also = _same_on_hub(name)
        remark = Remark("note", f"{name} is a folder{also}.", code="dataset.is-a-folder")
        return replace(raw, remarks=(remark, *raw.remarks)) if also else raw
    refuse_stream(Path(name))
    repo_id = str(name).removeprefix(ON_HUB)
    if not is_repo_id(repo_id):
        link = DATASET_LINK.match(str(name))
        raise DatasetError(
            f"{name} is neither a local file nor a Hub id of the form user/name",
            code="dataset.not-found",
            hint=f"name it {link[1]}" if link else other_name(Path(name)),
        )
    try:
        repo = hub.resolve(repo_id, "dataset", revision)
    except HubError as error:
        error.advise(*similar_file(Path(name)))
        raise
    return open_repo(hub, repo, config, split)


def _refuse_repo_options(what_has: str, reading: Reading) -> None:
    """Raise UsageError if options of a repo are given for rows that are in none."""
    if given := [name for name in ("config", "revision") if getattr(reading, name)]:
        raise UsageError(
            f"{what_has} neither configuration nor revision",
            code="dataset.no-config-or-revision",
            hint=[Option(name, change="leave out") for name in given],
        )


def _same_on_hub(name: str | Path) -> str:
    """Return how to name the Hub dataset that is called like a local path, if there can be one.

    Example:
        >>> _same_on_hub("user/name"), _same_on_hub("./user/name")
        ('; the Hub dataset of that name is hf://datasets/user/name', '')
    """
    return f"; the Hub dataset of that name is {on_hub(str(name))}" * is_repo_id(str(name))
