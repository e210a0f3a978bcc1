"""The command that scores an adapter."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_lorameta.cli import engines
from hf_lorameta.cli.options import (
    AdapterArgument,
    BaseGgufOption,
    ColumnsOption,
    ConfigOption,
    DatasetArgument,
    EngineOption,
    JsonFlag,
    QuietFlag,
    RevisionOption,
    TokenOption,
    example,
    one_dataset,
)
from hf_lorameta.cli.output import emit, log, report_pull_request, stage_bars, warn

if TYPE_CHECKING:
    from hf_lorameta.cards.scores_section import MeasuredScores
    from hf_lorameta.data.dataset import Dataset


@example(
    "hf-lorameta evaluate user/adapter",
    "hf-lorameta evaluate user/adapter user/name --split validation",
    "hf-lorameta evaluate my-adapter --dataset rows.jsonl --shots 0 --max-rows 50",
    "hf-lorameta evaluate my-adapter -d user/name --engine llama.cpp --base-gguf base.gguf",
    "hf-lorameta evaluate user/adapter --dataset user/name --save-card",
)
def evaluate(
    adapter: AdapterArgument,
    name: DatasetArgument = None,
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
    reference: Annotated[
        str | None, typer.Option(help="Another adapter to compare, e.g. a trained one.")
    ] = None,
    base: Annotated[Path | None, typer.Option(help="Folder of the base model.")] = None,
    engine: EngineOption = "transformers",
    base_gguf: BaseGgufOption = None,
    shots: Annotated[int, typer.Option(min=0, help="Examples in the few-shot prompt.")] = 3,
    max_rows: Annotated[int, typer.Option(min=1, help="Score at most this many rows.")] = 100,
    answers: Annotated[
        bool,
        typer.Option(
            "--generate/--no-generate", help="Generate answers, or compute the loss only."
        ),
    ] = True,
    save_card: Annotated[
        bool,
        typer.Option("--save-card", help="Write the scores into the adapter's card (one commit)."),
    ] = False,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="With --save-card: open a pull request.")
    ] = False,
    token: TokenOption = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Score base model, adapter and few-shot prompt on test rows (extra: eval or gguf).

    Columns, configuration and revision come from the adapter's recipe unless they are given.
    """
    from hf_lorameta.data.columns import describe
    from hf_lorameta.engines.scoring import compare
    from hf_lorameta.errors import UsageError
    from hf_lorameta.formats.lora_file import check_adapter
    from hf_lorameta.hub.client import Hub
    from hf_lorameta.pipeline.adapter_folder import (
        locate_adapter,
        read_generation,
        read_provenance,
    )
    from hf_lorameta.pipeline.publish_scores import resolve_card_repo, save_scores
    from hf_lorameta.pipeline.rows_to_score import open_to_score, rows_to_score

    dataset = one_dataset(name, dataset)
    if create_pr and not save_card:
        raise UsageError("--create-pr goes with --save-card", hint="add --save-card")
    engines.check_options(engine, base, base_gguf)
    hub = Hub(token)
    repo = resolve_card_repo(adapter, hub=hub, create_pr=create_pr) if save_card else None
    folder = locate_adapter(adapter, revision=repo.sha if repo else None, hub=hub)
    if save_card:
        read_provenance(folder)
    methods: dict[str, Path | None] = {"base": None, "generated": folder}
    if reference:
        methods["reference"] = locate_adapter(reference, hub=hub)
    adapter_config = check_adapter(folder)[0]
    provenance = read_generation(folder)
    scored = open_to_score(
        dataset,
        provenance,
        hub,
        config=config,
        split=split,
        revision=revision,
        columns=columns or None,
    )
    log(quiet, f"Reading {describe(scored.columns)} of split {scored.split}")
    rows, examples, skipped, warning = rows_to_score(scored, provenance, max_rows, shots, hub)
    if skipped:
        log(quiet, f"Skipping {skipped} rows that the adapter was fitted, trained or checked on")
    if warning:
        warn(warning)
    log(quiet, f"Scoring {len(rows)} rows of split {scored.split} with {adapter_config.base_model}")
    base_model = engines.BaseModel(
        adapter_config.base_model, adapter_config.revision, base, base_gguf, token
    )
    with (
        engines.open_evaluator(engine, base_model, methods.values(), quiet) as evaluator,
        stage_bars(quiet) as row_progress,
    ):
        report = compare(
            evaluator, rows, methods, shots=examples, generate=answers, row_progress=row_progress,
            progress=lambda method, scores: log(quiet, f"  {method}: loss {scores.loss:.3f}"),
        )  # fmt: skip
    result = report.to_dict()
    try:
        if save_card:
            measured = _measured(scored, len(rows), engine, result["scores"])
            result["card"] = save_scores(folder, measured, repo, hub=hub, create_pr=create_pr)
            report_pull_request(create_pr, result["card"])
            log(quiet, f"The scores are on the card: {result['card']}")
    finally:  # print the scores even if the card could not be written
        emit(json, result, report.table)


def _measured(
    scored: "Dataset", rows: int, engine: str, scores: dict[str, dict[str, float | None]]
) -> "MeasuredScores":
    from hf_lorameta.cards.scores_section import MeasuredScores

    return MeasuredScores(
        dataset_id=scored.id,
        dataset_revision=scored.revision,
        dataset_config=scored.config,
        dataset_split=scored.split,
        dataset_private=scored.private,
        rows=rows,
        engine=engine,
        scores=scores,
    )


COMMANDS: tuple[Any, ...] = (evaluate,)
