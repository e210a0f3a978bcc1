"""The command that merges adapters by weight."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hf_lorameta import recipe as recipes
from hf_lorameta.cli.options import (
    CombinerName,
    ExportOption,
    JsonFlag,
    OverwriteFlag,
    QuietFlag,
    TokenOption,
    example,
)
from hf_lorameta.cli.output import emit, log, report_pull_request, stage_bars
from hf_lorameta.errors import Option, UsageError
from hf_lorameta.recipe import MergeRecipe

_SIZES = {"kb": 10**3, "mb": 10**6, "gb": 10**9}


@example(
    "hf-lorameta merge user/a:0.7 user/b:-0.3 -o merged",
    "hf-lorameta merge user/a:0.5 my-adapter:0.5 --export gguf -o merged",
    "hf-lorameta merge my-adapter:1 --max-size 2MB -o smaller",
    "hf-lorameta merge user/a:1 user/b:1 --combine sparse --push user/merged",
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
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder of the merged adapter; with --push it can be left out.",
            show_default=False,
        ),
    ] = None,
    overwrite: OverwriteFlag = False,
    combine: Annotated[
        CombinerName, typer.Option(help="exact: the best rank-r approximation of the weighted sum.")
    ] = "exact",
    rank: Annotated[
        int | None,
        typer.Option(help="Rank. Default: the adapters' largest, at least 16.", show_default=False),
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(help="Choose the largest rank at which the weights fit, e.g. 2MB."),
    ] = None,
    dtype: Annotated[recipes.Dtype, typer.Option(help="Dtype of the weights.")] = "bfloat16",
    bank: Annotated[
        str | None, typer.Option(help="Folder or Hub repo of a bank, for names of its adapters.")
    ] = None,
    push: Annotated[
        str | None, typer.Option(help="Publish to this repo, user/name, in one commit.")
    ] = None,
    private: Annotated[
        bool | None,
        typer.Option(
            "--private/--public",
            help="Visibility. Default: private if an adapter is private or a folder.",
            show_default=False,
        ),
    ] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request.")] = False,
    export: ExportOption = None,
    token: TokenOption = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Merge LoRA adapters by weight, without the base model; prints the folder or the URL."""
    from hf_lorameta.hub.client import Hub
    from hf_lorameta.pipeline.adapter_folder import require_free_target
    from hf_lorameta.pipeline.merge import merge as plan_merge
    from hf_lorameta.pipeline.publish import (
        preserve_on_failure,
        publish_folder,
        refuse_overwrite,
        resolve_target,
        staging_folder,
    )

    weights = parse_weights(adapters)
    size = None if max_size is None else parse_size(max_size)
    recipe = MergeRecipe.of(combine=combine, rank=rank, max_size=size, dtype=dtype)
    if output is None and push is None:
        raise UsageError("no target was named", hint="add -o FOLDER, or --push user/name")
    if push is None and (private is not None or create_pr):
        raise UsageError(
            "--private, --public and --create-pr need --push",
            hint="add --push user/name, or leave them out",
        )
    if output is not None:
        require_free_target(output, overwrite)
    hub = Hub(token)
    with stage_bars(quiet) as progress:
        merged = plan_merge(weights, recipe, bank=bank, hub=hub, progress=progress)
        target = None
        if push is not None:
            target = resolve_target(
                push,
                private=private,
                dataset_private=merged.private,
                proposed=merged.proposed_instruction,
                create_pr=create_pr,
                hub=hub,
            )
            if not overwrite:
                refuse_overwrite(target)
        folder = output or staging_folder(str(push))
        merged.save_pretrained(folder, repo_id=push, overwrite=overwrite, export=export)
        url = None
        if target is not None:
            with preserve_on_failure(folder, target):
                url = publish_folder(folder, target, hub)
                report_pull_request(create_pr, url)
    log(quiet, f"Merged {merged.summary}")
    data: dict[str, Any] = {
        "folder": str(folder) if output else None,
        "url": url,
        "modules": len(merged.layout),
        "rank": merged.rank,
        "provenance": merged.provenance(),
    }
    emit(json, data, lambda: str(url or folder))


def parse_weights(arguments: list[str]) -> dict[str, float]:
    """Read arguments of the form ``ADAPTER:WEIGHT``.

    Raises:
        UsageError: a weight is missing or no number, or an adapter is named twice.

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
                hint=f"hf-lorameta merge {argument.rpartition(':')[0] or argument.strip(':')}:1 …",
            )
        if name in weights:
            raise UsageError(f"{name} is named twice", hint="add up its weights")
        weights[name] = weight
    return weights


def parse_size(text: str) -> int:
    """Read a size such as ``2MB`` or ``500 kB`` as bytes.

    Raises:
        UsageError: it is not a size.

    Example:
        >>> parse_size("2MB"), parse_size("1.5 kB"), parse_size("1000")
        (2000000, 1500, 1000)
    """
    number, unit = text.strip(), 1
    if number[-2:].lower() in _SIZES:
        number, unit = number[:-2], _SIZES[number[-2:].lower()]
    try:
        return int(float(number) * unit)
    except (ValueError, OverflowError):
        raise UsageError(f"{text} is not a size", hint=Option("max_size", "2MB")) from None
