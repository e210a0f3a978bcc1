"""What ``--train`` is compared with: a LoRA trained from zero by PEFT.

`train_by_trainer` does what people do who have all rows: transformers' Trainer for three epochs.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hf_lorameta.engines.row_tokens import Tokens

_IGNORED = -100


def padded(rows: Sequence[Tokens]) -> dict[str, torch.Tensor]:
    """Return the inputs of a model for a batch, in which only outputs are labels."""
    longest = max(len(row.prompt) + len(row.output) for row in rows)
    ids, labels = (torch.full((len(rows), longest), fill) for fill in (0, _IGNORED))
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, (prompt, output) in enumerate(rows):
        end = len(prompt) + len(output)
        ids[i, :end] = torch.tensor([*prompt, *output])
        labels[i, len(prompt) : end] = torch.tensor(output)
        mask[i, :end] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def train_by_trainer(model: Any, base_model: str, rows: Sequence[Tokens], folder: Path) -> float:
    """Save an adapter of all linear layers, trained on rows for 3 epochs, in PEFT's format.

    Args:
        model: a causal LM of transformers, as it is again afterwards.
        base_model: the name of the model that the adapter states.
        rows: to train on.
        folder: where to save the adapter.

    Returns:
        CPU seconds.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainingArguments

    started = time.process_time()
    config = LoraConfig(
        r=16, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    adapted = get_peft_model(model, config)
    arguments = TrainingArguments(
        str(folder / "state"),
        per_device_train_batch_size=8,
        learning_rate=1e-3,
        warmup_steps=8,
        num_train_epochs=3,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        use_cpu=True,
        seed=0,
    )
    Trainer(adapted, arguments, data_collator=padded, train_dataset=list(rows)).train()
    adapted.peft_config["default"].base_model_name_or_path = base_model
    adapted.save_pretrained(str(folder))
    adapted.unload()
    model.eval()
    return time.process_time() - started
