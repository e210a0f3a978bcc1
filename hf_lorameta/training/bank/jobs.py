"""``bank train`` on Hugging Face Jobs: its time and cost, and what a job cannot see."""

from collections.abc import Sequence
from pathlib import Path

import httpx2
import huggingface_hub
from huggingface_hub import errors as hf

from hf_lorameta.errors import Option, UsageError
from hf_lorameta.hub.jobs import failure
from hf_lorameta.training.bank.tasks import Task
from hf_lorameta.training.settings import Settings

_ROW_TOKENS = 100
"""Assumed tokens of a row: everyday tasks have 80 on average."""


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


def check_job(tasks: Sequence[Task], base: str, push_to: str | None) -> None:
    """Raise UsageError if a job could not see tasks or base model, or would lose the bank."""
    local = next((task.dataset for task in tasks if task.is_local), None)
    if local:
        raise UsageError(
            f"a job cannot access {local}",
            hint="publish the tasks as datasets on the Hub and name their ids or a manifest",
        )
    if Path(base).expanduser().exists():
        raise UsageError(f"a job cannot access the folder {base}", hint="name a Hub id")
    if not push_to:
        raise UsageError("a job's files are lost when it ends", hint=Option("push_to", "user/name"))


def count_parameters(base: str, revision: str | None, token: str | None) -> int | None:
    """Return the number of parameters from the headers of a base model's weights on the Hub.

    Raises:
        HubError: the Hub refused or did not answer.
    """
    try:
        metadata = huggingface_hub.get_safetensors_metadata(base, revision=revision, token=token)
    except (hf.NotASafetensorsRepoError, hf.SafetensorsParsingError):
        return None
    except (hf.HfHubHTTPError, httpx2.HTTPError, OSError, ValueError) as error:
        raise failure(base, error) from None
    return sum(metadata.parameter_count.values())
