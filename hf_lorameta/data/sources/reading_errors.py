"""Turn the exceptions of `datasets` and its readers into our own errors, which quote no row."""

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from hf_lorameta import errors
from hf_lorameta.caches import variable_of
from hf_lorameta.data.sources.split_names import split_name
from hf_lorameta.files import is_of_a_name
from hf_lorameta.hub.errors import gated_error, lost, translate

QUOTE_TEXTS = 'put texts that contain the separator in double quotes: "so, good",positive'
_FIELDS = re.compile(r"Expected (\d+) fields in line (\d+), saw (\d+)")
_QUOTE = re.compile(r"EOF inside string starting at row (\d+)")
"""What pandas says of a CSV file that is not well-formed."""
_TYPE = re.compile(r"Arrow type (\w+).* does not have a datasets dtype")

T = TypeVar("T")
logger = logging.getLogger(__name__)


@contextmanager
def reading(
    name: str, *, opening: bool = False, local: bool = False, form: str = ""
) -> Iterator[None]:
    """Translate exceptions while a dataset's rows are read, or while it is opened.

    For `local` files, there is no other configuration or split to propose. `form` is the title of
    the format that they should have.
    """
    try:
        yield
    except errors.LoraMetaError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno and _is_ours(error):
            raise
        ours = translate(name, error) or (_opening_error(name, error) if opening else None)
        raise (ours or _unreadable(name, error, local, form)) from None


@contextmanager
def refusing_deep_rows() -> Iterator[None]:
    """Refuse rows with so many objects and lists within each other that Python cannot follow."""
    try:
        yield
    except RecursionError:
        raise errors.DatasetError(
            "a row has too many objects or lists within each other",
            code="rows.too-deep",
            hint="bring its texts into columns of their own",
        ) from None


def without_rows(name: str) -> errors.EmptyDatasetError:
    """Return the error for a dataset that has no rows, and no other split to name.

    Example:
        >>> without_rows("rows.csv").hint
        'add rows to it, or name another dataset'
    """
    return errors.EmptyDatasetError(
        f"{name} has no rows", code="rows.none", hint=["add rows to it", "name another dataset"]
    )


def read_filled(name: str, split: str, splits: Iterable[str], read: Callable[[str], T]) -> T:
    """Read a split; if it has no rows, name another one that has any.

    Args:
        name: of the dataset.
        split: to read; a slice without rows is told as it is.
        splits: all of them.
        read: reads one.

    Raises:
        EmptyDatasetError: no rows.
    """
    try:
        return read(split)
    except errors.EmptyDatasetError:
        if split != split_name(split):
            raise
    other = next((part for part in splits if part != split and _is_read(read, part)), None)
    if other is None:
        raise without_rows(name)
    raise errors.EmptyDatasetError(
        f"the split {split} of {name} has no rows",
        code="rows.none-in-split",
        hint=[errors.Option("split", other), "add rows to it"],
    )


def _is_read(read: Callable[[str], object], split: str) -> bool:
    with suppress(errors.DatasetError):
        read(split)
        return True
    return False


def _is_ours(error: OSError) -> bool:
    """Whether a file of ours failed, or the working directory, and none of the dataset."""
    if error.filename is None:
        return is_of_a_name(error)
    return variable_of(Path(str(error.filename))) is not None


def _opening_error(name: str, error: Exception) -> errors.LoraMetaError | None:
    import datasets

    message = str(error)
    match error:
        case datasets.exceptions.DatasetNotFoundError():
            # `datasets` drops the client's exception: only its message tells gated from missing
            if "gated" in message.replace(name, ""):
                return gated_error(name, f"datasets/{name}")
            return errors.NotFoundError(
                f"{name} cannot be opened as a dataset: {message[:200]}", code="dataset.not-found"
            )
        case datasets.exceptions.DataFilesNotFoundError() | datasets.data_files.EmptyDatasetError():
            return errors.EmptyDatasetError(
                f"{name} has no data files",
                code="dataset.no-files",
                hint="name a dataset, a folder or a file that has rows",
            )
        case RuntimeError() if "scripts are no longer supported" in message:
            return errors.ScriptDatasetError(
                f"{name} needs a loading script, and scripts are no longer supported",
                code="dataset.needs-script",
                hint=errors.Option("revision", "refs/convert/parquet"),
            )
        case ValueError() if "Config name is missing" in message or "BuilderConfig" in message:
            line = " ".join(message.split("Example of usage")[0].split())
            names = re.findall(r"'([^']+)'", line.rpartition("[")[2])
            option = errors.Option("config", names[0] if names else None)
            unclear = errors.DatasetError(
                f"{name}: {line[:500]}", code="config.unnamed", hint=option
            )
            unclear.option = option if names else None
            return unclear
    return None


def _unreadable(name: str, error: Exception, local: bool, form: str) -> errors.LoraMetaError:
    cause = error.__cause__ or error
    # what the JSON reader and the CSV reader raise for an empty file
    empty = isinstance(error, StopIteration) or isinstance(cause, StopIteration)
    if empty or type(cause).__name__ == "EmptyDataError":
        return without_rows(name)
    if isinstance(cause, MemoryError) or "out of memory" in str(cause):  # pandas raises ParserError
        return errors.DatasetTooLargeError(
            f"{name} needs more memory to read than is available",
            code="memory.too-little",
            hint="split long rows",
        )
    if isinstance(cause, UnicodeDecodeError) and local:
        byte = cause.object[cause.start : cause.start + 1].hex()
        return errors.DatasetError(
            f"{name} cannot be read: its byte 0x{byte} is not {cause.encoding}",
            code="file.other-encoding",
            hint="save all files in the same encoding: iconv -f ENCODING -t utf-8",
        )
    if isinstance(cause, UnicodeDecodeError):
        return errors.DatasetError(
            f"{name} cannot be read: later rows are not UTF-8 as the first ones are",
            code="file.other-encoding",
            hint=f"hf download --repo-type dataset {name} --local-dir DIR, and name DIR",
        )
    if found := _FIELDS.search(str(cause)):
        return errors.DatasetError(
            f"{name} cannot be read: line {found[2]} has {found[3]} fields, expected {found[1]}",
            code="rows.too-many-fields",
            hint=QUOTE_TEXTS,
        )
    if found := _QUOTE.search(str(cause)):
        return errors.DatasetError(
            f"{name} cannot be read: the quotation mark that opens in row {found[1]} never closes",
            code="file.open-quotation",
            hint="close it, or double quotation marks within a text",
        )
    if found := _TYPE.search(str(cause)):
        return errors.DatasetError(
            f"{name} cannot be read: the library datasets reads no column of the type {found[1]}",
            code="columns.unread-type",
            hint="leave it out: pandas.read_parquet(FILE).drop(columns=COLUMN).to_parquet(FILE)",
        )
    if differ := _differing_columns(cause):
        return errors.ColumnsError(
            f"{name} cannot be read: later rows have other columns: {differ}",
            code="rows.other-columns",
            hint="give all rows the same columns, or name only files that have the same ones",
        )
    if ours := translate(name, cause):
        return ours
    if isinstance(cause, (ConnectionError, TimeoutError)):
        return lost(name, type(cause).__name__)
    if isinstance(cause, OSError) and cause.errno:
        return errors.DatasetError(
            f"{cause.filename or name} cannot be read: {cause.strerror}", code="file.unreadable"
        )
    # not its message, which may quote the malformed row
    logger.debug("%s: %s while reading", name, type(cause).__name__)
    others = (errors.Option(part, change="name another") for part in ("config", "split"))
    return errors.DatasetError(
        f"{name} cannot be read{f' as {form}' if form else ''}",
        code="dataset.unreadable",
        hint=["check that its files are well-formed", *(() if local else others)],
    )


def _differing_columns(error: BaseException) -> str:
    """Return the columns that only some rows have, from the error of `datasets` about them."""
    names = (getattr(error, f"{rows}_column_names", ()) for rows in ("table", "requested"))
    return ", ".join(sorted(set.symmetric_difference(*map(set, names))))
