"""Run commands with ``--on jobs``: show the price, the job's log, and what it published."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from hf_lorameta.cli.options import Request
from hf_lorameta.cli.output import emit
from hf_lorameta.errors import Option, UsageError
from hf_lorameta.pipeline.progress import budget_seconds
from hf_lorameta.quoting import option_words, shell

if TYPE_CHECKING:
    from hf_lorameta.bank.bank import Bank
    from hf_lorameta.data.dataset import Dataset
    from hf_lorameta.pipeline.adapter_folder import Export
    from hf_lorameta.pipeline.publish import Consent, Target

logger = logging.getLogger(__name__)

FlavorOption = Annotated[str, typer.Option(help="Hardware of the job.")]
TimeoutOption = Annotated[
    float, typer.Option(help="Hours after which the job is stopped.", min=0.1)
]


def run_on_jobs(
    arguments: list[str],
    path: str,
    facts: Mapping[str, object],
    *,
    flavor: str,
    timeout: float,
    token: str | None,
    dry_run: bool,
    with_files: bool = False,
) -> None:
    """Say what a job may cost, start it, show its log, and print the URL of what it published.

    Args:
        arguments: of the job; like `token` and `with_files`, as for `hf_lorameta.hub.jobs.start`.
        path: of the repo that it publishes, in the Hub's URLs.
        facts: to print in JSON, along with the price.
        flavor: hardware of the job.
        timeout: hours after which it is stopped.
        dry_run: only print the price and the command.

    Raises:
        UsageError: the Hub offers no such hardware, or it is not known where a job can install
            this package from.
        HubError: the job was not accepted, or failed.
    """
    from hf_lorameta.environment import hub_url
    from hf_lorameta.hub.jobs import follow, hourly_price, start

    hourly = hourly_price(flavor, token)
    most = None if hourly is None else round(timeout * hourly, 3)
    price = f"{flavor}, for at most {timeout:g} h"
    if hourly is not None:
        price += f" at ${hourly:.2f} per hour: at most ${most:.2f}"
    data = {**facts, "flavor": flavor, "timeout": timeout, "hourly": hourly, "dollars": most}
    if dry_run:
        command = shell("hf-lorameta", *arguments)
        emit(data | {"arguments": arguments}, lambda: f"{price}\nwould run {command}")
        return
    logger.info(price)
    job = start(arguments, flavor, timeout, token, with_files=with_files)
    logger.info("Started %s; to stop it: hf jobs cancel %s", job.url, job.id)
    url = hub_url(path)
    try:
        for line in follow(job, token):
            logger.info("  %s", line)
            url = line.strip() if line.startswith(f"{url}/") else url  # of a pull request
    except KeyboardInterrupt as error:
        error.add_note(f"The job keeps running and will publish its result: {job.url}")
        raise
    emit(data | {"job": job.url, "url": url}, lambda: url)


def push_on_jobs(
    request: Request,
    repo_id: str | None,
    consent: "Consent",
    export: "Export | None",
    *,
    flavor: str,
    timeout: float,
    dry_run: bool,
) -> None:
    """Run ``hf-lorameta push`` as a job, which publishes the adapter.

    Args:
        request: what to make.
        repo_id: as in ``push``, like `consent` and `export`.
        flavor: as for `run_on_jobs`, like `timeout` and `dry_run`.

    Raises:
        UsageError: the dataset, bank or base model is on this machine; or as `run_on_jobs` raises.
        HubError: the job was not accepted, or failed.
    """
    from hf_lorameta.pipeline.publish import target_for_dataset
    from hf_lorameta.pipeline.resolve import check_request

    with request.session() as session:
        dataset, name = request.open_dataset(session), request.first_name
        budget = budget_seconds(request.budget)
        check_request(dataset, session.bank, request.recipe, budget)
        target = target_for_dataset(dataset, session.bank, session.hub, repo_id, consent, name=name)
        arguments = _push_arguments(request, session.bank, dataset, target, export)
    run_on_jobs(
        arguments,
        target.repo_id,
        {"repo_id": target.repo_id, "private": target.private},
        flavor=flavor,
        timeout=timeout,
        token=request.token,
        dry_run=dry_run,
    )


def _push_arguments(
    request: Request, bank: "Bank", dataset: "Dataset", target: "Target", export: "Export | None"
) -> list[str]:
    """Return the arguments of ``hf-lorameta`` that publish the same adapter from another machine.

    Raises:
        UsageError: the dataset, bank or base model is on this machine.
    """
    from hf_lorameta.bank.index import EMBEDDED_BANK, NO_BANK
    from hf_lorameta.cards.model_card import generation_options
    from hf_lorameta.hub.repo import is_repo_id

    base, none = bank.index.base_model, bank.id == NO_BANK
    if dataset.id is None:
        raise UsageError(
            "a job cannot access data on this machine",
            hint="publish it first: hf upload user/name FILE --repo-type dataset --private",
        )
    named = base if none else bank.id
    if named != EMBEDDED_BANK and not is_repo_id(named):
        raise UsageError(
            f"a job cannot access {'a base model' if none else 'a bank'} on this machine",
            hint=Option("base" if none else "bank", "user/name"),
        )
    revision = bank.index.base_revision if none else bank.revision
    options = generation_options(dataset, bank.id, request.recipe, revision, base)
    options |= {
        **target.options(bool(target.replaces)),
        "no_check": request.no_check or None,
        "export": export,
        "budget": request.budget,
    }
    return ["push", *option_words(options)]
