"""Local files as a dataset: their formats, separators and encodings."""

import glob
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from hf_lorameta.data.sources.containers import expecting, unpack, usable_names
from hf_lorameta.data.sources.datasets_library import NO_CACHE, prepared_datasets, unpacked
from hf_lorameta.data.sources.file_formats import format_of
from hf_lorameta.data.sources.formats import COMPRESSIONS, FORMATS, FileFormat, Parts, ending, stem
from hf_lorameta.data.sources.json_rows import rows_by_path
from hf_lorameta.data.sources.line_layouts import other_readings
from hf_lorameta.data.sources.parallel_files import (
    Group,
    files_of,
    parallel_files,
    rows_of_files,
)
from hf_lorameta.data.sources.raw_dataset import RawDataset, read_builder, rows_of
from hf_lorameta.data.sources.reading_errors import read_filled, reading, without_rows
from hf_lorameta.data.sources.split_names import Splits, pick_split, split_name
from hf_lorameta.data.sources.table_forms import lacks_header
from hf_lorameta.data.sources.text_formats import encoding_of
from hf_lorameta.data.sources.text_rows import classes_of
from hf_lorameta.errors import DatasetError, EmptyDatasetError
from hf_lorameta.files import sha256, similar_name
from hf_lorameta.hub.repo import ON_HUB
from hf_lorameta.paths import expanded
from hf_lorameta.remarks import Remark


def is_local(name: str | Path) -> bool:
    """Whether a name is that of local files: of one that exists, or with the ending of one.

    Example:
        >>> is_local("data/rows.csv"), is_local(__file__), is_local("user/rows")
        (True, True, False)
    """
    path = expanded(name)
    if str(name).startswith(ON_HUB) or path.is_dir():
        return False
    return ending(path) in FORMATS or path.is_file()


def are_names(value: Any) -> bool:
    """Whether a value is a list of files' names.

    Example:
        >>> are_names(["a.csv", "b.csv"]), are_names([{"text": "a.csv"}]), are_names([])
        (True, False, False)
    """
    listed = isinstance(value, (list, tuple)) and len(value) > 0
    return listed and all(isinstance(name, str | Path) for name in value)


def find_files(name: str | Path) -> list[Path]:
    """Return the file of a name, or the files that a name with wildcards matches.

    Raises:
        DatasetError: a file is missing, or is a folder or a stream.
    """
    path = expanded(name)
    files = [path]
    if _wild(str(name)):
        found = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
        files = sorted(file for file in found if not file.is_dir())
    for file in files:
        refuse_stream(file)
    if not files or not all(map(Path.is_file, files)):
        problem = " is not a file" if path.is_dir() else ": no such file"
        raise DatasetError(f"{name}{problem}", code="file.not-found", hint=other_name(path))
    return files


def refuse_stream(path: Path) -> None:
    """Refuse a pipe or a device: a dataset is read several times.

    Raises:
        DatasetError: the path is that of one.

    Example:
        >>> refuse_stream(Path("rows.csv"))
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise DatasetError(
            f"{path} is a pipe or a device, expected a file, which is read several times",
            code="file.is-a-stream",
            hint="write its rows to a file, and name that",
        )


def other_name(path: Path) -> list[str]:
    """Suggest a file with a similar name, and other ways to name a dataset.

    Example:
        >>> other_name(Path("no/such/folder/rows.jsonl"))
        ['name a file', 'a Hub id: user/name']
    """
    return [*(similar_file(path) or ["name a file"]), "a Hub id: user/name"]


def similar_file(path: Path) -> list[str]:
    """Suggest a file with a similar name, or a folder with one if that of the file is missing."""
    if not expanded(path.parent).exists():
        return similar_name(path.parent, Path.is_dir)
    return similar_name(path, lambda other: ending(other) in FORMATS)


def _wild(text: str) -> bool:
    return glob.has_magic(text) and not expanded(text).exists()


def splits_of(file: Path) -> list[str]:
    """Return the sheets, tables, packed files or lists of rows of a file, if it has several.

    Raises:
        DatasetError: it has another format or cannot be read.
    """
    form = format_of(file)
    found = list(_list_parts(file, form))
    if form.module == "json" and ending(file) == ".json":
        with reading(file.name, local=True), unpacked(str(file)) as opened:
            encoding = encoding_of(opened, name=file.name)
            opened.seek(0)
            lists = rows_by_path(opened, file.name, encoding)
            found = usable_names(file, lists, "lists of rows", "keep fewer")
    return found if len(found) > 1 else []


def _list_parts(file: Path, form: FileFormat) -> dict[str, str]:
    """Return the names of the parts of a file, if it has any, by the names of their splits.

    Raises:
        DatasetError: it is not of this format, or encrypted.
        EmptyDatasetError: it has no parts.
        DatasetTooLargeError: it has too many, or unpacks to too much.
        MissingExtraError: spreadsheets need the extra ``sheets``.
    """
    if not (parts := form.parts):
        return {}
    with expecting(file, form.title):
        names = list(parts.names(file))
    if parts.rows is None:
        packed = {name: FORMATS.get(ending(name)) for name in names}
        names = [name for name, inner in packed.items() if inner and not inner.parts]
    fewer = f"keep fewer {parts.several}" if parts.rows else parts.advice
    usable = usable_names(file, names, parts.several, fewer)
    if not usable:
        raise EmptyDatasetError(
            f"{file.name} has no {parts.several} with rows", code="rows.none", hint=parts.advice
        )
    splits = usable
    if parts.rows is None:  # by their names, else by those of their folders
        paths = [PurePosixPath(name) for name in usable]
        ways = [[stem(path.name) for path in paths], [path.parent.name for path in paths]]
        splits = next((names for names in ways if len(set(names)) == len(names)), usable)
    return {
        split.replace("[", "(").replace("]", ")"): name
        for split, name in zip(splits, usable, strict=True)
    }


def _open_part(file: Path, form: FileFormat, parts: Parts, split: Splits) -> RawDataset:
    """Open a sheet, a table or a packed file; if there are several, their names are the splits."""
    found = _list_parts(file, form)
    if parts.rows is None and len(found) == 1:
        return open_files(unpack(file, form.title, *found.values()), split, file.name)
    texts = [name for name in found.values() if ending(name) == ".txt"]
    if parts.rows is None and not split and len(texts) == len(found) and classes_of(texts):
        problem = f"{file.name} has texts in folders or files that are called like labels"
        raise DatasetError(problem, code="file.has-classes", hint="unpack it, and name the folder")
    names = list(found) if len(found) > 1 else ["train"]
    try:
        picked = pick_split(file.name, names, split, parts.one)
    except DatasetError as error:
        if parts.rows is None and any("/" in name for name in names):
            error.advise("unpack it, and name the folder")
        raise
    return read_filled(file.name, picked, names, partial(_read_part, file, form, parts, found))


def _read_part(
    file: Path, form: FileFormat, parts: Parts, found: Mapping[str, str], picked: str
) -> RawDataset:
    part = split_name(picked)
    name = found[part] if len(found) > 1 else next(iter(found.values()))
    if parts.rows is None:
        copy, rest = unpack(file, form.title, name), picked.removeprefix(part)
        return replace(open_files(copy, f"train{rest}", file.name), split=picked)
    raw = rows_of(partial(parts.rows, file, name), picked)
    if parts.bare_rows and lacks_header(raw.columns, raw.sample):
        raw = rows_of(partial(parts.bare_rows, file, name), picked)
        text = f"{file.name} has no header row: its columns are column_1, column_2, …"
        raw = replace(raw, remarks=(Remark("note", text, code="file.no-header"),))
    return raw


def _capitalized(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def digest(files: Sequence[Path]) -> str:
    """Return the SHA-256 of one file, or of the digests of several."""
    first, *others = (sha256(path) for path in files)
    return hashlib.sha256("".join([first, *others]).encode()).hexdigest() if others else first


def open_parallel(name: str, groups: Mapping[str, Group], split: Splits) -> RawDataset:
    """Open files whose lines belong together as one table; see `parallel_files`."""

    def read(picked: str) -> RawDataset:
        return rows_of(partial(rows_of_files, groups[split_name(picked)]), picked)

    raw = read_filled(name, pick_split(name, list(groups), split), groups, read)
    columns = groups[split_name(raw.split)]
    listed = ", ".join(f"{column} from {path.name}" for column, path in columns.items())
    remark = Remark("note", f"Lines are joined: {listed}.", code="files.joined-by-line")
    sha = digest(files_of(groups))
    return replace(raw, remarks=(*raw.remarks, remark), revision=f"sha256:{sha}")


def open_files(
    name: str | Path | Sequence[str | Path], split: Splits, called: str = ""
) -> RawDataset:
    """Open the files that names stand for, see `find_files`, as one stream of rows.

    Messages name the first one, or what they are `called`.

    Raises:
        DatasetError: a file is missing, has another format or cannot be read, there is no such
            split, or the files have several formats.
    """
    names = [name] if isinstance(name, str | Path) else name
    found = [file for one in names for file in find_files(one)]
    files = list({file.resolve(): file for file in found}.values())
    if len(files) > 1 and (groups := parallel_files(files)):
        return open_parallel(called or str(names[0]), groups, split)
    formats = {file: format_of(file) for file in files}
    if len({(form.module, form.parts, form.separator) for form in formats.values()}) > 1:
        endings = ", ".join(dict.fromkeys(map(ending, files)))
        raise DatasetError(
            f"files that are read as one dataset have one format, got {endings}",
            code="files.formats-differ",
            hint="name those of one format",
        )
    first, form = files[0], formats[files[0]]
    packed = "compressed " if first.suffix.lower() in COMPRESSIONS else ""
    title = "" if called else f"{packed}{form.title}"
    guard = partial(reading, called or str(names[0]), local=True, form=title)
    with guard():
        if not any(file.stat().st_size for file in files):
            raise without_rows(called or first.name)
    if parts := form.parts:
        if len(files) > 1:
            raise DatasetError(
                f"each of the {len(files)} files may hold several {parts.several}",
                code="files.several-parts",
                hint="name one file",
            )
        with guard():
            raw = _open_part(first, form, parts, split)
        return replace(raw, revision=f"sha256:{digest(files)}")
    with guard():
        builder = prepared_datasets().load_dataset_builder(
            form.module,
            data_files={"train": [glob.escape(str(path)) for path in files]},
            cache_dir=NO_CACHE,
            **({"sep": form.separator} if form.separator else {}),
        )
    raw = read_builder(builder, first.name, split, guard)
    if form.module == "text" and len(files) == 1 and raw.columns == ["text"]:
        readings = map(_capitalized, other_readings(first))
        others = [Remark("note", text, code="file.other-readings") for text in readings]
        raw = replace(raw, remarks=(*raw.remarks, *others))
    return replace(raw, revision=f"sha256:{digest(files)}")
