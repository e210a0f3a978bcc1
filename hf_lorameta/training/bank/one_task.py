"""One task of a bank: its rows before training; its adapter, record and log after training."""

import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_lorameta.bank.build import EntryResult
from hf_lorameta.bank.entries import IndexEntry
from hf_lorameta.bank.entry import finished_entry, store_entry
from hf_lorameta.bank.index import GENERAL, TOKENIZER_FILE, WORK_FOLDER, Skipped, adapter_path
from hf_lorameta.data.counts.profile import PROFILE_FORMAT, Profile, profile_rows
from hf_lorameta.data.counts.sample import RowSample
from hf_lorameta.data.counts.tokenizer import load_encode, vocab_size
from hf_lorameta.engines.transformers.evaluator import TorchEvaluator
from hf_lorameta.errors import EmptyDatasetError, LoraMetaError
from hf_lorameta.files import sha256
from hf_lorameta.formats.lora_file import write_tensors
from hf_lorameta.hub.client import Hub
from hf_lorameta.training.bank.base import LoadedBase, TrainingBase
from hf_lorameta.training.bank.forms import Forms
from hf_lorameta.training.bank.held_out import TaskRows
from hf_lorameta.training.bank.tasks import Task
from hf_lorameta.training.checkpoint import Checkpoint
from hf_lorameta.training.settings import BankSettings
from hf_lorameta.training.trained import Trained, encode_rows

_FORMAT = 4
"""Version of the training; adapters of another version are trained again."""
_LEAST_ROWS = 8


@dataclass(frozen=True)
class TrainingJob:
    """What all tasks of a bank share. Picklable, without the token of `hub`.

    Attributes:
        folder: of the bank; holds ``tokenizer.json``.
        hub: client that datasets are read with.
        base: the base model.
        tokenizer: SHA-256 of ``tokenizer.json``.
        settings: of the training.
        dtype: torch name of the base model's dtype.
        general: SHA-256 of the weights of the general adapter, from which the tasks' adapters
            start; None starts from zero.
        chat: chat template of the base model, with ``{prompt}``; None if rows stay as they are, or
            it has none.
    """

    folder: Path
    hub: Hub
    base: TrainingBase
    tokenizer: str
    settings: BankSettings
    dtype: str
    general: str | None = None
    chat: str | None = None

    def key(self, task: Task) -> dict[str, object]:
        """Return what the adapter of a task depends on."""
        names = ("name", "config", "split", "revision")
        facts = {name: getattr(task, name) for name in names} | {"dataset": task.public_id}
        prompt = {"instruction": task.instruction, "template": task.template}
        facts |= {name: text for name, text in prompt.items() if text}
        return {
            "task": facts,
            "columns": task.columns and task.columns.model_dump(),
            "rows": task.pinned(self.hub),
            "general": self.general,
            "profile": PROFILE_FORMAT,
            **self.shared_key(),
        }

    def shared_key(self) -> dict[str, object]:
        """Return what every adapter of the bank depends on."""
        return {
            "training": _FORMAT,
            "settings": self.settings.to_dict(),
            "dtype": self.dtype,
            "base": self.base.digest,
            "tokenizer": self.tokenizer,
            "chat": self.chat,
        }

    @property
    def work_folder(self) -> Path:
        """Folder, in the bank's, for records of finished tasks and states of unfinished ones."""
        return self.folder / WORK_FOLDER

    def checkpoint(self, name: str, key: str) -> Checkpoint:
        """Return the place of the state of an unfinished training."""
        return Checkpoint(self.work_folder / f"{name}.unfinished.safetensors", key)

    def load(self) -> LoadedBase:
        """Load the base model, see `TrainingBase.load`."""
        return self.base.load(self.dtype, self.settings, self.hub.token)


@dataclass(frozen=True)
class OpenTask:
    """A task whose rows were read."""

    task: Task
    key: Mapping[str, object]
    profile: Profile
    rows: TaskRows
    facts: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of what the adapter depends on."""
        return digest_of_key(self.key)


def open_task(
    task: Task,
    job: TrainingJob,
    evaluator: TorchEvaluator,
    counts: tuple[int | None, int | None] = (None, None),
) -> OpenTask:
    """Read, count, split and encode the rows of a task.

    Args:
        task: the one to open.
        job: what all tasks share.
        evaluator: encodes the rows.
        counts: numbers of rows to train on and to hold out, at most, drawn at random; None is as
            many as the settings allow.

    Raises:
        LoraMetaError: it cannot be read, or has too few rows with an output.
    """
    settings = job.settings
    key = job.key(task)
    dataset = task.open(job.hub)
    sample = RowSample(settings.max_rows, f"{settings.seed} {task.name} sample")
    tokenizer = job.folder / TOKENIZER_FILE
    profile = profile_rows(sample.of(dataset.rows()), load_encode(tokenizer), vocab_size(tokenizer))
    rows = sample.rows
    if len(rows) < _LEAST_ROWS:
        raise EmptyDatasetError(
            f"{len(rows)} different rows with an output, expected at least {_LEAST_ROWS}",
            code="rows.too-few",
        )
    validation = task.open_validation(dataset, job.hub)
    labeled = validation.head(settings.held_out) if validation else []
    held = [row for row in labeled if row[1].strip()]
    if not held:
        random.Random(f"{settings.seed} {task.name} held out").shuffle(rows)
        count = min(settings.held_out, len(rows) // 4)
        held, rows = rows[:count], rows[count:]
    seed, forms = f"{settings.seed} {task.name}", None
    if settings.forms and not (task.template or dataset.columns.messages):
        forms = Forms([*rows, *held], job.chat)
    if counts[0] is not None:
        random.Random(f"{seed} {GENERAL}").shuffle(rows)
    rows, held = rows[: counts[0]], held[: counts[1]]
    if forms:
        rows, held = forms.drawn(rows, f"{seed} forms"), forms.drawn(held, f"{seed} held-out forms")
    facts = {
        "config": dataset.config,
        "split": dataset.split,
        "columns": dataset.columns,
        "dataset_revision": dataset.revision,
        **stated_of(task, dataset.license, dataset.private),
    }
    encoded = (encode_rows(evaluator, settings.max_length, part).rows for part in (rows, held))
    return OpenTask(task, key, profile, TaskRows(*encoded), facts)


def stated_of(task: Task, license: str | None, private: bool = False) -> dict[str, Any]:
    """Return what the index states about a task and its adapter does not depend on.

    Args:
        task: the task; a local one is not private if it states a license.
        license: on the card of a Hub dataset, used if the task states none.
        private: whether the dataset is.
    """
    return {
        "license": task.license if task.is_local else task.license or license,
        "private": private and not (task.is_local and task.license),
        "source": task.source,
        "source_revision": task.source_revision,
        "title": task.title,
    }


def store_adapter(
    opened: OpenTask, trained: Trained, base_loss: float, job: TrainingJob
) -> EntryResult:
    """Write the adapter of a task, its log and its record.

    Args:
        opened: the task.
        trained: its adapter.
        base_loss: of the base model on the held-out rows, in nats per token.
        job: what all tasks share.
    """
    task, settings = opened.task, job.settings
    if not trained.steps:
        reason = f"no step helped on its held-out rows, whose loss is {base_loss:.3f}"
        return Skipped(adapter=task.adapter, dataset=task.public_id, reason=reason)
    weights = job.folder / adapter_path(task.entry_name)
    write_tensors(weights, trained.weights.layout, settings.rank, "bfloat16", trained.weights.pairs)
    log = {
        "task": task.name, "rows": opened.profile.rows, "held_out": len(opened.rows.held_out),
        "base_loss": base_loss, "loss": trained.losses[1],
        "steps": trained.taken, "best_step": trained.steps,
    }  # fmt: skip
    entry = IndexEntry(
        name=task.entry_name,
        adapter=task.adapter,
        adapter_revision=opened.digest[:40],
        dataset=task.public_id,
        rank=settings.rank,
        scaling=1.0,
        rows=opened.profile.rows,
        size=weights.stat().st_size,
        sha256=sha256(weights),
        **opened.facts,
    )
    store_entry(job.folder, entry, opened.profile, opened.key, log)
    return entry


def digest_of_key(key: Mapping[str, object]) -> str:
    """Return the SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def finished_adapter(task: Task, job: TrainingJob) -> IndexEntry | None:
    """Return the entry of a task that an earlier run has trained with the same key.

    License, source and title are those that are stated now.
    """
    if not (job.folder / adapter_path(task.entry_name)).exists():
        return None
    try:
        key = job.key(task)
    except LoraMetaError:
        return None  # the training reports it
    entry = finished_entry(job.folder, task.entry_name, key)
    if entry is None:
        return None
    stated = stated_of(task, entry.license, task.is_local or entry.private)
    return entry.model_copy(update=stated)
