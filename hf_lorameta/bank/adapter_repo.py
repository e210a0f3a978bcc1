"""The repo or folder of an adapter: its files, its config, and the header of its weights."""

import json
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import yaml
from huggingface_hub import metadata_load

from hf_lorameta.errors import AdapterError
from hf_lorameta.files import sha256
from hf_lorameta.formats.lora_file import WEIGHTS_FILE
from hf_lorameta.formats.lora_layout import Layout, read_layout
from hf_lorameta.formats.peft_config import CONFIG_FILE, LoraConfig, read_config
from hf_lorameta.formats.safetensors import Read, TensorInfo, read_header
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.repo import PinnedRepo, card_license

_MAX_CONFIG_BYTES = 1 << 20
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth")
_PART = re.compile(r"adapter_model-\d+-of-\d+\.safetensors")


_CARD_FILE = "README.md"


class AdapterSource(Protocol):
    """Where an adapter is read from.

    Attributes:
        revision: commit, or digest of the weights of a folder.
        license: on its card, if it states one.
        private: whether it is in a private repo.
    """

    revision: str
    license: str | None
    private: bool

    def config(self) -> LoraConfig:
        """Read and check its config."""

    def weights(self) -> AbstractContextManager[tuple[Read, int]]:
        """Open its weights; returns how to read a range of bytes, and their number."""


class AdapterRepo:
    """An adapter on the Hub, pinned to a commit.

    Args:
        hub: client.
        repo_id: of the adapter.
        revision: branch, tag or commit.

    Raises:
        HubError: it is missing or the Hub failed.
        AdapterError: it has no weights that can be read.
    """

    def __init__(self, hub: Hub, repo_id: str, revision: str | None) -> None:
        self._hub, self._repo = hub, hub.resolve(repo_id, "model", revision, blobs=True)
        check_files(self._repo.files)
        self.revision, self.license = self._repo.sha, self._repo.license
        self.private = self._repo.private

    def config(self) -> LoraConfig:
        """Fetch and check its config."""
        return fetch_config(self._hub, self._repo)

    @contextmanager
    def weights(self) -> Iterator[tuple[Read, int]]:
        """Open its weights."""
        file = self._hub.open(self._repo, WEIGHTS_FILE)
        yield file.read, file.size


class AdapterFolder:
    """An adapter in a local folder.

    Args:
        folder: with `CONFIG_FILE` and `WEIGHTS_FILE`.

    Raises:
        AdapterError: there is no such folder, or it has no weights that can be read.
    """

    private = False  # the manifest decides

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise AdapterError(f"{folder}: no such folder")
        check_files(tuple(path.name for path in folder.iterdir()))
        self._folder, self.license = folder, stated_license(folder)
        self.revision = f"sha256:{sha256(folder / WEIGHTS_FILE)}"

    def config(self) -> LoraConfig:
        """Read and check its config."""
        try:
            return read_config(json.loads((self._folder / CONFIG_FILE).read_bytes()))
        except OSError as error:
            raise AdapterError(f"{self._folder / CONFIG_FILE}: {error.strerror}") from None
        except (ValueError, RecursionError):
            raise AdapterError(f"{CONFIG_FILE} is not JSON") from None

    @contextmanager
    def weights(self) -> Iterator[tuple[Read, int]]:
        """Open its weights."""
        path = self._folder / WEIGHTS_FILE
        with path.open("rb") as file:

            def read(start: int, stop: int) -> bytes:
                file.seek(start)
                return file.read(stop - start)

            yield read, path.stat().st_size


def stated_license(folder: Path) -> str | None:
    """Return the license on an adapter's card, if it has one that can be read."""
    try:
        return card_license(metadata_load(folder / _CARD_FILE))
    except (OSError, ValueError, yaml.YAMLError):
        return None


def check_files(files: tuple[str, ...]) -> None:
    """Raise `AdapterError` if a repo with these files holds no readable weights of an adapter."""
    if WEIGHTS_FILE in files:
        return
    pickles = [name for name in files if name.endswith(_PICKLE_SUFFIXES)]
    reason = "no weights"
    if any(_PART.fullmatch(name) for name in files):
        reason = "weights in several files"
    elif pickles:
        reason = f"only a pickle ({pickles[0]}), which can run code"
    raise AdapterError(f"{reason}, expected {WEIGHTS_FILE}")


def fetch_config(hub: Hub, repo: PinnedRepo) -> LoraConfig:
    """Fetch and check an adapter's config; `AdapterError` if it is not that of a plain LoRA."""
    file = hub.open(repo, CONFIG_FILE)
    if file.size > _MAX_CONFIG_BYTES:
        raise AdapterError(
            f"{CONFIG_FILE} has {file.size} bytes, expected {_MAX_CONFIG_BYTES} at most"
        )
    try:
        return read_config(json.loads(file.read(0, file.size)))
    except (ValueError, RecursionError):
        raise AdapterError(f"{CONFIG_FILE} is not JSON") from None


def check_base_model(config: LoraConfig, base_model: str) -> None:
    """Raise `AdapterError` if an adapter was trained for another base model."""
    if config.base_model.lower() != base_model.lower():
        raise AdapterError(
            f"trained for {config.base_model or 'no'} base model, expected {base_model}"
        )


def check_header(read: Read, size: int, config: LoraConfig) -> tuple[dict[str, TensorInfo], Layout]:
    """Read the header of weights; `AdapterError` if it is malformed or differs from the config."""
    infos = read_header(read, size)
    layout, rank = read_layout(infos)
    if rank != config.rank:
        raise AdapterError(f"the config states rank {config.rank}, the weights have rank {rank}")
    return infos, layout
