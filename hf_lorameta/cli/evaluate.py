"""The command that scores an adapter."""

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_lorameta.cli import engines
from hf_lorameta.cli.options import (
    AdapterArgument,
    BaseGgufOption,
    ColumnsOption,
    ConfigOption,
    EngineOption,
    JsonFlag,
    QuietFlag,
    RevisionOption,
    TokenOption,
    example,
)
from hf_lorameta.cli.output import emit, log, stage_bars

if TYPE_CHECKING:
    from hf_lorameta.cards.scores_section import MeasuredScores
    from hf_lorameta.data.dataset import Dataset
    from hf_lorameta.hub.client import Hub
    from hf_lorameta.types import Row


@example(
    "hf-lorameta evaluate user/adapter --dataset user/name",
    "hf-lorameta evaluate my-adapter --dataset rows.jsonl --shots 0 --max-rows 50",
    "hf-lorameta evaluate my-adapter -d user/name --engine llama.cpp --base-gguf base.gguf",
    "hf-lorameta evaluate user/adapter --dataset user/name --save-card",
)
def evaluate(
    adapter: AdapterArgument,
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="Hub id or file.")],
    split: Annotated[
        str | None, typer.Option(help="Split to score. Default: test.", show_default=False)
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
    """Score base model, adapter and few-shot prompt on test rows (extra: eval or gguf)."""
    from hf_lorameta.data.columns import parse_columns
    from hf_lorameta.data.dataset import open_dataset
    from hf_lorameta.data.local_files import is_local
    from hf_lorameta.engines.scoring import check_outputs, compare
    from hf_lorameta.errors import UsageError
    from hf_lorameta.formats.lora_file import check_adapter
    from hf_lorameta.hub.client import Hub
    from hf_lorameta.pipeline.adapter_folder import locate_adapter, read_provenance
    from hf_lorameta.pipeline.publish import resolve_card_repo, save_scores

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
    local = is_local(Path(dataset))
    scored = open_dataset(
        dataset,
        hub,
        config=config,
        split=split or (None if local else "test"),
        revision=revision,
        columns=parse_columns(columns) if columns else None,
    )
    rows = _unseen_rows(folder, scored, max_rows + shots, quiet)
    examples, rows = _split_shots(scored, rows, shots, local, hub)
    rows = rows[:max_rows]
    check_outputs(rows)
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
            log(quiet, f"The scores are on the card: {result['card']}")
    finally:  # print the scores even if the card could not be written
        emit(json, result, report.table)


def _unseen_rows(folder: Path, scored: "Dataset", count: int, quiet: bool) -> "list[Row]":
    """Return the first rows that the adapter was neither fitted nor checked on.

    Raises:
        EmptyDatasetError: there are none.
    """
    from hf_lorameta.errors import AdapterError, EmptyDatasetError, RecipeError
    from hf_lorameta.pipeline.adapter_folder import read_provenance
    from hf_lorameta.pipeline.held_out_rows import rows_used

    try:
        used = rows_used(read_provenance(folder)["provenance"], scored)
    except (AdapterError, RecipeError):  # not generated by this version: nothing is known
        used = []
    if used:
        log(quiet, f"Skipping {len(used)} rows that the adapter was fitted or checked on")
    rows = list(islice((row for row in scored.rows() if row not in used), count))
    if used and not rows:
        raise EmptyDatasetError(
            "the adapter was fitted or checked on every row of this dataset",
            hint="name rows that it has not seen: another file, or --split",
        )
    return rows


def _split_shots(
    scored: "Dataset", rows: "list[Row]", count: int, local: bool, hub: "Hub"
) -> "tuple[list[Row], list[Row]]":
    """Return the examples of the few-shot prompt and the rows to score, none of them shared.

    Examples come from the train split of a Hub dataset, else from the rows to score.
    """
    from hf_lorameta.data.dataset import open_dataset
    from hf_lorameta.errors import DatasetError

    if count == 0:
        return [], rows
    if local or scored.id is None or scored.split == "train":
        return rows[:count], rows[count:]
    try:
        train = open_dataset(
            scored.id,
            hub,
            config=scored.config,
            split="train",
            revision=scored.revision,
            columns=scored.columns,
        )
    except DatasetError:
        return rows[:count], rows[count:]
    return train.head(count), rows


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
