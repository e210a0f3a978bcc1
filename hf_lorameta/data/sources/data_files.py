"""Find and check the data files of a dataset repo: text formats, inside the repo.

The card of a repo may name any path or URL as data files (``configs: - data_files:``), and
`datasets` opens them: files of this machine, other hosts, and repos that only the reader's token
can see. Only relative paths are accepted here.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from hf_lorameta.data.sources.datasets_library import kind_of
from hf_lorameta.data.sources.formats import FORMATS, ending, stem
from hf_lorameta.data.sources.yaml_aliases import MAX_ALIASED, has_too_many_aliases
from hf_lorameta.errors import DatasetError, sanitize
from hf_lorameta.hub.repo import PinnedRepo

_IN_REPOS = {end for end, form in FORMATS.items() if not form.alone}
_KINDS = sorted({"conll", *(f.module for f in FORMATS.values() if not f.parts)})
"""The formats of `datasets` that are read; others may refer to other files."""

CARD_FILES = ("README.md", ".huggingface.yaml")
"""The files of a repo whose metadata may name data files."""
INFOS_FILE = "dataset_infos.json"
"""A file that `datasets` reads beside the cards."""
_CARD_BYTES = 1_000_000


def is_data_file(path: str) -> bool:
    """Return whether a file's name is that of a data file.

    Example:
        >>> is_data_file("data/Train.CSV"), is_data_file("rows.jsonl.gz"), is_data_file("README.md")
        (True, True, False)
        >>> is_data_file("rows.csv.zst"), is_data_file("rows.zst")
        (True, False)
    """
    # `datasets` unpacks Zstandard in repos and folders, if its package is installed
    return ending(path.removesuffix(".zst")) in _IN_REPOS


def read_alone(files: Iterable[str]) -> dict[str, str]:
    """Return the files of a folder that are read one at a time, by their names without endings.

    They are those that `datasets` does not find, such as spreadsheets, if there are no others.

    Example:
        >>> read_alone(["a/train.iob", "b.xlsx", "c.md"]), read_alone(["a.iob", "b.csv"])
        ({'train': 'a/train.iob', 'b': 'b.xlsx'}, {})
    """
    if any(map(is_data_file, files := list(files))):
        return {}
    found = [file for file in files if ending(file) in FORMATS]
    names = [stem(file) for file in found]
    return dict(zip(names if len(set(names)) == len(names) else found, found, strict=True))


def is_inside(pattern: str) -> bool:
    """Return whether a path or glob pattern stays in the repo that it is resolved in.

    Example:
        >>> [is_inside(p) for p in ("data/*.csv", "**/train-*", "/etc/passwd", "a/../../b")]
        [True, True, False, False]
        >>> [is_inside(p) for p in ("file:/etc/passwd", "s3://a/b", "zip://*.csv::a.zip", "~/a")]
        [False, False, False, False]
    """
    path = PurePosixPath(pattern.replace("\\", "/"))
    if "::" in pattern or urlsplit(pattern.strip()).scheme:
        return False
    return not path.is_absolute() and ".." not in path.parts and not pattern.startswith("~")


def check_size(repo_id: str, name: str, size: int) -> None:
    """Check the size of a card on the Hub, which `datasets` would store whole and parse slowly.

    Raises:
        DatasetError: it is larger than a megabyte.
    """
    if size > _CARD_BYTES:
        raise DatasetError(
            f"{repo_id}: {name} has {size / 1e6:.1f} MB, expected at most 1 MB",
            code="repo.file-too-large",
            hint=f"hf download --repo-type dataset {repo_id} --exclude {name} --local-dir DIR, "
            "and name DIR",
        )


def check_card(repo_id: str, path: Path) -> None:
    """Check the aliases and the data files that one of a repo's `CARD_FILES` names.

    Raises:
        DatasetError: aliases that stand for too much, a path outside the repo, or a URL.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        block = REGEX_YAML_BLOCK.search(text)
        text = block[2] if block else ""
    if has_too_many_aliases(text):
        raise DatasetError(
            f"{repo_id}: the aliases in {path.name} stand for more than {MAX_ALIASED:,} characters",
            code="repo.too-many-aliases",
            hint="write out the values that they stand for",
        )
    metadata = yaml.safe_load(text)
    configs = metadata.get("configs") if isinstance(metadata, Mapping) else None
    configs = [config for config in configs or () if isinstance(config, Mapping)]
    for named in _paths([[one.get("data_files"), one.get("data_dir")] for one in configs]):
        if not is_inside(named):
            raise _outside(repo_id, named)


def check_builder(repo: PinnedRepo, builder: Any, source: object) -> None:
    """Check the format and the files that `datasets` found in a repo or in the folder `source`.

    Raises:
        DatasetError: a format that is not in `_KINDS`, or a file outside the repo.
    """
    if (kind := kind_of(builder)) not in _KINDS:
        raise DatasetError(
            f"{repo.repo_id} has files of the format {kind}, expected one of {', '.join(_KINDS)}",
            code="repo.unread-format",
            hint="choose a text dataset",
        )
    hub = f"hf://datasets/{repo.repo_id}@{repo.sha}"
    root = f"{source if isinstance(source, Path) else hub}/"
    for files in builder.config.data_files.values():
        for file in map(str, files):
            if not file.startswith(root) or not is_inside(file.removeprefix(root)):
                raise _outside(repo.repo_id, file)


def _outside(repo_id: str, named: str) -> DatasetError:
    return DatasetError(
        f"{repo_id} names a data file outside its repo: {sanitize(named)}",
        code="repo.file-outside",
        hint="choose a dataset whose data files are in its own repo",
    )


def _paths(value: object) -> Iterator[str]:
    """Yield the strings in a value of a card."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _paths(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from _paths(item)
