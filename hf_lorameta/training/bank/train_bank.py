"""Train one adapter per task and make a finished bank of them.

A finished task leaves its weights and a record in the bank's folder, so that the same command does
not train it again. The states of unfinished tasks are written once a minute: a process that is
killed loses the work since then.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.build import (
    EntryResult,
    adapters_in,
    finish_bank,
    locked_folder,
    refuse_to_drop,
    why_skipped,
)
from hf_lorameta.bank.entry import read_log
from hf_lorameta.bank.executors import reporting_dead_workers
from hf_lorameta.bank.index import (
    GENERAL,
    TOKENIZER_FILE,
    GeneralEntry,
    Index,
    OutputPriorEntry,
    Skipped,
)
from hf_lorameta.data.counts.tokenizer import vocab_size
from hf_lorameta.engines.scoring import LoraWeights
from hf_lorameta.errors import BankError
from hf_lorameta.files import sha256, write_atomically
from hf_lorameta.hub.base_model import WHOLE_HINT
from hf_lorameta.hub.client import Hub
from hf_lorameta.training.bank.base import LoadedBase, TrainingBase
from hf_lorameta.training.bank.general import (
    finished_general,
    finished_prior,
    general_weights,
    may_have_prior,
    open_all,
    store_prior,
    train_general,
)
from hf_lorameta.training.bank.held_out import train_with_held_out
from hf_lorameta.training.bank.one_task import (
    TrainingJob,
    finished_adapter,
    open_task,
    store_adapter,
)
from hf_lorameta.training.bank.tasks import Task, with_chat_template
from hf_lorameta.training.device import find_device, find_dtype
from hf_lorameta.training.settings import BankSettings
from hf_lorameta.training.trainer import TrainedPart
from hf_lorameta.types import StageProgress, no_progress

_STAGE = "Training the adapters"
_GROUP = 4
"""Tasks of one job of an executor, which loads the base model once."""

logger = logging.getLogger(__name__)


def train_bank(
    tasks: Sequence[Task],
    folder: Path,
    base: TrainingBase,
    settings: BankSettings,
    dtype: str | None = None,
    *,
    hub: Hub,
    executor: Executor | None = None,
    progress: StageProgress = no_progress,
) -> Bank:
    """Train a bank. Call it again with the same arguments to resume.

    Args:
        tasks: from `hf_lorameta.training.bank.tasks.read_tasks`.
        folder: of the bank, created if missing.
        base: the base model, from `TrainingBase.find`.
        settings: of the training.
        dtype: torch name of the base model's dtype; None takes one that is fast on this machine.
        hub: Hub client.
        executor: trains groups of tasks on machines that share the folder at the same path; None
            trains in this process.
        progress: called after each step with (stage, steps taken, all steps).

    Raises:
        UsageError: the base model does not fit in memory, or cannot be trained here.
        NotFoundError: transformers cannot load the base model.
        BankError: no task is usable, the folder holds adapters that were not trained there, it
            cannot be written, or another command is writing it.
    """
    content, dtype = _read_tokenizer(base.folder), dtype or find_dtype(find_device(), base.folder)
    trained = {GENERAL, *(task.entry_name for task in tasks)}
    with locked_folder(folder):
        others = [name for name in adapters_in(folder) if name not in trained]
        refuse_to_drop(folder, [name for name in others if read_log(folder, name) is None])
        tokenizer = folder / TOKENIZER_FILE
        job = TrainingJob(folder, hub, base, sha256(base.folder / TOKENIZER_FILE), settings, dtype)
        load = cache(job.load)
        if not tokenizer.exists() or sha256(tokenizer) != job.tokenizer:
            load()  # a model that cannot be trained must not change the bank of another
            write_atomically(tokenizer, content)
        tasks, chat = with_chat_template(tasks, base.folder, tokenizer)
        job = replace(job, chat=chat if settings.forms else None)
        general, output_prior = _general(tasks, job, load, progress)
        if settings.general_only:
            if general is None:
                raise BankError(
                    "a general adapter needs at least 2 tasks that can be read",
                    code="tasks.too-few",
                    hint="name more tasks",
                )
            tasks = []
        job = replace(job, general=general.sha256 if general else None)
        finished = {task.entry_name: finished_adapter(task, job) for task in tasks}
        outcomes: dict[str, EntryResult] = {name: one for name, one in finished.items() if one}
        waiting = [task for task in tasks if task.entry_name not in outcomes]
        if outcomes:
            logger.info("%d of %d tasks are finished already", len(outcomes), len(tasks))
        results = (
            _train_elsewhere(waiting, job, executor, progress)
            if executor
            else train_tasks(waiting, job, load, progress)
        )
        outcomes |= {task.entry_name: outcome for task, outcome in results}
        ordered = {task.entry_name: outcomes[task.entry_name] for task in tasks}
        start = Index.empty(
            base.name, base.revision, base.license, vocab_size(tokenizer),
            general=general, output_prior=output_prior,
        )  # fmt: skip
        return finish_bank(folder, ordered, start)


# --- training -----------------------------------------------------------------------------------


def train_tasks(
    tasks: Sequence[Task],
    job: TrainingJob,
    load: Callable[[], LoadedBase],
    progress: StageProgress = no_progress,
) -> Iterator[tuple[Task, EntryResult]]:
    """Train tasks in this process and store their adapters; yield them with their outcomes."""
    if not tasks:
        return
    evaluator, layout, _ = load()
    model, settings = evaluator.model, job.settings
    part = TrainedPart.whole(model, layout)
    start = general_weights(job.folder) if job.general else LoraWeights((), ())

    def show(number: int, steps: int) -> None:
        progress(_STAGE, number * settings.steps + steps, settings.steps * len(tasks))

    for number, task in enumerate(tasks):
        try:
            opened = open_task(task, job, evaluator)
        except (OSError, MemoryError):
            raise  # a fault of this machine, not of the task
        except Exception as error:  # noqa: BLE001 - no task ends the training
            yield task, _skipped(task, error)
        else:
            checkpoint = job.checkpoint(task.name, opened.digest)
            trained = train_with_held_out(
                model, part, start, opened.rows, settings, checkpoint,
                progress=lambda steps, _: show(number, steps),  # noqa: B023
            )  # fmt: skip
            base_loss, _ = trained.losses
            if job.general:
                base_loss = evaluator.row_losses(opened.rows.held_out).per_token
            yield task, store_adapter(opened, trained, base_loss, job)
            checkpoint.discard()
        show(number + 1, 0)


def _general(
    tasks: Sequence[Task], job: TrainingJob, load: Callable[[], LoadedBase], progress: StageProgress
) -> tuple[GeneralEntry | None, OutputPriorEntry | None]:
    """Return the general adapter and the output prior, made in this process if missing."""
    steps = job.settings.general_steps_for(len(tasks))
    general = finished_general(job, tasks)
    prior = finished_prior(job, general) if general else None
    if not steps:
        return general, prior
    if general:
        if prior or job.settings.general_only or not may_have_prior(job):
            return general, prior
        names = {task.name for task in general.tasks}
        known = [task for task in tasks if task.entry_name in names]
        # the prior is measured on the tasks that the general adapter was trained on, if they are
        # still named
        tasks = known if len(known) > 1 else tasks
    loaded = load()
    opened = open_all(tasks, job, loaded.evaluator, progress)
    if len(opened) < 2:
        return general, prior
    if general is None:
        general = train_general(opened, job, loaded, progress)
    if job.settings.general_only:
        return general, prior
    return general, store_prior(opened, job, loaded, general, progress)


def _read_tokenizer(folder: Path) -> bytes:
    try:
        return (folder / TOKENIZER_FILE).read_bytes()
    except OSError:
        problem = f"{folder} has no {TOKENIZER_FILE}, which a bank needs"
        raise BankError(problem, code="bank.no-tokenizer", hint=WHOLE_HINT) from None


def _skipped(task: Task, error: Exception) -> Skipped:
    reason = why_skipped(error, {str(path): path.name for path in task.paths})
    return Skipped(adapter=task.adapter, dataset=task.public_id, reason=reason)


def _train_elsewhere(
    tasks: Sequence[Task],
    job: TrainingJob,
    executor: Executor,
    progress: StageProgress,
) -> Iterator[tuple[Task, EntryResult]]:
    """Train groups of tasks in an executor."""
    groups = [tuple(tasks[i : i + _GROUP]) for i in range(0, len(tasks), _GROUP)]
    futures = [executor.submit(_train_group, group, job) for group in groups]
    try:
        with reporting_dead_workers():
            for finished, future in enumerate(as_completed(futures), 1):
                yield from future.result()
                progress(_STAGE, finished, len(futures))
    finally:
        for future in futures:
            future.cancel()


def _train_group(tasks: Sequence[Task], job: TrainingJob) -> list[tuple[Task, EntryResult]]:
    return list(train_tasks(tasks, job, job.load))


# --- log ------------------------------------------------------------------------------------------


def training_log(bank: Bank) -> list[dict[str, Any]]:
    """Return the log of a trained bank, one object per task.

    For an entry: ``task``, its name; ``rows`` with an output, and how many were ``held_out``; the
    mean cross entropy on those, of the base model, ``base_loss``, and with the adapter, ``loss``,
    in nats per token; ``steps`` taken; and ``best_step``, whose state is the adapter. For a skipped
    task: ``task`` and ``skipped``, the reason.
    """
    logs = [read_log(bank.folder, entry.name) for entry in bank.index.entries]
    skipped = [
        {"task": skip.adapter.rpartition("/")[2], "skipped": skip.reason}
        for skip in bank.index.skipped
    ]
    return [*filter(None, logs), *skipped]
