"""The one composer: bank + dataset + recipe → plan → adapter.

plan      which bank adapters, how far, how much; reads no weights
generate  the plan carried out
"""

import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from hf_lorameta import adapter, card, combine, distance
from hf_lorameta import coefficients as rules
from hf_lorameta.adapter import FloatArray
from hf_lorameta.bank import Bank, IndexEntry
from hf_lorameta.dataset import Dataset, describe, open_dataset
from hf_lorameta.errors import AdapterError, UsageError
from hf_lorameta.profile import Profile, profile_rows
from hf_lorameta.recipe import Recipe

RECIPE_FILE = "recipe.json"
COEFFICIENTS_FILE = "coefficients.json"
FILES = (
    adapter.CONFIG_FILE, adapter.WEIGHTS_FILE, RECIPE_FILE, COEFFICIENTS_FILE,
    card.CARD_FILE, card.PICTURE_FILE,
)  # fmt: skip

FAR = 1.5
"""A nearest distance above this many times the bank's own is called far."""
FEW_ROWS = 20
_WORKERS = min(4, os.cpu_count() or 1)
_STACKED = 16 << 20
"""Bytes of stacked factors up to which modules are combined side by side."""


@dataclass(frozen=True)
class Plan:
    """What would be combined, and how.

    Attributes:
        bank: the bank.
        dataset: the dataset.
        recipe: the settings.
        profile: of the dataset.
        distances: (N,) to every bank dataset.
        coefficients: (N,) weights, summing to one; zero for adapters left out.
    """

    bank: Bank
    dataset: Dataset
    recipe: Recipe
    profile: Profile
    distances: NDArray[np.float64]
    coefficients: NDArray[np.float64]

    @property
    def used(self) -> list[int]:
        """Indices of the adapters that take part, by falling coefficient."""
        order = np.argsort(-self.coefficients, kind="stable")
        return [int(i) for i in order if self.coefficients[i] != 0]

    @property
    def effective_number(self) -> float:
        """Effective number of adapters, 1 / Σc²."""
        return float(rules.effective_number(self.coefficients))

    @property
    def nearest_in_bank(self) -> float:
        """Median distance from a bank dataset to its nearest other, NaN if the bank has one."""
        return self.bank.index.neighbourhood.get(self.recipe.metric, float("nan"))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know before relying on the result, in plain words."""
        return tuple(_warnings(self))

    def with_recipe(self, recipe: Recipe) -> "Plan":
        """The same dataset under other settings, without reading it again.

        Args:
            recipe: its ``max_rows`` is taken to be the number that was read.

        Raises:
            BankError: the bank lacks the neural rule that was asked for.
        """
        return _measured(self.bank, self.dataset, recipe, self.profile)

    def neighbours(self) -> tuple[card.Neighbour, ...]:
        """The adapters that take part, as a card shows them."""
        found = []
        for i in self.used:
            entry = self.bank.index.entries[i]
            found.append(
                card.Neighbour(
                    entry.adapter,
                    entry.adapter_revision,
                    entry.dataset,
                    entry.dataset_revision,
                    entry.license,
                    float(self.distances[i]),
                    float(self.coefficients[i]),
                )
            )
        return tuple(found)

    def facts(self, rank: int) -> card.Facts:
        """What the card is rendered from."""
        from hf_lorameta import __version__

        index, data = self.bank.index, self.dataset
        return card.Facts(
            base_model=index.base_model,
            base_revision=index.base_revision,
            base_license=index.base_license,
            dataset_id=data.id,
            dataset_revision=data.revision,
            dataset_config=data.config,
            dataset_split=data.split,
            columns=describe(data.columns),
            rows=self.profile.rows,
            tokens=self.profile.input.total + self.profile.output.total,
            dataset_license=data.license,
            dataset_private=data.private,
            bank_id=self.bank.id,
            bank_revision=self.bank.revision,
            bank_size=len(self.bank),
            bank_published=index.published,
            neighbours=self.neighbours(),
            effective_number=self.effective_number,
            nearest_in_bank=self.nearest_in_bank,
            rank=rank,
            dtype=self.recipe.dtype,
            warnings=self.warnings,
            recipe=self.recipe,
            library_version=__version__,
        )

    def provenance(self) -> dict[str, Any]:
        """What ``recipe.json`` holds; a private dataset's name stays out of it."""
        from hf_lorameta import __version__

        index, data = self.bank.index, self.dataset
        return {
            "schema_version": 1,
            "library": f"hf-lorameta {__version__}",
            "recipe": self.recipe.model_dump(),
            "base_model": {"id": index.base_model, "revision": index.base_revision},
            "bank": {
                "id": self.bank.id,
                "revision": self.bank.revision,
                "sha256": self.bank.digest,
            },
            "dataset": {
                "id": None if data.private else data.id,
                "private": data.private,
                "revision": None if data.private else data.revision,
                "config": None if data.private else data.config,
                "split": data.split,
                "columns": data.columns.model_dump(exclude_none=True),
                "rows": self.profile.rows,
                "tokens": self.profile.input.total + self.profile.output.total,
            },
            "effective_number": self.effective_number,
            "warnings": list(self.warnings),
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything, for ``--json``."""
        listed = [vars(neighbour) for neighbour in self.neighbours()]
        data, usual = self.dataset, self.nearest_in_bank
        name = {"id": data.id, "revision": data.revision, "config": data.config}
        shown = self.provenance()
        return shown | {
            "dataset": shown["dataset"] | name,
            "nearest_in_bank": None if math.isnan(usual) else usual,  # JSON has no NaN
            "neighbours": listed,
        }


def plan(
    dataset: str | Path | Dataset, bank: Bank | None = None, recipe: Recipe | None = None
) -> Plan:
    """Read a dataset, measure its distance to the bank, and choose coefficients.

    Args:
        dataset: Hub id, local file, or an opened `Dataset`.
        bank: None opens the default bank.
        recipe: None is ``Recipe()``.

    Raises:
        DatasetError: the dataset cannot be read as labelled rows.
        BankError: the bank is empty or damaged, or lacks the neural rule that was asked for.
        HubError: something is missing, private, gated or out of reach.
    """
    bank = bank if bank is not None else Bank.from_pretrained()
    recipe = recipe or Recipe()
    opened = dataset if isinstance(dataset, Dataset) else open_dataset(dataset)
    size = bank.index.vocab_size
    profile = profile_rows(islice(opened.rows(), recipe.max_rows), bank.encode, size)
    return _measured(bank, opened, recipe, profile)


def _measured(bank: Bank, dataset: Dataset, recipe: Recipe, profile: Profile) -> Plan:
    d = distance.distances(profile, bank.profiles, bank.index.vocab_size, recipe.metric)
    model = _neural(bank, recipe) if recipe.coefficients == "neural" else None
    c = rules.coefficients(d, recipe.coefficients, recipe.temperature, recipe.top_k, model)
    return Plan(bank, dataset, recipe, profile, d, c)


def _neural(bank: Bank, recipe: Recipe) -> rules.NeuralModel:
    prefix = f"{recipe.metric}."
    arrays = {k.removeprefix(prefix): v for k, v in bank.neural().items() if k.startswith(prefix)}
    return rules.NeuralModel.from_arrays(arrays)


def _warnings(made: Plan) -> Iterator[str]:
    nearest, usual = float(made.distances.min()), made.nearest_in_bank
    if nearest > FAR * usual:
        yield (
            "Nothing in the bank is near this dataset: the nearest bank dataset is at "
            f"{nearest:.3g}, while bank datasets usually have one at {usual:.3g}. "
            "Expect little from this adapter."
        )
    if made.profile.rows < FEW_ROWS:
        yield f"Only {made.profile.rows} rows were read: distances from so few are unsure."
    number, total = made.effective_number, len(made.used)
    if total > 1 and number < 1.2:
        yield "Nearly all weight is on one adapter: the result is close to a copy of it."
    if made.dataset.columns.input is None and made.dataset.columns.messages is None:
        yield "The dataset has no inputs, only text: its outputs alone were compared."
    unknown = [n.adapter for n in made.neighbours() if n.license is None]
    if unknown:
        yield f"{len(unknown)} of the adapters used state no licence."


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
        HubError: as `plan`; adapters of a Hub bank are fetched here.
    """
    return carry_out(plan(dataset, bank, recipe), progress)


def carry_out(
    made: Plan, progress: Callable[[int, int], None] = lambda done, total: None
) -> "Generation":
    """Combine the adapters a plan names, module by module; raises as `generate`."""
    started = time.perf_counter()
    entries = [made.bank.index.entries[i] for i in made.used]
    files = [made.bank.adapter(entry) for entry in entries]
    weights = made.coefficients[made.used]
    scalings = np.array([entry.scaling for entry in entries])
    merge = combine.COMBINERS[made.recipe.combine].function
    rank = _rank(made.recipe, entries)
    widest = max(module.in_features + module.out_features for module in made.bank.layout)
    stacked = 4 * widest * sum(entry.rank for entry in entries)
    workers = max(1, min(_WORKERS, _STACKED // stacked))

    def combined(module: adapter.Module) -> tuple[FloatArray, FloatArray]:
        As, Bs = adapter.stack(files, module.name)
        return merge(As, Bs, weights, scalings, rank)

    pairs = []
    # one BLAS thread a module: no fighting over cores, and the same bits on any number of them
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers) as pool:
        for pair in pool.map(combined, made.bank.layout):
            pairs.append(pair)
            progress(len(pairs), len(made.bank.layout))
    actual = pairs[0][0].shape[0]
    return Generation(made, actual, tuple(pairs), time.perf_counter() - started)


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
        self, folder: str | Path, *, repo_id: str | None = None, overwrite: bool = False
    ) -> Path:
        """Write the adapter folder, whole or not at all, and read it back.

        Args:
            folder: target.
            repo_id: where it is going, for the card.
            overwrite: replace an adapter that is already there.

        Returns:
            The folder: PEFT's two files, ``recipe.json``, ``coefficients.json``, the card and its
            picture. The same inputs give the same bytes.

        Raises:
            UsageError: the folder holds something else, or an adapter and `overwrite` is false.
            AdapterError: what was written cannot be read back, or the disk is full.
        """
        target = Path(folder).resolve()
        _check_target(target, overwrite)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".lorameta-", dir=target.parent) as scratch:
                fresh = Path(scratch) / "fresh"
                fresh.mkdir()
                self._write(fresh, repo_id)
                adapter.check_folder(fresh)
                if target.exists():
                    target.rename(Path(scratch) / "replaced")
                fresh.rename(target)
        except OSError as error:
            raise AdapterError(
                f"{target} could not be written: {error.strerror}",
                hint="free some space or name another folder with -o",
            ) from None
        return Path(folder)

    def _write(self, folder: Path, repo_id: str | None) -> None:
        made, index = self.plan, self.plan.bank.index
        config = adapter.write_config(index.base_model, made.bank.layout, self.rank)
        facts = made.facts(self.rank)
        coefficients = [vars(neighbour) for neighbour in facts.neighbours]
        adapter.write_tensors(
            folder / adapter.WEIGHTS_FILE,
            made.bank.layout,
            self.rank,
            made.recipe.dtype,
            self.pairs,
        )
        (folder / adapter.CONFIG_FILE).write_bytes(config)
        (folder / RECIPE_FILE).write_bytes(_json(made.provenance() | {"rank": self.rank}))
        (folder / COEFFICIENTS_FILE).write_bytes(_json(coefficients))
        (folder / card.CARD_FILE).write_text(card.render_card(facts, repo_id), encoding="utf-8")
        (folder / card.PICTURE_FILE).write_text(card.render_picture(facts), encoding="utf-8")

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        create_pr: bool = False,
        overwrite: bool = False,
        token: str | None = None,
    ) -> str:
        """Save, check and publish in one commit.

        Args:
            repo_id: target, ``user/name``.
            private: None makes a private repo for a private dataset and respects one that exists.
            create_pr: propose the files instead.
            overwrite: replace files of the same names in an existing repo.
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
        folder = self.save_pretrained(outbox(repo_id), repo_id=repo_id)
        with kept_on_failure(folder, target):
            return publish_folder(folder, target, token=token)


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _check_target(target: Path, overwrite: bool) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise UsageError(f"{target} is a file, expected a folder", hint="name another with -o")
    names = {path.name for path in target.iterdir()}
    strangers = sorted(names - set(FILES))
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
