"""The one composer: bank + dataset + recipe → plan → adapter, combined, saved and read back."""

import json
import math
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from hf_lorameta.bank.bank import Bank
from hf_lorameta.cards import gguf_usage, model_card
from hf_lorameta.cards.chart import CHART_FILE, render_chart
from hf_lorameta.environment import require_extra
from hf_lorameta.errors import AdapterError
from hf_lorameta.formats import gguf_adapter
from hf_lorameta.formats.lora_file import (
    WEIGHTS_FILE,
    AdapterFile,
    check_adapter,
    stack_into,
    write_tensors,
)
from hf_lorameta.formats.lora_layout import Module
from hf_lorameta.formats.peft_config import CONFIG_FILE, write_config
from hf_lorameta.hub.base_model import config_json
from hf_lorameta.method import merging
from hf_lorameta.method.averaging import average, can_average
from hf_lorameta.pipeline.adapter_folder import (
    COEFFICIENTS_FILE,
    RECIPE_FILE,
    Export,
    check_target,
)
from hf_lorameta.pipeline.plan import Plan
from hf_lorameta.pipeline.publish import (
    check_no_overwrite,
    preserve_on_failure,
    publish_folder,
    resolve_target,
    staging_dir,
)
from hf_lorameta.types import FloatArray

_WORKERS = min(4, os.cpu_count() or 1)
_STACKED = 560 << 20
"""Bytes of stacked factors that may be held: as many modules as fit are combined side by side."""


def combine_adapters(
    made: Plan, progress: Callable[[int, int], None]
) -> list[tuple[FloatArray, FloatArray]]:
    entries = [made.bank.index.entries[i] for i in made.active_indices]
    files = made.bank.adapters(entries)
    scalings = np.array([entry.scaling for entry in entries])
    merge, rank = merging.COMBINERS[made.recipe.combine].function, made.recipe.rank
    coefficients = made.coefficients.take(made.active_indices)
    averaged = merge is merging.factors and coefficients.per_module is None
    if averaged and rank in (None, files[0].rank) and can_average(files):
        with threadpool_limits(1, "blas"):
            return average(files, coefficients.shared, scalings, progress)
    sizes = {module.name: module for module in made.bank.stored_layout}
    widest = max(module.in_features + module.out_features for module in sizes.values())
    stacked = 4 * widest * sum(entry.rank for entry in entries)
    workers = max(1, min(_WORKERS, _STACKED // stacked))
    spare = [np.empty(stacked // 4, np.float32) for _ in range(workers)]

    def combined(module: Module, c: NDArray[np.float64]) -> tuple[FloatArray, FloatArray]:
        buffer = spare.pop()  # used again: fresh memory costs as much as reading into it
        As, Bs = _stacked(files, sizes[module.name], buffer)
        merged = merge(As, Bs, c, scalings, rank)
        spare.append(buffer)
        return made.bank.expand(module.name, *merged)

    pairs: list[tuple[FloatArray, FloatArray]] = []
    # one BLAS thread a module: no fighting over cores, and the same bits on any number of them
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers) as pool:
        each = map(coefficients.for_module, range(len(made.bank.layout)))
        for pair in pool.map(combined, made.bank.layout, each):
            pairs.append(pair)
            progress(len(pairs), len(made.bank.layout))
    return pairs


def _stacked(
    files: list[AdapterFile], module: Module, buffer: FloatArray
) -> tuple[merging.Stacked, merging.Stacked]:
    """One module of all files, each factor in one array, both in the buffer."""
    ranks = [file.rank for file in files]
    shapes = (sum(ranks), module.in_features), (module.out_features, sum(ranks))
    split, end = math.prod(shapes[0]), math.prod(shapes[0]) + math.prod(shapes[1])
    A, B = buffer[:split].reshape(shapes[0]), buffer[split:end].reshape(shapes[1])
    stack_into(files, module.name, A, B)
    return merging.Stacked(A, ranks, 0), merging.Stacked(B, ranks, 1)


@dataclass(frozen=True)
class Generation:
    """A generated adapter.

    Attributes:
        plan: what it was made from.
        rank: r of every module.
        pairs: (lora_A (r, in), lora_B (out, r)) of every module, scaling folded in.
        seconds: combining took, wall time.
    """

    plan: Plan
    rank: int
    pairs: tuple[tuple[FloatArray, FloatArray], ...]
    seconds: float

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        repo_id: str | None = None,
        overwrite: bool = False,
        export: Export | None = None,
    ) -> Path:
        """Write the adapter folder, whole or not at all, and read it back.

        Args:
            folder: target.
            repo_id: where it is going, for the card.
            overwrite: replace an adapter that is already there.
            export: ``gguf`` adds the adapter for llama.cpp and Ollama; it needs the base model's
                config.json, from the Hub or its cache, and the extra ``gguf``.

        Returns:
            The folder: PEFT's two files, ``recipe.json``, ``coefficients.json``, the card and its
            picture. The same inputs give the same bytes.

        Raises:
            UsageError: the folder holds something else, or an adapter and `overwrite` is false; or
                the base's architecture cannot be exported.
            AdapterError: what was written cannot be read back, or the disk is full.
            HubError: with `export`, the base's config.json is out of reach.
            MissingExtraError: with `export`, the package `gguf` is not installed.
        """
        target = Path(folder).resolve()
        check_target(target, overwrite)
        base_config = base_config_for(self.plan.bank, export)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".lorameta-", dir=target.parent) as scratch:
                fresh = Path(scratch) / "fresh"
                fresh.mkdir()
                self._write(fresh, repo_id, exported=base_config is not None)
                check_adapter(fresh)
                if base_config is not None:
                    gguf_adapter.export(fresh, fresh / gguf_usage.GGUF_FILE, base_config)
                if target.exists():
                    target.rename(Path(scratch) / "replaced")
                fresh.rename(target)
        except OSError as error:
            raise AdapterError(
                f"{target} could not be written: {error.strerror}",
                hint="free some space or name another folder with -o",
            ) from None
        return Path(folder)

    def _write(self, folder: Path, repo_id: str | None, exported: bool) -> None:
        made, index = self.plan, self.plan.bank.index
        config = write_config(index.base_model, made.bank.layout, self.rank)
        told = replace(made.facts(self.rank), gguf=exported)
        coefficients = [_json(neighbor.to_dict(), indent=None) for neighbor in told.neighbors]
        write_tensors(
            folder / WEIGHTS_FILE,
            made.bank.layout,
            self.rank,
            made.recipe.dtype,
            self.pairs,
        )
        (folder / CONFIG_FILE).write_bytes(config)
        provenance = _json(made.provenance() | {"rank": self.rank})
        (folder / RECIPE_FILE).write_bytes(f"{provenance}\n".encode())
        listed = "[\n" + ",\n".join(coefficients) + "\n]\n"  # one adapter a line
        (folder / COEFFICIENTS_FILE).write_bytes(listed.encode())
        (folder / model_card.CARD_FILE).write_text(
            model_card.render_card(told, repo_id), encoding="utf-8"
        )
        (folder / CHART_FILE).write_text(render_chart(told), encoding="utf-8")
        if exported:
            modelfile = gguf_usage.render_modelfile(index.base_model)
            (folder / gguf_usage.MODELFILE).write_text(modelfile, encoding="utf-8")

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
        """Save, check and publish in one commit.

        Args:
            repo_id: target, ``user/name``.
            private: None makes a private repo for a private dataset and respects one that exists.
            create_pr: propose the files instead.
            overwrite: replace files of the same names in an existing repo.
            export: as in `save_pretrained`.
            token: None uses the saved one.

        Returns:
            URL of the repo or of the pull request.

        Raises:
            AuthError: no token, or no right to write there.
            ConflictError: the repo holds such files, has another visibility, or changed meanwhile.
            ConnectionLostError: the connection was lost.
        """
        target = resolve_target(
            repo_id,
            private=private,
            dataset_private=self.plan.dataset.private,
            create_pr=create_pr,
            token=token,
        )
        if not overwrite:
            check_no_overwrite(target)
        folder = self.save_pretrained(staging_dir(repo_id), repo_id=repo_id, export=export)
        with preserve_on_failure(folder, target):
            return publish_folder(folder, target, token=token)


def base_config_for(bank: Bank, export: Export | None) -> dict[str, Any] | None:
    """The base model's ``config.json`` where an export needs it, checked; before any work is done.

    Raises:
        UsageError: the base's architecture cannot be exported.
        HubError: it is out of reach.
        MissingExtraError: the package `gguf` is not installed.
    """
    if export is None:
        return None
    require_extra("gguf", extra="gguf")
    config = config_json(bank.index.base_model, bank.index.base_revision)
    gguf_adapter.BaseArchitecture.from_config(config)
    return config


def _json(value: object, indent: int | None = 2) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
