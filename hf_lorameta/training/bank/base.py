"""Find the base model that a bank is trained for, and load it on this machine."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.engines.transformers.row_mode import row_mode
from hf_lorameta.engines.transformers.suited_layers import suit
from hf_lorameta.errors import UsageError
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.hub.base_model import base_license, cached_commit, locate, pinned_base
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.repo import Token
from hf_lorameta.training.device import DevicePlan, find_device, plan_device
from hf_lorameta.training.settings import BankSettings
from hf_lorameta.training.target_layers import find_layout

_SAMPLE_BYTES = 1 << 16
_UNLIMITED = 1 << 30


class LoadedBase(NamedTuple):
    """A base model in memory, ready for training.

    Attributes:
        evaluator: the base model and its tokenizer.
        layout: the adapted modules.
        plan: how training uses the machine.
    """

    evaluator: TorchEvaluator
    layout: Layout
    plan: DevicePlan


@dataclass(frozen=True)
class TrainingBase:
    """A base model: its name, folder, commit, license, and a digest of its files."""

    name: str
    folder: Path
    revision: str | None
    license: str | None
    digest: str

    @classmethod
    def find(cls, name: str, revision: str | None, hub: Hub) -> "TrainingBase":
        """Find a base model on the Hub, in the cache or in a folder.

        Raises:
            HubError: it cannot be fetched.
        """
        repo = pinned_base(name, revision, hub)
        folder = locate(name, revision, hub.token)
        commit = cached_commit(folder) or (repo.sha if repo else None)
        return cls(name, folder, commit, base_license(name, repo), _digest(folder))

    def load(self, dtype: str, settings: BankSettings, token: Token) -> LoadedBase:
        """Load it on this machine's device; it may have been found on another machine.

        Args:
            dtype: torch name.
            settings: of the training.
            token: of the Hub.

        Raises:
            NotFoundError: transformers cannot load it.
            UsageError: it cannot be trained, or does not fit in memory.
        """
        folder, device = locate(self.name, self.revision, token), find_device()
        evaluator = TorchEvaluator.from_folder(folder, dtype, max_length=_UNLIMITED)
        try:
            model = evaluator.model.to(device)
        except torch.OutOfMemoryError:
            raise UsageError(
                f"{self.name} does not fit in the memory of {device}",
                code="memory.too-little",
                hint=["choose a smaller base model", "use a machine with more memory"],
            ) from None
        if device == "cpu":
            suit(model)
        row_mode(model)
        layout = find_layout(model, settings.targets)
        plan = plan_device(model, layout, settings.rank, hint=["choose a smaller base model"])
        return LoadedBase(evaluator, layout, plan)


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
