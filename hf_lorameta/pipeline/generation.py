"""Combine the adapters of a plan, and save or publish the result."""

import json
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from hf_lorameta.bank.bank import Bank
from hf_lorameta.cards import gguf_usage, model_card
from hf_lorameta.cards.chart import CHART_FILE, render_chart
from hf_lorameta.engines.scoring import Report
from hf_lorameta.environment import require_extra
from hf_lorameta.formats.gguf_architecture import BaseArchitecture
from hf_lorameta.formats.lora_file import (
    WEIGHTS_FILE,
    AdapterFile,
    stack_into,
    write_tensors,
)
from hf_lorameta.formats.lora_layout import Module
from hf_lorameta.formats.peft_config import CONFIG_FILE, write_config
from hf_lorameta.hub.base_model import config_json
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.dataset_repo import Token
from hf_lorameta.method.averaging import average, can_average
from hf_lorameta.method.merging import COMBINERS, Stacked, exact, factors
from hf_lorameta.pipeline.adapter_folder import (
    COEFFICIENTS_FILE,
    RECIPE_FILE,
    Export,
    check_target,
    write_adapter,
)
from hf_lorameta.pipeline.combine_entries import combine_entries
from hf_lorameta.pipeline.plan import Plan
from hf_lorameta.pipeline.publish import publish_adapter
from hf_lorameta.types import FloatArray

_WORKERS = min(4, os.cpu_count() or 1)
_MAX_STACKED_BYTES = 560 << 20
"""Bytes of stacked factors held at a time: as many modules as fit are combined in parallel."""


def combine_adapters(
    plan: Plan, progress: Callable[[int, int], None]
) -> list[tuple[FloatArray, FloatArray]]:
    """Combine a plan's adapters into (lora_A, lora_B) of every module of ``plan.layout``.

    Args:
        plan: the plan.
        progress: called after each module with (done, total).

    Raises:
        RecipeError: the combiner cannot combine these ranks, or so many adapters.
        IntegrityError: an adapter's file is damaged.
        HubError: an adapter cannot be fetched.
    """
    if COMBINERS[plan.recipe.combine].entrywise:
        return _with_prior(plan, list(combine_entries(plan, progress)))
    bank, layout = plan.bank, plan.bank.layout
    active = [i for i in plan.active_indices if i < len(bank.index.adapters)]
    entries = [bank.index.adapters[i] for i in active]
    files = bank.adapters(entries)
    scalings = np.array([entry.scaling for entry in entries])
    coefficients = plan.coefficients.take(active)
    combine, rank = COMBINERS[plan.recipe.combine].function, plan.recipe.rank
    shared = coefficients.per_module is None and rank in (None, files[0].rank)
    if combine is factors and shared and can_average(files):
        with threadpool_limits(1, "blas"):
            return average(files, coefficients.shared, scalings, progress)
    widest = max(module.in_features + module.out_features for module in bank.stored_layout)
    values = widest * sum(entry.rank for entry in entries)
    workers = max(1, min(_WORKERS, _MAX_STACKED_BYTES // (4 * values)))
    buffers = [np.empty(values, np.float32) for _ in range(workers)]

    def combine_module(number: int) -> tuple[FloatArray, FloatArray]:
        buffer = buffers.pop()  # reused: allocating memory costs as much as reading into it
        As, Bs = _stack(files, bank.stored_layout[number], buffer)
        A, B = combine(As, Bs, coefficients.for_module(number), scalings, rank)
        buffers.append(buffer)
        return bank.expand(layout[number].name, A, B)

    pairs: list[tuple[FloatArray, FloatArray]] = []
    # one BLAS thread per module: no contention, and the same bits on any number of cores
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers) as pool:
        for pair in pool.map(combine_module, range(len(layout))):
            pairs.append(pair)
            progress(len(pairs), len(layout))
    return _with_prior(plan, pairs)


def _with_prior(
    plan: Plan, pairs: list[tuple[FloatArray, FloatArray]]
) -> list[tuple[FloatArray, FloatArray]]:
    """Append the output prior's module to the pairs if it takes part."""
    if prior := plan.output_prior():
        weight = plan.coefficients.for_module(len(pairs))[-1]
        pairs.append(exact([prior[0]], [prior[1]], [weight], [1.0], len(pairs[0][0])))
    return pairs


def _stack(
    files: Sequence[AdapterFile], module: Module, buffer: FloatArray
) -> tuple[Stacked, Stacked]:
    """Read one module of all files into the buffer: one array of lora_A, one of lora_B."""
    ranks = [file.rank for file in files]
    shape_A, shape_B = (sum(ranks), module.in_features), (module.out_features, sum(ranks))
    split, end = math.prod(shape_A), math.prod(shape_A) + math.prod(shape_B)
    A, B = buffer[:split].reshape(shape_A), buffer[split:end].reshape(shape_B)
    stack_into(files, module.name, A, B)
    return Stacked(A, ranks, 0), Stacked(B, ranks, 1)


@dataclass(frozen=True)
class Generation:
    """A generated adapter.

    Attributes:
        plan: the plan it was generated from.
        rank: r of every module.
        pairs: (lora_A (r, in_features), lora_B (out_features, r)) of every module, scaling
            included.
        seconds: wall time of combining, without that of fetching the adapters.
    """

    plan: Plan
    rank: int
    pairs: tuple[tuple[FloatArray, FloatArray], ...]
    seconds: float

    def __repr__(self) -> str:
        name, count = self.plan.dataset.id or "a local dataset", len(self.plan.neighbors())
        return (
            f"Generation(rank {self.rank} for {name}, of {count} adapters of {self.plan.bank.id})"
        )

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        repo_id: str | None = None,
        overwrite: bool = False,
        export: Export | None = None,
        token: Token = None,
    ) -> Path:
        """Write the adapter folder completely or not at all, and read it back.

        Args:
            folder: target.
            repo_id: the repo it will be published to, for the card.
            overwrite: replace an adapter that is already there.
            export: ``gguf`` adds the adapter for llama.cpp and Ollama. It needs the base model's
                config.json, from the Hub or its cache, and the extra ``gguf``.
            token: of the Hub, for `export`; None uses the saved one.

        Returns:
            The folder: PEFT's two files, ``recipe.json``, ``coefficients.json``, the card and its
            chart. The same inputs give the same bytes.

        Raises:
            UsageError: the folder holds other files, or an adapter and `overwrite` is false; or the
                base model's architecture cannot be exported.
            AdapterError: the files cannot be read back, or the disk is full.
            HubError: with `export`, the base model's config.json cannot be fetched.
            MissingExtraError: with `export`, the package `gguf` is not installed.
        """
        target = Path(folder).resolve()
        check_target(target, overwrite)
        base_config = base_config_for(self.plan.bank, export, token)

        def write(new: Path) -> None:
            self._write(new, repo_id, exported=base_config is not None)

        write_adapter(target, write, base_config)
        return Path(folder)

    def _write(self, folder: Path, repo_id: str | None, exported: bool) -> None:
        plan, layout, index = self.plan, self.plan.layout, self.plan.bank.index
        card_data = replace(plan.card_data(self.rank), gguf=exported)
        write_tensors(folder / WEIGHTS_FILE, layout, self.rank, plan.recipe.dtype, self.pairs)
        config = write_config(index.base_model, layout, self.rank, index.base_revision)
        (folder / CONFIG_FILE).write_bytes(config)
        rows = [as_json(neighbor.to_dict(), indent=None) for neighbor in card_data.neighbors]
        texts = {
            RECIPE_FILE: as_json(plan.provenance() | {"rank": self.rank}) + "\n",
            COEFFICIENTS_FILE: "[\n" + ",\n".join(rows) + "\n]\n",
            model_card.CARD_FILE: model_card.render_card(card_data, repo_id),
            CHART_FILE: render_chart(card_data),
        }
        if exported:
            texts[gguf_usage.MODELFILE] = gguf_usage.render_modelfile(
                index.base_model, plan.dataset.columns.template
            )
        for name, text in texts.items():
            (folder / name).write_bytes(text.encode())

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

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        create_pr: bool = False,
        overwrite: bool = False,
        export: Export | None = None,
        token: str | None = None,
    ) -> str:
        """Save, check and publish the adapter in one commit.

        Args:
            repo_id: target, ``user/name``.
            private: None makes a private repo for a private dataset and keeps the visibility of an
                existing repo.
            create_pr: open a pull request instead of committing.
            overwrite: replace files of the same names in an existing repo.
            export: as in `save_pretrained`.
            token: of the Hub; None uses the saved one.

        Returns:
            URL of the repo or of the pull request.

        Raises:
            AuthError: no token, or no right to write to the repo.
            ConflictError: the repo holds such files, has another visibility, or changed meanwhile.
            ConnectionLostError: the connection was lost.
        """
        publication = publish_adapter(
            lambda: self,
            repo_id,
            hub=Hub(token),
            dataset_private=self.plan.dataset.private,
            private=private,
            create_pr=create_pr,
            overwrite=overwrite,
            export=export,
        )
        return str(publication.url)


def base_config_for(
    bank: Bank, export: Export | None, token: Token = None
) -> dict[str, Any] | None:
    """Return the base model's ``config.json`` if an export needs it, checked before any work.

    Raises:
        UsageError: the base model's architecture cannot be exported.
        HubError: the file cannot be fetched.
        MissingExtraError: the package `gguf` is not installed.
    """
    return export_config(bank.index.base_model, bank.index.base_revision, export, token)


def export_config(
    base_model: str, revision: str | None, export: Export | None, token: Token = None
) -> dict[str, Any] | None:
    """Do what `base_config_for` does, for a base model by name."""
    if export is None:
        return None
    require_extra("gguf", extra="gguf")
    config = config_json(base_model, revision, token)
    BaseArchitecture.from_config(config)
    return config


def as_json(value: object, indent: int | None = 2) -> str:
    """Return JSON for a file of an adapter folder."""
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
