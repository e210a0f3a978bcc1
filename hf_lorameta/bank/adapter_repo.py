"""Read an adapter from a Hub repo or a local folder: its files, its config and its card."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import metadata_load

from hf_lorameta.bank.manifest import repo_and_folder
from hf_lorameta.errors import AdapterError
from hf_lorameta.files import sha256
from hf_lorameta.formats.lora_file import WEIGHTS_FILE, AdapterFile, open_adapter
from hf_lorameta.formats.peft_config import CONFIG_FILE, LoraConfig, parse_config
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.repo import PinnedRepo, card_license

_MAX_BYTES = 1 << 20
"""Largest config or card that is read."""
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth")
_CARD_FILE = "README.md"


@dataclass(frozen=True)
class AdapterSource:
    """An adapter that was found on the Hub or in a folder.

    Attributes:
        revision: commit, or digest of the weights of a folder.
        license: on its card or, for a folder in a repo, else on the repo's; None if none is stated.
        private: whether its repo is private; for a local folder, the manifest decides.
        config: PEFT's settings, those of a plain LoRA.
        weights: its weights file, whose rank is the config's.
    """

    revision: str
    license: str | None
    private: bool
    config: LoraConfig
    weights: AdapterFile


def adapter_on_hub(hub: Hub, adapter: str, revision: str | None, base_model: str) -> AdapterSource:
    """Download an adapter from the Hub, at the commit of a branch, tag or commit.

    Args:
        hub: client.
        adapter: ``namespace/name``, or ``namespace/name/folder`` for a folder in a repo.
        revision: of the repo.
        base_model: the base model that it must have been trained for.

    Raises:
        HubError: it is missing or the Hub failed.
        AdapterError: it is no plain LoRA of the base model, or has no weights that can be read.
    """
    repo_id, folder = repo_and_folder(adapter)
    repo = hub.resolve(repo_id, "model", revision, blobs=True)
    inside = f"{folder}/" if folder else ""
    check_files(tuple(n.removeprefix(inside) for n in repo.files if n.startswith(inside)))
    check_base_model(fetch_config(hub, repo, inside), base_model)
    card = card_beside(hub, repo, inside) if inside else {}
    weights = hub.download(repo, inside + WEIGHTS_FILE)
    stated = license_of(card, repo.license)
    return AdapterSource(repo.sha, stated, repo.private, *open_adapter(weights.parent))


def adapter_in_folder(folder: Path, base_model: str) -> AdapterSource:
    """Open the adapter in a local folder with `CONFIG_FILE` and `WEIGHTS_FILE`.

    Raises:
        AdapterError: the folder holds no plain LoRA of the base model, or no weights that can be
            read.
    """
    config, weights = open_adapter(folder)
    check_base_model(config, base_model)
    revision = f"sha256:{sha256(weights.path)}"
    return AdapterSource(revision, stated_license(folder), False, config, weights)


def stated_license(folder: Path) -> str | None:
    """Return the license that an adapter's card states; None without a readable card."""
    return card_license(_card(folder / _CARD_FILE))


def card_beside(hub: Hub, repo: PinnedRepo, inside: str) -> dict[str, Any]:
    """Return the metadata of the card in an adapter's folder of a repo; empty without a card."""
    path = inside + _CARD_FILE
    if path not in repo.files or _size(repo, path) > _MAX_BYTES:
        return {}
    return _card(hub.download(repo, path))


def _size(repo: PinnedRepo, path: str) -> int:
    """Return the size of a file in a repo; 0 if the repo does not state it."""
    return repo.blobs[path].size if path in repo.blobs else 0


def license_of(card: Mapping[str, Any], of_repo: str | None) -> str | None:
    """Return the license that the card in an adapter's folder states, else that of its repo."""
    return card_license(card) if card.get("license") else of_repo


def _card(path: Path) -> dict[str, Any]:
    """Return the metadata of a card; empty if they cannot be read."""
    try:
        return metadata_load(path) or {}
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}


def check_files(files: tuple[str, ...]) -> None:
    """Raise `AdapterError` unless a repo's files include adapter weights in safetensors."""
    if WEIGHTS_FILE in files:
        return
    pickles = [name for name in files if name.endswith(_PICKLE_SUFFIXES)]
    folders = sorted(
        n.removesuffix(f"/{WEIGHTS_FILE}") for n in files if n.endswith(f"/{WEIGHTS_FILE}")
    )
    reason = "no weights"
    if folders:
        reason = f"adapters in folders, which a manifest can name, such as {folders[0]}"
    elif pickles:
        reason = f"only a pickle ({pickles[0]}), which can run code"
    raise AdapterError(f"{reason}, expected {WEIGHTS_FILE}", code="adapter.no-weights")


def fetch_config(hub: Hub, repo: PinnedRepo, inside: str = "") -> LoraConfig:
    """Fetch an adapter's config; raise `AdapterError` if it is not that of a plain LoRA."""
    path = inside + CONFIG_FILE
    if (size := _size(repo, path)) > _MAX_BYTES:
        raise AdapterError(
            f"{CONFIG_FILE} has {size} bytes, expected {_MAX_BYTES} at most",
            code="adapter.config-too-large",
        )
    return parse_config(hub.download(repo, path).read_bytes())


def check_base_model(config: LoraConfig, base_model: str) -> None:
    """Raise `AdapterError` if an adapter was trained for another base model."""
    if config.base_model.lower() != base_model.lower():
        raise AdapterError(
            f"trained for {config.base_model or 'no stated base model'}, expected {base_model}",
            code="adapter.other-base",
            hint=f"name adapters for one base model; generate --base {base_model} makes one",
        )
