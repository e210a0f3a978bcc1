"""The one composer: bank + dataset + recipe → plan → adapter, combined, saved and read back."""

import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from hf_lorameta import adapter, card, combine, gguf_export, serving
from hf_lorameta.adapter import FloatArray
from hf_lorameta.averaging import average, can_average
from hf_lorameta.bank import Bank, IndexEntry
from hf_lorameta.dataset import Dataset
from hf_lorameta.errors import AdapterError, UsageError
from hf_lorameta.picture import PICTURE_FILE, render_picture
from hf_lorameta.planning import Plan, plan
from hf_lorameta.recipe import Recipe
from hf_lorameta.refine import Scored

RECIPE_FILE = "recipe.json"
COEFFICIENTS_FILE = "coefficients.json"
FILES = (
    adapter.CONFIG_FILE, adapter.WEIGHTS_FILE, RECIPE_FILE, COEFFICIENTS_FILE,
    card.CARD_FILE, PICTURE_FILE,
)  # fmt: skip
EXPORTS = (serving.GGUF_FILE, serving.MODELFILE)
"""What ``export="gguf"`` adds to the folder."""

Export = Literal["gguf"]

_WORKERS = min(4, os.cpu_count() or 1)
_STACKED = 560 << 20
"""Bytes of stacked factors that may be held: as many modules as fit are combined side by side."""


def generate(
    dataset: str | Path | Dataset,
    bank: Bank | None = None,
    recipe: Recipe | None = None,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> "Generation":
    """Make an adapter for a dataset, without training.

    Args:
        dataset: Hub id, local file, or an opened `Dataset`.
        bank: None opens the default bank.
        recipe: None is ``Recipe()``.
        progress: called after each module with (done, total).

    Raises:
        DatasetError: as `plan`.
        BankError: as `plan`.
        RecipeError: ``factors`` with differing ranks or another rank than the bank's.
        AdapterError: as `carry_out`.
        HubError: as `plan`; adapters of a Hub bank are fetched here.
    """
    return carry_out(plan(dataset, bank, recipe), progress)


def carry_out(
    made: Plan,
    progress: Callable[[int, int], None] = lambda done, total: None,
    scored: Scored | None = None,
) -> "Generation":
    """Combine the adapters a plan names, module by module.

    Where its recipe asks for it, a plan is refined first, and its adapter checked at the end, see
    `hf_lorameta.tuning`.

    Args:
        made: the plan.
        progress: called after each module with (done, total).
        scored: holds the base model, where it is needed; None loads it.

    Raises:
        AdapterError: it was refined or checked, and no share of it is as good as the base model.
        LoraMetaError: as `generate`.
    """
    from hf_lorameta.tuning import checked, refined

    if made.recipe.refine is not None and made.refinement is None:
        made = refined(made, scored)
    _insist_on_gain(made, "--refine")
    started = time.perf_counter()
    pairs = _combined(made, progress)
    rank = pairs[0][0].shape[0]
    combined = Generation(made, rank, tuple(pairs), time.perf_counter() - started)
    if made.recipe.check is None:
        return combined
    combined = checked(combined, scored)
    _insist_on_gain(combined.plan, "--check")
    return combined


def _insist_on_gain(made: Plan, option: str) -> None:
    """Refuse what was drawn back to nothing: an adapter of zeros is the base model."""
    if not made.used:
        raise AdapterError(
            "no share of this adapter is as good as the base model alone on the rows it was scored "
            "on: the bank cannot help with this dataset",
            hint=f"name another --bank, or leave out {option} to have it all the same",
        )


def _combined(
    made: Plan, progress: Callable[[int, int], None]
) -> list[tuple[FloatArray, FloatArray]]:
    entries = [made.bank.index.entries[i] for i in made.used]
    files = made.bank.adapters(entries)
    scalings = np.array([entry.scaling for entry in entries])
    merge = combine.COMBINERS[made.recipe.combine].function
    rank = _rank(made.recipe, entries)
    weights = made.weights[..., made.used]
    averaged = merge is combine.factors and made.by_module is None
    if averaged and rank in (None, files[0].rank) and can_average(files):
        with threadpool_limits(1, "blas"):
            return average(files, weights, scalings, progress)
    sizes = {module.name: module for module in made.bank.stored_layout}
    widest = max(module.in_features + module.out_features for module in sizes.values())
    stacked = 4 * widest * sum(entry.rank for entry in entries)
    workers = max(1, min(_WORKERS, _STACKED // stacked))
    spare = [np.empty(stacked // 4, np.float32) for _ in range(workers)]

    def combined(module: adapter.Module, c: NDArray[np.float64]) -> tuple[FloatArray, FloatArray]:
        buffer = spare.pop()  # used again: fresh memory costs as much as reading into it
        As, Bs = _stacked(files, sizes[module.name], buffer)
        merged = merge(As, Bs, c, scalings, rank)
        spare.append(buffer)
        return made.bank.expand(module.name, *merged)

    pairs: list[tuple[FloatArray, FloatArray]] = []
    # one BLAS thread a module: no fighting over cores, and the same bits on any number of them
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers) as pool:
        lines = np.broadcast_to(weights, (len(made.bank.layout), len(files)))
        for pair in pool.map(combined, made.bank.layout, lines):
            pairs.append(pair)
            progress(len(pairs), len(made.bank.layout))
    return pairs


def _stacked(
    files: list[adapter.AdapterFile], module: adapter.Module, buffer: FloatArray
) -> tuple[combine.Stacked, combine.Stacked]:
    """One module of all files, each factor in one array, both in the buffer."""
    ranks = [file.rank for file in files]
    shapes = (sum(ranks), module.in_features), (module.out_features, sum(ranks))
    split, end = math.prod(shapes[0]), math.prod(shapes[0]) + math.prod(shapes[1])
    A, B = buffer[:split].reshape(shapes[0]), buffer[split:end].reshape(shapes[1])
    adapter.stack_into(files, module.name, A, B)
    return combine.Stacked(A, ranks, 0), combine.Stacked(B, ranks, 1)


def _rank(recipe: Recipe, entries: list[IndexEntry]) -> int | None:
    """What was asked for; else for ``exact`` 16, or less where the sum has less."""
    if recipe.rank is not None or recipe.combine == "factors":
        return recipe.rank
    return min(combine.DEFAULT_RANK, sum(entry.rank for entry in entries))


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
                adapter.check_folder(fresh)
                if base_config is not None:
                    gguf_export.export(fresh, fresh / serving.GGUF_FILE, base_config)
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
        config = adapter.write_config(index.base_model, made.bank.layout, self.rank)
        told = replace(made.facts(self.rank), gguf=exported)
        coefficients = [_json(neighbour.to_dict(), indent=None) for neighbour in told.neighbours]
        adapter.write_tensors(
            folder / adapter.WEIGHTS_FILE,
            made.bank.layout,
            self.rank,
            made.recipe.dtype,
            self.pairs,
        )
        (folder / adapter.CONFIG_FILE).write_bytes(config)
        provenance = _json(made.provenance() | {"rank": self.rank})
        (folder / RECIPE_FILE).write_bytes(f"{provenance}\n".encode())
        listed = "[\n" + ",\n".join(coefficients) + "\n]\n"  # one adapter a line
        (folder / COEFFICIENTS_FILE).write_bytes(listed.encode())
        (folder / card.CARD_FILE).write_text(card.render_card(told, repo_id), encoding="utf-8")
        (folder / PICTURE_FILE).write_text(render_picture(told), encoding="utf-8")
        if exported:
            modelfile = serving.render_modelfile(index.base_model)
            (folder / serving.MODELFILE).write_text(modelfile, encoding="utf-8")

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
        from hf_lorameta.publish import (
            kept_on_failure,
            look,
            outbox,
            publish_folder,
            refuse_replacing,
        )

        target = look(
            repo_id,
            private=private,
            dataset_private=self.plan.dataset.private,
            create_pr=create_pr,
            token=token,
        )
        if not overwrite:
            refuse_replacing(target)
        folder = self.save_pretrained(outbox(repo_id), repo_id=repo_id, export=export)
        with kept_on_failure(folder, target):
            return publish_folder(folder, target, token=token)


def base_config_for(bank: Bank, export: Export | None) -> dict[str, Any] | None:
    """The base model's ``config.json`` where an export needs it, checked; before any work is done.

    Raises:
        UsageError: the base's architecture cannot be exported.
        HubError: it is out of reach.
        MissingExtraError: the package `gguf` is not installed.
    """
    from hf_lorameta.base_model import config_json, require_extra

    if export is None:
        return None
    require_extra("gguf", extra="gguf")
    config = config_json(bank.index.base_model, bank.index.base_revision)
    gguf_export.Base.of(config)
    return config


def _json(value: object, indent: int | None = 2) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)


def check_target(target: Path, overwrite: bool) -> None:
    """Before any work: whether an adapter can be saved there.

    Raises:
        UsageError: it is a file, holds other files, or an adapter that is not to be replaced.
    """
    if not target.exists():
        return
    if not target.is_dir():
        raise UsageError(f"{target} is a file, expected a folder", hint="name another with -o")
    names = {path.name for path in target.iterdir()}
    strangers = sorted(names - {*FILES, *EXPORTS})
    if strangers:
        raise UsageError(
            f"{target} holds other files ({', '.join(strangers[:3])})",
            hint="name an empty or a new folder with -o",
        )
    if names and not overwrite:
        raise UsageError(f"{target} already holds an adapter", hint="add --overwrite to replace it")


_PROVENANCE = {"bank": ("id", "revision"), "dataset": ("id", "private", "revision"), "recipe": ()}
_NEIGHBOUR = {"dataset": str, "adapter": str, "distance": float, "coefficient": float}


def _insist(recipe: Any, coefficients: Any) -> None:
    """Raise unless both hold what readers of them rely on."""
    recipe["library"]
    for part, names in _PROVENANCE.items():
        for name in names:
            recipe[part][name]
        dict(recipe[part])
    for line in coefficients:
        if not all(isinstance(line[name], kind) for name, kind in _NEIGHBOUR.items()):
            raise TypeError


def read_provenance(folder: Path) -> dict[str, Any]:
    """Recipe, coefficients and shape of a generated adapter.

    Raises:
        AdapterError: the folder holds no adapter, or one that was not made by this package.
    """
    config, weights = adapter.check_folder(folder)
    try:
        recipe = json.loads((folder / RECIPE_FILE).read_bytes())
        coefficients = json.loads((folder / COEFFICIENTS_FILE).read_bytes())
        _insist(recipe, coefficients)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise AdapterError(
            f"{folder} holds an adapter, but no readable {RECIPE_FILE} and {COEFFICIENTS_FILE}: "
            "it was not made by hf-lorameta"
        ) from None
    return {
        "base_model_name_or_path": config.base_model,
        "rank": config.rank,
        "modules": len(weights.layout),
        "dtypes": sorted(weights.dtypes),
        "provenance": recipe,
        "coefficients": coefficients,
    }
