"""The general adapter of a bank on disk: trained once, kept by later runs."""

import json
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from hf_lorameta.bank.arrays import save_arrays
from hf_lorameta.bank.index import (
    GENERAL,
    OUTPUT_PRIOR_FILE,
    WORK_FOLDER,
    GeneralEntry,
    GeneralTask,
    OutputPriorEntry,
    adapter_path,
)
from hf_lorameta.bank.stored_prior import to_arrays
from hf_lorameta.errors import BankError
from hf_lorameta.files import sha256, write_atomically
from hf_lorameta.formats.lora_file import AdapterFile, write_tensors
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.training.one_task import (
    OpenTask,
    TrainingJob,
    digest_of_key,
    license_now,
    open_task,
)
from hf_lorameta.training.progress import Log, TaskProgress
from hf_lorameta.training.tasks import Task
from hf_lorameta.types import FactorPair

if TYPE_CHECKING:
    from hf_lorameta.engines.torch_evaluator import TorchEvaluator
    from hf_lorameta.training.device import DevicePlan

_HELD_OUT = 256
"""Held-out rows of all tasks together, about."""

logger = logging.getLogger(__name__)


def finished_general(job: TrainingJob, tasks: Iterable[Task] = ()) -> GeneralEntry | None:
    """Return the general adapter that an earlier run has trained with the same settings.

    It is kept even if the tasks are others now, so that a bank can be extended. Licenses and
    sources are those that `tasks` state now.
    """
    try:
        record = json.loads(_record_path(job).read_bytes())
        entry = GeneralEntry.model_validate(record["result"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return None
    path = job.folder / adapter_path(GENERAL)
    same = record.get("key") == digest_of_key(job.shared_key())
    if not (same and path.exists() and sha256(path) == entry.sha256):
        return None
    now = {task.entry_name: task for task in tasks}
    stated = (
        _general_task(now[known.name], known.license) if known.name in now else known
        for known in entry.tasks
    )
    return entry.model_copy(update={"tasks": tuple(stated)})


def _general_task(task: Task, license_: str | None) -> GeneralTask:
    """Return what the index states of a task; `license_` is that on the card of a Hub dataset."""
    return GeneralTask(
        name=task.entry_name,
        source=task.source,
        source_revision=task.source_revision,
        license=license_now(task, license_),
    )


class GeneralTrainer:
    """Trains the general adapter and measures the output prior.

    Args:
        tasks: those that can be read contribute rows; the others are left out here, and their own
            training states the reason.
        job: what all tasks of the bank share.
        plan: how training uses the machine.
        evaluator: the base model, ready for training.
        layout: the adapted modules.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        job: TrainingJob,
        plan: "DevicePlan",
        evaluator: "TorchEvaluator",
        layout: Layout,
    ) -> None:
        self._job, self._plan, self._evaluator, self._layout = job, plan, evaluator, layout
        steps = job.settings.general_steps_for(len(tasks))
        count = max(len(tasks), 1)
        train, held_out = -(-steps * job.settings.general_rows // count), -(-_HELD_OUT // count)
        self._opened = list[OpenTask]()
        for opened in chain.from_iterable(_open(task, job, evaluator) for task in tasks):
            rows = opened.rows
            kept = replace(rows, train=rows.train[:train], held_out=rows.held_out[:held_out])
            self._opened.append(replace(opened, rows=kept))

    @property
    def possible(self) -> bool:
        """Whether at least two tasks can be read."""
        return len(self._opened) > 1

    def train(self, progress: Callable[[TaskProgress], None]) -> tuple[GeneralEntry, Log]:
        """Train the general adapter and store it."""
        from hf_lorameta.training.general import train_general

        job, settings = self._job, self._job.settings
        key = {**job.shared_key(), "rows": [opened.rows.key for opened in self._opened]}
        unfinished = job.folder / WORK_FOLDER / f"{GENERAL}.unfinished.safetensors"
        trained = train_general(
            self._evaluator.model,
            self._layout,
            settings,
            [opened.rows for opened in self._opened],
            workers=self._plan.workers,
            pass_tokens=self._plan.pass_tokens,
            checkpoint=unfinished,
            key=digest_of_key(key),
            progress=progress,
        )
        if not trained.best_step:
            raise BankError(
                "the general adapter did not learn: no step lowered the loss on held-out rows, "
                f"{trained.base_loss:.3f}",
                hint="leave it out with --general-steps 0",
            )
        path = job.folder / adapter_path(GENERAL)
        write_tensors(path, self._layout, settings.rank, "bfloat16", trained.factors)
        available = sum(len(opened.rows.train) for opened in self._opened)
        entry = GeneralEntry(
            name=GENERAL,
            rank=settings.rank,
            scaling=1.0,
            tasks=tuple(
                _general_task(opened.task, opened.facts["license"]) for opened in self._opened
            ),
            rows=min(available, trained.steps * settings.general_rows),
            size=path.stat().st_size,
            sha256=sha256(path),
        )
        held_out = sum(len(opened.rows.held_out) for opened in self._opened)
        log = Log(
            GENERAL, entry.rows, held_out, trained.base_loss, trained.loss, trained.steps,
            trained.best_step, round(trained.seconds, 1),
        )  # fmt: skip
        record = {"key": digest_of_key(job.shared_key()), "result": entry.model_dump()}
        write_atomically(_record_path(job), json.dumps(record | {"log": asdict(log)}).encode())
        unfinished.unlink(missing_ok=True)
        return entry, log

    def measure_prior(self, general: GeneralEntry) -> OutputPriorEntry | None:
        """Measure the output prior and store it; None if the architecture has none."""
        from hf_lorameta.training.measure_prior import measure_prior

        job = self._job
        prior = measure_prior(
            self._evaluator.model,
            self._layout,
            job.settings,
            general_factors(job.folder),
            [opened.rows for opened in self._opened],
            self._plan.pass_tokens,
        )
        if prior is None:
            return None
        path = job.folder / OUTPUT_PRIOR_FILE
        save_arrays(path, to_arrays(prior))
        module = prior.module
        entry = OutputPriorEntry(
            module=(module.name, module.in_features, module.out_features),
            end=self._evaluator.end_token,
        )
        record = {"general": general.sha256, "sha256": sha256(path), "result": entry.model_dump()}
        write_atomically(_prior_record_path(job), json.dumps(record).encode())
        return entry


def finished_prior(job: TrainingJob, general: GeneralEntry) -> OutputPriorEntry | None:
    """Return the output prior that an earlier run has measured under this general adapter."""
    path = job.folder / OUTPUT_PRIOR_FILE
    try:
        record = json.loads(_prior_record_path(job).read_bytes())
        same = record["general"] == general.sha256 and record["sha256"] == sha256(path)
        return OutputPriorEntry.model_validate(record["result"]) if same else None
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return None


def general_factors(folder: Path) -> list[FactorPair]:
    """Return the factors of the general adapter that is stored in a bank's folder."""
    file = AdapterFile(folder / adapter_path(GENERAL))
    return [(file.tensor(m.name, "A"), file.tensor(m.name, "B")) for m in file.layout]


def _prior_record_path(job: TrainingJob) -> Path:
    return job.folder / WORK_FOLDER / "output_prior.json"


def _record_path(job: TrainingJob) -> Path:
    return job.folder / WORK_FOLDER / f"{GENERAL}.json"


def _open(task: Task, job: TrainingJob, evaluator: "TorchEvaluator") -> Iterator[OpenTask]:
    """Yield a task with its rows shuffled; nothing if it cannot be read."""
    try:
        opened = open_task(task, job, evaluator)
    except (OSError, MemoryError):
        raise  # a fault of this machine, not of the task
    except Exception as error:  # noqa: BLE001 - no task ends the training
        logger.info("%s is left out of the general adapter: %s", task.name, error)
        return
    train = list(opened.rows.train)
    random.Random(f"{job.settings.seed} {task.name} {GENERAL}").shuffle(train)
    yield replace(opened, rows=replace(opened.rows, train=train))
