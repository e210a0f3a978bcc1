"""Other real clients in child processes: datasets, transformers, peft, `hf`."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fault_hub import Fault, FaultHub

HF = (sys.executable, "-m", "huggingface_hub.cli.hf")
LINES = [json.dumps({"input": f"q{n}", "output": f"a{n}"}) for n in range(5)]
ROWS = "\n".join(LINES).encode()
CARD = b"""---
license: mit
configs:
- config_name: easy
  data_files:
  - split: train
    path: easy/train.jsonl
  - split: test
    path: easy/test.jsonl
- config_name: hard
  data_files: hard/*.jsonl
---
# Data
"""


@pytest.fixture
def hub() -> Iterator[FaultHub]:
    with FaultHub() as running:
        yield running


@pytest.fixture
def token(hub: FaultHub) -> str:
    return hub.add_user("alice")


def run(
    hub: FaultHub, home: Path, *command: str, token: str | None = None, ok: bool = True
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command,
        env=hub.env(token, home=home),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        cwd=home,
    )
    assert (done.returncode == 0) == ok, done.stderr
    return done


def python(hub: FaultHub, home: Path, code: str, token: str | None = None) -> Any:
    """Run code in a child process and return the JSON that it prints last."""
    done = run(hub, home, sys.executable, "-c", code, token=token)
    return json.loads(done.stdout.splitlines()[-1])


DATASETS = """
import json
from datasets import Dataset, get_dataset_config_names, get_dataset_split_names, load_dataset
from datasets.exceptions import DatasetNotFoundError
names = get_dataset_config_names("alice/data")
splits = get_dataset_split_names("alice/data", "easy")
rows = load_dataset("alice/data", "easy", split="train", streaming=True, revision=SHA)
plain = load_dataset("alice/data", "hard", split="train")
numbers = load_dataset("alice/parquet", split="train", streaming=True)
Dataset.from_dict({"input": ["a", "b"], "output": ["c", "d"]}).push_to_hub("alice/pushed")
pushed = load_dataset("alice/pushed", split="train", streaming=True)
try:
    load_dataset("alice/hidden", streaming=True, token=False)  # not in the cache
    found = True
except DatasetNotFoundError:
    found = False
print(json.dumps({
    "names": sorted(names), "splits": sorted(splits), "rows": list(rows), "plain": len(plain),
    "sum": sum(row["n"] for row in numbers), "pushed": [row["output"] for row in pushed],
    "found without a token": found,
}))
"""


def test_datasets_streams_pushes_and_finds_no_private_repo_without_a_token(
    hub: FaultHub, token: str, tmp_path: Path
) -> None:
    pytest.importorskip("datasets")
    parquet = pytest.importorskip("pyarrow.parquet")
    arrow = pytest.importorskip("pyarrow")
    hub.create_repo("alice/data", repo_type="dataset", private=True)
    files = {"easy/train.jsonl": ROWS, "easy/test.jsonl": ROWS, "hard/x.jsonl": ROWS}
    sha = hub.commit("alice/data", {"README.md": CARD, **files}, repo_type="dataset")
    hub.create_repo("alice/hidden", repo_type="dataset", private=True)
    hub.commit("alice/hidden", {"train.jsonl": ROWS}, repo_type="dataset")
    parquet.write_table(arrow.table({"n": list(range(100))}), tmp_path / "x.parquet")
    hub.create_repo("alice/parquet", repo_type="dataset")
    hub.commit("alice/parquet", {"train.parquet": tmp_path / "x.parquet"}, repo_type="dataset")
    assert python(hub, tmp_path, DATASETS.replace("SHA", repr(sha)), token) == {
        "names": ["easy", "hard"], "splits": ["test", "train"],
        "rows": [{"input": f"q{n}", "output": f"a{n}"} for n in range(5)], "plain": 5,
        "sum": sum(range(100)), "pushed": ["c", "d"], "found without a token": False,
    }  # fmt: skip
    assert "data/train-00000-of-00001.parquet" in hub.files("alice/pushed", repo_type="dataset")
    digest = hashlib.sha256((tmp_path / "x.parquet").read_bytes()).hexdigest()
    assert [r for r in hub.requests if r.path.startswith(f"/_lfs/{digest}")], "the redirect"


TINY = """
import json, sys
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
config = LlamaConfig(vocab_size=32, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                     num_attention_heads=2, num_key_value_heads=2)
model = LlamaForCausalLM(config)
model.push_to_hub("alice/base")
lora = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
lora.peft_config["default"].base_model_name_or_path = "alice/base"
lora.push_to_hub("alice/lora")
from peft import AutoPeftModelForCausalLM
back = AutoPeftModelForCausalLM.from_pretrained("alice/lora")
print(json.dumps([type(back).__name__, back.peft_config["default"].r]))
"""


def test_transformers_and_peft_push_and_load(hub: FaultHub, token: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("peft")
    assert python(hub, tmp_path, TINY, token) == ["PeftModelForCausalLM", 2]
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(hub.files("alice/lora"))
    assert "model.safetensors" in hub.files("alice/base")
    sent = {r.path.partition("?")[0] for r in hub.requests if r.method == "POST"}
    assert "/alice/lora.git/info/lfs/objects/batch" in sent


def test_hf_command_creates_uploads_and_downloads(
    hub: FaultHub, token: str, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("hello")
    (folder / "w.safetensors").write_bytes(bytes(2000))
    assert "alice" in run(hub, tmp_path, *HF, "auth", "whoami", token=token).stdout
    run(hub, tmp_path, *HF, "repos", "create", "alice/new", "--private", token=token)
    run(hub, tmp_path, *HF, "upload", "alice/new", str(folder), ".", token=token)
    repo = hub.repo("alice/new")
    assert repo is not None
    assert repo.private
    assert hub.read("alice/new", "w.safetensors") == bytes(2000)
    out = tmp_path / "out"
    run(hub, tmp_path, *HF, "download", "alice/new", "--local-dir", str(out), token=token)
    assert (out / "a.txt").read_text() == "hello"
    assert (out / "w.safetensors").read_bytes() == bytes(2000)


def test_hf_command_reports_a_private_repo_as_not_found(hub: FaultHub, tmp_path: Path) -> None:
    hub.create_repo("alice/secret", private=True)
    done = run(hub, tmp_path, *HF, "download", "alice/secret", "a.txt", ok=False)
    assert "not found" in done.stderr.lower() + done.stdout.lower()


def test_env_replaces_the_settings_of_this_process(
    hub: FaultHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_real")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    env = hub.env(home=tmp_path)
    assert (env["HF_ENDPOINT"], env["HF_HOME"]) == (hub.url, str(tmp_path))
    assert "HF_TOKEN" not in env
    assert "HF_HUB_OFFLINE" not in env
    assert hub.env("hf_x", home=tmp_path)["HF_TOKEN"] == "hf_x"


def test_faults_affect_clients_in_child_processes(hub: FaultHub, tmp_path: Path) -> None:
    hub.create_repo("alice/m")
    hub.add_fault(Fault(kind="status", status=500, path="/api/models/alice/m"))
    code = "from huggingface_hub import model_info; model_info('alice/m')"
    done = run(hub, tmp_path, sys.executable, "-c", code, ok=False)
    assert "Internal Error" in done.stderr
