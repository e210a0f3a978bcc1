"""Merge adapters of one base model into one, by weights that are given.

The base model is not needed. Modules are read, combined and written two at a time, so memory is
that of two modules, whatever the size of the adapters.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from hf_lorameta._version import __version__
from hf_lorameta.bank.bank import Bank
from hf_lorameta.cards.gguf_usage import MODELFILE, render_modelfile
from hf_lorameta.cards.merge_card import MergeCard, render_merge_card
from hf_lorameta.cards.model_card import CARD_FILE
from hf_lorameta.errors import RecipeError, UsageError
from hf_lorameta.formats.lora_file import WEIGHTS_FILE, write_tensors
from hf_lorameta.formats.lora_layout import Layout, Module
from hf_lorameta.formats.peft_config import CONFIG_FILE, write_config
from hf_lorameta.hub.base_model import stated_license
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.repo import Token
from hf_lorameta.method.combiner_parts import DEFAULT_RANK
from hf_lorameta.method.low_rank import LowRankSum
from hf_lorameta.method.merging import COMBINERS
from hf_lorameta.pipeline.adapter_folder import RECIPE_FILE
from hf_lorameta.pipeline.combine_entries import check_time
from hf_lorameta.pipeline.merge_ranks import choose_ranks
from hf_lorameta.pipeline.merge_sources import Source, common_layout, open_sources
from hf_lorameta.pipeline.save import SavableAdapter, as_json
from hf_lorameta.recipe import MAX_RANK, MergeRecipe
from hf_lorameta.types import Array, FactorPair, FloatArray, StageProgress, no_progress

_AT_ONCE = 2
"""Modules in memory."""


def merge(
    adapters: Mapping[str, float] | Mapping[Path, float],
    recipe: MergeRecipe | None = None,
    *,
    bank: Bank | str | Path | None = None,
    token: Token = None,
    hub: Hub | None = None,
    progress: StageProgress = no_progress,
) -> "Merge":
    """Open the adapters of a merge, check that they fit, and choose the ranks.

    The weights are read when the result is saved; if the recipe chooses ranks by module, they are
    read here, too.

    Args:
        adapters: weights by name; a weight is any number, negative ones subtract. A name is a
            folder, a Hub id (``user/adapter``, ``user/adapter@revision``), or that of an entry of
            the bank. Ranks, scalings and target modules may differ; a module that an adapter lacks
            counts as zero. Types other than LoRA are converted, which needs PEFT.
        recipe: None is ``MergeRecipe()``, the exact best fit of the weighted sum.
        bank: where entries are looked up; None is the default bank.
        token: of the Hub; None uses the saved one.
        hub: client to use instead of one with `token`.
        progress: called after each module.

    Raises:
        UsageError: no adapter, a weight that is not finite, all weights zero, an unknown name, or a
            maximum size below that of the smallest file.
        RecipeError: the combiner would take hours, or cannot combine these ranks.
        AdapterError: an adapter is damaged or cannot be converted, base models differ, a module has
            another size in another adapter, or the sum is zero.
        HubError: a repo does not exist or cannot be reached.
        MissingExtraError: an adapter has to be converted, and PEFT is not installed.

    Example:
        >>> merged = merge({"general": 1.0, "local--acceptability_blimp": -0.5})
        >>> merged.ranks[0], len(merged.layout)
        (16, 90)
    """
    recipe, hub = recipe or MergeRecipe(), hub or Hub(token)
    weights = {str(name): float(weight) for name, weight in adapters.items()}
    if not any(weights.values()) or not all(map(math.isfinite, weights.values())):
        given = ", ".join(f"{weight:g}" for weight in weights.values())
        raise UsageError(
            f"the weights are {given or 'none'}, expected finite numbers that are not all zero",
            hint="hf-lorameta merge user/a:0.7 user/b:-0.3 -o merged",
        )
    names = [name for name, weight in weights.items() if weight]

    def open_bank() -> Bank:
        return bank if isinstance(bank, Bank) else Bank.from_pretrained(bank, hub=hub)

    sources = open_sources(names, hub, open_bank)
    layout = common_layout(names, sources)
    rank = recipe.rank or _default_rank(sources, recipe.combine)
    if COMBINERS[recipe.combine].entrywise:
        most = MAX_RANK if recipe.mixed_ranks else rank
        check_time(recipe.combine, layout, len(sources), most, "--combine exact")
    merged = Merge(
        tuple(sources),
        tuple(weights[name] for name in names),
        recipe,
        layout,
        (rank,) * len(layout),
        hub,
        progress,
    )
    return merged.with_chosen_ranks() if recipe.mixed_ranks else merged


class MergedModule(NamedTuple):
    """One module of the result: lora_A (r, in), lora_B (out, r), to be used with scaling 1.

    `kept` and `total` are the squared norms of the result and of the weighted sum that it fits.
    """

    A: FloatArray
    B: FloatArray
    kept: float
    total: float


@dataclass(frozen=True)
class Merge(SavableAdapter):
    """A merge of adapters, ready to be saved or published.

    Attributes:
        sources: the adapters.
        weights: of each.
        recipe: the settings.
        layout: the modules of the result.
        ranks: of each module.
        hub: client.
        progress: called with (stage, modules done, all modules) after each module.
        dropped: squared norm of the sum in modules that got rank 0.
    """

    sources: tuple[Source, ...]
    weights: tuple[float, ...]
    recipe: MergeRecipe
    layout: Layout
    ranks: tuple[int, ...]
    hub: Hub
    progress: StageProgress = no_progress
    dropped: float = 0.0

    def __repr__(self) -> str:
        terms = " + ".join(
            f"{weight:g} · {source.name}"
            for weight, source in zip(self.weights, self.sources, strict=True)
        )
        return f"Merge({terms}; {len(self.layout)} modules of rank {self.rank_span})"

    @property
    def rank_span(self) -> str:
        """The rank, or the least and the largest."""
        return " to ".join(str(rank) for rank in sorted({min(self.ranks), max(self.ranks)}))

    @property
    def base_model(self) -> str:
        """Hub id of the base model."""
        return self.sources[0].base_model

    @property
    def base_revision(self) -> str | None:
        """Commit of the base model, if all adapters state the same."""
        return _only({source.base_revision for source in self.sources})

    @property
    def private(self) -> bool:
        """Whether an adapter is private or local, so that the result is private by default."""
        return any(source.private for source in self.sources)

    def modules(self, stage: str = "Merging") -> Iterator[MergedModule]:
        """Combine and yield module after module; `stage` is the title of the progress.

        Raises:
            AdapterError: an adapter has NaN or infinite values.
            RecipeError: the combiner cannot combine these ranks.
        """
        work = list(zip(self.layout, self.ranks, strict=True))
        # one BLAS thread per module: no contention, and the same bits on any number of cores
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(_AT_ONCE) as pool:
            for start in range(0, len(work), _AT_ONCE):
                for done, module in enumerate(
                    pool.map(self._combine, work[start : start + _AT_ONCE]), start + 1
                ):
                    yield module
                    self.progress(stage, done, len(work))

    def _combine(self, work: tuple[Module, int]) -> MergedModule:
        module, rank = work
        present = [i for i, source in enumerate(self.sources) if module in source.layout]
        As, Bs, scalings = zip(*(self.sources[i].read(module.name) for i in present), strict=True)
        weights = [self.weights[i] for i in present]
        row = COMBINERS[self.recipe.combine]
        options: dict[str, Any] = {}
        if row.entrywise:
            options["seed"] = self.recipe.seed
            if self.recipe.density is not None:
                options["density"] = self.recipe.density
        A, B = row.function(As, Bs, weights, scalings, rank, **options)
        counts = np.repeat(np.multiply(weights, scalings), [len(A) for A in As])
        whole = LowRankSum(np.concatenate(As), np.concatenate(Bs, 1), counts)
        kept = LowRankSum(A, B, np.ones(rank))
        return MergedModule(A, B, kept.squared_norm(), whole.squared_norm())

    def with_chosen_ranks(self) -> "Merge":
        """Return the merge with the ranks that `max_size` or `energy` of the recipe asks for."""
        most = tuple(
            min(MAX_RANK, module.in_features, module.out_features, self._rank_of_sum(module))
            for module in self.layout
        )
        values: list[Array] = []
        norms: dict[Module, float] = {}
        for combined in replace(self, ranks=most).modules("Measuring"):
            # both factors have the square roots of the singular values
            values.append(np.linalg.norm(combined.A.astype(np.float64), axis=1) ** 2)
            norms[self.layout[len(norms)]] = combined.total
        layout, ranks = choose_ranks(self.recipe, self.layout, values)
        dropped = sum(norm for module, norm in norms.items() if module not in layout)
        return replace(self, layout=layout, ranks=ranks, dropped=dropped)

    def _rank_of_sum(self, module: Module) -> int:
        if COMBINERS[self.recipe.combine].entrywise:
            return MAX_RANK
        return sum(
            source.ranks[source.layout.index(module)]
            for source in self.sources
            if module in source.layout
        )

    def _hub(self, token: Token) -> Hub:
        return self.hub if token is None else Hub(token)

    def _write(self, folder: Path, repo_id: str | None, exported: bool) -> Mapping[str, str]:
        kept, total = 0.0, self.dropped

        def pairs() -> Iterator[FactorPair]:
            nonlocal kept, total
            for module in self.modules():
                kept, total = kept + module.kept, total + module.total
                yield module.A, module.B

        write_tensors(folder / WEIGHTS_FILE, self.layout, self.ranks, self.recipe.dtype, pairs())
        config = write_config(
            self.base_model,
            self.layout,
            self.ranks,
            self.base_revision,
            task_type=_only({source.task_type for source in self.sources if source.task_type}),
            all_layers=False,
        )
        (folder / CONFIG_FILE).write_bytes(config)
        is_fit = self.recipe.combine == "exact" and total > 0
        provenance = self.provenance(min(1.0, kept / total) if is_fit else None)
        card = MergeCard(
            provenance=provenance,
            base_license=stated_license(self.base_model, self.hub.token),
            licenses=tuple(source.licenses for source in self.sources),
            gguf=exported,
        )
        texts = {
            RECIPE_FILE: as_json(provenance) + "\n",
            CARD_FILE: render_merge_card(card, repo_id),
        }
        if exported:
            texts[MODELFILE] = render_modelfile(self.base_model)
        return texts

    def provenance(self, kept: float | None = None) -> dict[str, Any]:
        """Return the content of ``recipe.json``; `kept` is the share of the squared norm."""
        return {
            "schema_version": 1,
            "library": f"hf-lorameta {__version__}",
            "merge": self.recipe.model_dump(),
            "base_model": {"id": self.base_model, "revision": self.base_revision},
            "adapters": [
                {
                    "adapter": source.name,
                    "revision": source.revision,
                    "sha256": source.sha256,
                    "weight": weight,
                    "licenses": sorted({name or "unknown" for name in source.licenses}),
                    "published": source.published,
                }
                for source, weight in zip(self.sources, self.weights, strict=True)
            ],
            "private": self.private,
            "ranks": {"least": min(self.ranks), "most": max(self.ranks)},
            "kept": kept,
        }


def _only(values: set[str | None]) -> str | None:
    """Return the value of a set of one."""
    return values.pop() if len(values) == 1 else None


def _default_rank(sources: Sequence[Source], combine: str) -> int:
    """Return the largest rank of the adapters, or 16 if that is more, or what the sum has."""
    largest = [max(source.ranks) for source in sources]
    if combine == "factors":
        ranks = sorted({rank for source in sources for rank in source.ranks})
        if len(ranks) > 1:
            raise RecipeError(
                f"the adapters have rank {', '.join(map(str, ranks))}, which cannot be averaged",
                hint="--combine exact",
            )
        return ranks[0]
    return min(sum(largest), max(DEFAULT_RANK, *largest), MAX_RANK)
