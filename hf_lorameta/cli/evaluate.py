"""The command that scores adapters."""

import logging
from typing import Annotated

import typer

from hf_lorameta.cli.export_and_try import BaseOption
from hf_lorameta.cli.options import (
    ColumnsOption,
    ConfigOption,
    RevisionOption,
    TokenOption,
    example,
)
from hf_lorameta.cli.output import emit, prints_json, stage_bars
from hf_lorameta.tables import plural

logger = logging.getLogger(__name__)


@example(
    "hf-lorameta evaluate user/adapter",
    "hf-lorameta evaluate user/adapter -d user/name --split validation",
    "hf-lorameta evaluate my-adapter --dataset rows.jsonl --shots 0 --max-rows 50",
    "hf-lorameta evaluate user/adapter my-adapter other --dataset user/name",
)
def evaluate(
    adapters: Annotated[
        list[str],
        typer.Argument(metavar="ADAPTER...", help="Folders or Hub repos of adapters."),
    ],
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            "-d",
            help="Hub id or file. Default: the adapter's, if it is public.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Split to score. Default: test, else validation.", show_default=False),
    ] = None,
    config: ConfigOption = None,
    revision: RevisionOption = None,
    columns: ColumnsOption = None,
    base: BaseOption = None,
    shots: Annotated[int, typer.Option(min=0, help="Examples in the few-shot prompt.")] = 3,
    max_rows: Annotated[int, typer.Option(min=1, help="Score at most this many rows.")] = 100,
    answers: Annotated[
        bool,
        typer.Option(
            "--generate/--no-generate",
            help="Complete all answers, or only those that may be right, which is faster.",
        ),
    ] = True,
    token: TokenOption = None,
) -> None:
    """Score the base model, adapters and a few-shot prompt on test rows (extra: eval).

    Columns, configuration and revision come from the adapters' recipes unless they are given.
    """
    from hf_lorameta.data.reading import Reading
    from hf_lorameta.engines.scoring import BASE_METHOD, CHAT_METHOD, shown_name
    from hf_lorameta.hub.client import Hub
    from hf_lorameta.pipeline.evaluate import open_evaluator, prepare_evaluation

    with stage_bars() as progress:
        prepared = prepare_evaluation(
            adapters, dataset, Hub(token), max_rows=max_rows, shots=shots, base=base,
            progress=progress, reading=Reading.of(
                config=config, split=split, revision=revision, columns=columns or None
            ),
        )  # fmt: skip
        report = prepared.compare(
            open_evaluator(*prepared.base, token),
            generate=answers,
            row_progress=lambda method, *steps: progress(shown_name(method), *steps),
            progress=lambda method, scores: logger.info(
                f"  {shown_name(method)}: loss {scores.loss:.3f}"
            ),
        )
    emit(report.to_dict(), report.table)
    if not prints_json():
        examples = plural(len(prepared.shots), "example")
        methods = {
            BASE_METHOD: "the base model",
            CHAT_METHOD: "it in its own chat template",
            f"{len(prepared.shots)}-shot": f"it with {examples} in the prompt",
        }
        legend = [f"{name}: {text}" for name, text in methods.items() if name in report.scores]
        logger.info("; ".join([*legend, "loss: nats per token, the lower the better"]))
