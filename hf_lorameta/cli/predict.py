"""The command that answers all rows of a dataset."""

import logging
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from hf_lorameta.cli.export_and_try import BaseOption
from hf_lorameta.cli.options import (
    AdapterArgument,
    ColumnsOption,
    ConfigOption,
    DaskOption,
    RevisionOption,
    TokenOption,
    example,
)
from hf_lorameta.cli.output import emit, stage_bars
from hf_lorameta.tables import plural

logger = logging.getLogger(__name__)


@example(
    "hf-lorameta predict my-adapter rows.csv -o answers.csv",
    "hf-lorameta predict my-adapter rows.csv -o answers.csv --sure 0.95",
    "hf-lorameta predict user/adapter user/name --split test -o answers.parquet",
)
def predict(
    adapter: AdapterArgument,
    data: Annotated[
        str, typer.Argument(help="Rows to answer: Hub id, folder or file; outputs are not needed.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="The file to write: .csv, .jsonl or .parquet.",
            show_default=False,
        ),
    ],
    sure: Annotated[
        float,
        typer.Option(help="Leave the answer empty where its probability is lower, such as 0.95."),
    ] = 0.0,
    config: ConfigOption = None,
    split: Annotated[
        str | None, typer.Option(help="Split. Default: train, or the only one.", show_default=False)
    ] = None,
    revision: RevisionOption = None,
    columns: ColumnsOption = None,
    base: BaseOption = None,
    max_tokens: Annotated[
        int, typer.Option(min=1, max=512, help="Length of an answer that is no label.")
    ] = 64,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing file.")
    ] = False,
    dask: DaskOption = None,
    token: TokenOption = None,
) -> None:
    """Answer all rows of a dataset, with probabilities (extra: eval).

    The same command goes on where it was stopped.
    """
    from hf_lorameta.bank.executors import dask_executor
    from hf_lorameta.pipeline.predict import open_task

    started = time.monotonic()
    with stage_bars() as progress:
        task = open_task(
            adapter, data, output, sure=sure, max_tokens=max_tokens, overwrite=overwrite,
            base=base, token=token, config=config, split=split, revision=revision,
            columns=columns or None,
        )  # fmt: skip
        choice = task.predictor.choice
        if choice:
            logger.info(f"Answers are chosen from {len(choice.labels)} labels.")
        elif not task.questions.columns.choices:
            logger.info("The adapter knows no labels: answers are texts.")
        with dask_executor(dask) if dask else nullcontext() as executor:
            written = task.run(progress, executor)
    seconds = time.monotonic() - started
    answered, rows = written.answered, written.rows
    if choice and sure:
        logger.info(f"On rows that were counted when the adapter was made: {choice.when(sure)}")
    emit(
        {
            "file": str(written.path),
            "rows": rows,
            "answered": answered,
            "columns": list(written.columns),
            "labels": choice and len(choice.labels),
            "counted": choice and len(choice.counted),
            "counted_answered": choice and choice.answered(sure)[0],
            "counted_right": choice and choice.answered(sure)[1],
            "seconds": seconds,
        },
        lambda: (
            f"{output}: {plural(rows, 'row')}, {answered:,} answered, "
            f"{rows / seconds:.1f} rows per second"
        ),
    )
