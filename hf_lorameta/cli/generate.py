"""The commands that make an adapter: plan, generate and push."""

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_lorameta.cli.options import (
    ExportOption,
    JsonFlag,
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
    warn,
)
from hf_lorameta.tables import plural
from hf_lorameta.types import StageProgress

if TYPE_CHECKING:
    from hf_lorameta.data.dataset import Dataset
    from hf_lorameta.pipeline.adapter_folder import Export
    from hf_lorameta.pipeline.generation import Generation
    from hf_lorameta.pipeline.mixture import Mixture
    from hf_lorameta.pipeline.plan import Plan
    from hf_lorameta.pipeline.publish import Target
    from hf_lorameta.pipeline.session import Session
    from hf_lorameta.recipe import Recipe
    from hf_lorameta.types import Row


@with_request
@example(
    "hf-lorameta plan user/name",
    "hf-lorameta plan --dataset rows.jsonl --metric kl --json",
)
def plan(request: Request, json: JsonFlag = False, quiet: QuietFlag = False) -> None:
    """Show which bank adapters would be combined, their distances and coefficients."""
    from hf_lorameta.cli.describe_plan import EFFECTIVE_NUMBER, describe_plan
    from hf_lorameta.pipeline.advice import advise

    request.make_recipe()  # refuses wrong settings before anything is opened
    with request.session() as session, stage_bars(quiet) as progress:
        dataset = request.open_dataset(session, progress)
        result = _plan(request, session, dataset, request.make_recipe(), quiet)[0]
    if not json:
        log(quiet, f"The first row as it is read:\n{show_row(dataset.first_rows[0])}")
    if result.recipe.uses_rows:
        log(quiet, "plan neither refines, trains nor checks: generate and push do")
    advice = None if request.budget else advise(result)  # a budget has chosen
    emit(json, result.to_dict() | {"advice": advice}, lambda: describe_plan(result, advice))
    log(quiet or json, f"{LEGEND}; {EFFECTIVE_NUMBER}")


def _plan(
    request: Request, session: "Session", dataset: "Dataset", recipe: "Recipe", quiet: bool
) -> "tuple[Plan, list[Row]]":
    """Plan, and collect the labeled rows that the recipe may fit and check on."""
    from hf_lorameta.data.proposals import propose_instruction
    from hf_lorameta.pipeline.budget import parse_seconds, plan_within
    from hf_lorameta.pipeline.plan_warnings import lacks_instruction

    seconds = parse_seconds(request.budget) if request.budget else None
    bank = session.bank
    unread = f"; not read: {', '.join(dataset.unread)}" if dataset.unread else ""
    log(quiet, f"Reading {dataset.columns}{dataset.of_split}{unread}")
    for note in dataset.notes:
        log(quiet, f"Note: {note}")
    log(quiet, f"Bank: {bank.id}, {plural(len(bank), 'adapter')} for {bank.index.base_model}")
    result, rows, reasons = plan_within(dataset, session, recipe, seconds)
    for reason in reasons:
        log(quiet, reason)
    for warning in result.warnings:
        warn(warning)
    if not quiet and lacks_instruction(result) and (proposal := propose_instruction(dataset)):
        log(quiet, f"Proposed: --instruction {shlex.quote(proposal)}")
    return result, rows


def _plan_with_check(
    request: Request, session: "Session", dataset: "Dataset", quiet: bool
) -> "tuple[Plan, list[Row], bool]":
    """Plan, with a check where it is possible, and say whether that check is automatic."""
    from hf_lorameta.pipeline.automatic_check import with_check, without_impossible_check

    asked = request.make_recipe()
    if request.no_check or request.budget or request.recipe == "paper" or asked.is_mixture:
        return (*_plan(request, session, dataset, asked, quiet), False)
    recipe = with_check(asked, dataset, session)
    result, rows = _plan(request, session, dataset, recipe, quiet)
    if asked.check is None and recipe.check is not None:
        result = without_impossible_check(result, rows)
        return result, rows, result.recipe.check is not None
    return result, rows, False


def _make_adapter(
    request: Request, session: "Session", dataset: "Dataset", quiet: bool, progress: "StageProgress"
) -> "Generation | Mixture":
    """Plan, and generate the adapter or choose those of a mixture."""
    from hf_lorameta.pipeline.mixture import Mixture

    result, rows, automatic = _plan_with_check(request, session, dataset, quiet)
    if not result.recipe.is_mixture:
        return _generate(result, rows, session, quiet, progress, check_only_reports=automatic)
    mixture = Mixture(result, progress)
    log(quiet, f"A mixture of {len(mixture.entries)} adapters of rank {mixture.rank}")
    return mixture


def _generate(
    plan: "Plan",
    rows: "list[Row]",
    session: "Session",
    quiet: bool,
    progress: "StageProgress",
    check_only_reports: bool,
) -> "Generation":
    """Generate with progress on stderr, and report losses and the warnings that they bring."""
    from hf_lorameta.pipeline.generate import check_possible, generate_from_plan

    check_possible(plan.recipe, rows)
    if check_only_reports:
        log(
            quiet,
            f"The adapter will be compared with the base model, {plan.bank.index.base_model}, and "
            f"a few-shot prompt on {plan.recipe.check} rows, which may take most of the time: "
            "--no-check leaves it out",
        )
    elif plan.recipe.uses_rows:
        log(quiet, f"Loading the base model {plan.bank.index.base_model}")
    generation = generate_from_plan(
        plan, progress, session=session, rows=rows, check_only_reports=check_only_reports
    )
    final = generation.plan
    if final.refinement is not None:
        losses = final.refinement
        log(
            quiet,
            f"Fitted {len(plan.active_indices)} adapters on {losses.rows} rows: loss of the base "
            f"model {losses.base:.3f}, of this adapter {losses.end:.3f}; about "
            f"{losses.held_out:.3f} on held-out rows",
        )
    if (training := final.training) is not None:
        losses_on = (
            f"loss on {training.held_out} held-out rows of the base model {training.base:.3f}, "
            f"before the training {training.start:.3f}"
        )
        if training.steps:
            steps = plural(training.steps, "step")
            log(
                quiet,
                f"Trained on {training.rows} rows for {steps}: {losses_on}, after it "
                f"{training.end:.3f}",
            )
        elif not training.interrupted:
            log(
                quiet,
                f"Training on {training.rows} rows did not help, so the adapter stays as it was: "
                f"{losses_on}",
            )
        if 0 < training.fraction < 1:
            log(quiet, "The gain was within its standard error, so the adapter went half the way")
        if training.interrupted:
            log(quiet, "The training was interrupted; this is the best adapter so far")
    if final.check is not None:
        check = final.check
        chat = "" if check.chat is None else f", with its chat template {check.chat:.3f}"
        if check.prompt is not None:
            chat += f", with a {check.shots}-shot prompt {check.prompt:.3f}"
        log(
            quiet,
            f"Checked on {check.rows} other rows in {generation.check_seconds:.0f} s: loss of the "
            f"base model {check.base:.3f}{chat}, of this adapter {check.end:.3f}",
        )
    for warning in final.warnings:
        warn(warning)
    log(
        quiet,
        f"Combined {plural(len(final.neighbors()), 'adapter')} in {generation.seconds:.1f} s",
    )
    return generation


@with_request
@example(
    "hf-lorameta generate user/name -o my-adapter",
    "hf-lorameta generate --dataset rows.csv --columns input=q,output=a -o my-adapter",
    "hf-lorameta generate --dataset user/name -o my-adapter --export gguf",
    "hf-lorameta generate --dataset user/name -o my-adapter --train 16",
)
def generate(
    request: Request,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the adapter.")],
    overwrite: Annotated[bool, typer.Option(help="Replace an existing adapter.")] = False,
    export: ExportOption = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Generate an adapter folder in PEFT format; prints the folder."""
    from hf_lorameta.pipeline.adapter_folder import check_target
    from hf_lorameta.pipeline.mixture import check_emit

    check_target(output, overwrite)
    check_emit(request.make_recipe().emit, export)  # before anything is opened
    with request.session() as session, stage_bars(quiet) as progress:
        _require_engine(request)
        _check_export(session, export)  # before any work
        dataset = request.open_dataset(session, progress)
        adapter = _make_adapter(request, session, dataset, quiet, progress)
        folder = adapter.save_pretrained(
            output, overwrite=overwrite, export=export, token=request.token
        )
    data = {"folder": str(folder), "seconds": adapter.seconds, "rank": adapter.rank}
    emit(json, data | {"plan": adapter.plan.to_dict()}, lambda: str(folder))


@with_request
@example(
    "hf-lorameta push user/name",
    "hf-lorameta push --dataset user/name --export gguf",
    "hf-lorameta push --dataset rows.jsonl --repo-id user/adapter --public",
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
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Replace files without asking.")] = False,
    source: Annotated[
        Path | None, typer.Option("--from", help="Publish this finished folder (resume).")
    ] = None,
    export: ExportOption = None,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Generate an adapter and publish it in one commit; prints its URL."""
    from hf_lorameta.pipeline.adapter_folder import is_private, read_provenance
    from hf_lorameta.pipeline.publish import check_name_is_safe, publish_adapter

    _check_source(request, source, export)
    with request.session() as session, stage_bars(quiet) as progress:
        seconds: list[float | None] = []
        if source is not None:
            source_private = dataset_private = is_private(read_provenance(source)["provenance"])
        else:
            _require_engine(request)
            _check_export(session, export)
            dataset = request.open_dataset(session, progress)
            dataset_private = dataset.private
            source_private = dataset.private or session.bank.index.private_parts > 0

        def make() -> "Generation | Mixture":
            adapter = _make_adapter(request, session, dataset, quiet, progress)
            seconds.append(adapter.seconds)
            return adapter

        check_name_is_safe(repo_id, dataset_private, private)
        published = publish_adapter(
            source or make,
            repo_id or _default_name(request, session),
            hub=session.hub,
            dataset_private=source_private,
            private=private,
            create_pr=create_pr,
            overwrite=yes,
            export=export,
            dry_run=dry_run,
            confirm=_confirm,
        )
    target, folder = published.target, published.folder
    if published.deleted:
        log(
            quiet, f"Files of the replaced adapter that are deleted: {', '.join(published.deleted)}"
        )
    result: dict[str, Any] = {
        "repo_id": target.repo_id,
        "private": target.private,
        "seconds": seconds[0] if seconds else None,
        "deleted": list(published.deleted),
        "url": published.url,
    }
    if published.url is None:
        visibility = "private" if target.private else "public"
        log(quiet, f"Dry run: would publish {folder} to {target.repo_id} ({visibility})")
        emit(json, result | {"folder": str(folder)}, lambda: str(folder))
    else:
        report_pull_request(create_pr, published.url)
        emit(json, result, lambda: str(published.url))


def _check_export(session: "Session", export: "Export | None") -> None:
    """Refuse to export an architecture that has no GGUF."""
    from hf_lorameta.pipeline.savable_adapter import export_config

    index = session.bank.index
    export_config(index.base_model, index.base_revision, export, session.hub.token)


def _require_engine(request: Request) -> None:
    """Refuse what needs the base model where transformers is not installed."""
    from hf_lorameta.engines.torch_evaluator import require_eval

    if request.make_recipe().uses_rows:
        require_eval()


def _check_source(request: Request, source: Path | None, export: "Export | None") -> None:
    """Refuse options of push that contradict each other."""
    from hf_lorameta.errors import UsageError
    from hf_lorameta.pipeline.mixture import check_emit

    if (source is None) == (request.dataset is None):
        raise UsageError(
            f"expected either --dataset or --from, got {'both' if source else 'neither'}",
            hint="leave one out" if source else "add --dataset user/name",
        )
    check_emit(request.make_recipe().emit, export)  # before anything is opened
    options: dict[str, object] = {"--export": export}
    settings = asdict(request) | {"recipe": request.recipe != "default", "token": None}
    options |= {f"--{name.replace('_', '-')}": value for name, value in settings.items()}
    given = [option for option, value in options.items() if value]
    if source is not None and given:
        raise UsageError(
            f"{given[0]} goes with --dataset: a finished folder is published unchanged",
            hint=f"leave it out, or make another folder with hf-lorameta generate … {given[0]} …",
        )


def _default_name(request: Request, session: "Session") -> str:
    from hf_lorameta.errors import UsageError
    from hf_lorameta.pipeline.publish import default_repo_id

    if request.dataset is None:
        raise UsageError("--from needs --repo-id", hint="add --repo-id user/name")
    base_model = session.bank.index.base_model
    return default_repo_id(session.hub.user(), request.dataset, base_model)


def _confirm(target: "Target") -> bool:
    """Ask on a terminal whether to replace the repo's files; elsewhere the answer is no."""
    if not sys.stdin.isatty():
        return False
    names = ", ".join(target.replaces)
    return typer.confirm(f"{target.repo_id} already holds {names}. Replace?", abort=True, err=True)


COMMANDS: tuple[Any, ...] = (plan, generate, push)
