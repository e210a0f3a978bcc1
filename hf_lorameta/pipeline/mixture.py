"""A mixture: the adapters of a plan stay separate, and PEFT routes each token to some of them.

Arrow (arXiv 2405.11157) gives each token and module the adapters whose prototypes, the input
directions that their updates amplify most, fit its activation best. The weights sum to one. In a
bank with a general adapter g, from which all others were trained, the plan's formula ``g + Σ c_i
(θ_i − g)`` is then ``Σ c_i θ_i``: whole adapters are routed, and a server can use each of them
alone. All are multiplied by the plan's `scale`, as its coefficients are.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from threadpoolctl import threadpool_limits

from hf_lorameta.bank.index import IndexEntry
from hf_lorameta.cards.card_data import Routing
from hf_lorameta.errors import BankError, Option, UsageError
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.formats.peft_config import target_modules
from hf_lorameta.hub.repo import Token
from hf_lorameta.method.merging import exact
from hf_lorameta.pipeline.adapter_folder import EXPERTS, SHARED, Export
from hf_lorameta.pipeline.progress import bars_unless
from hf_lorameta.pipeline.resolve import no_export_of_mixture
from hf_lorameta.pipeline.save import PlannedAdapter
from hf_lorameta.types import FactorPair, StageProgress

ROUTED = 3
"""Adapters per token and module; PEFT's default."""
_MERGE = Option("emit", "mixture", "leave out")


@dataclass(frozen=True)
class Mixture(PlannedAdapter):
    """The adapters of a plan with positive coefficients, ready to be saved or published.

    The weights are read when it is saved, one adapter at a time. In place of PEFT's two files, the
    folder has ``experts``, with an adapter in each of its folders, and ``shared``, with the output
    prior, which is added to the base model once. There is no GGUF of a mixture.

    Attributes:
        plan: its recipe's ``emit`` is ``mixture``.
        progress: called with (stage, adapters done, all adapters) while it is saved; None shows
            bars.

    Raises:
        UsageError: the recipe asks for one adapter.
        BankError: the bank adapts only some layers, or no adapter has a positive coefficient.

    Example:
        >>> import hf_lorameta
        >>> from hf_lorameta.demo import TRAIN_FILE
        >>> recipe = hf_lorameta.Recipe(emit="mixture", top_k=4)
        >>> hf_lorameta.generate(TRAIN_FILE, recipe=recipe)
        Mixture(4 adapters of rank 16 for a local dataset)
    """

    progress: StageProgress | None = None
    seconds: ClassVar[None] = None  # nothing is combined before it is saved

    def __post_init__(self) -> None:
        if not self.plan.recipe.is_mixture:
            raise UsageError("the recipe asks for one adapter", hint=Option("emit", "mixture"))
        if any("." in name for name in target_modules(self.plan.bank.layout)):
            raise BankError(
                "PEFT routes in all modules with the same name, and this bank adapts only some",
                hint=_MERGE,
            )
        if not self.entries:
            raise BankError(
                "no adapter has a positive coefficient, so there is nothing to route",
                hint=_MERGE,
            )

    def __repr__(self) -> str:
        name = self.plan.dataset.id or "a local dataset"
        return f"Mixture({len(self.entries)} adapters of rank {self.rank} for {name})"

    @property
    def entries(self) -> tuple[IndexEntry, ...]:
        """The adapters, by descending coefficient; those with negative ones are left out."""
        bank, coefficients = self.plan.bank, self.plan.coefficients
        active = (i for i in self.plan.active_indices if i < len(bank) and coefficients[i] > 0)
        return tuple(bank.index.entries[i] for i in active)

    @property
    def rank(self) -> int:
        """Rank of all adapters: the recipe's, else the smallest at which nothing is lost."""
        return self.plan.recipe.rank or max(entry.rank for entry in self.entries)

    @cached_property
    def provenance(self) -> Mapping[str, Any]:  # type: ignore[override]
        """Content of ``recipe.json``."""
        part = {"rank": self.rank, "general_coefficient": self._general}
        return self.plan.provenance() | part

    @property
    def _general(self) -> float | None:
        """Coefficient of the general adapter, which is a part of each adapter; None without one."""
        return None if self.plan.bank.index.general is None else self.plan.scale

    def _export_config(self, export: Export | None, token: Token) -> None:
        if export is not None:
            raise no_export_of_mixture()

    # --- weights --------------------------------------------------------------------------------

    def _expert(self, entry: IndexEntry) -> Iterator[FactorPair]:
        """Yield the factors of an adapter, scaling included, module by module."""
        bank = self.plan.bank
        file, scaling = bank.unpacked(entry), entry.scaling * self.plan.scale
        for module in bank.layout:
            A, B = file.factors(module.name)
            yield exact([A], [np.float32(scaling) * B], [1.0], [1.0], self.rank)

    # --- files ----------------------------------------------------------------------------------

    def _write(self, folder: Path, repo_id: str | None, exported: bool) -> Mapping[str, str]:
        plan, layout = self.plan, self.plan.bank.layout
        with (
            bars_unless(self.progress) as show,
            threadpool_limits(1, "blas"),  # the same bits on any number of cores
        ):
            for done, entry in enumerate(self.entries, 1):
                pairs = list(self._expert(entry))
                self._write_adapter(folder / EXPERTS / entry.name, layout, pairs)
                show("Writing adapters", done, len(self.entries))
        if prior := plan.output_prior():
            A, B = prior
            pair = exact([A], [B], [plan.output_strength or 0.0], [1.0], len(A))
            self._write_adapter(folder / SHARED, plan.layout[-1:], [pair])
        paths = tuple(f"{EXPERTS}/{entry.name}" for entry in self.entries)
        card = plan.card_values(self.rank) | {
            "neighbors": tuple(n for n in plan.neighbors() if n.coefficient > 0),
            "general": self._general,
            "routing": Routing(paths, min(ROUTED, len(paths)), SHARED if prior else None),
        }
        return self._text_files(card, repo_id)

    def _write_adapter(self, folder: Path, layout: Layout, pairs: list[FactorPair]) -> None:
        folder.mkdir(parents=True)
        self._write_weights(folder, layout, self.plan.recipe.dtype, len(pairs[0][0]), pairs)
