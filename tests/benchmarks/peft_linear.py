"""The shared bank combined by PEFT: ``add_weighted_adapter(combination_type="linear")``.

PEFT sums A and B separately, each weighted by the square root of weight times scaling, which is not
the sum of the updates B·A; `tests.benchmarks.quality` scores the result.
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
        """Combine the tasks' adapters with these weights; return the folder of the result."""
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
