"""Run ``bank train`` on Hugging Face Jobs, after an estimate of its time and cost."""

from dataclasses import dataclass
from pathlib import Path

import httpx2
import huggingface_hub
from huggingface_hub import errors as hf

from hf_lorameta.errors import Option, UsageError
from hf_lorameta.hub.jobs import JobEstimate, failure, start
from hf_lorameta.training.bank.tasks import Task
from hf_lorameta.training.settings import Settings

_ROW_TOKENS = 100
"""Assumed tokens of a row: everyday tasks have 80 on average."""


@dataclass(frozen=True)
class JobRequest:
    """What to train, as the command states it.

    Attributes:
        arguments: of the command, but for its output folder.
        tasks: the tasks.
        base: Hub id of the base model.
        base_revision: its revision.
        settings: of the training.
        flavor: hardware of the job.
        push_to: dataset repo for the finished bank.
    """

    arguments: tuple[str, ...]
    tasks: tuple[Task, ...]
    base: str
    base_revision: str | None
    settings: Settings
    flavor: str
    push_to: str | None


def estimate_job(request: JobRequest, token: str | None = None) -> JobEstimate:
    """Estimate the time from the number of parameters and tokens, and the cost.

    Raises:
        UsageError: the Hub offers no such hardware.
        HubError: the Hub refused or did not answer.
    """
    parameters = _parameters(request, token)
    work = operations(request.settings, len(request.tasks), parameters) if parameters else None
    return JobEstimate.of(request.flavor, work, token)


def operations(settings: Settings, tasks: int, parameters: int) -> float:
    """Return the operations of a training whose tasks never stop early, with everyday rows.

    A token costs 4 operations per parameter, forward and backward without gradients of the weights,
    and the held-out rows 2.

    Example:
        >>> f"{operations(Settings(), tasks=40, parameters=135_000_000):.2g}"
        '2.1e+15'
    """
    trained = settings.steps * settings.rows * 4
    measured = (settings.steps // settings.evaluate_every + 1) * settings.held_out * 2
    single = 0 if settings.general_only else tasks * (trained + measured)
    general = settings.general_steps_for(tasks) * settings.general_rows * 4
    return (single + general) * _ROW_TOKENS * parameters


def submit(request: JobRequest, token: str | None = None) -> str:
    """Submit the command as a job; return the job's URL.

    Raises:
        UsageError: the job could not see the tasks or the base model, or would lose the bank.
        HubError: the Hub refused or did not answer.
    """
    arguments = _checked_arguments(request)
    job = start(arguments, estimate_job(request, token), token, with_files=True)
    return str(job.url)


def _checked_arguments(request: JobRequest) -> list[str]:
    """Return the arguments of the job's command.

    Raises:
        UsageError: the job could not see the tasks or the base model, or would lose the bank.
    """
    local = next((task.dataset for task in request.tasks if task.is_local), None)
    if local:
        raise UsageError(
            f"a job cannot access {local}",
            hint="publish the tasks as datasets on the Hub and name their ids or a manifest",
        )
    if Path(request.base).expanduser().exists():
        raise UsageError(f"a job cannot access the folder {request.base}", hint="name a Hub id")
    if not request.push_to:
        raise UsageError("a job's files are lost when it ends", hint=Option("push_to", "user/name"))
    return ["bank", "train", *request.arguments, "--output", "bank"]


def _parameters(request: JobRequest, token: str | None) -> int | None:
    """Return the number of parameters from the headers of the base model's weights on the Hub."""
    try:
        metadata = huggingface_hub.get_safetensors_metadata(
            request.base, revision=request.base_revision, token=token
        )
    except (hf.NotASafetensorsRepoError, hf.SafetensorsParsingError):
        return None
    except (hf.HfHubHTTPError, httpx2.HTTPError, OSError, ValueError) as error:
        raise failure(request.base, error) from None
    return sum(metadata.parameter_count.values())
