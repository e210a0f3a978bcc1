"""``hf-lorameta push --on jobs``: make and publish an adapter on Hugging Face Jobs."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hf_lorameta.cli.options import Request
from hf_lorameta.cli.output import emit, log

if TYPE_CHECKING:
    from hf_lorameta.data.dataset import Dataset
    from hf_lorameta.pipeline.adapter_folder import Export
    from hf_lorameta.pipeline.publish import Target
    from hf_lorameta.pipeline.session import Session


@dataclass(frozen=True)
class JobOptions:
    """The options of ``push`` for a job; see the command."""

    flavor: str
    export: "Export | None"
    dry_run: bool
    json: bool
    quiet: bool


def push_on_jobs(
    request: Request, session: "Session", dataset: "Dataset", target: "Target", options: JobOptions
) -> None:
    """Say what the job may cost, start it, show its log, and print the adapter's URL.

    Raises:
        UsageError: a job cannot see the dataset, the bank or the base model.
        HubError: the job was not accepted, or failed.
    """
    from huggingface_hub.constants import ENDPOINT

    from hf_lorameta.hub.jobs import JobEstimate, follow, start
    from hf_lorameta.pipeline.budget import most_operations
    from hf_lorameta.pipeline.on_jobs import VARIABLES, push_arguments

    bank, recipe = session.bank, request.recipe
    arguments = push_arguments(dataset, bank, recipe) + _own(request, target, options.export)
    work, budget = most_operations(bank, recipe), request.seconds or 0.0
    estimate = JobEstimate.of(options.flavor, work, request.token, seconds=budget)
    log(options.quiet, f"At most, on {estimate}")
    data = {"repo_id": target.repo_id, "private": target.private, **estimate._asdict()}
    if options.dry_run:
        emit(options.json, data | {"arguments": arguments}, lambda: f"would run {arguments}")
        return
    job = start(arguments, estimate, request.token, VARIABLES)
    log(options.quiet, f"Started {job.url}; to stop it: hf jobs cancel {job.id}")
    url = f"{ENDPOINT}/{target.repo_id}"
    try:
        for line in follow(job, request.token):
            log(options.quiet, f"  {line}")
            url = line.strip() if line.startswith(f"{url}/") else url  # of a pull request
    except KeyboardInterrupt as error:
        error.add_note(f"The job goes on, and publishes the adapter: {job.url}")
        raise
    emit(options.json, data | {"job": job.url, "url": url}, lambda: url)


def _own(request: Request, target: "Target", export: "Export | None") -> list[str]:
    """Return the arguments that say how to make and publish, not what."""
    words = ["--repo-id", target.repo_id, "--private" if target.private else "--public"]
    flags = {
        "--overwrite": bool(target.replaces),
        "--create-pr": target.create_pr,
        "--no-fit": request.no_fit,
        "--no-check": request.no_check,
    }
    words += [flag for flag, given in flags.items() if given]
    values = {"--export": export, "--budget": request.budget}
    return words + [
        word for name, value in values.items() if value is not None for word in (name, str(value))
    ]
