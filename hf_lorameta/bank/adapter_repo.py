"""Check the repo of an adapter: its files, its config, and the header of its weights."""

import json
import re

from hf_lorameta.errors import AdapterError
from hf_lorameta.formats.lora_file import WEIGHTS_FILE
from hf_lorameta.formats.lora_layout import Layout, read_layout
from hf_lorameta.formats.peft_config import CONFIG_FILE, LoraConfig, read_config
from hf_lorameta.formats.safetensors import Read, TensorInfo, read_header
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.repo import PinnedRepo

_MAX_CONFIG_BYTES = 1 << 20
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth")
_PART = re.compile(r"adapter_model-\d+-of-\d+\.safetensors")


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
