"""The command that scores adapters, with transformers or llama.cpp."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hf_lorameta.cli.options import (
    BaseGgufOption,
    ColumnsOption,
    ConfigOption,
    EngineOption,
    JsonFlag,
    MaxTextOption,
    QuietFlag,
    RevisionOption,
    TokenOption,
    example,
)
from hf_lorameta.cli.output import emit, log, report_pull_request, stage_bars, warn
from hf_lorameta.errors import Option, UsageError

if TYPE_CHECKING:
    from hf_lorameta.engines.scoring import Evaluator
    from hf_lorameta.formats.peft_config import LoraConfig


@example(
    "hf-lorameta evaluate user/adapter",
    "hf-lorameta evaluate user/adapter user/name --split validation",
    "hf-lorameta evaluate my-adapter --dataset rows.jsonl --shots 0 --max-rows 50",
    "hf-lorameta evaluate my-adapter -d user/name --engine llama.cpp --base-gguf base.gguf",
    "hf-lorameta evaluate user/adapter my-adapter other --dataset user/name",
    "hf-lorameta evaluate user/adapter --dataset user/name --save-card",
)
def evaluate(
    adapters: Annotated[
        list[str],
        typer.Argument(
            metavar="ADAPTER...",
            help="Folders or Hub repos of adapters; a dataset may follow.",
        ),
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
    reference: Annotated[
        str | None, typer.Option(help="Another adapter to compare, e.g. a trained one.")
    ] = None,
    base: Annotated[Path | None, typer.Option(help="Folder of the base model.")] = None,
    engine: EngineOption = "transformers",
    base_gguf: BaseGgufOption = None,
    shots: Annotated[int, typer.Option(min=0, help="Examples in the few-shot prompt.")] = 3,
    max_rows: Annotated[int, typer.Option(min=1, help="Score at most this many rows.")] = 100,
    max_text: MaxTextOption = None,
    answers: Annotated[
        bool,
        typer.Option(
            "--generate/--no-generate", help="Generate answers, or compute the loss only."
        ),
    ] = True,
    save_card: Annotated[
        bool,
        typer.Option("--save-card", help="Write the scores into each adapter's card (one commit)."),
    ] = False,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="With --save-card: open a pull request.")
    ] = False,
    token: TokenOption = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Score base model, adapters and few-shot prompt on test rows (extra: eval or gguf).

    Columns, configuration and revision come from the adapters' recipes unless they are given. If
    one of several adapters is missing, the others are scored, and the command ends with its error.
    """
    from hf_lorameta.cards.scores_section import MeasuredScores
    from hf_lorameta.engines.scoring import compare
    from hf_lorameta.hub.client import Hub
    from hf_lorameta.pipeline.adapter_folder import locate_adapter, read_adapter
    from hf_lorameta.pipeline.evaluate import (
        ONLY,
        locate_adapters,
        provenances_in,
        resolve_card_repo,
        save_scores,
        separate_dataset,
    )
    from hf_lorameta.pipeline.evaluation_rows import adapter_was, open_to_evaluate, rows_to_evaluate

    if create_pr and not save_card:
        raise UsageError("a pull request needs scores for the card", hint=Option("save_card"))
    _check_engine(engine, base, base_gguf)
    hub = Hub(token)
    names, dataset = separate_dataset(adapters, dataset, hub)
    repos = [resolve_card_repo(n, hub=hub, create_pr=create_pr) for n in names if save_card]
    located = locate_adapters(names, hub, repos)
    for missing in located.missing:
        warn(f"not scored: {missing}")
    if not (located.base.base_model or base or base_gguf):
        named = ("base_gguf", "FILE") if engine == "llama.cpp" else ("base", "FOLDER")
        raise UsageError(f"{names[0]} does not name its base model", hint=Option(*named))
    if save_card:
        for folder in located.folders.values():
            read_adapter(folder).require_provenance()
    methods: dict[str, Path | None] = {"base": None, **located.folders}
    provenances = located.provenances
    if reference:
        methods["reference"] = folder = locate_adapter(reference, hub=hub)
        provenances += provenances_in([folder])
    scored = open_to_evaluate(
        dataset,
        located.provenance_for(dataset),
        hub,
        config=config,
        split=split,
        revision=revision,
        columns=columns or None,
        max_text=max_text,
    )
    log(quiet, f"Reading {scored.columns}{scored.of_split}")
    with stage_bars(quiet) as progress:
        chosen = rows_to_evaluate(scored, provenances, max_rows, shots, hub, progress)
    rows, examples, skipped, warnings = chosen
    if skipped:
        was = adapter_was(located.provenances)
        log(quiet, f"Skipping {skipped} rows that {was} fitted, trained or checked on")
    if fewer := chosen.fewer_than(max_rows):
        log(quiet, fewer)
    for warning in warnings:
        warn(warning)
    log(quiet, f"Scoring {len(rows)} rows{scored.of_split} with {located.base.base_model}")
    given = base_gguf if engine == "llama.cpp" else base
    folders = [folder for folder in methods.values() if folder]
    with (
        open_evaluator(engine, located.base, given, folders, token, quiet) as evaluator,
        stage_bars(quiet) as row_progress,
    ):
        report = compare(
            evaluator, rows, methods, shots=examples, generate=answers, row_progress=row_progress,
            progress=lambda method, scores: log(quiet, f"  {method}: loss {scores.loss:.3f}"),
        )  # fmt: skip
    result = report.to_dict()
    try:
        if save_card:
            measured = MeasuredScores(scored, len(rows), engine, result["scores"])
            cards = {}
            for (name, folder), repo in zip(located.folders.items(), repos, strict=True):
                own = measured.of(name, located.folders)
                cards[name] = save_scores(folder, own, repo, hub=hub, create_pr=create_pr)
                report_pull_request(create_pr, cards[name])
                log(quiet, f"The scores are on the card: {cards[name]}")
            result |= {"cards": cards} if len(cards) > 1 else {"card": cards[ONLY]}
    finally:  # print the scores even if a card could not be written
        emit(json, result, report.table)
    if located.missing:
        raise located.missing[0]


def _check_engine(engine: str, base: Path | None, base_gguf: Path | None) -> None:
    """Refuse a base model that the engine cannot read."""
    llama = engine == "llama.cpp"
    if (base if llama else base_gguf) is not None:
        what, other = ("a folder", "transformers") if llama else ("a GGUF", "llama.cpp")
        raise UsageError(
            f"{what} of the base model is for the engine {other}", hint=Option("engine", other)
        )


@contextmanager
def open_evaluator(
    engine: str,
    config: "LoraConfig",
    given: Path | None,
    adapters: Sequence[Path],
    token: str | None,
    quiet: bool,
) -> "Iterator[Evaluator]":
    """Load the base model that a config names; `given` is where it is, None finds it."""
    if engine == "llama.cpp":
        from hf_lorameta.engines.llama_cpp.evaluator import LlamaCppEvaluator
        from hf_lorameta.engines.llama_cpp.gguf_files import base_gguf as find_base_gguf

        gguf = find_base_gguf(config.base_model, given)
        log(quiet, f"Base model: {gguf}")
        with LlamaCppEvaluator(gguf, adapters, base_model=config.base_model) as evaluator:
            yield evaluator
    else:
        from hf_lorameta.engines.transformers.evaluator import TorchEvaluator, require_eval
        from hf_lorameta.hub.base_model import locate

        require_eval()
        folder = given or locate(config.base_model, config.revision, token)
        yield TorchEvaluator(folder, base_model=config.base_model)
