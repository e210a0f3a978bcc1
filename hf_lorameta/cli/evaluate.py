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
from hf_lorameta.cli.output import emit, prints_json, report_pull_request, stage_bars
from hf_lorameta.errors import Option, UsageError
from hf_lorameta.tables import plural

logger = logging.getLogger(__name__)


@example(
    "hf-lorameta evaluate user/adapter",
    "hf-lorameta evaluate user/adapter -d user/name --split validation",
    "hf-lorameta evaluate my-adapter --dataset rows.jsonl --shots 0 --max-rows 50",
    "hf-lorameta evaluate user/adapter my-adapter other --dataset user/name",
    "hf-lorameta evaluate user/adapter --dataset user/name --save-card",
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
    save_card: Annotated[
        bool,
        typer.Option("--save-card", help="Write the scores into each adapter's card (one commit)."),
    ] = False,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="With --save-card: open a pull request.")
    ] = False,
    token: TokenOption = None,
) -> None:
    """Score the base model, adapters and a few-shot prompt on test rows (extra: eval).

    Columns, configuration and revision come from the adapters' recipes unless they are given.
    """
    from hf_lorameta.cards.scores_section import MeasuredScores
    from hf_lorameta.engines.scoring import ADAPTER_METHOD, BASE_METHOD, CHAT_METHOD
    from hf_lorameta.hub.client import Hub
    from hf_lorameta.pipeline.evaluate import (
        open_evaluator,
        prepare_evaluation,
        resolve_card_repo,
        save_scores,
    )

    if create_pr and not save_card:
        raise UsageError("a pull request needs scores for the card", hint=Option("save_card"))
    hub = Hub(token)
    named = adapters if save_card else []
    repos = [resolve_card_repo(name, hub=hub, create_pr=create_pr) for name in named]
    with stage_bars() as progress:
        prepared = prepare_evaluation(
            adapters, dataset, hub, max_rows=max_rows, shots=shots, base=base, repos=repos,
            progress=progress, config=config, split=split, revision=revision,
            columns=columns or None,
        )  # fmt: skip
        report = prepared.compare(
            open_evaluator(*prepared.base, token),
            generate=answers,
            row_progress=progress,
            progress=lambda method, scores: logger.info(f"  {method}: loss {scores.loss:.3f}"),
        )
    result, folders = report.to_dict(), prepared.folders
    try:
        if save_card:
            scores = result["scores"]
            measured = MeasuredScores(prepared.dataset, len(prepared.rows), scores)
            cards = {}
            for (name, folder), repo in zip(folders.items(), repos, strict=True):
                own = measured.of(name, folders)
                cards[name] = save_scores(folder, own, repo, hub=hub, create_pr=create_pr)
                report_pull_request(create_pr, cards[name])
                logger.info(f"The scores are on the card: {cards[name]}")
            result |= {"cards": cards} if len(adapters) > 1 else {"card": cards[ADAPTER_METHOD]}
    finally:  # print the scores even if a card could not be written
        emit(result, report.table)
    if not prints_json():
        examples = plural(len(prepared.shots), "example")
        methods = {
            BASE_METHOD: "the base model",
            CHAT_METHOD: "it in its own chat template",
            f"{len(prepared.shots)}-shot": f"it with {examples} in the prompt",
            ADAPTER_METHOD: "the adapter",
        }
        legend = [f"{name}: {text}" for name, text in methods.items() if name in report.scores]
        logger.info("; ".join([*legend, "loss: nats per token, the lower the better"]))
