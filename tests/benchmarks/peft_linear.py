"""The shared bank in PEFT's own hands: ``add_weighted_adapter(combination_type="linear")``.

PEFT adds up A and B apart, each with the square roots of weight times scaling,
which is another update than their sum; `quality` scores what comes of it.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path

from tests import shared_data


class PeftLinear:
    """A base model with all adapters of the shared bank attached.

    Args:
        base: folder of the base model.
    """

    def __init__(self, base: Path) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(base, local_files_only=True)
        self._names = {task: f"task{i}" for i, task in enumerate(shared_data.tasks())}
        (task, name), *others = self._names.items()
        self._model = PeftModel.from_pretrained(model, shared_data.BANK / task, adapter_name=name)
        for task, name in others:
            self._model.load_adapter(shared_data.BANK / task, adapter_name=name)

    def save(self, weights: Mapping[str, float], folder: Path) -> Path:
        """Combine adapters, save the result as PEFT does, and forget it.

        Args:
            weights: of each task's adapter.
            folder: where to.

        Returns:
            The folder of the adapter.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._model.add_weighted_adapter(
                [self._names[task] for task in weights],
                list(weights.values()),
                "mixed",
                combination_type="linear",
            )
            self._model.save_pretrained(folder, selected_adapters=["mixed"])
            self._model.delete_adapter("mixed")
        return folder / "mixed"
