"""Run commands of this package on Hugging Face Jobs: prices, start and log."""

from collections.abc import Iterator, Sequence
from typing import Any

import httpx2
import huggingface_hub
from huggingface_hub import errors as hf

from hf_lorameta.environment import DISTRIBUTION, pip_install, remote_requirement
from hf_lorameta.errors import HubError, UsageError, first_line
from hf_lorameta.hub.base_model import DOWNLOAD
from hf_lorameta.hub.errors import translated
from hf_lorameta.hub.repo import Token

_COMMAND = "hf-lorameta"
_IMAGE = "ghcr.io/astral-sh/uv:python3.12-bookworm"
"""With Python and uv; the one that ``hf jobs uv run`` uses as well."""


def hourly_price(flavor: str, token: Token = None) -> float | None:
    """Return the price of hardware in dollars per hour; None if the Hub's list does not state it.

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
    flavor: str,
    hours: float,
    token: Token = None,
    *,
    with_files: bool = False,
) -> Any:
    """Start ``hf-lorameta`` with arguments as a job; return its `huggingface_hub.JobInfo`.

    The token is one of the job's secrets, which the Hub shows to nobody.

    Args:
        arguments: of the command.
        flavor: hardware.
        hours: after which the Hub stops the job.
        token: of the Hub; None uses the saved one.
        with_files: upload the files that arguments name. Arguments must not be long texts then,
            since the client would take them for file names.

    Raises:
        UsageError: this installation states no URL from which a job could install the package.
        HubError: the Hub refused or did not answer.
    """
    secret, requirement = token or huggingface_hub.get_token(), _requirement()
    settings: dict[str, Any] = {
        "flavor": flavor,
        "env": {DOWNLOAD: "1"},  # a job has no base model yet
        "secrets": {"HF_TOKEN": secret} if secret else None,
        "timeout": f"{max(round(60 * hours), 1)}m",
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
        "it is not from a URL, and its metadata have no Project-URL named Repository",
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
