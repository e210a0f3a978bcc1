"""A generated adapter: the combined weights of a plan."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hf_lorameta.cards.gguf_usage import MODELFILE, render_modelfile
from hf_lorameta.engines.scoring import Report
from hf_lorameta.formats.lora_file import WEIGHTS_FILE, write_tensors
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.formats.peft_config import CONFIG_FILE, write_config
from hf_lorameta.pipeline.savable_adapter import PlannedAdapter
from hf_lorameta.types import FactorPair


@dataclass(frozen=True)
class Generation(PlannedAdapter):
    """A generated adapter.

    Attributes:
        plan: the plan it was generated from.
        layout: the modules that it changes: those of the plan, or more if it was trained further.
        rank: r of every module.
        pairs: (lora_A (r, in_features), lora_B (out_features, r)) of every module, scaling
            included.
        seconds: wall time of combining, without that of fetching the adapters.
        check_seconds: wall time of the check, if there was one, with that of loading the base
            model where nothing needed it before.
    """

    layout: Layout
    rank: int
    pairs: tuple[FactorPair, ...]
    seconds: float
    check_seconds: float = 0.0

    def __repr__(self) -> str:
        name, count = self.plan.dataset.id or "a local dataset", len(self.plan.neighbors())
        return (
            f"Generation(rank {self.rank} for {name}, of {count} adapters of {self.plan.bank.id})"
        )

    def _write(self, folder: Path, repo_id: str | None, exported: bool) -> Mapping[str, str]:
        plan, dtype = self.plan, self.plan.recipe.dtype
        write_tensors(folder / WEIGHTS_FILE, self.layout, self.rank, dtype, self.pairs)
        config = write_config(self.base_model, self.layout, self.rank, self.base_revision)
        (folder / CONFIG_FILE).write_bytes(config)
        card = replace(plan.card_data(self.rank), gguf=exported)
        texts = self._text_files(plan.provenance() | {"rank": self.rank}, card, repo_id)
        if exported:
            template = plan.dataset.columns.template
            texts[MODELFILE] = render_modelfile(self.base_model, template)
        return texts

    def evaluate(self, dataset: Any = None, **options: Any) -> Report:
        """Score base model, this adapter and a few-shot prompt on rows it was not fitted on.

        Args:
            dataset: None is the public dataset that it was generated for.
            options: those of `hf_lorameta.pipeline.evaluate.evaluate`.

        Raises:
            LoraMetaError: as that function raises.
        """
        from hf_lorameta.pipeline.evaluate import evaluate

        with tempfile.TemporaryDirectory() as scratch:
            folder = self.save_pretrained(Path(scratch) / "adapter")
            return evaluate(folder, dataset, **options)
