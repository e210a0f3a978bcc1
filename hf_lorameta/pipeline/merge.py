"""Merge adapters of one base model into one, by weights that are given.

The base model is not needed. Modules are read, combined and written two at a time, so memory is
that of two modules, whatever the size of the adapters.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hf_lorameta._version import __version__
from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.executors import in_modules
from hf_lorameta.cards.gguf_usage import MODELFILE, render_modelfile
from hf_lorameta.cards.model_card import CARD_FILE, render_merge_card
from hf_lorameta.errors import Option, UsageError
from hf_lorameta.formats.lora_file import WEIGHTS_FILE, canonical_header, write_tensors
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.formats.peft_config import CONFIG_FILE, write_config
from hf_lorameta.formats.safetensors import CODES, DTYPES
from hf_lorameta.hub.base_model import stated_license
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.repo import Token
from hf_lorameta.method.low_rank import LowRankSum
from hf_lorameta.method.merging import COMBINERS, DEFAULT_RANK, shared_rank
from hf_lorameta.pipeline.adapter_folder import RECIPE_FILE, holds_proposed_instruction
from hf_lorameta.pipeline.merge_sources import Source, common_layout, open_sources
from hf_lorameta.pipeline.progress import bars_unless
from hf_lorameta.pipeline.save import SavableAdapter, as_json
from hf_lorameta.recipe import MAX_RANK, MergeRecipe
from hf_lorameta.tables import plural
from hf_lorameta.types import FactorPair, FloatArray, StageProgress

_AT_ONCE = 2
"""Modules in memory."""


def merge(
    adapters: Mapping[str, float] | Mapping[Path, float],
    recipe: MergeRecipe | None = None,
    *,
    bank: Bank | str | Path | None = None,
    token: Token = None,
    progress: StageProgress | None = None,
) -> "Merge":
    """Open the adapters of a merge, check that they fit, and choose the rank.

    The weights are read when the result is saved.

    Args:
        adapters: weights by name; a weight is any number, negative ones subtract. A name is a
            folder, a Hub id (``user/adapter``, ``user/adapter@revision``), or that of an entry of
            the bank. Each is a plain LoRA of one rank. Ranks, scalings and target modules may
            differ between adapters; a module that an adapter lacks counts as zero.
        recipe: None is ``MergeRecipe()``, the best approximation of the weighted sum.
        bank: where entries are looked up; None is the default bank.
        token: of the Hub; None uses the saved one.
        progress: called after each module while the result is saved; None shows bars.

    Raises:
        UsageError: no adapter, a weight that is not finite, all weights zero, an unknown name, or a
            maximum size below that of rank 1.
        RecipeError: the combiner cannot combine these ranks.
        AdapterError: an adapter is damaged or no plain LoRA, base models differ, or a module has
            another size in another adapter.
        HubError: a repo does not exist or cannot be reached.

    Example:
        >>> merge({"general": 1.0, "local--acceptability_blimp": -0.5}).summary
        '2 adapters for HuggingFaceTB/SmolLM2-135M-Instruct: 90 modules of rank 16'
    """
    recipe, hub = recipe or MergeRecipe(), Hub(token)
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
    rank = _rank(recipe, sources, layout)
    chosen = tuple(weights[name] for name in names)
    return Merge(tuple(sources), chosen, recipe, layout, rank, hub, progress)


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
        rank: of each module.
        hub: client.
        progress: called with (stage, modules done, all modules) after each module; None shows bars.
    """

    sources: tuple[Source, ...]
    weights: tuple[float, ...]
    recipe: MergeRecipe
    layout: Layout
    rank: int
    hub: Hub
    progress: StageProgress | None = None

    def __repr__(self) -> str:
        return f"Merge({self.summary})"

    @property
    def summary(self) -> str:
        """What is merged into what, for people."""
        return (
            f"{plural(len(self.sources), 'adapter')} for {self.base_model}: "
            f"{len(self.layout)} modules of rank {self.rank}"
        )

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

    @property
    def proposed_instruction(self) -> bool:
        """Whether a part of the merge has an instruction made from rows that are not public."""
        return any(holds_proposed_instruction(source.generated) for source in self.sources)

    def combined(self, number: int) -> MergedModule:
        """Combine the module of this number in the layout.

        Raises:
            AdapterError: an adapter has NaN or infinite values.
            RecipeError: the combiner cannot combine these ranks.
        """
        module = self.layout[number]
        present = [i for i, source in enumerate(self.sources) if module in source.layout]
        As, Bs, scalings = zip(*(self.sources[i].read(module.name) for i in present), strict=True)
        weights = [self.weights[i] for i in present]
        A, B = COMBINERS[self.recipe.combine].function(As, Bs, weights, scalings, self.rank)
        counts = np.repeat(np.multiply(weights, scalings), [len(A) for A in As])
        whole = LowRankSum(np.concatenate(As), np.concatenate(Bs, 1), counts)
        kept = LowRankSum(A, B, np.ones(self.rank))
        return MergedModule(A, B, kept.squared_norm(), whole.squared_norm())

    def _hub(self, token: Token) -> Hub:
        return self.hub if token is None else Hub(token)

    def _write(self, folder: Path, repo_id: str | None, exported: bool) -> Mapping[str, str]:
        kept = total = 0.0

        def pairs() -> Iterator[FactorPair]:
            nonlocal kept, total
            with bars_unless(self.progress) as show:
                merged = in_modules(self.combined, len(self.layout), _AT_ONCE)
                for done, module in enumerate(merged, 1):
                    kept, total = kept + module.kept, total + module.total
                    yield module.A, module.B
                    show("Merging", done, len(self.layout))

        write_tensors(folder / WEIGHTS_FILE, self.layout, self.rank, self.recipe.dtype, pairs())
        config = write_config(
            self.base_model,
            self.layout,
            self.rank,
            self.base_revision,
            task_type=_only({source.task_type for source in self.sources if source.task_type}),
            all_layers=False,
        )
        (folder / CONFIG_FILE).write_bytes(config)
        is_fit = self.recipe.combine == "exact" and total > 0
        provenance = self.provenance(min(1.0, kept / total) if is_fit else None)
        base_license = stated_license(self.base_model, self.hub.token)
        licenses = [name for source in self.sources for name in source.licenses]
        texts = {
            RECIPE_FILE: as_json(provenance) + "\n",
            CARD_FILE: render_merge_card(provenance, base_license, licenses, repo_id, exported),
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
                    "generated": source.generated,
                }
                for source, weight in zip(self.sources, self.weights, strict=True)
            ],
            "private": self.private,
            "rank": self.rank,
            "kept": kept,
        }


def _only(values: set[str | None]) -> str | None:
    """Return the value of a set of one."""
    return values.pop() if len(values) == 1 else None


def _rank(recipe: MergeRecipe, sources: Sequence[Source], layout: Layout) -> int:
    """Return the recipe's rank, that which fits its size, or one that suits the adapters."""
    if recipe.rank:
        return recipe.rank
    if recipe.combine == "factors":
        return shared_rank(source.rank for source in sources)
    ranks = [source.rank for source in sources]
    if recipe.max_size is not None:
        most = MAX_RANK if COMBINERS[recipe.combine].entrywise else min(sum(ranks), MAX_RANK)
        return _rank_within(recipe.max_size, recipe.dtype, layout, most)
    return min(sum(ranks), max(DEFAULT_RANK, *ranks), MAX_RANK)


def _rank_within(max_size: int, dtype: str, layout: Layout, most: int) -> int:
    """Return the largest rank, `most` at most, at which the weights file has at most `max_size`."""
    width = DTYPES[CODES[dtype]].itemsize
    of_rank = width * sum(module.in_features + module.out_features for module in layout)

    def size(rank: int) -> int:
        header = canonical_header(layout, rank, dtype)
        return len(header) + rank * of_rank

    rank = min(most, max_size // of_rank)
    while rank and size(rank) > max_size:
        rank -= 1
    if not rank:
        raise UsageError(
            f"the maximum size is {max_size} bytes, expected at least {size(1)}, that of rank 1",
            hint=Option("max_size", size(1), "raise"),
        )
    return rank
