"""The general adapter of a bank and its output prior on disk: made once, kept by later runs."""

import logging
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, geometric_mean

from hf_lorameta.bank.arrays import prior_to_arrays, save_arrays
from hf_lorameta.bank.entry import read_record, store_record
from hf_lorameta.bank.index import (
    GENERAL,
    OUTPUT_PRIOR_FILE,
    GeneralEntry,
    GeneralTask,
    OutputPriorEntry,
    adapter_path,
)
from hf_lorameta.engines.row_tokens import Tokens
from hf_lorameta.engines.scoring import LoraWeights
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.errors import BankError, Option
from hf_lorameta.files import sha256
from hf_lorameta.formats.lora_file import AdapterFile, write_tensors
from hf_lorameta.hub.base_model import read_object
from hf_lorameta.method.output_prior import ARCHITECTURES
from hf_lorameta.training.bank.base import LoadedBase
from hf_lorameta.training.bank.held_out import TaskRows, train_with_held_out
from hf_lorameta.training.bank.measure_prior import measure_prior
from hf_lorameta.training.bank.one_task import (
    OpenTask,
    TrainingJob,
    digest_of_key,
    open_task,
    stated_of,
)
from hf_lorameta.training.bank.tasks import Task
from hf_lorameta.training.settings import Settings
from hf_lorameta.training.trainer import TrainedPart
from hf_lorameta.types import StageProgress

_HELD_OUT = 256
"""Approximate number of held-out rows of all tasks together."""
_GENERAL_RECORD, _PRIOR_RECORD = f"{GENERAL}.json", "output_prior.json"

logger = logging.getLogger(__name__)


def open_all(
    tasks: Sequence[Task], job: TrainingJob, evaluator: TorchEvaluator, progress: StageProgress
) -> list[OpenTask]:
    """Read as many rows of each task as the general adapter needs.

    Tasks that cannot be read are left out here; their own training states the reason.
    """
    settings = job.settings.of_general(len(tasks))
    count = max(len(tasks), 1)
    train, held_out = -(-settings.steps * settings.rows // count), -(-_HELD_OUT // count)
    opened = []
    for number, task in enumerate(tasks):
        progress("Reading the tasks", number, len(tasks))
        try:
            opened.append(open_task(task, job, evaluator, (train, held_out)))
        except (OSError, MemoryError):
            raise  # a fault of this machine, not of the task
        except Exception as error:  # noqa: BLE001 - no task ends the training
            logger.info("%s is left out of the general adapter: %s", task.name, error)
    return opened


def train_general(
    opened: Sequence[OpenTask], job: TrainingJob, loaded: LoadedBase, progress: StageProgress
) -> GeneralEntry:
    """Train the general adapter and store it.

    Args:
        opened: tasks with their rows.
        job: what all tasks share.
        loaded: the base model.
        progress: called after each step.

    Raises:
        BankError: it did not learn.
    """
    settings, model = job.settings.of_general(len(opened)), loaded.evaluator.model
    tasks = [task.rows for task in opened]
    key = digest_of_key({**job.shared_key(), "tasks": [task.digest for task in opened]})
    checkpoint = job.checkpoint(GENERAL, key)
    rows = TaskRows(
        equal_shares([task.train for task in tasks], settings),
        [row for task in tasks for row in task.held_out],
    )
    trained = train_with_held_out(
        model,
        TrainedPart.whole(model, loaded.layout),
        LoraWeights((), ()),
        rows,
        settings,
        checkpoint,
        progress=lambda done, _: progress("Training the general adapter", done, settings.steps),
    )
    before, after = trained.losses
    if not trained.steps:
        raise BankError(
            "the general adapter did not learn: no step helped on held-out rows, whose loss is "
            f"{before:.3f}",
            code="training.general-not-learned",
            hint=Option("general_steps", 0),
        )
    path = job.folder / adapter_path(GENERAL)
    write_tensors(path, loaded.layout, settings.rank, "bfloat16", trained.weights.pairs)
    available = sum(len(task.train) for task in tasks)
    entry = GeneralEntry(
        name=GENERAL,
        rank=settings.rank,
        scaling=1.0,
        tasks=tuple(_general_task(task.task, task.facts["license"]) for task in opened),
        rows=min(available, trained.taken * settings.rows),
        size=path.stat().st_size,
        sha256=sha256(path),
        output_length=_output_length(tasks),
        end=loaded.evaluator.end_token,
        template=job.chat,
    )
    store_record(job.work_folder / _GENERAL_RECORD, job.shared_key(), entry.model_dump())
    checkpoint.discard()
    logger.info("general adapter: loss %.3f → %.3f on held-out rows", before, after)
    return entry


def equal_shares(tasks: Sequence[Sequence[Tokens]], settings: Settings) -> list[Tokens]:
    """Return equally many rows of each task, as many as a training needs; of few, some repeatedly.

    Example:
        >>> tasks = [[Tokens([task, row], [1]) for row in range(2)] for task in range(2)]
        >>> [row.prompt for row in equal_shares(tasks, Settings(steps=3, rows=2))]
        [[0, 0], [0, 1], [0, 0], [1, 0], [1, 1], [1, 0]]
    """
    each = -(-settings.steps * settings.rows // len(tasks))
    return [task[index % len(task)] for task in tasks for index in range(each)]


def _output_length(tasks: Sequence[TaskRows]) -> float:
    """Return the geometric mean over tasks of the mean length of their outputs, without the end."""
    means = [fmean(max(len(row.output) - 1, 1) for row in task.train) for task in tasks]
    return geometric_mean(means)


def _general_task(task: Task, license_: str | None) -> GeneralTask:
    """Return what the index states about a task; `license_` is the one on a Hub dataset's card."""
    stated = stated_of(task, license_)
    fields = {name: stated[name] for name in ("source", "source_revision", "license")}
    return GeneralTask(name=task.entry_name, **fields)


def may_have_prior(job: TrainingJob) -> bool:
    """Whether the base model can have an output prior, from its configuration alone."""
    config = read_object(job.base.folder / "config.json", job.base.name)
    return config.get("model_type") in ARCHITECTURES and "down_proj" not in job.settings.targets


def store_prior(
    opened: Sequence[OpenTask],
    job: TrainingJob,
    loaded: LoadedBase,
    general: GeneralEntry,
    progress: StageProgress,
) -> OutputPriorEntry | None:
    """Measure the output prior and store it; None if the architecture has none."""
    prior = measure_prior(
        loaded.evaluator.model,
        general_weights(job.folder),
        [task.rows for task in opened],
        loaded.plan.pass_tokens,
        partial(progress, "Measuring the output prior"),
    )
    if prior is None:
        return None
    path = job.folder / OUTPUT_PRIOR_FILE
    save_arrays(path, prior_to_arrays(prior))
    entry = OutputPriorEntry(module=prior.module, end=loaded.evaluator.end_token)
    result = entry.model_dump() | {"sha256": sha256(path)}
    store_record(job.work_folder / _PRIOR_RECORD, {"general": general.sha256}, result)
    return entry


# --- what an earlier run has made ---------------------------------------------------------------


def finished_general(job: TrainingJob, tasks: Iterable[Task] = ()) -> GeneralEntry | None:
    """Return the general adapter that an earlier run has trained with the same settings.

    It is kept even if the tasks have changed, so that a bank can be extended. Licenses and sources
    are those that `tasks` state now.
    """
    path, record = job.folder / adapter_path(GENERAL), job.work_folder / _GENERAL_RECORD
    try:
        entry = GeneralEntry.model_validate(read_record(record, job.shared_key(), path))
    except ValueError:
        return None  # none, or of another version
    now = {task.entry_name: task for task in tasks}
    stated = (
        _general_task(now[known.name], known.license) if known.name in now else known
        for known in entry.tasks
    )
    return entry.model_copy(update={"tasks": tuple(stated)})


def finished_prior(job: TrainingJob, general: GeneralEntry) -> OutputPriorEntry | None:
    """Return the output prior that an earlier run has measured with this general adapter."""
    path, record = job.folder / OUTPUT_PRIOR_FILE, job.work_folder / _PRIOR_RECORD
    found = read_record(record, {"general": general.sha256}, path) or {}
    found.pop("sha256", None)
    try:
        return OutputPriorEntry.model_validate(found)
    except ValueError:
        return None  # none, or of another version


def general_weights(folder: Path) -> LoraWeights:
    """Return the general adapter that is stored in a bank's folder."""
    file = AdapterFile(folder / adapter_path(GENERAL))
    return LoraWeights(file.layout, [file.factors(module.name) for module in file.layout])
