"""Commands of this package on Hugging Face Jobs: the price, and a job's start and log."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import httpx2
import huggingface_hub
from huggingface_hub import errors as hf

from hf_lorameta.environment import DISTRIBUTION, pip_install, remote_requirement
from hf_lorameta.errors import HubError, UsageError, first_line
from hf_lorameta.hub.base_model import DOWNLOAD
from hf_lorameta.hub.errors import translated
from hf_lorameta.hub.repo import Token

_TERAFLOPS = {
    "cpu-basic": 0.15, "cpu-upgrade": 0.6, "cpu-performance": 2.4, "cpu-xl": 1.2,
    "t4-small": 8, "t4-medium": 8, "l4x1": 30, "a10g-small": 30, "a10g-large": 30,
    "l40sx1": 80, "a100-large": 100, "h200": 250, "rtx-pro-6000": 120,
}  # fmt: skip
"""Assumed rates of matrix products in training, a quarter to a third of the devices' peaks; the
CPUs' from measurements on two cores. Of several GPUs, training uses one."""
_START_HOURS = 0.1
_MARGIN = 3
"""The job's time limit relative to the estimate."""
_UNKNOWN_HOURS = 8
_COMMAND = "hf-lorameta"
_IMAGE = "ghcr.io/astral-sh/uv:python3.12-bookworm"
"""With Python and uv; the one that ``hf jobs uv run`` uses as well."""


class JobEstimate(NamedTuple):
    """Estimated time and cost of a job; None is unknown."""

    flavor: str
    hours: float | None
    hourly: float | None
    dollars: float | None

    @classmethod
    def of(
        cls, flavor: str, operations: float | None, token: Token = None, *, seconds: float = 0.0
    ) -> "JobEstimate":
        """Estimate the time from a number of operations, and the cost from the Hub's list.

        Args:
            flavor: hardware.
            operations: of matrix products; None is unknown.
            token: of the Hub.
            seconds: time besides these.

        Raises:
            UsageError: the Hub offers no such hardware.
            HubError: the Hub refused or did not answer.
        """
        hourly, rate = _hourly_price(flavor, token), _TERAFLOPS.get(flavor)
        hours = dollars = None
        if rate and operations is not None:
            hours = round((operations / (rate * 1e12) + seconds) / 3600 + _START_HOURS, 2)
            dollars = round(hours * hourly, 3) if hourly is not None else None
        return cls(flavor, hours, hourly, dollars)

    def __str__(self) -> str:
        hours = "an unknown time" if self.hours is None else f"about {self.hours:.1f} h"
        dollars = "" if self.dollars is None else f", ${max(self.dollars, 0.01):.2f}"
        price = "" if self.hourly is None else f" at ${self.hourly:.2f} per hour"
        return f"{self.flavor}: {hours}{dollars}{price} (estimated)"


def _hourly_price(flavor: str, token: Token = None) -> float | None:
    """Return dollars per hour from the Hub's list, None if it states none.

    Raises:
        UsageError: the Hub offers no such hardware.
        HubError: the Hub refused or did not answer.
    """
    with translated("the Hub's list of hardware"):
        listed: Any = huggingface_hub.list_jobs_hardware(token=token)
    found = next((item for item in listed if item.name == flavor), None)
    if found is None:
        names = ", ".join(item.name for item in listed)
        raise UsageError(f"there is no flavor {flavor}", hint=f"choose one of {names}")
    if found.unit_cost_usd is None or found.unit_label != "minute":
        return None
    return float(round(found.unit_cost_usd * 60, 4))


def start(
    arguments: Sequence[str],
    estimate: JobEstimate,
    token: Token = None,
    *,
    with_files: bool = False,
) -> Any:
    """Start ``hf-lorameta`` with arguments as a job; return its `huggingface_hub.JobInfo`.

    The token is one of the job's secrets, which the Hub shows to nobody.

    Args:
        arguments: of the command.
        estimate: of its hardware and time, three times which is the job's limit.
        token: of the Hub; None uses the saved one.
        with_files: upload the files that arguments name. Arguments may be no long texts then, which
            the client would take for names of files.

    Raises:
        UsageError: it is not known from where a job can install this package.
        HubError: the Hub refused or did not answer.
    """
    secret, requirement = token or huggingface_hub.get_token(), _requirement()
    settings: dict[str, Any] = {
        "flavor": estimate.flavor,
        "env": {DOWNLOAD: "1"},  # a job has no base model yet
        "secrets": {"HF_TOKEN": secret} if secret else None,
        "timeout": f"{max(int(_MARGIN * 60 * (estimate.hours or _UNKNOWN_HOURS)), 30)}m",
        "token": token,
    }
    with translated("the job was not accepted"):
        if with_files:
            return huggingface_hub.run_uv_job(
                _COMMAND, script_args=list(arguments), dependencies=[requirement], **settings
            )
        command = ["uv", "run", "--with", requirement, _COMMAND, *arguments]
        return huggingface_hub.run_job(image=_IMAGE, command=command, name=_COMMAND, **settings)


def _requirement() -> str:
    """Return what a job installs: this package from a URL, since the job gets the user's token."""
    if requirement := remote_requirement("eval"):
        return requirement
    raise UsageError(
        f"a job has to install {DISTRIBUTION} from a URL, and this installation states none: "
        "neither that of its source nor, under Project-URL, that of a Repository",
        hint=pip_install(f"{DISTRIBUTION} @ git+https://HOST/USER/{DISTRIBUTION}"),
    )


def follow(job: Any, token: Token = None) -> Iterator[str]:
    """Yield the lines of a job's log until it ends.

    Raises:
        HubError: the job failed or was canceled, or the Hub does not answer.
    """
    of_job = {"job_id": job.id, "namespace": job.owner.name, "token": token}
    try:
        yield from huggingface_hub.fetch_job_logs(**of_job, follow=True)
        status = huggingface_hub.inspect_job(**of_job).status
    except (hf.HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        raise HubError(
            f"the log of job {job.id} broke off: {first_line(error)}; the job goes on",
            hint=f"see {job.url}; to stop it: hf jobs cancel {job.id}",
        ) from None
    if status.stage != "COMPLETED":
        reason = f": {status.message}" if status.message else ""
        raise HubError(f"the job ended as {status.stage}{reason}", hint=f"see {job.url}")
