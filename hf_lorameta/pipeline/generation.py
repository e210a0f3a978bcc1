"""A generated adapter: the combined weights of a plan."""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hf_lorameta.cards.gguf_usage import MODELFILE, render_modelfile
from hf_lorameta.engines.scoring import Report
from hf_lorameta.formats.lora_file import WEIGHTS_FILE, write_tensors
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.formats.peft_config import CONFIG_FILE, write_config
from hf_lorameta.pipeline.save import PlannedAdapter
from hf_lorameta.refine.results import Training
from hf_lorameta.tables import plural
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

    @property
    def messages(self) -> tuple[str, ...]:
        """What was fitted, trained, checked and combined, with losses, as sentences."""
        return tuple(_messages(self))

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


def _messages(generation: Generation) -> Iterator[str]:
    plan = generation.plan
    if losses := plan.refinement:
        yield (
            f"Fitted {len(plan.active_indices)} adapters on {losses.rows} rows: loss of the base "
            f"model {losses.base:.3f}, of this adapter {losses.end:.3f}; about "
            f"{losses.held_out:.3f} on held-out rows"
        )
    if plan.training:
        yield from _training_messages(plan.training)
    if check := plan.check:
        chat = "" if check.chat is None else f", with its chat template {check.chat:.3f}"
        if check.prompt is not None:
            chat += f", with a {check.shots}-shot prompt {check.prompt:.3f}"
        yield (
            f"Checked on {check.rows} other rows in {generation.check_seconds:.0f} s: loss of the "
            f"base model {check.base:.3f}{chat}, of this adapter {check.end:.3f}"
        )
    yield f"Combined {plural(len(plan.neighbors()), 'adapter')} in {generation.seconds:.1f} s"


def _training_messages(training: Training) -> Iterator[str]:
    losses = (
        f"loss on {training.held_out} held-out rows of the base model {training.base:.3f}, "
        f"before the training {training.start:.3f}"
    )
    if training.steps:
        steps = plural(training.steps, "step")
        yield f"Trained on {training.rows} rows for {steps}: {losses}, after it {training.end:.3f}"
    elif not training.interrupted:
        yield (
            f"Training on {training.rows} rows did not help, so the adapter stays as it was: "
            f"{losses}"
        )
    if 0 < training.fraction < 1:
        yield "The gain was within its standard error, so the adapter moved half as far"
    if training.interrupted:
        yield "The training was interrupted; this is the best adapter so far"
