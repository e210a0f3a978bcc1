"""Score an adapter from Python, as ``hf-lorameta evaluate`` does."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Unpack

from hf_lorameta.data.dataset import ReadingOptions
from hf_lorameta.engines.scoring import Report, compare
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.hub.base_model import locate
from hf_lorameta.hub.client import Hub
from hf_lorameta.pipeline.adapters_to_score import locate_adapters
from hf_lorameta.pipeline.progress import bars_unless
from hf_lorameta.pipeline.rows_to_score import open_to_score, rows_to_score
from hf_lorameta.pipeline.session import LoadedModel
from hf_lorameta.types import StageProgress

logger = logging.getLogger(__name__)


def evaluate(
    adapter: str | Path | Sequence[str | Path],
    dataset: Any = None,
    *,
    max_rows: int = 100,
    shots: int = 3,
    generate: bool = True,
    model: LoadedModel | None = None,
    token: str | None = None,
    max_text: int | None = None,
    progress: StageProgress | None = None,
    **reading: Unpack[ReadingOptions],
) -> Report:
    """Score base model, adapters and few-shot prompt on rows that no adapter was fitted on.

    What is not given comes from the adapters' recipes. In the report, a single adapter is called
    ``generated``; several have the names that they are given by.

    Args:
        adapter: folder or Hub id, or several of them, for the same base model.
        dataset: as in `hf_lorameta.plan`; None is the public one that it was generated for.
        max_rows: score at most this many.
        shots: examples in the few-shot prompt; 0 leaves it out.
        generate: generate answers; otherwise only the loss is computed.
        model: the base model, on the CPU, and its tokenizer; the model is the same afterwards. None
            loads it.
        token: of the Hub; None uses the saved one.
        max_text: cut longer texts to this many characters, and refuse rows of more than 32 times as
            many bytes; None is the limit in the recipe, else a million.
        progress: called with (stage, done, total, or 0 if it is not known); None shows bars.
        reading: `config`, `split`, `revision`, `columns`, `instruction` and `template` of
            `hf_lorameta.open_dataset`; split None is test, else validation.

    Raises:
        UsageError: no dataset is named by the recipes, or different ones; an adapter is named
            twice, or like another method; or the model is on another device.
        LoraMetaError: adapter, dataset or base model cannot be read.
        MissingExtraError: the extra ``eval`` is not installed.
    """
    hub = Hub(token)
    with bars_unless(progress) as show, ExitStack() as closing:
        names = [adapter] if isinstance(adapter, str | Path) else list(adapter)
        adapters = locate_adapters(names, hub)
        base = adapters.base
        recipe = adapters.recipe_for(dataset)
        scored = open_to_score(dataset, recipe, hub, max_text=max_text, **reading)
        chosen = rows_to_score(scored, adapters.recipes, max_rows, shots, hub, show)
        for warning in chosen.warnings:
            logger.warning(warning)
        if model is None:
            path = locate(base.base_model, base.revision, token)
            evaluator = TorchEvaluator(path, base_model=base.base_model)
        else:
            evaluator = closing.enter_context(TorchEvaluator.of_model(*model))
        return compare(
            evaluator,
            chosen.rows,
            {"base": None, **adapters.folders},
            shots=chosen.shots,
            generate=generate,
            row_progress=show,
        )
