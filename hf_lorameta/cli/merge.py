"""The command that merges adapters by weight."""

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_lorameta import recipe as recipes
from hf_lorameta.cli.options import (
    CombinerName,
    ExportOption,
    OverwriteFlag,
    TokenOption,
    example,
)
from hf_lorameta.cli.output import emit, stage_bars
from hf_lorameta.errors import UsageError
from hf_lorameta.quoting import command
from hf_lorameta.recipe import MergeRecipe
from hf_lorameta.tables import plural

logger = logging.getLogger(__name__)


@example(
    "hf-lorameta merge user/a:0.7 user/b:-0.3 -o merged",
    "hf-lorameta merge user/a:0.5 my-adapter:0.5 --export gguf -o merged",
    "hf-lorameta merge my-adapter:1 --rank 4 -o smaller",
)
def merge(
    adapters: Annotated[
        list[str],
        typer.Argument(
            metavar="ADAPTER:WEIGHT...",
            help="Folder, Hub repo (user/a, user/a@revision) or name of a bank's adapter, "
            "and its weight, which may be negative.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the merged adapter.")],
    overwrite: OverwriteFlag = False,
    repo_id: Annotated[
        str | None, typer.Option(help="Repo that it will be published to, for the card.")
    ] = None,
    combine: Annotated[
        CombinerName, typer.Option(help="exact: the best rank-r approximation of the weighted sum.")
    ] = "exact",
    rank: Annotated[
        int | None,
        typer.Option(help="Rank. Default: the adapters' largest, at least 16.", show_default=False),
    ] = None,
    dtype: Annotated[recipes.Dtype, typer.Option(help="Dtype of the weights.")] = "bfloat16",
    bank: Annotated[
        str | None, typer.Option(help="Folder or Hub repo of a bank, for names of its adapters.")
    ] = None,
    export: ExportOption = None,
    token: TokenOption = None,
) -> None:
    """Merge LoRA adapters by weight, without the base model; prints the folder."""
    from hf_lorameta.pipeline.adapter_folder import require_free_target
    from hf_lorameta.pipeline.merge import merge as plan_merge
    from hf_lorameta.pipeline.publish import command_to_publish

    weights = parse_weights(adapters)
    recipe = MergeRecipe.of(combine=combine, rank=rank, dtype=dtype)
    require_free_target(output, overwrite)
    with stage_bars() as progress:
        merged = plan_merge(weights, recipe, bank=bank, token=token, progress=progress)
        folder = merged.save_pretrained(output, overwrite=overwrite, export=export, repo_id=repo_id)
    modules = plural(len(merged.layout), "module")
    logger.info(f"Merged {plural(len(weights), 'adapter')} into {modules} of rank {merged.rank}")
    logger.info(f"To publish: {command_to_publish(folder, repo_id)}")
    data: dict[str, Any] = {
        "folder": str(folder),
        "modules": len(merged.layout),
        "rank": merged.rank,
        "provenance": merged.record.to_dict(),
    }
    emit(data, lambda: str(folder))


def _weighted(argument: str) -> str:
    """Return an argument of the form ``ADAPTER:WEIGHT`` for one that may lack the weight.

    Example:
        >>> _weighted("a:0.7"), _weighted("a"), _weighted("a:x"), _weighted(":1")
        ('a:0.7', 'a:0.5', 'a:0.5', '1:0.5')
    """
    name, _, text = argument.rpartition(":")
    try:
        float(text)
    except ValueError:
        return f"{name or argument}:0.5"
    return argument if name else f"{text}:0.5"


def parse_weights(arguments: list[str]) -> dict[str, float]:
    """Read arguments of the form ``ADAPTER:WEIGHT``.

    Raises:
        UsageError: a weight is missing or not a number, or an adapter is named twice.

    Example:
        >>> parse_weights(["user/a:0.7", "b:-0.3"])
        {'user/a': 0.7, 'b': -0.3}
    """
    weights: dict[str, float] = {}
    for argument in arguments:
        name, _, text = argument.rpartition(":")
        try:
            weight = float(text)
        except ValueError:
            name = ""
        if not name:
            raise UsageError(
                f"{argument} is not of the form ADAPTER:WEIGHT",
                code="merge.not-a-weight",
                hint=f"{command('merge', *map(_weighted, arguments))} -o merged",
            )
        if name in weights:
            raise UsageError(
                f"{name} is named twice", code="adapter.named-twice", hint="add up its weights"
            )
        weights[name] = weight
    return weights
