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
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from hf_lorameta import adapter, calibration, card, combine, distance, gguf_export, serving
from hf_lorameta import coefficients as rules
from hf_lorameta.adapter import FloatArray
from hf_lorameta.averaging import average, can_average
from hf_lorameta.bank import Bank, IndexEntry
from hf_lorameta.dataset import Dataset, describe, open_dataset
from hf_lorameta.errors import AdapterError, UnlabelledDatasetError, UsageError
from hf_lorameta.profile import Profile, ProfileTable, profile_rows
from hf_lorameta.recipe import Recipe
from hf_lorameta.refine import Check, Refinement, Scored

RECIPE_FILE = "recipe.json"
COEFFICIENTS_FILE = "coefficients.json"
FILES = (
    adapter.CONFIG_FILE, adapter.WEIGHTS_FILE, RECIPE_FILE, COEFFICIENTS_FILE,
    card.CARD_FILE, card.PICTURE_FILE,
)  # fmt: skip
EXPORTS = (serving.GGUF_FILE, serving.MODELFILE)
"""What ``export="gguf"`` adds to the folder."""

Export = Literal["gguf"]

FAR = 1.5
"""A nearest distance above this many times the bank's own is called far."""
FEW_ROWS = 20
LOST_WITHOUT_OUTPUTS: float | None = 0.29
"""How much less of the gap between base model and trained adapter is covered when the outputs of a
dataset cannot be compared: 0.547 instead of 0.766 of it on 8 tasks of `tests.benchmarks.quality`
(``--quick --near-only``, "default, inputs alone"); None would be not measured."""
POOR_PACK = 0.9
"""A pack that keeps less than this share of the updates' energy is warned of."""
_WORKERS = min(4, os.cpu_count() or 1)
_STACKED = 560 << 20
"""Bytes of stacked factors that may be held: as many modules as fit are combined side by side."""


@dataclass(frozen=True)
class Plan:
    """What would be combined, and how.

    Attributes:
        bank: the bank.
        dataset: the dataset.
        recipe: the settings.
        profile: of the dataset.
        distances: (N,) to every bank dataset.
        coefficients: (N,) weights; zero for adapters left out. They sum to one, unless they were
            refined or drawn back.
        by_module: (M, N) weights in each module of the bank's layout, if a refinement let modules
            go apart; `coefficients` are their means then.
        refinement: how they were fitted on the user's rows, if they were.
        check: how the adapter did on other rows of the user's, if it was scored.
    """

    bank: Bank
    dataset: Dataset
    recipe: Recipe
    profile: Profile
    distances: NDArray[np.float64]
    coefficients: NDArray[np.float64]
    by_module: NDArray[np.float64] | None = None
    refinement: Refinement | None = None
    check: Check | None = None

    @property
    def used(self) -> list[int]:
        """Indices of the adapters that take part, by falling coefficient."""
        order = np.argsort(-self.coefficients, kind="stable")
        counts = set(np.nonzero(self._weights)[-1].tolist())
        return [i for i in order.tolist() if i in counts]

    @property
    def _weights(self) -> NDArray[np.float64]:
        return self.coefficients if self.by_module is None else self.by_module

    @property
    def effective_number(self) -> float:
        """Effective number of adapters, 1 / Σc²."""
        return float(rules.effective_number(self.coefficients))

    @property
    def nearest_in_bank(self) -> float:
        """Median distance from a bank dataset to its nearest other, NaN if the bank has one.

        Over what this dataset has: of one without outputs, over inputs alone.
        """
        compared = _compared(self.bank, self.profile, self.recipe.metric)
        if compared.whole:
            return self.bank.index.neighbourhood.get(self.recipe.metric, float("nan"))
        inside = compared.between()
        others = np.where(np.eye(len(inside), dtype=bool), np.inf, inside).min(axis=1)
        return float(np.median(others)) if len(inside) > 1 else float("nan")

    @property
    def expected(self) -> calibration.Estimate | None:
        """What datasets of the bank at this distance gained; None where nobody measured it.

        It was measured with the default recipe on labelled datasets, and is not known of others.
        """
        usual = Recipe()
        settings = ("metric", "coefficients", "combine", "top_k", "temperature", "rank")
        if any(getattr(self.recipe, name) != getattr(usual, name) for name in settings):
            return None
        if not _compared(self.bank, self.profile, self.recipe.metric).whole:
            return None
        return calibration.estimate(self.bank.index.gains, float(self.distances.min()))

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
            UnlabelledDatasetError: the recipe needs outputs, and the dataset has none.
        """
        _insist_on_outputs(self.dataset, recipe)
        return _measured(self.bank, self.dataset, recipe, self.profile)

    def with_coefficients(self, c: NDArray[np.float64]) -> "Plan":
        """The same plan with other weights: (N,), or (M, N) for modules apart."""
        if c.ndim == 1:
            return replace(self, coefficients=c, by_module=None)
        return replace(self, coefficients=c.mean(axis=0), by_module=c)

    def scaled(self, by: float) -> "Plan":
        """The same plan with all its weights multiplied."""
        return self.with_coefficients(by * self._weights)

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
                    None if self.by_module is None else tuple(self.by_module[:, i].tolist()),
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
            refinement=self.refinement,
            check=self.check,
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
            "expected": self.expected._asdict() if self.expected else None,
            "refinement": self.refinement.to_dict() if self.refinement else None,
            "check": self.check.to_dict() if self.check else None,
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
    _insist_on_outputs(opened, recipe)
    read = islice(opened.rows(), recipe.max_rows)
    profile = profile_rows(
        read, bank.encode, bank.index.vocab_size, labelled_only=not opened.prompts_only
    )
    return _measured(bank, opened, recipe, profile)


def _insist_on_outputs(dataset: Dataset, recipe: Recipe) -> None:
    for option in ("refine", "check"):
        if dataset.prompts_only and getattr(recipe, option) is not None:
            raise UnlabelledDatasetError(
                f"--{option} compares answers with outputs, and the dataset has none",
                hint=f"leave out --{option}, or name the outputs: "
                "--columns input=COLUMN,output=COLUMN",
            )


def _measured(bank: Bank, dataset: Dataset, recipe: Recipe, profile: Profile) -> Plan:
    compared = _compared(bank, profile, recipe.metric)
    d = distance.distances(profile, compared.profiles, bank.index.vocab_size, recipe.metric)
    model = _neural(bank, recipe) if recipe.coefficients == "neural" else None
    between = compared.between() if recipe.coefficients == "kernel" else None
    c = rules.coefficients(d, recipe.coefficients, recipe.temperature, recipe.top_k, model, between)
    return Plan(bank, dataset, recipe, profile, d, c)


class _Compared(NamedTuple):
    """What of a bank's datasets a new one is compared with.

    Attributes:
        bank: the bank.
        metric: a key of `hf_lorameta.distance.DISTANCES`.
        profiles: of the bank, without a part that the new dataset lacks.
        whole: nothing is left out.
        name: under which the distances among these profiles are kept.
    """

    bank: Bank
    metric: str
    profiles: ProfileTable
    whole: bool
    name: str

    def between(self) -> NDArray[np.float64]:
        """(N, N) distances inside the bank: as stored, else measured now, and once."""
        known = self.bank.distances
        if self.name not in known:
            size = self.bank.index.vocab_size
            known[self.name] = distance.between(self.profiles, size, self.metric)
        return known[self.name].astype(np.float64)


def _compared(bank: Bank, profile: Profile, metric: str) -> _Compared:
    """Leave out of the bank's datasets what a new one lacks: distances must be of one kind.

    Texts without inputs are compared with the whole of others where inputs and outputs are not
    measured apart, as such texts may hold both.
    """
    apart = len(distance.DISTANCES[metric].parts) > 1
    part: Literal["input", "output"]
    if not profile.output.total:
        part = "input"
    elif apart and not profile.input.total:
        part = "output"
    else:
        return _Compared(bank, metric, bank.profiles, True, distance.name_of(metric))
    name = distance.name_of(metric, part)
    return _Compared(bank, metric, bank.profiles.only(part), False, name)


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
    expected = made.expected
    if expected and not made.refinement and expected.mean - expected.spread <= 0:
        yield (
            f"Datasets at this distance gained {expected.mean:.0%} ± {expected.spread:.0%} of the "
            "base model's loss in this bank: it may be no gain at all. --refine 16 helps, and "
            "--check 16 tells."
        )
    packing = made.bank.index.packing
    if packing and packing.retained_whole < POOR_PACK:
        yield (
            f"The bank is a pack that keeps {packing.retained_whole:.0%} of its adapters' updates: "
            "the whole bank would make a better adapter."
        )
    if made.profile.rows < FEW_ROWS:
        yield f"Only {made.profile.rows} rows were read: distances from so few are unsure."
    fit = made.refinement
    if fit and fit.held_out >= fit.base and fit.end >= fit.base:
        yield (
            "On rows that were held out this adapter is no better than the base model: the bank "
            "cannot help with this dataset."
        )
    if made.check and made.check.scale < 1:
        yield (
            f"On {made.check.rows} rows this adapter was worse than the base model: its "
            f"coefficients were multiplied with {made.check.scale:g} until it was not."
        )
    number, total = made.effective_number, len(made.used)
    if total > 1 and number < 1.2:
        yield "Nearly all weight is on one adapter: the result is close to a copy of it."
    if made.dataset.prompts_only:
        yield _without_outputs()
    elif made.dataset.columns.input is None and made.dataset.columns.messages is None:
        yield "The dataset has no inputs, only text: its outputs alone were compared."
    unknown = [n.adapter for n in made.neighbours() if n.license is None]
    if unknown:
        yield f"{len(unknown)} of the adapters used state no licence."


def _without_outputs() -> str:
    """What it costs to have no outputs, as far as that was measured."""
    said = (
        "The dataset has no outputs: inputs alone were compared, which makes the coefficients less "
        "reliable."
    )
    if LOST_WITHOUT_OUTPUTS is None:
        return said
    return (
        f"{said} Where it was measured, {LOST_WITHOUT_OUTPUTS:.0%} less of the way from the base "
        "model to a trained adapter was covered."
    )


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
    alike = merge is combine.factors and rank in (None, files[0].rank) and can_average(files)
    if alike and made.by_module is None:
        with threadpool_limits(1, "blas"):
            return average(files, made.coefficients[made.used], scalings, progress)
    weights = _weights(made)
    sizes = {module.name: module for module in made.bank.stored_layout}
    widest = max(module.in_features + module.out_features for module in sizes.values())
    stacked = 4 * widest * sum(entry.rank for entry in entries)
    workers = max(1, min(_WORKERS, _STACKED // stacked))
    spare = [np.empty(stacked // 4, np.float32) for _ in range(workers)]

    def combined(module: adapter.Module) -> tuple[FloatArray, FloatArray]:
        buffer = spare.pop()  # used again: fresh memory costs as much as reading into it
        As, Bs = _stacked(files, sizes[module.name], buffer)
        merged = merge(As, Bs, weights[module], scalings, rank)
        spare.append(buffer)
        return made.bank.expand(module.name, *merged)

    pairs: list[tuple[FloatArray, FloatArray]] = []
    # one BLAS thread a module: no fighting over cores, and the same bits on any number of them
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers) as pool:
        for pair in pool.map(combined, made.bank.layout):
            pairs.append(pair)
            progress(len(pairs), len(made.bank.layout))
    return pairs


def _weights(made: Plan) -> dict[adapter.Module, NDArray[np.float64]]:
    """Of each module: the weights of the adapters used."""
    layout, used = made.bank.layout, made.used
    if made.by_module is None:
        return dict.fromkeys(layout, made.coefficients[used])
    return dict(zip(layout, made.by_module[:, used], strict=True))


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
        _check_target(target, overwrite)
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
        facts = replace(made.facts(self.rank), gguf=exported)
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


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _check_target(target: Path, overwrite: bool) -> None:
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
