"""Read one public dataset and one public adapter from huggingface.co. Run with ``-m network``.

Both are the first entry of bank_manifest.yaml. Nothing is written.
"""

import json
from pathlib import Path

import httpx2
import pytest

from hf_lorameta import open_dataset
from hf_lorameta.bank.manifest import BankEntry, load
from hf_lorameta.formats.lora_file import WEIGHTS_FILE
from hf_lorameta.formats.peft_config import CONFIG_FILE, parse_config
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.repo_info import list_adapters

pytestmark = pytest.mark.network

MANIFEST = load(Path(__file__).parents[2] / "bank_manifest.yaml")


@pytest.fixture(scope="module")
def hub() -> Hub:
    try:
        httpx2.get("https://huggingface.co/api/models?limit=1", timeout=20).raise_for_status()
    except httpx2.HTTPError as error:
        pytest.skip(f"huggingface.co cannot be reached: {error}")
    return Hub(token=False)


@pytest.fixture(scope="module")
def entry() -> BankEntry:
    return MANIFEST.entries[0]


def test_dataset_is_pinned_and_streams_rows(hub: Hub, entry: BankEntry) -> None:
    dataset = open_dataset(entry.dataset, hub, split=entry.split, columns=entry.columns)
    assert dataset.id == entry.dataset
    assert len(dataset.revision) == 40
    rows = dataset.head(3)
    assert len(rows) == 3
    assert all(text.strip() for row in rows for text in row)


def test_adapter_config_and_safetensors_header_are_read(hub: Hub, entry: BankEntry) -> None:
    repo = hub.resolve(entry.adapter, "model", blobs=True)
    assert len(repo.sha) == 40
    config = hub.download(repo, CONFIG_FILE).read_bytes()
    assert parse_config(config).rank == 16
    length = int.from_bytes(hub.read_range(repo, WEIGHTS_FILE, 0, 8), "little")
    header = json.loads(hub.read_range(repo, WEIGHTS_FILE, 8, 8 + length))
    assert any(name.endswith("lora_A.weight") for name in header)


def test_adapters_of_a_base_model_are_listed(hub: Hub) -> None:
    listed = list(list_adapters(hub, MANIFEST.base_model, 100))
    assert len({adapter.repo_id for adapter in listed}) == 100
    assert all(len(adapter.sha) == 40 and adapter.files for adapter in listed)
    assert any(adapter.datasets for adapter in listed)
    assert not any(adapter.private for adapter in listed)
