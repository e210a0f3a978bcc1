"""A local folder as a dataset: laid out like a dataset repo, or written by ``save_to_disk``."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hf_lorameta.data.sources.data_files import CARD_FILES, is_data_file, read_alone
from hf_lorameta.data.sources.datasets_library import prepared_datasets
from hf_lorameta.data.sources.file_formats import refuse_other_start
from hf_lorameta.data.sources.files import digest, open_files, open_parallel, refuse_stream
from hf_lorameta.data.sources.hub_repos import RepoFiles, open_split
from hf_lorameta.data.sources.line_layouts import readings_of_folder
from hf_lorameta.data.sources.memory import rows_in_memory
from hf_lorameta.data.sources.parallel_files import files_of, parallel_files
from hf_lorameta.data.sources.raw_dataset import RawDataset
from hf_lorameta.data.sources.reading_errors import read_filled, reading
from hf_lorameta.data.sources.split_names import Splits, pick_split, split_name
from hf_lorameta.errors import EmptyDatasetError
from hf_lorameta.hub.repo import PinnedRepo
from hf_lorameta.paths import expanded

_SAVED = ("state.json", "dataset_dict.json")
"""Files of a folder that `datasets` wrote with ``save_to_disk``."""


def is_folder(name: str | Path) -> bool:
    """Whether a name is that of a folder on this disk, also if a Hub dataset has the same name."""
    return expanded(name).is_dir()


def open_folder(
    name: str | Path,
    config: str | None = None,
    split: Splits = None,
) -> RawDataset:
    """Open one split of a folder, whose card and file names state configurations and splits.

    Its revision is the digest of all data files and the card.

    Raises:
        EmptyDatasetError: no data files, or no rows.
        DatasetError: no such configuration or split, or it cannot be read.
    """
    folder = _resolved(name)
    if not config and (groups := parallel_files(_files_in(folder))):
        return open_parallel(str(name), groups, split)
    files = _as_repo(name)
    if alone := read_alone(files.repo.files):
        raw = _open_alone(str(name), folder, alone, split)
    elif any((folder / file).exists() for file in _SAVED):
        with reading(str(name)):
            saved = prepared_datasets().load_from_disk(str(folder))
        raw = rows_in_memory(saved, split)
    else:
        raw = open_split(files, config, split)
    return replace(raw, revision=f"sha256:{files.repo.sha}")


def _open_alone(name: str, folder: Path, files: Mapping[str, str], split: Splits) -> RawDataset:
    """Open a folder's only file, of which a part may be named; several are the splits."""
    if len(files) == 1:
        return open_files(folder / next(iter(files.values())), split)

    def read(picked: str) -> RawDataset:
        part = split_name(picked)
        rest = picked.removeprefix(part)
        raw = open_files(folder / files[part], f"train{rest}" if rest else None)
        return replace(raw, split=picked)

    return read_filled(name, pick_split(name, list(files), split, "file"), files, read)


def digest_of(path: Path) -> str:
    """Return the digest of a file, or of the data files and the card of a folder.

    Raises:
        EmptyDatasetError: a folder without data files.
        DatasetError: a pipe or a device.
        OSError: it cannot be read.
    """
    refuse_stream(path)
    if not path.is_dir():
        return digest([path])
    groups = parallel_files(_files_in(_resolved(path)))
    return digest(files_of(groups)) if groups else _as_repo(path).repo.sha


def _resolved(name: str | Path) -> Path:
    return expanded(name).resolve()


def _files_in(folder: Path) -> list[Path]:
    """Return the files of a folder, in order, without those of hidden folders."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        path for path in found
        if not any(part.startswith(".") for part in path.relative_to(folder).parent.parts)
    ]  # fmt: skip


def _as_repo(name: str | Path) -> RepoFiles:
    folder = _resolved(name)
    files = [path.relative_to(folder) for path in _files_in(folder)]
    data = [path for path in files if is_data_file(path.name)]
    data = data or [Path(path) for path in read_alone(map(str, files)).values()]
    if not data:
        raise EmptyDatasetError(
            f"{name} is a folder without data files",
            code="dataset.no-files",
            hint=[
                *readings_of_folder([folder / path for path in files]),
                "name a file, or end the files' names in .txt if they are texts",
            ],
        )
    for path in data:
        refuse_other_start(folder / path)
    cards = [path for path in files if str(path) in CARD_FILES]
    names = "\n".join(map(str, [*cards, *data]))
    content = digest([folder / path for path in [*cards, *data]])
    sha = hashlib.sha256(f"{content}\n{names}".encode()).hexdigest()
    repo = PinnedRepo(str(name), "dataset", sha, private=True, files=tuple(map(str, files)))
    return RepoFiles(repo, folder, own=True)
