"""What ``--fit`` and ``--train`` are compared with: a LoRA trained from zero by PEFT.

`PeftTraining` gets the same rows, steps, batches and schedule as
`hf_lorameta.training.further.few_rows`; the start, the engine and the learning rate differ, and the
loss of the held-out rows decides how many steps are taken.
`train_by_trainer` does what people do who have all rows: transformers' Trainer for three epochs.
"""

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hf_lorameta.engines.scoring import Tokens
from hf_lorameta.training.further.few_rows import batches, split
from hf_lorameta.training.settings import Settings

_IGNORED = -100


class PeftResult(NamedTuple):
    """Losses on held-out rows, the steps chosen, and the CPU seconds of the training."""

    start: float
    end: float
    steps: int
    cpu: float


class PeftTraining:
    """Trains adapters of q, k and v on a model that it wraps for good.

    Args:
        model: a causal LM of transformers.
        settings: of the training.
    """

    def __init__(self, model: Any, settings: Settings) -> None:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=settings.rank,
            lora_alpha=int(settings.scaling * settings.rank),
            target_modules=list(settings.targets),
        )
        self.model = get_peft_model(model, config)
        self._settings = settings
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        self._initial = [p.detach().clone() for p in self._parameters]

    def train(self, rows: Sequence[Tokens], held_out: Sequence[Tokens] = ()) -> PeftResult:
        """Train an adapter, which stays applied, as `continue_training` does from another start."""
        started, parts = time.process_time(), split(rows, self._settings.seed, held_out)
        curves = [self._curve(train, held_out) for train, held_out in parts]
        count = sum(len(row.output) for _, held_out in parts for row in held_out)
        sums = {
            step: sum(curve.get(step, math.inf) for curve in curves) / count for step in curves[0]
        }
        steps = min(sums, key=lambda step: (sums[step], step))
        train: Sequence[Tokens] = parts[0][0]
        if len(parts) > 1:
            train, steps = rows, min(2 * steps, self._settings.steps)
        self._reset()
        for _ in self._steps(train, steps):
            pass
        return PeftResult(sums[0], min(sums.values()), steps, time.process_time() - started)

    def _curve(self, rows: Sequence[Tokens], held_out: Sequence[Tokens]) -> dict[int, float]:
        """Return the summed loss of held-out rows by the number of steps."""
        settings = self._settings
        self._reset()
        sums = {0: self.loss_sum(held_out)}
        for step in self._steps(rows, settings.steps):
            if step % settings.evaluate_every and step != settings.steps:
                continue
            sums[step] = self.loss_sum(held_out)
            best = min(sums, key=lambda step: (sums[step], step))
            if step - best >= settings.patience * settings.evaluate_every:
                break
        return sums

    def _reset(self) -> None:
        for parameter, initial in zip(self._parameters, self._initial, strict=True):
            parameter.data.copy_(initial)

    def _steps(self, rows: Sequence[Tokens], count: int) -> Iterator[int]:
        settings, order = self._settings, batches(rows, self._settings)
        optimizer = torch.optim.AdamW(self._parameters, weight_decay=0.0)
        for step in range(1, count + 1):
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate(step - 1)
            optimizer.zero_grad()
            torch.autograd.backward(self._loss(next(order)))
            torch.nn.utils.clip_grad_norm_(self._parameters, settings.clip)
            optimizer.step()
            yield step

    def loss_sum(self, rows: Sequence[Tokens], size: int = 8) -> float:
        """Return the summed loss of the output tokens of rows, some rows at a time."""
        total = 0.0
        with torch.no_grad():
            for start in range(0, len(rows), size):
                batch = rows[start : start + size]
                total += self._loss(batch).item() * sum(len(row.output) for row in batch)
        return total

    def _loss(self, rows: Sequence[Tokens]) -> torch.Tensor:
        """Return the mean loss of the output tokens of a padded batch."""
        loss: torch.Tensor = self.model(**padded(rows)).loss
        return loss


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
