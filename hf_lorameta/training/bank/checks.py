"""Checks before a training: the base model and memory."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hf_lorameta.bank.index import TOKENIZER_FILE
from hf_lorameta.bank.no_bank import base_license
from hf_lorameta.engines.transformers.dtype import parameters
from hf_lorameta.engines.transformers.evaluator import require_eval
from hf_lorameta.errors import (
    BankError,
    NotFoundError,
    Option,
    first_line,
)
from hf_lorameta.hub.base_model import locate, pinned_base
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.packaged_model import quiet_transformers
from hf_lorameta.training.settings import Machine, Settings

if TYPE_CHECKING:
    from hf_lorameta.training.device import DevicePlan

_SAMPLE_BYTES = 1 << 16


@dataclass(frozen=True)
class Base:
    """A base model: its name, folder, commit, license, and a digest of its files."""

    name: str
    folder: Path
    revision: str | None
    license: str | None
    digest: str

    @classmethod
    def find(cls, name: str, revision: str | None, hub: Hub) -> "Base":
        """Find a base model on the Hub, in the cache or in a folder.

        Raises:
            MissingExtraError: the extra ``eval`` is not installed.
            HubError: it cannot be fetched.
        """
        require_eval()
        repo = pinned_base(name, revision, hub)
        sha = repo.sha if repo else None
        folder = locate(name, revision, hub.token)
        if folder.parent.name == "snapshots":  # of the cache, which names them by their commits
            sha = folder.name
        return cls(name, folder, sha, base_license(name, repo), _digest(folder))


def _digest(folder: Path) -> str:
    """Return a digest of a model's configuration and of parts of its weights."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("config.json"), *folder.glob("model*.safetensors")]):
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            digest.update(file.read(_SAMPLE_BYTES))
            file.seek(max(size - _SAMPLE_BYTES, 0))
            digest.update(file.read())
    return digest.hexdigest()


def check_base(folder: Path, settings: Settings, machine: Machine) -> "DevicePlan":
    """Return how to train a base model, checked from its configuration alone.

    Raises:
        UsageError: it cannot be trained, or does not fit in memory.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from hf_lorameta.engines.transformers.packing import check_row_attention
    from hf_lorameta.training.device import find_device, find_dtype, plan_device
    from hf_lorameta.training.target_layers import find_layout

    try:
        with quiet_transformers(), torch.device("meta"):
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError) as error:
        first = first_line(error)
        raise NotFoundError(f"transformers cannot load a model from {folder}: {first}") from None
    check_row_attention(model)
    layout = find_layout(model, settings.targets)
    device = find_device()
    dtype: torch.dtype = getattr(torch, machine.dtype or find_dtype(device, folder))
    return plan_device(
        config, layout, settings.rank, machine.at_once, device=device, dtype=dtype,
        weights=dtype.itemsize * parameters(folder),
        hint=["choose a smaller base model", Option("at_once", 1)],
    )  # fmt: skip


def read_tokenizer(folder: Path) -> bytes:
    """Return ``tokenizer.json`` of a base model.

    Raises:
        BankError: it has none.
    """
    try:
        return (folder / TOKENIZER_FILE).read_bytes()
    except OSError:
        raise BankError(f"{folder} has no {TOKENIZER_FILE}, which a bank needs") from None
