"""Train an adapter per task and make a finished bank of them.

A task that is finished leaves its weights and a record in the bank's folder, so that the same
command does not train it again. The states of unfinished tasks are written once a minute: a process
that is killed loses the work since then.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.build import (
    Outcome,
    adapters_in,
    finish_bank,
    locked_folder,
    refuse_to_drop,
)
from hf_lorameta.bank.index import (
    GENERAL,
    TOKENIZER_FILE,
    GeneralEntry,
    Index,
    OutputPriorEntry,
    Skipped,
)
from hf_lorameta.data.counts.tokenizer import vocab_size
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.errors import BankError, LoraMetaError
from hf_lorameta.files import sha256, write_atomically
from hf_lorameta.hub.base_model import locate
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.packaged_model import quiet_transformers
from hf_lorameta.training.bank.checks import Base, check_base, read_tokenizer
from hf_lorameta.training.bank.general import (
    finished_general,
    finished_prior,
    general_factors,
    open_all,
    store_prior,
    train_general,
)
from hf_lorameta.training.bank.one_task import (
    Loaded,
    OpenTask,
    TrainingJob,
    finished_adapter,
    open_task,
    read_log,
    store_adapter,
)
from hf_lorameta.training.bank.tasks import Task, chat_of, in_chat_form
from hf_lorameta.training.settings import Machine, Settings
from hf_lorameta.types import StageProgress, no_progress

if TYPE_CHECKING:
    from hf_lorameta.training.device import DevicePlan
    from hf_lorameta.training.trainer import Run

LOG_FILE = "training_log.jsonl"
"""File of a bank with one line per task."""

_UNLIMITED = 1 << 30
_STAGE = "Training the adapters"

logger = logging.getLogger(__name__)


def train_bank(
    tasks: Sequence[Task],
    folder: Path,
    base: Base,
    settings: Settings | None = None,
    machine: Machine | None = None,
    *,
    hub: Hub | None = None,
    executor: Executor | None = None,
    progress: StageProgress = no_progress,
) -> Bank:
    """Train a bank; run again with the same arguments, it resumes.

    Args:
        tasks: from `hf_lorameta.training.bank.tasks.read_tasks`.
        folder: of the bank, created if missing.
        base: the base model, from `Base.find`.
        settings: of the training.
        machine: what to use of this machine, or of those of `executor`.
        hub: Hub client; None is `Hub()`.
        executor: trains `at_once` tasks per job on machines that see the folder under the same
            path; None trains in this process.
        progress: called after each step with (stage, steps taken, all steps).

    Raises:
        UsageError: the base model does not fit in memory, or cannot be trained here.
        BankError: no task is usable, the folder holds adapters that were not trained there, it
            cannot be written, or another build is running in it.
    """
    settings, machine = settings or Settings(), machine or Machine()
    plan = check_base(base.folder, settings, machine)
    trained = {GENERAL, *(task.entry_name for task in tasks)}
    with locked_folder(folder):
        others = [name for name in adapters_in(folder) if name not in trained]
        refuse_to_drop(folder, [name for name in others if read_log(folder, name) is None])
        tokenizer = folder / TOKENIZER_FILE
        write_atomically(tokenizer, read_tokenizer(base.folder))
        machine = replace(machine, dtype=plan.dtype)
        chat = chat_of(base.folder, tokenizer) if settings.forms else None
        job = TrainingJob(
            folder, hub or Hub(), base, sha256(tokenizer), settings, machine, chat=chat
        )
        tasks = in_chat_form(tasks, base.folder, tokenizer)
        of_general = [task for task in tasks if task.general]
        general, output_prior = _general(of_general, job, plan, progress)
        if settings.general_only:
            if general is None:
                raise BankError(
                    "a general adapter needs at least 2 tasks that can be read",
                    hint="name more tasks",
                )
            tasks = []
        job = replace(job, general=general.sha256 if general else None)
        finished = {task.entry_name: finished_adapter(task, job) for task in tasks}
        outcomes: dict[str, Outcome] = {name: one for name, one in finished.items() if one}
        waiting = [task for task in tasks if task.entry_name not in outcomes]
        if outcomes:
            logger.info("%d of %d tasks are finished already", len(outcomes), len(tasks))
        results = (
            _train_elsewhere(waiting, job, plan.at_once, executor, progress)
            if executor
            else train_tasks(waiting, job, plan, progress)
        )
        outcomes |= {task.entry_name: outcome for task, outcome in results}
        ordered = {task.entry_name: outcomes[task.entry_name] for task in tasks}
        start = Index.empty(
            base.name, base.revision, base.license, vocab_size(tokenizer),
            general=general, output_prior=output_prior,
        )  # fmt: skip
        bank = finish_bank(folder, ordered, start)
        _write_log(bank)
        return bank


# --- training -----------------------------------------------------------------------------------


def train_tasks(
    tasks: Sequence[Task],
    job: TrainingJob,
    plan: "DevicePlan",
    progress: StageProgress = no_progress,
) -> Iterator[tuple[Task, Outcome]]:
    """Train tasks in this process and store their adapters; yield them with their outcomes."""
    from hf_lorameta.training.bank.runs import task_run
    from hf_lorameta.training.trainer import Trainer

    if not tasks:
        return
    evaluator, layout, _ = _load(job, plan)
    trainer = Trainer(
        evaluator.model, layout, job.settings, plan, min(plan.at_once, len(tasks)),
        start=general_factors(job.folder) if job.general else (),
        checkpoints=job.work_folder,
    )  # fmt: skip
    skipped: list[tuple[Task, Outcome]] = []
    opened: dict[str, OpenTask] = {}
    most, steps = job.settings.steps, dict.fromkeys((task.name for task in tasks), 0)

    def runs() -> "Iterator[Run]":
        for task in tasks:
            try:
                opened[task.name] = open_task(task, job, evaluator)
            except (OSError, MemoryError):
                raise  # a fault of this machine, not of the task
            except Exception as error:  # noqa: BLE001 - no task ends the training
                skipped.append((task, _skipped(task, error)))
                steps[task.name] = most
            else:
                yield task_run(opened[task.name].rows, job.settings)

    with quiet_transformers(), trainer:
        for run, ended in trainer.train(runs()):
            steps[run.name] = most if ended else run.step
            progress(_STAGE, sum(steps.values()), most * len(tasks))
            if ended:
                finished, factors = opened.pop(run.name), trainer.slots.factors(run.best[0])
                yield finished.task, store_adapter(finished, run, factors, job, layout)
                trainer.discard_checkpoint(run)
    yield from skipped


def _general(
    tasks: Sequence[Task], job: TrainingJob, plan: "DevicePlan", progress: StageProgress
) -> tuple[GeneralEntry | None, OutputPriorEntry | None]:
    """Return the general adapter and the output prior, made in this process where missing."""
    steps = job.settings.general_steps_for(len(tasks))
    general = finished_general(job, tasks)
    prior = finished_prior(job, general) if general else None
    if not steps or (general and (prior or job.settings.general_only)):
        return general, prior
    loaded = _load(job, plan)
    opened = open_all(tasks, job, loaded.evaluator, progress)
    if len(opened) < 2:
        return general, prior
    with quiet_transformers():
        if general is None:
            general = train_general(opened, job, loaded, progress)
        if job.settings.general_only:
            return general, prior
        return general, store_prior(opened, job, loaded, general, progress)


def _load(job: TrainingJob, plan: "DevicePlan") -> Loaded:
    """Load the base model on the device, ready for training."""
    from hf_lorameta.training.target_layers import find_layout

    base = locate(job.base.name, job.base.revision, job.hub.token)
    evaluator = TorchEvaluator(base, plan.dtype, max_length=_UNLIMITED)
    model = evaluator.model.to(plan.device)
    if model.device.type == "cpu":
        evaluator.suit_to_cpu()
    return Loaded(evaluator, find_layout(model, job.settings.targets), plan)


def _skipped(task: Task, error: Exception) -> Skipped:
    reason = str(error)
    if not isinstance(error, LoraMetaError):
        logger.warning("a task failed with an unexpected error", exc_info=error)
        reason = f"unexpected {type(error).__name__}"
    for path in task.paths:
        reason = reason.replace(str(path), path.name)
    return Skipped(adapter=task.adapter, dataset=task.public_id, reason=reason)


def _train_elsewhere(
    tasks: Sequence[Task],
    job: TrainingJob,
    at_once: int,
    executor: Executor,
    progress: StageProgress,
) -> Iterator[tuple[Task, Outcome]]:
    """Train `at_once` tasks per job of an executor."""
    groups = [tuple(tasks[i : i + at_once]) for i in range(0, len(tasks), at_once)]
    futures = [executor.submit(_train_group, group, job) for group in groups]
    try:
        for finished, future in enumerate(as_completed(futures), 1):
            yield from future.result()
            progress(_STAGE, finished, len(futures))
    except BrokenExecutor as problem:
        raise BankError(
            f"the workers of the executor died ({type(problem).__name__})",
            hint="run the command again; finished tasks are kept",
        ) from None
    finally:
        for future in futures:
            future.cancel()


def _train_group(tasks: Sequence[Task], job: TrainingJob) -> list[tuple[Task, Outcome]]:
    base = locate(job.base.name, job.base.revision, job.hub.token)
    plan = check_base(base, job.settings, job.machine)
    return list(train_tasks(tasks, job, plan))


# --- log ------------------------------------------------------------------------------------------


def training_log(bank: Bank) -> list[dict[str, Any]]:
    """Return the log of a trained bank, a line per task.

    Of an entry: ``task``, its name; ``rows`` with an output, and how many were ``held_out``; the
    mean cross entropy on those, of the base model, ``base_loss``, and with the adapter, ``loss``,
    in nats per token; ``steps`` taken; and ``best_step``, whose state is the adapter. Of others:
    ``task`` and ``skipped``, the reason.
    """
    logs = [read_log(bank.folder, entry.name) for entry in bank.index.entries]
    skipped = [
        {"task": skip.adapter.rpartition("/")[2], "skipped": skip.reason}
        for skip in bank.index.skipped
    ]
    return [*filter(None, logs), *skipped]


def _write_log(bank: Bank) -> None:
    lines = [json.dumps(line, ensure_ascii=False) + "\n" for line in training_log(bank)]
    write_atomically(bank.folder / LOG_FILE, "".join(lines).encode())
