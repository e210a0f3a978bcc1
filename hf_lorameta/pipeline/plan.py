"""The choice: bank + dataset + recipe → plan. Which bank adapters, how far, how much.

No weight of any adapter is read.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_lorameta._version import __version__
from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.expected_gain import Estimate, estimate
from hf_lorameta.cards.card_data import CardData, WeightedAdapter
from hf_lorameta.data.columns import describe
from hf_lorameta.data.dataset import Dataset, open_dataset
from hf_lorameta.data.profile import Profile, ProfileTable, profile_rows
from hf_lorameta.errors import UnlabeledDatasetError
from hf_lorameta.method import distances as metrics
from hf_lorameta.method.coefficients import Coefficients, RuleInputs, apply_rule
from hf_lorameta.method.distances import METRICS, stored_name
from hf_lorameta.method.neural_model import NeuralModel
from hf_lorameta.recipe import Recipe
from hf_lorameta.refine.results import Refinement, Validation

FAR = 1.5
"""A nearest distance above this many times the bank's own is called far."""
FEW_ROWS = 20
LOST_WITHOUT_OUTPUTS: float | None = 0.29
"""How much less of the gap between base model and trained adapter is covered when the outputs of a
dataset cannot be compared: 0.547 instead of 0.766 of it on 8 tasks of `tests.benchmarks.quality`
(``--quick --near-only``, "default, inputs alone"); None would be not measured."""
POOR_PACK = 0.9
"""A pack that keeps less than this share of the updates' energy is warned of."""


@dataclass(frozen=True)
class Plan:
    """What would be combined, and how.

    Attributes:
        bank: the bank.
        dataset: the dataset.
        recipe: the settings.
        profile: of the dataset.
        distances: (N,) to every bank dataset.
        coefficients: of the N adapters; zero for adapters left out. They sum to one, unless they
            were refined or drawn back.
        refinement: how they were fitted on the user's rows, if they were.
        check: how the adapter did on other rows of the user's, if it was scored.
    """

    bank: Bank
    dataset: Dataset
    recipe: Recipe
    profile: Profile
    distances: NDArray[np.float64]
    coefficients: Coefficients
    refinement: Refinement | None = None
    check: Validation | None = None

    @property
    def active_indices(self) -> list[int]:
        """Indices of the adapters that take part, by falling coefficient."""
        active = self.coefficients.active
        order = np.argsort(-self.coefficients.shared[active], kind="stable")
        return [int(i) for i in active[order]]

    @property
    def effective_number(self) -> float:
        """How many adapters really take part; where modules differ, by root mean squares."""
        return self.coefficients.effective_number

    @property
    def nearest_in_bank(self) -> float:
        """Median distance from a bank dataset to its nearest other, NaN if the bank has one.

        Over what this dataset has: of one without outputs, over inputs alone.
        """
        compared = _comparison(self.bank, self.profile, self.recipe.metric)
        if compared.whole:
            return self.bank.index.typical_distances.get(self.recipe.metric, float("nan"))
        inside = compared.between()
        others = np.where(np.eye(len(inside), dtype=bool), np.inf, inside).min(axis=1)
        return float(np.median(others)) if len(inside) > 1 else float("nan")

    @property
    def expected(self) -> Estimate | None:
        """What datasets of the bank at this distance gained; None where nobody measured it.

        It was measured with the default recipe on labeled datasets, and is not known of others.
        """
        usual = Recipe()
        settings = ("metric", "coefficients", "combine", "top_k", "temperature", "rank")
        if any(getattr(self.recipe, name) != getattr(usual, name) for name in settings):
            return None
        if not _comparison(self.bank, self.profile, self.recipe.metric).whole:
            return None
        return estimate(self.bank.index.gains, float(self.distances.min()))

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
            UnlabeledDatasetError: the recipe needs outputs, and the dataset has none.
        """
        _require_outputs(self.dataset, recipe)
        return _make_plan(self.bank, self.dataset, recipe, self.profile)

    def neighbors(self) -> tuple[WeightedAdapter, ...]:
        """The adapters that take part, as a card shows them."""
        per_module = self.coefficients.per_module
        found = []
        for i in self.active_indices:
            entry = self.bank.index.entries[i]
            found.append(
                WeightedAdapter(
                    entry.adapter,
                    entry.adapter_revision,
                    entry.dataset,
                    entry.dataset_revision,
                    entry.license,
                    float(self.distances[i]),
                    float(self.coefficients.shared[i]),
                    None if per_module is None else tuple(per_module[:, i].tolist()),
                )
            )
        return tuple(found)

    def facts(self, rank: int) -> CardData:
        """What the card is rendered from."""
        index, data = self.bank.index, self.dataset
        return CardData(
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
            neighbors=self.neighbors(),
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
        index, data = self.bank.index, self.dataset
        differ = self.coefficients.per_module is not None
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
        } | ({"modules": [m.name for m in self.bank.layout]} if differ else {})

    def to_dict(self) -> dict[str, Any]:
        """Everything, for ``--json``."""
        listed = [neighbor.to_dict() for neighbor in self.neighbors()]
        data, usual = self.dataset, self.nearest_in_bank
        name = {"id": data.id, "revision": data.revision, "config": data.config}
        shown = self.provenance()
        return shown | {
            "dataset": shown["dataset"] | name,
            "nearest_in_bank": None if math.isnan(usual) else usual,  # JSON has no NaN
            "neighbors": listed,
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
        DatasetError: the dataset cannot be read as labeled rows.
        BankError: the bank is empty or damaged, or lacks the neural rule that was asked for.
        HubError: something is missing, private, gated or out of reach.
    """
    bank = bank if bank is not None else Bank.from_pretrained()
    recipe = recipe or Recipe()
    opened = dataset if isinstance(dataset, Dataset) else open_dataset(dataset)
    _require_outputs(opened, recipe)
    read = islice(opened.rows(), recipe.max_rows)
    profile = profile_rows(
        read, bank.encode, bank.index.vocab_size, labeled_only=not opened.prompts_only
    )
    return _make_plan(bank, opened, recipe, profile)


def _require_outputs(dataset: Dataset, recipe: Recipe) -> None:
    for option in ("refine", "check"):
        if dataset.prompts_only and getattr(recipe, option) is not None:
            raise UnlabeledDatasetError(
                f"--{option} compares answers with outputs, and the dataset has none",
                hint=f"leave out --{option}, or name the outputs: "
                "--columns input=COLUMN,output=COLUMN",
            )


def _make_plan(bank: Bank, dataset: Dataset, recipe: Recipe, profile: Profile) -> Plan:
    compared = _comparison(bank, profile, recipe.metric)
    d = metrics.distances(profile, compared.profiles, bank.index.vocab_size, recipe.metric)
    inputs = RuleInputs(d, recipe.temperature, compared.between, lambda: _neural(bank, recipe))
    c = apply_rule(recipe.coefficients, inputs, recipe.top_k)
    return Plan(bank, dataset, recipe, profile, d, c)


class _Comparison(NamedTuple):
    """What of a bank's datasets a new one is compared with.

    Attributes:
        bank: the bank.
        metric: a key of `hf_lorameta.method.distances.METRICS`.
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
            known[self.name] = metrics.between(self.profiles, size, self.metric)
        return known[self.name].astype(np.float64)


def _comparison(bank: Bank, profile: Profile, metric: str) -> _Comparison:
    """Leave out of the bank's datasets what a new one lacks: distances must be of one kind.

    Texts without inputs are compared with the whole of others where inputs and outputs are not
    measured apart, as such texts may hold both.
    """
    apart = len(METRICS[metric].parts) > 1
    part: Literal["input", "output"]
    if not profile.output.total:
        part = "input"
    elif apart and not profile.input.total:
        part = "output"
    else:
        return _Comparison(bank, metric, bank.profiles, True, stored_name(metric))
    name = stored_name(metric, part)
    return _Comparison(bank, metric, bank.profiles.only(part), False, name)


def _neural(bank: Bank, recipe: Recipe) -> NeuralModel:
    prefix = f"{recipe.metric}."
    arrays = {k.removeprefix(prefix): v for k, v in bank.neural().items() if k.startswith(prefix)}
    return NeuralModel.from_arrays(arrays)


def _warnings(made: Plan) -> Iterator[str]:
    nearest, usual = float(made.distances.min()), made.nearest_in_bank
    if nearest > FAR * usual:
        remedy = " It may be worse than the base model: --refine 16 helps, and --check 16 tells."
        yield (
            "Nothing in the bank is near this dataset: the nearest bank dataset is at "
            f"{nearest:.3g}, while bank datasets usually have one at {usual:.3g}. "
            f"Expect little from this adapter.{'' if made.refinement else remedy}"
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
    number, total = made.effective_number, len(made.active_indices)
    if total > 1 and number < 1.2:
        yield "Nearly all weight is on one adapter: the result is close to a copy of it."
    if made.dataset.prompts_only:
        yield _without_outputs()
    elif made.dataset.columns.input is None and made.dataset.columns.messages is None:
        yield "The dataset has no inputs, only text: its outputs alone were compared."
    unknown = [n.adapter for n in made.neighbors() if n.license is None]
    if unknown:
        yield f"{len(unknown)} of the adapters used state no license."


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
