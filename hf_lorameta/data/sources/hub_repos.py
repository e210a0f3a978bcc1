"""Read dataset repos with `datasets`: configurations, splits and streams of rows."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

from huggingface_hub.constants import is_offline_mode

from hf_lorameta.data.sources.data_files import (
    CARD_FILES,
    INFOS_FILE,
    check_builder,
    check_card,
    check_size,
    read_alone,
)
from hf_lorameta.data.sources.datasets_library import NO_CACHE, kind_of, prepared_datasets
from hf_lorameta.data.sources.formats import FORMATS, ending
from hf_lorameta.data.sources.raw_dataset import RawDataset, read_builder
from hf_lorameta.data.sources.reading_errors import reading
from hf_lorameta.data.sources.split_names import Splits
from hf_lorameta.errors import ConnectionLostError, EmptyDatasetError
from hf_lorameta.hub.cache import caching, snapshot_folder
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.repo import PinnedRepo, on_hub
from hf_lorameta.remarks import Remark

T = TypeVar("T")


class Choices(NamedTuple):
    """What can be chosen of a dataset repo.

    Attributes:
        configs: all configurations.
        config: the one whose splits are listed.
        splits: of that configuration.
    """

    configs: list[str]
    config: str
    splits: list[str]


@dataclass(frozen=True)
class RepoFiles:
    """What `datasets` reads as a dataset repo: one on the Hub, or a folder laid out like one.

    Attributes:
        repo: the repo; for a folder, its path, digest and files.
        source: the Hub, or the folder.
        own: whether it is a folder of the user, not one of the client's cache.
    """

    repo: PinnedRepo
    source: Hub | Path
    own: bool = False

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of functions of `datasets`."""
        cache = {"cache_dir": NO_CACHE}
        if isinstance(self.source, Path):
            return {"path": str(self.source)} | cache
        repo = self.repo
        return {
            "path": on_hub(repo.repo_id),
            "revision": repo.sha,
            "token": self.source.token,
        } | cache

    def check_files(self) -> None:
        """Check the cards, and the data files that they name, before `datasets` reads them.

        A folder that is read file by file has been opened without this. Of a repo on the Hub, none
        is fetched unless all of them are short.

        Raises:
            EmptyDatasetError: all data files are those that are read from this disk alone.
            DatasetError: a card is too long, its aliases stand for too much, or it names a path
                outside the repo, or a URL.
        """
        repo, source = self.repo, self.source
        scripts = [name for name in repo.files if name.endswith(".py")]
        if read_alone(repo.files) and not scripts:
            name = repo.repo_id
            raise EmptyDatasetError(
                f"{name} has no data files but those that are read from this disk alone",
                code="dataset.no-files",
                hint=f"hf download --repo-type dataset {name} --local-dir DIR, and name DIR",
            )
        if not isinstance(source, Path):
            for name in repo.files:
                if name in (*CARD_FILES, INFOS_FILE):
                    check_size(repo.repo_id, name, source.size(repo, name))
        for name in CARD_FILES:
            if name in repo.files:
                path = source / name if isinstance(source, Path) else source.download(repo, name)
                if path.exists():  # the cache may have only one of them
                    check_card(repo.repo_id, path)


def repo_choices(hub: Hub, repo: PinnedRepo, config: str | None = None) -> Choices:
    """List what can be chosen of a dataset repo.

    Without `config`, the splits are those of the configuration named default, else of the first.
    """
    return _read(hub, repo, partial(_list_choices, config=config))


def open_repo(
    hub: Hub,
    repo: PinnedRepo,
    config: str | None = None,
    split: Splits = None,
) -> RawDataset:
    """Open one split of a dataset repo as a stream of rows; see `open_split`."""
    raw = _read(hub, repo, partial(open_split, config=config, split=split))
    return replace(raw, repo=repo, revision=repo.sha)


def _read(hub: Hub, repo: PinnedRepo, read: Callable[[RepoFiles], T]) -> T:
    """Read from the repo; with ``HF_HUB_OFFLINE``, from what is in the client's cache."""
    if is_offline_mode():
        try:
            return read(RepoFiles(repo, snapshot_folder(repo)))
        except EmptyDatasetError:
            raise ConnectionLostError(
                f"no data files of {repo.repo_id} are in the cache, and HF_HUB_OFFLINE is set",
                code="hub.offline",
                hint=["unset HF_HUB_OFFLINE", f"hf download --repo-type dataset {repo.repo_id}"],
            ) from None
    return caching(lambda: read(RepoFiles(repo, hub)))


def _list_choices(files: RepoFiles, config: str | None) -> Choices:
    datasets = prepared_datasets()
    with reading(files.repo.repo_id, opening=True):
        files.check_files()
        configs = datasets.get_dataset_config_names(**files.arguments)
        chosen = config or ("default" if "default" in configs else configs[0])
        splits = datasets.get_dataset_split_names(config_name=chosen, **files.arguments)
    return Choices(list(configs), chosen, list(splits))


def open_split(
    files: RepoFiles,
    config: str | None = None,
    split: Splits = None,
) -> RawDataset:
    """Open one split of a dataset repo or of a folder as a stream.

    Without `config`, the only configuration or the one named default is opened; for `split`, see
    `pick_split`.
    """
    datasets, name = prepared_datasets(), files.repo.repo_id
    with reading(name, opening=True):
        files.check_files()
        places = {PurePosixPath(path).parent for path in files.repo.files}
        folder = next((str(place) for place in sorted(places) if place.name == config), None)
        builder = _builder(datasets, config, folder, files.arguments)
        check_builder(files.repo, builder, files.source)
    title = next((form.title for form in FORMATS.values() if form.module == kind_of(builder)), "")
    raw = read_builder(builder, name, split, partial(reading, name, local=files.own, form=title))
    remarks = _left_out(files.repo, kind_of(builder)) if files.own else []
    return replace(raw, config=config or raw.config, remarks=(*raw.remarks, *remarks))


def _left_out(folder: PinnedRepo, kind: str) -> list[Remark]:
    """Return a note on data files of other formats than the one that is read, but text."""
    forms = {name: FORMATS.get(ending(name)) for name in folder.files if name != INFOS_FILE}
    others = [name for name, form in forms.items() if form and form.module not in (kind, "text")]
    shown = ", ".join(others[:3]) + ", …" * (len(others) > 3)
    text = f"Files of one format are read; left out: {shown}."
    return [Remark("note", text, code="files.left-out")] * bool(others)


def _builder(datasets: Any, config: str | None, folder: str | None, files: dict[str, Any]) -> Any:
    """Return a builder of a configuration, or else of the files in the folder of that name."""
    try:
        return datasets.load_dataset_builder(name=config, **files)
    except ValueError:
        if folder is None:
            raise
        return datasets.load_dataset_builder(data_dir=folder, **files)
