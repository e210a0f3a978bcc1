"""The commands that make an adapter: plan, generate and push."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hf_lorameta.cli.on_jobs import FlavorOption, TimeoutOption, push_on_jobs
from hf_lorameta.cli.options import (
    ExportOption,
    JsonFlag,
    OverwriteFlag,
    QuietFlag,
    Request,
    example,
    with_request,
)
from hf_lorameta.cli.output import (
    LEGEND,
    emit,
    log,
    report_pull_request,
    show_row,
    stage_bars,
)
from hf_lorameta.errors import Option, UsageError
from hf_lorameta.tables import plural
from hf_lorameta.types import StageProgress

if TYPE_CHECKING:
    from hf_lorameta.bank.bank import Bank
    from hf_lorameta.data.dataset import Dataset
    from hf_lorameta.pipeline.mixture import Mixture
    from hf_lorameta.pipeline.save import Generation
    from hf_lorameta.pipeline.session import Session

logger = logging.getLogger(__name__)

_EFFECTIVE_NUMBER = (
    "effective number: how many adapters with equal coefficients would spread the weight as widely"
)


@with_request
@example(
    "hf-lorameta plan user/name",
    "hf-lorameta plan --dataset rows.jsonl --metric kl --json",
)
def plan(request: Request, json: JsonFlag = False, quiet: QuietFlag = False) -> None:
    """Show which bank adapters would be combined, their distances and coefficients."""
    from hf_lorameta.pipeline.automatic import Automatic
    from hf_lorameta.pipeline.budget import advise
    from hf_lorameta.pipeline.generate import plan_with_rows

    with request.session() as session, stage_bars(quiet) as progress:
        dataset = request.open_dataset(session, progress)
        _report_dataset(dataset, session.bank)
        may_fit, seconds = not request.no_fit, request.seconds
        wanted = Automatic(fit=may_fit and seconds is not None, check=False)
        planned, _ = plan_with_rows(dataset, session, request.recipe, budget=seconds, wanted=wanted)
        advice = advise(planned, session, may_fit=may_fit)
    if not json:
        log(quiet, f"The first row as it is read:\n{show_row(dataset.first_rows[0])}")
    if planned.recipe.rows_asked:
        log(quiet, "plan does not fit, train or check: generate and push do")
    ending = "" if advice is None else f"\nadvice: {advice}"
    if request.budget:
        chosen = " ".join(f"--{name} {rows}" for name, rows in planned.recipe.rows_asked.items())
        ending = f"\nbudget: {chosen}, within {request.budget}"
    emit(json, planned.to_dict() | {"advice": advice}, lambda: f"{planned}{ending}")
    if len(planned.bank):
        log(quiet or json, f"{LEGEND}; {_EFFECTIVE_NUMBER}")


@with_request
@example(
    "hf-lorameta generate user/name -o my-adapter",
    "hf-lorameta generate --dataset rows.csv --columns input=q,output=a -o my-adapter",
    "hf-lorameta generate --dataset user/name -o my-adapter --export gguf",
    "hf-lorameta generate --dataset user/name -o my-adapter --train 16",
    "hf-lorameta generate --dataset user/name -o my-adapter --base org/model --train 100",
)
def generate(
    request: Request,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the adapter.")],
    overwrite: OverwriteFlag = False,
    export: ExportOption = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Generate an adapter folder in PEFT format; prints the folder."""
    from hf_lorameta.pipeline.adapter_folder import require_free_target
    from hf_lorameta.pipeline.generate import require_possible
    from hf_lorameta.pipeline.publish import command_to_publish

    require_free_target(output, overwrite)
    with request.session() as session, stage_bars(quiet) as progress:
        require_possible(request.recipe, session, export)
        dataset = request.open_dataset(session, progress)
        adapter = _make(request, session, dataset, progress)
        folder = adapter.save_pretrained(
            output, overwrite=overwrite, export=export, token=request.token
        )
    _stop_if_interrupted(adapter, folder, command_to_publish(folder))
    data = {"folder": str(folder), "seconds": adapter.seconds, "rank": adapter.rank}
    emit(json, data | {"plan": adapter.plan.to_dict()}, lambda: str(folder))


@with_request
@example(
    "hf-lorameta push user/name",
    "hf-lorameta push --dataset user/name --export gguf",
    "hf-lorameta push --dataset rows.jsonl --repo-id user/adapter --public",
    "hf-lorameta push --dataset user/name --on jobs",
    "hf-lorameta push --from FOLDER --repo-id user/adapter",
)
def push(
    request: Request,
    repo_id: Annotated[
        str | None,
        typer.Option(help="Target repo. Default: named after the dataset.", show_default=False),
    ] = None,
    private: Annotated[
        bool | None,
        typer.Option(
            "--private/--public",
            help="Visibility. Default: private for private datasets and banks, and local files.",
            show_default=False,
        ),
    ] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Do everything except publish; needs the Hub.")
    ] = False,
    overwrite: OverwriteFlag = False,
    source: Annotated[
        Path | None, typer.Option("--from", help="Publish this finished folder (resume).")
    ] = None,
    on: Annotated[
        Literal["jobs"] | None,
        typer.Option(
            help="jobs: run on Hugging Face Jobs, for about a cent; the dataset has to be on the "
            "Hub. With --dry-run, only show the price."
        ),
    ] = None,
    flavor: FlavorOption = "cpu-upgrade",
    timeout: TimeoutOption = 2.0,
    export: ExportOption = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Generate an adapter and publish it in one commit; prints its URL."""
    from hf_lorameta.pipeline.adapter_folder import read_adapter
    from hf_lorameta.pipeline.generate import require_possible
    from hf_lorameta.pipeline.publish import (
        command_to_publish,
        preserve_on_failure,
        publish_folder,
        resolve_target,
        staging_folder,
        stale_files,
        target_for_dataset,
    )

    _check_source(request, source, repo_id, [("export", export), ("on", on)])
    consent: dict[str, Any] = {
        "private": private, "create_pr": create_pr, "overwrite": overwrite,
    }  # fmt: skip
    adapter: Generation | Mixture | None = None
    with request.session() as session, stage_bars(quiet) as progress:
        if source is not None and repo_id is not None:
            folder, finished = source, read_adapter(source).require_provenance()
            target = resolve_target(
                repo_id,
                dataset_private=finished.private,
                proposed=finished.proposed_instruction,
                hub=session.hub,
                **consent,
            )
        else:
            if not on:
                require_possible(request.recipe, session, export)
            dataset, bank = request.open_dataset(session, progress), session.bank
            name = str(request.dataset)
            target = target_for_dataset(dataset, bank, session.hub, repo_id, name=name, **consent)
            if on:
                push_on_jobs(
                    request, bank, dataset, target, export, flavor=flavor, timeout=timeout,
                    dry_run=dry_run, json=json,
                )  # fmt: skip
                return
            adapter = _make(request, session, dataset, progress)
            folder = adapter.save_pretrained(
                staging_folder(target.repo_id),
                repo_id=target.repo_id,
                export=export,
                token=session.hub.token,
            )
            command = command_to_publish(folder, **target.options(bool(target.replaces)))
            _stop_if_interrupted(adapter, folder, command, "Nothing was published. ")
        deleted = stale_files(folder, target)
        url = None
        if not dry_run:
            with preserve_on_failure(folder, target):
                url = publish_folder(folder, target, session.hub)
    if deleted:
        are = "would be" if url is None else "are"
        log(quiet, f"Files of the replaced adapter that {are} deleted: {', '.join(deleted)}")
    result: dict[str, Any] = {
        "repo_id": target.repo_id,
        "private": target.private,
        "seconds": adapter.seconds if adapter else None,
        "deleted": list(deleted),
        "url": url,
    }
    visibility = "private" if target.private else "public"
    if url is None:
        log(quiet, f"Dry run: would publish {folder} to {target.repo_id} ({visibility})")
        emit(json, result | {"folder": str(folder)}, lambda: str(folder))
    else:
        log(quiet, f"The repo is {visibility}")
        report_pull_request(create_pr, url)
        emit(json, result, lambda: url)


def _make(
    request: Request, session: "Session", dataset: "Dataset", progress: StageProgress
) -> "Generation | Mixture":
    """Say what is read, plan, and make the adapter or choose those of a mixture."""
    from hf_lorameta.pipeline.automatic import Automatic
    from hf_lorameta.pipeline.generate import carry_out, plan_with_rows

    _report_dataset(dataset, session.bank)
    wanted = Automatic(fit=not request.no_fit, check=not request.no_check)
    plan, rows = plan_with_rows(
        dataset, session, request.recipe, budget=request.seconds, wanted=wanted
    )
    return carry_out(plan, rows, session, progress)


def _stop_if_interrupted(
    adapter: "Generation | Mixture", folder: Path, command: str, undone: str = ""
) -> None:
    """End the command as interrupted if the training was, and say what is kept and how to go on.

    Args:
        adapter: that was made.
        folder: where it was saved.
        command: publishes the folder.
        undone: a sentence that says what was left out.

    Raises:
        KeyboardInterrupt: the training was interrupted.
    """
    if training := adapter.plan.interrupted:
        error = KeyboardInterrupt()
        error.add_note(
            f"{undone}The best adapter until the interruption, after "
            f"{plural(training.steps, 'step')}, is kept in {folder}, and its card says so; to "
            f"publish it: {command}"
        )
        raise error


def _report_dataset(dataset: "Dataset", bank: "Bank") -> None:
    """Say what will be read, and with which bank it is compared."""
    from hf_lorameta.cli.bank_reports import about, contents

    unread = f"; not read: {', '.join(dataset.unread)}" if dataset.unread else ""
    logger.info("Reading %s of split %s%s", dataset.columns, dataset.split, unread)
    source = f"{bank.id}, {contents(bank)} for" if bank.index.number else "none, only"
    logger.info("Bank: %s %s", source, bank.index.base_model)
    published = bank.base.banks if bank.base else ()
    if published:
        logger.info("Others have published banks for it, which are used only if you name them:")
    for found in published[:3]:
        logger.info("  --bank %s (%s)", found.repo_id, about(found))


def _check_source(
    request: Request,
    source: Path | None,
    repo_id: str | None,
    others: Sequence[tuple[str, object]],
) -> None:
    """Refuse options of push that contradict each other."""
    if (source is None) == (request.dataset is None):
        raise UsageError(
            f"expected either --dataset or --from, got {'both' if source else 'neither'}",
            hint="leave one out" if source else Option("dataset", "user/name"),
        )
    if source is None:
        return
    if repo_id is None:
        raise UsageError("--from needs --repo-id", hint=Option("repo_id", "user/name"))
    if given := [*request.given, *(name for name, value in others if value)]:
        option = f"--{given[0].replace('_', '-')}"
        raise UsageError(
            f"{option} needs --dataset: a finished folder is published unchanged",
            hint=f"leave it out, or make another folder with hf-lorameta generate … {option} …",
        )
