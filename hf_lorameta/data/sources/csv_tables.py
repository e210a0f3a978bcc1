"""Make the CSV reader of `datasets` read files by their own form."""

import csv
import glob
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from hf_lorameta.data.sources.datasets_library import NO_CACHE, Guard, prepared_datasets, unpacked
from hf_lorameta.data.sources.reading_limits import check_number_of_columns
from hf_lorameta.data.sources.table_forms import (
    DECIMAL,
    TableForm,
    columns_in,
    form_of_table,
    has_plain_quotes,
)
from hf_lorameta.data.sources.text_formats import START, UTF8, as_text, lines_of
from hf_lorameta.data.sources.text_rows import separator_between
from hf_lorameta.errors import DatasetError
from hf_lorameta.remarks import Remark
from hf_lorameta.tables import plural

_TAB, _QUOTE = "\t", '"'


def as_table(builder: Any, part: str, urls: Sequence[str], guard: Guard) -> Any:
    """Return a builder that reads text files as tables, if the lines of the first one are rows."""
    with guard(), unpacked(urls[0], builder.token, start=True) as file:
        separator = separator_between(lines_of(file.read(START)))
    if not separator:
        return None
    files = [url if "://" in url else glob.escape(url) for url in urls]
    quoting = csv.QUOTE_MINIMAL if separator == _TAB else csv.QUOTE_NONE
    form = {"sep": separator, "quoting": quoting, "token": builder.token, "cache_dir": NO_CACHE}
    with guard():
        return prepared_datasets().load_dataset_builder("csv", data_files={part: files}, **form)


def fit_to_files(builder: Any, urls: Sequence[str], name: str, guard: Guard) -> list[Remark]:
    """Make a builder read CSV files of the form that the first one has; return what to tell.

    Codes such as 007 are found in each file on this disk.

    Raises:
        DatasetError: they have different numbers of lines above their first rows.
        DatasetTooLargeError: there are too many columns.
    """
    config = builder.config
    _keep_texts(config)
    lines = _start_of(builder, urls[0], guard)
    form = form_of_table(lines, config.sep)
    for url in urls[1:]:
        if "://" in url and not form.above and not form.below:
            continue  # one request for each file
        start = _start_of(builder, url, guard)
        other = form_of_table(start, config.sep)
        first, second = (PurePosixPath(each).name for each in (urls[0], url))
        if other.below != form.below:
            raise DatasetError(
                f"the header of {first} has {form.below + 1} rows, of {second} {other.below + 1}",
                code="files.headers-differ",
                hint="remove all but the first, or name one file",
            )
        if other.above != form.above:
            raise DatasetError(
                f"above its first row, {first} has {form.above} lines, and {second} {other.above}",
                code="files.headers-differ",
                hint="remove these lines, or name one file",
            )
        if start[form.above : form.above + 1] == lines[form.above : form.above + 1]:
            form = replace(form, codes=(*form.codes, *other.codes))
    remarks = _fit(config, form, name)
    lines = lines[form.above :]
    if config.sep == _TAB and _has_plain_quotes(builder, urls[0], lines, guard):
        config.quoting = csv.QUOTE_NONE
    with guard(), unpacked(urls[0], builder.token, start=True) as file:
        marks = {"delimiter": config.sep, "quotechar": config.quotechar}
        marks["quoting"] = config.quoting
        count = columns_in(file, config.encoding or UTF8, form.above, **marks)
        check_number_of_columns(name, count)
    return remarks


def _start_of(builder: Any, url: str, guard: Guard) -> list[str]:
    """Return the first lines of a CSV file."""
    with guard(), unpacked(url, builder.token, start=True) as file:
        return lines_of(file.read(START), builder.config.encoding or UTF8)


def _fit(config: Any, form: TableForm, name: str) -> list[Remark]:
    """Make the CSV reader read a file of this form; return what to tell of it."""
    remarks = list[Remark]()
    if config.sep == _TAB and form.mark != _TAB:
        text = f"{name} has no tabs: its columns are separated with {form.mark}"
        remarks.append(Remark("note", text, code="file.other-separator"))
    config.sep = form.mark
    config.quotechar = form.quote if config.quotechar == _QUOTE else config.quotechar
    if config.features is not None:
        return remarks
    if form.above or form.below:
        first = form.above + 1  # below the header
        config.skiprows = [*range(form.above), *range(first, first + form.below)]
    if form.above:
        text = f"{name} is read from line {form.above + 1} on: those above it are no rows"
        remarks.append(Remark("note", text, code="file.lines-above"))
    if form.below:
        rows = plural(form.below, "row")
        text = f"{name} has {rows} below its header that name columns, too: left out"
        remarks.append(Remark("note", text, code="file.header-rows"))
    if form.decimals:
        text = f"{name} has numbers with decimal commas: 4,5 is read as 4.5"
        remarks.append(Remark("note", text, code="file.decimal-commas"))
    if form.names:
        config.header, config.names = 0, list(form.names)
    config.converters = (
        dict.fromkeys(range(len(form.names)), str.strip)
        | dict.fromkeys(form.codes, str.strip)
        | dict.fromkeys(form.decimals, _with_point)
    )
    return remarks


def _with_point(number: str) -> str:
    number = number.strip()
    return number.replace(",", ".") if DECIMAL.fullmatch(number) else number


def _has_plain_quotes(builder: Any, url: str, lines: Sequence[str], guard: Guard) -> bool:
    """Whether quotation marks in a table belong to its texts; of one on the Hub, by its start."""
    if "://" in url or not has_plain_quotes(lines):
        return has_plain_quotes(lines)
    encoding = builder.config.encoding or UTF8
    with guard(), unpacked(url) as file, as_text(file, encoding) as text:
        return has_plain_quotes(text)


def _keep_texts(config: Any) -> None:
    """Make the CSV reader keep texts such as NA and None, unless the repo states its columns."""
    if config.keep_default_na and config.features is None:
        config.keep_default_na, config.na_values = False, [""]
