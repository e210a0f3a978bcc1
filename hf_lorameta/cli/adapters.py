"""The commands that make an adapter: plan, generate and push."""

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hf_lorameta.cli.options import (
    ExportOption,
    OverwriteFlag,
    example,
    session_of,
    with_request,
)
from hf_lorameta.cli.output import (
    LEGEND,
    emit,
    prints_json,
    report_pull_request,
    show_row,
)
from hf_lorameta.cli.signals import signals_waiting
from hf_lorameta.errors import LoraMetaError, Option, UsageError, as_flag
from hf_lorameta.pipeline.request import Request
from hf_lorameta.quoting import shell
from hf_lorameta.remarks import log_remarks

if TYPE_CHECKING:
    from hf_lorameta.bank.bank import Bank
    from hf_lorameta.data.dataset import Dataset
    from hf_lorameta.pipeline.adapter_folder import Export
    from hf_lorameta.pipeline.publish import Consent, Published
    from hf_lorameta.pipeline.resolve import Resolved
    from hf_lorameta.pipeline.save import Generation
    from hf_lorameta.pipeline.session import Session

logger = logging.getLogger(__name__)

_EFFECTIVE_NUMBER = (
    "effective number: 1 if one adapter has all the weight, the number of adapters if all have the "
    "same"
)


@with_request
@example(
    "hf-lorameta plan user/name",
    "hf-lorameta plan --dataset rows.jsonl --metric kl --json",
)
def plan(request: Request, token: str | None) -> None:
    """Show which bank adapters would be combined, their distances and coefficients."""
    from hf_lorameta.pipeline.generate import plan_dataset

    with _opened(request, token, only_plan=True) as (session, dataset, resolved):
        planned = plan_dataset(dataset, session.bank, request.recipe)
    log_remarks(planned.remarks, without=[planned.verdict])
    if not prints_json():
        logger.info(f"The first row as it is read:\n{show_row(dataset.first_rows[0])}")
    following = f"generate will {resolved}{_rows_in_time(resolved, planned.profile.rows)}"
    emit(planned.to_dict() | {"next": following}, lambda: f"{planned}\n{following}")
    if planned.bank.has_datasets and not prints_json():
        logger.info("%s; %s", LEGEND, _EFFECTIVE_NUMBER)


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
    token: str | None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the adapter.")],
    overwrite: OverwriteFlag = False,
    export: ExportOption = None,
) -> None:
    """Generate an adapter folder in PEFT format; prints the folder."""
    from hf_lorameta.pipeline.adapter_folder import require_free_target
    from hf_lorameta.pipeline.generate import make
    from hf_lorameta.pipeline.publish import command_to_publish

    require_free_target(output, overwrite)
    with _opened(request, token, export) as (session, dataset, resolved):
        adapter = make(dataset, session, resolved)
        with _kept_if_unsaved(adapter), signals_waiting() as signals:
            folder = adapter.save_pretrained(
                output, overwrite=overwrite, export=export, token=token
            )
    publish = command_to_publish(folder)
    _stop_if_interrupted(adapter, signals, folder, publish)
    logger.info(f"To try it: {shell('hf-lorameta', 'try', folder)}")
    logger.info(f"To publish: {publish}")
    emit({"folder": str(folder), **adapter.to_dict()}, lambda: str(folder))


@with_request
@example(
    "hf-lorameta push user/name",
    "hf-lorameta push --dataset user/name --export gguf",
    "hf-lorameta push --dataset rows.jsonl --repo-id user/adapter --public",
    "hf-lorameta push --from FOLDER --repo-id user/adapter",
)
def push(
    request: Request,
    token: str | None,
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
    export: ExportOption = None,
) -> None:
    """Generate an adapter and publish it in one commit; prints its URL."""
    from hf_lorameta.pipeline.generate import make
    from hf_lorameta.pipeline.publish import (
        Consent,
        command_to_publish,
        publish_or_keep,
        staging_folder,
        target_for_dataset,
    )

    consent = Consent(private, create_pr, overwrite)
    if source is not None or request.dataset is None:
        given = [*request.changed, *(["export"] if export else [])]
        _require_folder_alone(given, source is not None)
    if source is not None:
        _push_folder(source, repo_id, token, consent, dry_run=dry_run)
        return
    with _opened(request, token, export) as (session, dataset, resolved):
        target = target_for_dataset(
            dataset, session.bank, session.hub, repo_id, consent,
            name=_first_name(request), dry_run=dry_run,
        )  # fmt: skip
        adapter = make(dataset, session, resolved)
        with signals_waiting() as signals:
            folder = adapter.save_pretrained(
                staging_folder(target.repo_id), repo_id=target.repo_id, export=export,
                token=session.hub.token,
            )  # fmt: skip
        command = command_to_publish(folder, **target.options(bool(target.replaces)))
        _stop_if_interrupted(adapter, signals, folder, command, "Nothing was published. ")
        published = publish_or_keep(folder, target, session.hub, dry_run=dry_run)
    _report_published(published, adapter.seconds)


def _rows_in_time(resolved: "Resolved", labeled: int) -> str:
    """Return how many rows are drawn to train on, if there are more."""
    from hf_lorameta.pipeline.budget import more_time
    from hf_lorameta.pipeline.rows import MOST_ROWS

    if not resolved.trains_on_all or labeled <= MOST_ROWS:
        return ""
    drawn = f"; {MOST_ROWS:,} of {labeled:,} rows are drawn to train on"
    if not resolved.seconds:
        return drawn
    return (
        f"{drawn}, as many of them as time allows: {as_flag(more_time(resolved.seconds))} for more"
    )


def _push_folder(
    folder: Path, repo_id: str | None, token: str | None, consent: "Consent", *, dry_run: bool
) -> None:
    """Publish a finished folder."""
    from hf_lorameta.hub.client import Hub
    from hf_lorameta.pipeline.adapter_folder import read_adapter
    from hf_lorameta.pipeline.publish import publish_or_keep, resolve_target

    if repo_id is None:
        raise UsageError(
            "--from needs --repo-id", code="push.no-repo-id", hint=Option("repo_id", "user/name")
        )
    hub, finished = Hub(token), read_adapter(folder).require_record()
    target = resolve_target(
        repo_id,
        consent,
        source_private=finished.private,
        proposed=finished.proposed_instruction,
        hub=hub,
        dry_run=dry_run,
    )
    _report_published(publish_or_keep(folder, target, hub, dry_run=dry_run), None)


def _report_published(published: "Published", seconds: float | None) -> None:
    """Print what was published or, in a dry run, what would be."""
    target, url, folder = published.target, published.url, str(published.folder)
    visibility = "private" if target.private else "public"
    if published.deleted:
        are = "would be" if url is None else "are"
        names = ", ".join(published.deleted)
        logger.info(f"Files of the replaced adapter that {are} deleted: {names}")
    data = {
        "repo_id": target.repo_id,
        "private": target.private,
        "seconds": seconds,
        "deleted": list(published.deleted),
        "url": url,
    }
    if url is None:
        logger.info(f"Dry run: would publish {folder} to {target.repo_id} ({visibility})")
        emit(data | {"folder": folder}, lambda: folder)
    else:
        logger.info(f"The repo is {visibility}")
        report_pull_request(target.create_pr, url)
        emit(data, lambda: url)


def _stop_if_interrupted(
    adapter: "Generation", signals: Collection[int], folder: Path, command: str, undone: str = ""
) -> None:
    """Exit as interrupted if a stage or saving was; print what is kept, say how to continue.

    Args:
        adapter: the adapter that was made.
        signals: that came while it was saved.
        folder: where it was saved.
        command: publishes the folder.
        undone: a sentence that says what was not done.

    Raises:
        KeyboardInterrupt: one was interrupted.
    """
    stopped = adapter.outcome.interrupted
    if stopped or signals:
        emit({"folder": str(folder), **adapter.to_dict()}, lambda: str(folder))
        error = KeyboardInterrupt()
        kept = f"The adapter is complete in {folder}"
        if stopped:
            kept = f"The adapter so far is kept in {folder}, and its card says so"
        error.add_note(f"{undone}{kept}; to publish it: {command}")
        raise error


@contextmanager
def _kept_if_unsaved(adapter: "Generation") -> Iterator[None]:
    """Save an adapter that took training to our cache if the context cannot save it, and say so."""
    from hf_lorameta.pipeline.publish import say_kept, staging_folder

    try:
        yield
    except (LoraMetaError, OSError) as error:
        with suppress(LoraMetaError, OSError):  # such as of the same disk, which is full
            if adapter.outcome.training:
                kept = adapter.save_pretrained(staging_folder("unsaved"))
                say_kept(error, f"copy it with: {shell('cp', '-r', kept, 'FOLDER')}")
        raise


@contextmanager
def _opened(
    request: Request, token: str | None, export: "Export | None" = None, *, only_plan: bool = False
) -> "Iterator[tuple[Session, Dataset, Resolved]]":
    """Open a session and the dataset, say what will be read, and decide what is done."""
    from hf_lorameta.pipeline.resolve import resolve

    with session_of(request, token) as session:
        dataset = session.open_dataset(request.dataset or "", **request.options)
        _report_dataset(dataset, session.bank)
        resolved = resolve(dataset, session, request, export=export, only_plan=only_plan)
        yield session, dataset, resolved


def _first_name(request: Request) -> str:
    """Return the dataset, or the first of its files, after which a repo is named."""
    names = request.dataset or ""
    return names if isinstance(names, str) else names[0]


def _report_dataset(dataset: "Dataset", bank: "Bank") -> None:
    """Log what will be read, and the bank that it is compared with."""
    from hf_lorameta.cli.bank_reports import bank_facts
    from hf_lorameta.data.columns.columns import all_of

    unread = f"; not read: {all_of(dataset.unread)}" if dataset.unread else ""
    logger.info("Reading %s of split %s%s", dataset.columns, dataset.split, unread)
    source = "none, only" if bank.is_empty else f"{bank.id}, {bank.contents()} for"
    logger.info("Bank: %s %s", source, bank.index.base_model)
    if bank.alternatives:
        logger.info("Others have published banks for it, which are used only if you name them:")
    for listed in bank.alternatives[:3]:
        logger.info("  --bank %s (%s)", listed.repo_id, bank_facts(listed))


def _require_folder_alone(given: Collection[str], folder: bool) -> None:
    """Refuse options that conflict with ``push --from``.

    Args:
        given: names of the options that make an adapter.
        folder: whether a finished folder is named.
    """
    if not folder or "dataset" in given:
        raise UsageError(
            f"expected either --dataset or --from, got {'both' if folder else 'neither'}",
            code="push.dataset-or-from",
            hint="leave one out" if folder else Option("dataset", "user/name"),
        )
    for name in given:
        option = f"--{name.replace('_', '-')}"
        raise UsageError(
            f"{option} needs --dataset: a finished folder is published unchanged",
            code="push.needs-dataset",
            hint=f"leave it out, or make another folder with hf-lorameta generate … {option} …",
        )
