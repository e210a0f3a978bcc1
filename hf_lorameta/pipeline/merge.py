"""Merge adapters of one base model into one adapter, with given weights.

The base model is not needed. Modules are read and combined a few at a time, so the memory needed is
that of the result.
"""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from hf_lorameta._version import __version__
from hf_lorameta.bank.adapter_stack import AdapterStack
from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.open_bank import require_bank
from hf_lorameta.bank.outliers import Norms, outliers
from hf_lorameta.cards.gguf_usage import MODELFILE, render_modelfile
from hf_lorameta.cards.model_card import CARD_FILE, render_merge_card
from hf_lorameta.cards.prompt_code import prompt_code
from hf_lorameta.cards.record import RECIPE_FILE, BaseModelRecord, MergedAdapter, MergeRecord
from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.errors import UsageError, sanitize
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.formats.peft_config import write_config
from hf_lorameta.hub.base_model import find_base_license
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.repo import Token
from hf_lorameta.method.low_rank import LowRankSum
from hf_lorameta.method.merging import DEFAULT_RANK, shared_rank
from hf_lorameta.method.registries import COMBINERS
from hf_lorameta.pipeline.named_adapters import NamedAdapter, common_layout, open_named
from hf_lorameta.pipeline.plan import recorded
from hf_lorameta.pipeline.progress import bars_unless
from hf_lorameta.pipeline.save import SavableAdapter, as_json
from hf_lorameta.recipe import MAX_RANK, MergeRecipe
from hf_lorameta.remarks import Remark, log_remarks
from hf_lorameta.tables import plural
from hf_lorameta.types import FactorPair, StageProgress

logger = logging.getLogger(__name__)


def merge(
    adapters: Mapping[str, float] | Mapping[Path, float],
    recipe: MergeRecipe | None = None,
    *,
    bank: Bank | str | Path | None = None,
    token: Token = None,
    progress: StageProgress | None = None,
) -> "Merge":
    """Merge LoRA adapters of one base model by weight.

    Args:
        adapters: weights by name; a weight is any number, negative ones subtract. A name is a
            folder, a Hub id (``user/adapter``, ``user/adapter@revision``), or that of an entry of
            the bank. Each is a plain LoRA of one rank. Ranks, scalings and target modules may
            differ between adapters; a module that an adapter lacks counts as zero.
        recipe: None is ``MergeRecipe()``, the best approximation of the weighted sum.
        bank: where entries are looked up; None is the default bank.
        token: of the Hub; None uses the saved one.
        progress: called with (stage, modules done, all modules); None shows bars.

    Raises:
        UsageError: no adapter, a weight that is not finite, all weights zero, or an unknown name.
        RecipeError: the combiner cannot combine these ranks.
        AdapterError: an adapter is damaged or not a plain LoRA, base models differ, or the size of
            a module differs between adapters.
        HubError: a repo does not exist or cannot be reached.

    Example:
        >>> merge({"general": 1.0, "local--acceptability_blimp": -0.5})
        Merge(2 adapters for HuggingFaceTB/SmolLM2-135M-Instruct: 90 modules of rank 16)
    """
    recipe, hub = recipe or MergeRecipe(), Hub(token)
    weights = {str(name): float(weight) for name, weight in adapters.items()}
    if not any(weights.values()) or not all(map(math.isfinite, weights.values())):
        given = ", ".join(f"{weight:g}" for weight in weights.values())
        raise UsageError(
            f"the weights are {given or 'none'}, expected finite numbers that are not all zero",
            code="merge.weights-invalid",
            hint="hf-lorameta merge user/a:0.7 user/b:-0.3 -o merged",
        )

    opened_bank = partial(require_bank, bank, hub=hub)
    opened = {n: open_named(n, hub, opened_bank) for n, weight in weights.items() if weight}
    layout, coefficients = common_layout(opened), [weights[name] for name in opened]
    configs = [adapter.config for adapter in opened.values()]
    rank = _rank(recipe, [config.rank for config in configs])
    _warn_of_outliers(opened, weights)
    files = [adapter.weights for adapter in opened.values()]
    stack = AdapterStack(files, [config.scaling for config in configs])
    pairs: list[FactorPair] = []
    with bars_unless(progress) as show:
        for pair in stack.combine(layout, coefficients, COMBINERS[recipe.combine], rank):
            pairs.append(pair)
            show("Merging", len(pairs), len(layout))
    base_model = configs[0].base_model
    pairs_of = zip(opened.values(), coefficients, strict=True)
    rows = tuple(a.facts.model_copy(update={"weight": weight}) for a, weight in pairs_of)
    remarks = tuple(_remarks(base_model, opened.values()))
    log_remarks(remarks)
    columns, licenses = _shared_columns(rows), {row.base_license for row in rows} - {None}
    record = MergeRecord(
        library=f"hf-lorameta {__version__}",
        merge=recipe,
        base_model=BaseModelRecord(
            id=base_model,
            revision=_only({c.revision for c in configs}),
            four_bit=any(adapter.of_four_bit for adapter in opened.values()),
        ),
        base_license=find_base_license(base_model, hub.token) or _only(licenses),
        adapters=rows,
        columns=columns,
        private=any(row.private for row in rows),
        remarks=recorded(remarks),
        rank=rank,
        kept=_kept(stack, layout, coefficients, pairs) if recipe.combine == "exact" else None,
    )
    task_type = _only({config.task_type for config in configs} - {None})
    return Merge(record, layout, rank, tuple(pairs), task_type, columns)


@dataclass(frozen=True)
class Merge(SavableAdapter):
    """A merge of adapters.

    Attributes:
        record: content of ``recipe.json``.
        layout: the modules that it changes.
        rank: r of every module.
        pairs: (lora_A (r, in_features), lora_B (out_features, r)) of every module, scaling
            included.
        task_type: PEFT's, if all adapters that state one agree.
        columns: how all adapters read rows; None if their prompts differ, or not all are known.
    """

    record: MergeRecord
    layout: Layout
    rank: int
    pairs: tuple[FactorPair, ...]
    task_type: str | None
    columns: Columns | None

    def __repr__(self) -> str:
        count = plural(len(self.record.adapters), "adapter")
        modules = f"{len(self.layout)} modules of rank {self.rank}"
        return f"Merge({count} for {self.base_model}: {modules})"

    def _peft_config(self) -> bytes:
        return write_config(
            self.base_model, self.layout, self.rank, self.base_revision,
            task_type=self.task_type, all_layers=False,
        )  # fmt: skip

    def texts(self, repo_id: str | None = None, *, exported: bool = False) -> dict[str, str]:
        """Return recipe, card and Modelfile, as `SavableAdapter.texts` describes them."""
        card = render_merge_card(self.record, self.columns, repo_id, exported)
        texts = {RECIPE_FILE: as_json(self.record.to_dict()) + "\n", CARD_FILE: card}
        modelfile = render_modelfile(self.base_model, self.columns)
        return texts | ({MODELFILE: modelfile} if exported else {})


def _kept(
    stack: AdapterStack, layout: Layout, weights: Sequence[float], pairs: Sequence[FactorPair]
) -> float | None:
    """Return the share of the weighted sum's squared norm that its approximation keeps."""
    total = stack.squared_norm(layout, weights)
    kept = sum(LowRankSum(A, B, np.ones(len(A))).squared_norm() for A, B in pairs)
    return min(1.0, kept / total) if total else None


def _warn_of_outliers(adapters: Mapping[str, NamedAdapter], weights: Mapping[str, float]) -> None:
    """Warn of adapters that look odd beside the others, each with its weight."""
    norms = {}
    for name, adapter in adapters.items():
        scaling = adapter.config.scaling * weights[name]
        norms[name] = Norms.of(adapter.weights, scaling, adapter.config.base_model)
    for name, reason in outliers(norms).items():
        logger.warning(
            "%s looks odd beside the others: %s. Before you use the merge, compare it with the "
            "adapters on your rows: hf-lorameta evaluate MERGED ADAPTER -d DATASET",
            sanitize(name), reason,
        )  # fmt: skip


def _remarks(base_model: str, adapters: Iterable[NamedAdapter]) -> Iterator[Remark]:
    if names := [adapter.facts.adapter for adapter in adapters if adapter.of_four_bit]:
        yield Remark(
            "warning",
            f"4-bit weights were used in place of those of {base_model} to make "
            f"{', '.join(names)}: on the original weights, the merge may give other answers.",
            code="base.four-bit",
        )


def _shared_columns(rows: Sequence[MergedAdapter]) -> Columns | None:
    """Return how the adapters read rows, if the prompt of all is known and the same; else None."""
    if not all(row.generated for row in rows):
        return None
    read = [part.dataset.columns for row in rows for part in row.generated]
    return read[0] if len(set(map(prompt_code, read))) == 1 else None


def _only(values: set[str | None]) -> str | None:
    """Return the only value of a set; None if it has none or several."""
    return values.pop() if len(values) == 1 else None


def _rank(recipe: MergeRecipe, ranks: Sequence[int]) -> int:
    """Return the recipe's rank, or one that suits those of the adapters."""
    if recipe.rank:
        return recipe.rank
    if recipe.combine == "factors":
        return shared_rank(ranks)
    return min(sum(ranks), max(DEFAULT_RANK, *ranks), MAX_RANK)
