"""The base model of a bank, and how its training uses the machine."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from hf_lorameta.errors import ConnectionLostError
from hf_lorameta.formats.lora_layout import Module
from hf_lorameta.hub import retry
from hf_lorameta.hub.client import Hub
from hf_lorameta.training.settings import BankSettings
from tests.hub.conftest import isolated_client, use_endpoint
from tests.support.codes import raises_code
from tests.support.fault_hub import Fault, FaultHub
from tests.training import tiny

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

from hf_lorameta.training import device  # noqa: E402 - imports torch
from hf_lorameta.training.bank.base import TrainingBase  # noqa: E402

client = isolated_client
"""Used by all tests here: empty caches and no network."""


def test_base_that_does_not_fit_on_a_gpu_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    base = TrainingBase.find(str(tiny.write_base(tmp_path)), None, Hub(False))
    monkeypatch.setattr("hf_lorameta.training.bank.base.find_device", lambda: "cuda")
    monkeypatch.setattr(transformers.PreTrainedModel, "to", full)
    with raises_code("memory.too-little"):
        base.load("float32", BankSettings(), False)


def test_passes_are_shorter_where_logits_take_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_free_memory", lambda name: 10**9)
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    layout = (Module("q_proj", 8, 8),)
    tokens = {}
    for vocabulary in (1000, 500_000):
        config = transformers.LlamaConfig(
            vocab_size=vocabulary, hidden_size=64, num_hidden_layers=2, intermediate_size=64
        )
        with torch.device("meta"):
            model = transformers.LlamaForCausalLM(config)
        monkeypatch.setattr(type(model), "device", torch.device("cpu"))
        tokens[vocabulary] = device.plan_device(model, layout, 4).pass_tokens
    assert tokens[1000] == 1024
    output_tokens = tokens[500_000] / 1.5
    assert 0.5e9 < 12 * 500_000 * output_tokens < 0.6e9


def test_a_model_on_this_machine_is_used_soon_where_requests_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []
    clock = SimpleNamespace(sleep=waits.append, monotonic=lambda: sum(waits))
    monkeypatch.setattr(retry, "time", clock)
    with FaultHub() as running:
        running.add_user("alice")
        running.create_repo("alice/base")
        running.commit("alice/base", {"config.json": b"{}", "model.safetensors": b"weights"})
        use_endpoint(monkeypatch, running.url)
        first = TrainingBase.find("alice/base", None, Hub(False))
        assert first.revision == running.commits("alice/base")[0].sha
        running.add_fault(Fault("status", status=503))
        running.clear_requests()
        again = TrainingBase.find("alice/base", None, Hub(False))
        assert (again.folder, again.revision) == (first.folder, first.revision)
        assert len(running.requests) == 4  # twice for the commit, and for the files
        assert waits == [1, 1]
        waits.clear()
        with pytest.raises(ConnectionLostError):
            TrainingBase.find("alice/other", None, Hub(False))
        assert len(waits) == retry.ATTEMPTS - 1
