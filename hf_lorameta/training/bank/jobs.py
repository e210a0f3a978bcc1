"""Run ``bank train`` on Hugging Face Jobs, after an estimate of its time and cost."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import huggingface_hub
from huggingface_hub import errors as hf

from hf_lorameta.environment import install_requirement
from hf_lorameta.errors import HubError, Option, UsageError, first_line
from hf_lorameta.hub.errors import translate
from hf_lorameta.training.bank.tasks import Task
from hf_lorameta.training.settings import Settings

TERAFLOPS = {
    "cpu-basic": 0.15, "cpu-upgrade": 0.6, "cpu-performance": 2.4, "cpu-xl": 1.2,
    "t4-small": 8, "t4-medium": 8, "l4x1": 30, "a10g-small": 30, "a10g-large": 30,
    "l40sx1": 80, "a100-large": 100, "h200": 250, "rtx-pro-6000": 120,
}  # fmt: skip
"""Assumed rates of matrix products in training, a quarter to a third of the devices' peaks; the
CPUs' from measurements on two cores. Of several GPUs, training uses one."""
_ROW_TOKENS = 100
"""Assumed tokens of a row: everyday tasks have 80 on average."""
START_HOURS = 0.1
MARGIN = 3
"""The job's time limit relative to the estimate."""


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


class JobEstimate(NamedTuple):
    """Estimated time and cost of a job; None is unknown."""

    tasks: int
    flavor: str
    hours: float | None
    hourly: float | None
    dollars: float | None


def estimate_job(request: JobRequest, token: str | None = None) -> JobEstimate:
    """Estimate the time from the number of parameters and tokens, and the cost from the Hub's list.

    Raises:
        UsageError: the Hub offers no such hardware.
        HubError: the Hub refused or did not answer.
    """
    hourly = hourly_price(request.flavor, token)
    parameters = _parameters(request, token)
    rate = TERAFLOPS.get(request.flavor)
    hours = None
    if rate and parameters:
        seconds = operations(request.settings, len(request.tasks), parameters) / (rate * 1e12)
        hours = round(seconds / 3600 + START_HOURS, 2)
    dollars = round(hours * hourly, 2) if hours is not None and hourly is not None else None
    return JobEstimate(len(request.tasks), request.flavor, hours, hourly, dollars)


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
    general = settings.general_steps_for(tasks) * settings.general_rows * 4
    return (tasks * (trained + measured) + general) * _ROW_TOKENS * parameters


def hourly_price(flavor: str, token: str | None = None) -> float | None:
    """Return dollars per hour from the Hub's list, None if it states none.

    Raises:
        UsageError: the Hub offers no such hardware.
        HubError: the Hub refused or did not answer.
    """
    try:
        listed: Any = huggingface_hub.list_jobs_hardware(token=token)
    except (hf.HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        raise _failure("the Hub's list of hardware", error) from None
    found = next((item for item in listed if item.name == flavor), None)
    if found is None:
        names = ", ".join(item.name for item in listed)
        raise UsageError(f"there is no flavor {flavor}", hint=f"choose one of {names}")
    if found.unit_cost_usd is None or found.unit_label != "minute":
        return None
    return float(round(found.unit_cost_usd * 60, 4))


def submit(request: JobRequest, token: str | None = None) -> str:
    """Submit the command as a job; return the job's URL.

    Raises:
        UsageError: the job could not see the tasks or the base model, or would lose the bank.
        HubError: the Hub refused or did not answer.
    """
    command = _checked_arguments(request)
    guess = estimate_job(request, token)
    with_token = token or huggingface_hub.get_token()
    try:
        job: Any = huggingface_hub.run_uv_job(
            "hf-lorameta",
            script_args=command,
            dependencies=[install_requirement("eval", remote=True)],
            flavor=request.flavor,
            secrets={"HF_TOKEN": with_token} if with_token else None,
            timeout=f"{max(int(MARGIN * 60 * (guess.hours or 8)), 30)}m",
            token=token,
        )
    except (hf.HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        raise _failure("the job was not accepted", error) from None
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
        raise _failure(request.base, error) from None
    return sum(metadata.parameter_count.values())


def _failure(what: str, error: BaseException) -> HubError:
    ours = translate(what, error)
    if isinstance(ours, HubError):
        return ours
    first = first_line(error)
    return HubError(f"{what}: {first}")
