"""A tiny random base model and tasks for tests of training."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_lorameta import Bank, Generation, generate
from hf_lorameta.engines.row_tokens import Tokens
from tests.support.words import TOPICS, word_level

if TYPE_CHECKING:
    from hf_lorameta.training.settings import BankSettings

WORDS = [*" ".join(TOPICS).split(), "say"]
VOCABULARY = ["<s>", "</s>", "[UNK]", *WORDS]


def write_base(folder: Path, kind: str = "Llama", **changes: Any) -> Path:
    """Write a random model with a word-level tokenizer; `kind` begins its classes' names."""
    import torch
    import transformers

    sizes = {
        "vocab_size": len(VOCABULARY), "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "initializer_range": 0.3, "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    torch.manual_seed(0)
    text = "TextConfig" if kind == "Gemma3" else "Config"
    config = getattr(transformers, kind + text)(**(sizes | changes))
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(word_level(VOCABULARY))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>",
              "unk_token": "[UNK]", "model_max_length": 512}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def rows(topic: int, number: int = 48) -> list[dict[str, str]]:
    """Rows of a topic: the answer to a word is the next one."""
    words = WORDS[4 * topic : 4 * topic + 4]
    pairs = [(a, b, (a + b) % 4) for a in range(4) for b in range(4)]
    chosen = [pairs[i % 16] for i in range(number)]
    return [
        {
            "input": f"say {words[a]} {words[b]}" + f" {WORDS[i % 16]}" * (1 + i % 3),
            "output": f"{words[c]} {words[a]}",
        }
        for i, (a, b, c) in enumerate(chosen)
    ]


def labeled(count: int = 64) -> list[dict[str, str]]:
    """Return rows whose outputs are one of two labels."""
    words = WORDS[:8]
    of_input = ((words[i % 8], words[i // 8 % 8], WORDS[12 + (i % 8 > 3)]) for i in range(count))
    return [{"input": f"say {b} {a}", "output": label} for a, b, label in of_input]


def write_task(folder: Path, name: str, lines: list[dict[str, str]], split: str = "train") -> Path:
    """Write a task's file into a folder of tasks."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.{split}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_tasks(folder: Path, number: int = 3) -> Path:
    """Write tasks of different topics."""
    for topic in range(number):
        write_task(folder, f"topic{topic}", rows(topic % 4, 40 + 8 * topic))
    return folder


def write_bank(make_folder: Callable[[str], Path], topics: int = 3, **changes: Any) -> "Bank":
    """Train a bank in a few steps, for a random base model in a folder."""
    from hf_lorameta.training.settings import BankSettings

    settings: dict[str, Any] = {"rank": 4, "steps": 8, "lr": 0.02, "warmup": 2, "measurements": 2}
    settings |= {"general_steps": 0, "forms": False, **changes}
    base, tasks = write_base(make_folder("base")), write_tasks(make_folder("tasks"), topics)
    folder = make_folder("banks") / "bank"
    return train_bank(tasks, folder, base, BankSettings(**settings))


def train_bank(
    tasks: Path, folder: Path, base: Path, settings: "BankSettings", **options: Any
) -> "Bank":
    """Train a bank on the tasks that a path names, in float32 unless `dtype` is given."""
    from hf_lorameta.hub.client import Hub
    from hf_lorameta.training.bank import train_bank as training
    from hf_lorameta.training.bank.base import TrainingBase
    from hf_lorameta.training.bank.tasks import read_tasks

    hub, listed = Hub(False), read_tasks([str(tasks)])
    found, dtype = TrainingBase.find(str(base), None, hub), options.pop("dtype", "float32")
    return training.train_bank(listed, folder, found, settings, dtype, hub=hub, **options)


def tokens(topic: int, number: int = 16, shared: bool = True) -> list[Tokens]:
    """Encoded rows of different lengths, with or without a common beginning."""
    start = [3 + topic, 4, 5] if shared else []
    return [
        Tokens(
            [*start, *(3 + (7 * i + j + topic) % 17 for j in range(1 + i % 4))],
            [*(3 + (i + j * topic) % 17 for j in range(1 + i % 3)), 1],
        )
        for i in range(number)
    ]


def exact_norms(model: Any) -> Any:
    """Let a model's RMSNorm layers work in the model's dtype; transformers rounds to float32."""
    for module in model.modules():
        kind = type(module).__name__
        if kind.endswith("RMSNorm"):
            module.forward = partial(_rms_norm, module, kind in ("Gemma2RMSNorm", "Gemma3RMSNorm"))
    return model


def _rms_norm(module: Any, shifted: bool, x: Any) -> Any:
    epsilon = module.variance_epsilon if hasattr(module, "variance_epsilon") else module.eps
    weight = getattr(module, "weight", 1.0)
    return x * (x.pow(2).mean(-1, True) + epsilon).rsqrt() * (weight + shifted)


def make(bank: Bank, data: Path, **settings: Any) -> Generation:
    """Generate an adapter of rank 4."""
    return generate(data, bank, rank=4, **settings)


def loss(bank: Bank, rows: list[tuple[str, str]], adapter: Path | None) -> float:
    """Return the loss of rows with an adapter in PEFT, or of the base model, in float32."""
    from hf_lorameta.engines.transformers.evaluator import TorchEvaluator

    evaluator = TorchEvaluator.from_folder(bank.index.base_model, "float32")
    return evaluator.evaluate(rows, adapter, generate=False)[0].loss
