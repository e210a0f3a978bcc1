"""Train an adapter per task and make a finished bank of them.

A task that is finished leaves its weights and a record in the bank's folder, so that the same
command does not train it again. The states of unfinished tasks are written once a minute: a process
that is killed loses the work since then.
"""

import json
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, as_completed
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.build import BankFacts, Outcome, finish_bank, locked_folder
from hf_lorameta.bank.index import (
    TOKENIZER_FILE,
    WORK_FOLDER,
    GeneralEntry,
    OutputPriorEntry,
    Skipped,
)
from hf_lorameta.engines.torch_evaluator import TorchEvaluator
from hf_lorameta.environment import require_extra
from hf_lorameta.errors import BankError, LoraMetaError
from hf_lorameta.files import sha256, write_atomically
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.hub.base_model import locate
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.packaged_model import quiet_transformers
from hf_lorameta.hub.reading_limits import DEFAULT_LIMITS, ReadingLimits
from hf_lorameta.training.checks import Base, check_base, check_disk, read_tokenizer
from hf_lorameta.training.general_entry import (
    GeneralTrainer,
    finished_general,
    finished_prior,
    general_factors,
)
from hf_lorameta.training.one_task import (
    OpenTask,
    TrainingJob,
    finished_outcome,
    open_task,
    read_log,
    store_adapter,
)
from hf_lorameta.training.progress import Reporter, TaskProgress
from hf_lorameta.training.settings import Settings
from hf_lorameta.training.tasks import Task, in_chat_form

if TYPE_CHECKING:
    from hf_lorameta.training.device import DevicePlan
    from hf_lorameta.training.trainer import TaskRows

LOG_FILE = "training_log.jsonl"
"""File of a bank with one line per task."""

_UNLIMITED = 1 << 30

logger = logging.getLogger(__name__)


def train_bank(
    tasks: Sequence[Task],
    folder: Path,
    base_model: str,
    *,
    settings: Settings | None = None,
    hub: Hub | None = None,
    revision: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    at_once: int | None = None,
    without_general: Collection[str] = (),
    executor: Executor | None = None,
    reporter: Reporter | None = None,
    limits: ReadingLimits = DEFAULT_LIMITS,
) -> Bank:
    """Train a bank; run again with the same arguments, it resumes.

    Args:
        tasks: from `hf_lorameta.training.tasks.read_tasks`.
        folder: of the bank, created if missing.
        base_model: Hub id, or a folder.
        settings: of the training.
        hub: Hub client; None is `Hub()`.
        revision: branch, tag or commit of the base model.
        device: torch name; None is cuda, mps or cpu, the first that is there.
        dtype: torch name of the base model's dtype; None finds it.
        at_once: number of tasks in training at a time; None finds it.
        without_general: names of tasks that the general adapter is not trained on, so that it can
            be measured on them.
        executor: trains `at_once` tasks per job on machines that see the folder under the same
            path; None trains in this process.
        reporter: receives the progress.
        limits: how much is read of a row of a dataset.

    Raises:
        MissingExtraError: the extra ``eval`` is not installed.
        HubError: the base model cannot be fetched.
        UsageError: it does not fit in memory, or cannot be trained here.
        BankError: no task is usable, the disk is too full, the folder cannot be written, or another
            build is running in it.
    """
    require_extra("torch", "transformers", "peft", "rouge_score", "psutil")
    hub, settings = hub or Hub(), settings or Settings()
    reporter = reporter or Reporter()
    base = Base.find(base_model, revision, hub)
    plan, layout = check_base(base.folder, settings, device, dtype, at_once)
    with locked_folder(folder):
        content = read_tokenizer(base.folder)
        write_atomically(folder / TOKENIZER_FILE, content)
        job = TrainingJob(
            folder, hub, base_model, base.revision, base.digest, sha256(folder / TOKENIZER_FILE),
            settings, device, plan.dtype, at_once, limits=limits,
        )  # fmt: skip
        tasks = in_chat_form(tasks, base.folder, folder / TOKENIZER_FILE)
        general_tasks = [task for task in tasks if task.name not in without_general]
        if settings.general_steps_for(len(general_tasks)) and not finished_general(job):
            check_disk(folder, layout, settings, len(tasks), plan.at_once)
        general, output_prior = _general(general_tasks, job, plan, reporter)
        job = replace(job, general=general.sha256 if general else None)
        outcomes: dict[str, Outcome] = {}
        for task in tasks:
            if outcome := finished_outcome(task, job):
                outcomes[task.entry_name] = outcome
        waiting = [task for task in tasks if task.entry_name not in outcomes]
        reporter.start(len(tasks), len(outcomes))
        check_disk(folder, layout, settings, len(waiting), plan.at_once)
        names = {task.entry_name: task for task in tasks}
        results = (
            _train_elsewhere(waiting, job, plan.at_once, executor)
            if executor
            else train_tasks(waiting, job, plan, reporter.step)
        )
        for name, outcome in results:
            outcomes[name] = outcome
            reporter.task(names[name], outcome, read_log(folder, name))
        ordered = {name: outcomes[name] for name in names}
        facts = BankFacts(base_model, base.revision, base.license, False, general, output_prior)
        bank = finish_bank(folder, ordered, facts)
        _write_log(bank)
        return bank


# --- training -----------------------------------------------------------------------------------


def train_tasks(
    tasks: Sequence[Task],
    job: TrainingJob,
    plan: "DevicePlan",
    step: Callable[[TaskProgress], None] = lambda progress: None,
) -> Iterator[tuple[str, Outcome]]:
    """Train tasks in this process and store their adapters; yield (entry name, outcome)."""
    from hf_lorameta.training.trainer import Trainer

    if not tasks:
        return
    evaluator, layout = _load(job, plan)
    trainer = Trainer(
        evaluator.model,
        layout,
        job.settings,
        at_once=min(plan.at_once, len(tasks)),
        workers=plan.workers,
        pass_tokens=plan.pass_tokens,
        checkpoints=job.folder / WORK_FOLDER,
        general=general_factors(job.folder) if job.general else None,
    )
    skipped: list[tuple[str, Outcome]] = []
    opened: dict[str, OpenTask] = {}

    def rows() -> Iterator["TaskRows"]:
        for task in tasks:
            try:
                opened[task.name] = open_task(task, job, evaluator)
            except (OSError, MemoryError):
                raise  # a fault of this machine, not of the task
            except Exception as error:  # noqa: BLE001 - no task ends the training
                skipped.append((task.entry_name, _skipped(task, error)))
            else:
                yield opened[task.name].rows

    with quiet_transformers():
        for trained in trainer.train(rows(), step):
            yield from _drained(skipped)
            finished = opened.pop(trained.name)
            yield finished.task.entry_name, store_adapter(finished, trained, job, layout)
            trainer.discard_checkpoint(trained.name)
        yield from _drained(skipped)


def _general(
    tasks: Sequence[Task], job: TrainingJob, plan: "DevicePlan", reporter: Reporter
) -> tuple[GeneralEntry | None, OutputPriorEntry | None]:
    """Return the general adapter and the output prior, made in this process where missing."""
    steps = job.settings.general_steps_for(len(tasks))
    general = finished_general(job, tasks)
    prior = finished_prior(job, general) if general else None
    if not steps or (general and prior):
        return general, prior
    evaluator, layout = _load(job, plan)
    trainer = GeneralTrainer(tasks, job, plan, evaluator, layout)
    if not trainer.possible:
        return general, prior
    with quiet_transformers():
        if general is None:
            reporter.start_general(steps)
            general, log = trainer.train(reporter.step)
            reporter.general(log)
        return general, trainer.measure_prior(general)


def _load(job: TrainingJob, plan: "DevicePlan") -> tuple[TorchEvaluator, Layout]:
    """Load the base model on the device, ready for training."""
    from hf_lorameta.engines.packing import use_row_attention
    from hf_lorameta.training.lora_slots import find_layout

    base = locate(job.base_model, job.base_revision, job.hub.token)
    evaluator = TorchEvaluator(base, plan.dtype, max_length=_UNLIMITED)
    model = evaluator.model.to(plan.device)
    if model.device.type == "cpu":
        evaluator.suit_to_cpu()
    use_row_attention(model)
    return evaluator, find_layout(model, job.settings.targets)


def _drained(items: list[tuple[str, Outcome]]) -> Iterator[tuple[str, Outcome]]:
    while items:
        yield items.pop(0)


def _skipped(task: Task, error: Exception) -> Skipped:
    reason = str(error)
    if not isinstance(error, LoraMetaError):
        logger.warning("a task failed with an unexpected error", exc_info=error)
        reason = f"unexpected {type(error).__name__}"
    for path in task.paths:
        reason = reason.replace(str(path), path.name)
    return Skipped(adapter=task.adapter, dataset=task.public_id, reason=reason)


def _train_elsewhere(
    tasks: Sequence[Task], job: TrainingJob, at_once: int, executor: Executor
) -> Iterator[tuple[str, Outcome]]:
    """Train `at_once` tasks per job of an executor."""
    groups = [tuple(tasks[i : i + at_once]) for i in range(0, len(tasks), at_once)]
    futures = [executor.submit(_train_group, group, job) for group in groups]
    try:
        for future in as_completed(futures):
            yield from future.result()
    except BrokenExecutor as problem:
        raise BankError(
            f"the workers of the executor died ({type(problem).__name__})",
            hint="run the command again; finished tasks are kept",
        ) from None
    finally:
        for future in futures:
            future.cancel()


def _train_group(tasks: Sequence[Task], job: TrainingJob) -> list[tuple[str, Outcome]]:
    base = locate(job.base_model, job.base_revision, job.hub.token)
    plan, _ = check_base(base, job.settings, job.device, job.dtype, job.at_once)
    return list(train_tasks(tasks, job, plan))


# --- log ------------------------------------------------------------------------------------------


def training_log(bank: Bank) -> list[dict[str, Any]]:
    """Return the log of a trained bank: a `Log` per entry, and the reason of each skipped task."""
    logs = [read_log(bank.folder, entry.name) for entry in bank.index.entries]
    skipped = [
        {"task": skip.adapter.rpartition("/")[2], "skipped": skip.reason}
        for skip in bank.index.skipped
    ]
    return [*(asdict(log) for log in logs if log), *skipped]


def _write_log(bank: Bank) -> None:
    lines = [json.dumps(line, ensure_ascii=False) + "\n" for line in training_log(bank)]
    write_atomically(bank.folder / LOG_FILE, "".join(lines).encode())
