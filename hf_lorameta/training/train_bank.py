"""Train an adapter per task and make a finished bank of them.

A task that is finished leaves its weights and a record in the bank's folder, so that the same
command does not train it again. The states of unfinished tasks are written once a minute: a process
that is killed loses the work since then.
"""

import hashlib
import json
import logging
import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.build import Outcome, finish_bank, open_folder
from hf_lorameta.bank.entry import finished_entry, store_entry
from hf_lorameta.bank.index import (
    TOKENIZER_FILE,
    WORK_FOLDER,
    IndexEntry,
    Skipped,
    adapter_path,
)
from hf_lorameta.data.profile import PROFILE_FORMAT, Profile, profile_rows
from hf_lorameta.data.tokenizer import load_encode, vocab_size
from hf_lorameta.engines.scoring import Tokens
from hf_lorameta.engines.torch_evaluator import TorchEvaluator
from hf_lorameta.environment import require_extra
from hf_lorameta.errors import (
    AuthError,
    BankError,
    EmptyDatasetError,
    GatedError,
    HubError,
    LoraMetaError,
    NotFoundError,
)
from hf_lorameta.files import sha256, write_atomically
from hf_lorameta.formats.lora_file import write_tensors
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.hub.base_model import locate
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.packaged_model import SMOLLM2, quiet_transformers
from hf_lorameta.training.progress import Log, Progress, Reporter
from hf_lorameta.training.settings import Settings
from hf_lorameta.training.tasks import Task
from hf_lorameta.types import Row

if TYPE_CHECKING:
    from hf_lorameta.training.device import Plan
    from hf_lorameta.training.trainer import TaskRows, Trained

LOG_FILE = "training_log.jsonl"
"""File of a bank with one line per task."""

_FORMAT = 1
"""Version of the training; adapters of another version are trained again."""
_LEAST_ROWS = 8
_UNLIMITED = 1 << 30
_SAMPLE_BYTES = 1 << 16

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What all tasks of a bank share. Picklable, without the token of `hub`.

    Attributes:
        folder: of the bank; holds ``tokenizer.json``.
        hub: client that datasets are read with.
        base_model: Hub id or folder.
        base_revision: commit of the base model.
        base_digest: of the base model's files.
        tokenizer: SHA-256 of ``tokenizer.json``.
        settings: of the training.
        device: torch name; None finds the best.
        dtype: torch name; None finds the best.
        at_once: number of tasks in training at a time; None finds it.
    """

    folder: Path
    hub: Hub
    base_model: str
    base_revision: str | None
    base_digest: str
    tokenizer: str
    settings: Settings
    device: str | None = None
    dtype: str | None = None
    at_once: int | None = None

    def key(self, task: Task) -> dict[str, object]:
        """Return what the adapter of a task depends on."""
        names = ("name", "config", "split", "revision")
        facts = {name: getattr(task, name) for name in names} | {"dataset": task.public_id}
        return {
            "training": _FORMAT,
            "task": facts,
            "columns": task.columns and task.columns.model_dump(),
            "rows": task.pinned(self.hub),
            "settings": self.settings.to_dict(),
            "dtype": self.dtype,
            "base": self.base_digest,
            "tokenizer": self.tokenizer,
            "profile": PROFILE_FORMAT,
        }


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
    executor: Executor | None = None,
    reporter: Reporter | None = None,
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
        executor: trains `at_once` tasks per job on machines that see the folder under the same
            path; None trains in this process.
        reporter: receives the progress.

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
    base = _Base.find(base_model, revision, hub)
    plan, layout = _check_base(base.folder, settings, device, dtype, at_once)
    with open_folder(folder):
        content = _tokenizer(base.folder)
        write_atomically(folder / TOKENIZER_FILE, content)
        job = Job(
            folder, hub, base_model, base.revision, base.digest, sha256(folder / TOKENIZER_FILE),
            settings, device, plan.dtype, at_once,
        )  # fmt: skip
        outcomes: dict[str, Outcome] = {}
        for task in tasks:
            if outcome := _finished(task, job):
                outcomes[task.entry_name] = outcome
        waiting = [task for task in tasks if task.entry_name not in outcomes]
        reporter.start(len(tasks), len(outcomes))
        _check_disk(folder, layout, settings, len(waiting), plan.at_once)
        names = {task.entry_name: task for task in tasks}
        results = (
            _train_elsewhere(waiting, job, plan.at_once, executor)
            if executor
            else train_tasks(waiting, job, plan, reporter.step)
        )
        for name, outcome in results:
            outcomes[name] = outcome
            reporter.task(names[name], outcome, _read_log(folder, name))
        ordered = {name: outcomes[name] for name in names}
        bank = finish_bank(
            folder,
            ordered,
            base_model=base_model,
            base_revision=base.revision,
            base_license=base.license,
            published=False,
        )
        _write_log(bank)
        return bank


# --- checks before any work ---------------------------------------------------------------------


@dataclass(frozen=True)
class _Base:
    """A base model: its folder, commit, license, and a digest of its files."""

    folder: Path
    revision: str | None
    license: str | None
    digest: str

    @classmethod
    def find(cls, name: str, revision: str | None, hub: Hub) -> "_Base":
        sha = license = None
        if not Path(name).expanduser().is_dir():
            try:
                repo = hub.resolve(name, "model", revision)
                sha, license = repo.sha, repo.license
            except (AuthError, GatedError):
                raise
            except HubError as error:
                logger.info("%s: %s; looking in the cache", name, error)
                license = Bank.embedded().index.base_license if name == SMOLLM2 else None
        folder = locate(name, sha or revision, hub.token or None)
        return cls(folder, sha, license, _digest(folder))


def _digest(folder: Path) -> str:
    """Return a digest of a model's configuration and of parts of its weights."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("config.json"), *folder.glob("model*.safetensors")]):
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            digest.update(file.read(_SAMPLE_BYTES))
            file.seek(max(size - _SAMPLE_BYTES, 0))
            digest.update(file.read())
    return digest.hexdigest()


def _check_base(
    folder: Path, settings: Settings, device: str | None, dtype: str | None, at_once: int | None
) -> tuple["Plan", Layout]:
    """Check from the configuration alone that a base model has the modules and fits in memory."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from hf_lorameta.training.device import fit
    from hf_lorameta.training.lora_slots import find_layout

    try:
        with quiet_transformers(), torch.device("meta"):
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NotFoundError(f"transformers cannot load a model from {folder}: {first}") from None
    layout = find_layout(model, settings.targets)
    plan = fit(folder, config, layout, settings.rank, device=device, dtype=dtype, at_once=at_once)
    return plan, layout


def _check_disk(folder: Path, layout: Layout, settings: Settings, tasks: int, at_once: int) -> None:
    """Check that the adapters, in bfloat16, and the states of unfinished tasks fit on the disk."""
    values = settings.rank * sum(m.in_features + m.out_features for m in layout)
    needed = values * (2 * tasks + 16 * min(at_once, tasks)) + (1 << 20)
    free = shutil.disk_usage(folder).free
    if tasks and needed > free:
        raise BankError(
            f"{tasks} adapters need {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free in "
            f"{folder}",
            hint="free some space, name another folder, or choose a smaller --rank",
        )


def _tokenizer(folder: Path) -> bytes:
    try:
        return (folder / TOKENIZER_FILE).read_bytes()
    except OSError:
        raise BankError(f"{folder} has no {TOKENIZER_FILE}, which a bank needs") from None


# --- training -----------------------------------------------------------------------------------


def train_tasks(
    tasks: Sequence[Task],
    job: Job,
    plan: "Plan",
    step: Callable[[Progress], None] = lambda progress: None,
) -> Iterator[tuple[str, Outcome]]:
    """Train tasks in this process and store their adapters; yield (entry name, outcome)."""
    from hf_lorameta.training.lora_slots import find_layout
    from hf_lorameta.training.packing import use_row_attention
    from hf_lorameta.training.trainer import Trainer

    if not tasks:
        return
    base = locate(job.base_model, job.base_revision, job.hub.token or None)
    evaluator = TorchEvaluator(base, plan.dtype, max_length=_UNLIMITED)
    model = evaluator.model.to(plan.device)
    use_row_attention(model)
    layout = find_layout(model, job.settings.targets)
    trainer = Trainer(
        model,
        layout,
        job.settings,
        at_once=min(plan.at_once, len(tasks)),
        workers=plan.workers,
        pass_tokens=plan.pass_tokens,
        checkpoints=job.folder / WORK_FOLDER,
    )
    skipped: list[tuple[str, Outcome]] = []
    opened: dict[str, _Opened] = {}

    def rows() -> Iterator["TaskRows"]:
        for task in tasks:
            try:
                opened[task.name] = _open(task, job, evaluator)
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
            yield finished.task.entry_name, _store(finished, trained, job, layout)
            trainer.discard_checkpoint(trained.name)
        yield from _drained(skipped)


def _drained(items: list[tuple[str, Outcome]]) -> Iterator[tuple[str, Outcome]]:
    while items:
        yield items.pop(0)


def _skipped(task: Task, error: Exception) -> Skipped:
    reason = str(error)
    if not isinstance(error, LoraMetaError):
        logger.warning("a task failed with an unexpected error", exc_info=error)
        reason = f"unexpected {type(error).__name__}"
    if task.is_local:
        reason = reason.replace(task.dataset, Path(task.dataset).name)
    return Skipped(adapter=task.adapter, dataset=task.public_id, reason=reason)


def _train_elsewhere(
    tasks: Sequence[Task], job: Job, at_once: int, executor: Executor
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


def _train_group(tasks: Sequence[Task], job: Job) -> list[tuple[str, Outcome]]:
    base = locate(job.base_model, job.base_revision, job.hub.token or None)
    plan, _ = _check_base(base, job.settings, job.device, job.dtype, job.at_once)
    return list(train_tasks(tasks, job, plan))


# --- one task -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Opened:
    """A task whose rows were read."""

    task: Task
    key: Mapping[str, object]
    profile: Profile
    rows: "TaskRows"
    facts: Mapping[str, Any]


def _open(task: Task, job: Job, evaluator: TorchEvaluator) -> _Opened:
    """Read, count, split and encode the rows of a task.

    Raises:
        LoraMetaError: it cannot be read, or has too few rows with an output.
    """
    from hf_lorameta.training.trainer import TaskRows

    settings = job.settings
    key = job.key(task)
    dataset = task.open(job.hub)
    sample = _Sample(settings.max_rows, f"{settings.seed} {task.name} sample")
    tokenizer = job.folder / TOKENIZER_FILE
    profile = profile_rows(sample.of(dataset.rows()), load_encode(tokenizer), vocab_size(tokenizer))
    rows = sample.rows
    if len(rows) < _LEAST_ROWS:
        raise EmptyDatasetError(
            f"{len(rows)} different rows with an output, expected at least {_LEAST_ROWS}"
        )
    validation = task.open_validation(dataset, job.hub)
    labeled = validation.head(settings.held_out) if validation else []
    held = [row for row in labeled if row[1].strip()]
    if not held:
        random.Random(f"{settings.seed} {task.name} held out").shuffle(rows)
        count = min(settings.held_out, len(rows) // 4)
        held, rows = rows[:count], rows[count:]
    private = dataset.private and not (task.is_local and task.license)
    facts = {
        "config": dataset.config,
        "split": dataset.split,
        "columns": dataset.columns,
        "dataset_revision": dataset.revision,
        "license": task.license or dataset.license,
        "private": private,
    }
    digest = _digest_of_key(key)
    encode = partial(_encode, evaluator, settings.max_length)
    encoded = TaskRows(task.name, encode(rows), encode(held), digest)
    return _Opened(task, key, profile, encoded, facts)


def _encode(evaluator: TorchEvaluator, length: int, rows: Sequence[Row]) -> list[Tokens]:
    """Encode rows in at most `length` tokens; outputs are cut off at half of it."""
    return [
        row._replace(output=row.output[: length // 2]).truncated(length, evaluator.start_tokens)
        for row in evaluator.encode(rows)
    ]


class _Sample:
    """Draws rows with an output from a stream, each once (Vitter's algorithm R)."""

    def __init__(self, size: int, seed: str) -> None:
        self.rows: list[Row] = []
        self._size, self._random = size, random.Random(seed)
        self._seen: set[int] = set()

    def of(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield all rows of the stream."""
        for row in rows:
            if row[1].strip() and hash(row) not in self._seen:
                self._seen.add(hash(row))
                self._draw(row)
            yield row

    def _draw(self, row: Row) -> None:
        if len(self.rows) < self._size:
            self.rows.append(row)
            return
        index = self._random.randrange(len(self._seen))
        if index < self._size:
            self.rows[index] = row


def _store(opened: _Opened, trained: "Trained", job: Job, layout: Layout) -> Outcome:
    """Write an adapter, its log and its record."""
    task, settings = opened.task, job.settings
    if not trained.best_step:
        reason = f"no step lowered the loss of {trained.base_loss:.3f} on its held-out rows"
        content = json.dumps({"key": opened.rows.key, "reason": reason})
        write_atomically(_useless_path(job.folder, task.entry_name), content.encode())
        return Skipped(adapter=task.adapter, dataset=task.public_id, reason=reason)
    weights = job.folder / adapter_path(task.entry_name)
    write_tensors(weights, layout, settings.rank, "bfloat16", trained.factors)
    log = Log(
        task.name, opened.profile.rows, len(opened.rows.held_out), trained.base_loss, trained.loss,
        trained.steps, trained.best_step, round(trained.seconds, 1),
    )  # fmt: skip
    write_atomically(_log_path(job.folder, task.entry_name), json.dumps(asdict(log)).encode())
    entry = IndexEntry(
        name=task.entry_name,
        adapter=task.adapter,
        adapter_revision=opened.rows.key[:40],
        dataset=task.public_id,
        rank=settings.rank,
        scaling=1.0,
        rows=opened.profile.rows,
        source=task.source,
        source_revision=task.source_revision,
        size=weights.stat().st_size,
        sha256=sha256(weights),
        **opened.facts,
    )
    store_entry(job.folder, entry, opened.profile, opened.key)
    return entry


def _digest_of_key(key: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def _useless_path(folder: Path, name: str) -> Path:
    """Path of the record of a task that training did not improve."""
    return folder / WORK_FOLDER / f"{name}.useless.json"


def _finished(task: Task, job: Job) -> Outcome | None:
    """Return the outcome of a task that an earlier run has trained with the same key.

    License and source are those that are stated now; the adapter does not depend on them.
    """
    useless = _useless_path(job.folder, task.entry_name)
    if not (useless.exists() or (job.folder / adapter_path(task.entry_name)).exists()):
        return None
    try:
        key = job.key(task)
    except LoraMetaError:
        return None  # the training reports it
    if useless.exists():
        record = json.loads(useless.read_bytes())
        if record["key"] == _digest_of_key(key):
            return Skipped(adapter=task.adapter, dataset=task.public_id, reason=record["reason"])
    entry = finished_entry(job.folder, task.entry_name, key)
    if entry is None:
        return None
    stated = {"source": task.source, "source_revision": task.source_revision}
    if task.license:
        stated["license"] = task.license
    private = entry.private and not (task.is_local and task.license)
    return entry.model_copy(update={**stated, "private": private})


# --- log ----------------------------------------------------------------------------------------


def _log_path(folder: Path, name: str) -> Path:
    return folder / WORK_FOLDER / f"{name}.log.json"


def _read_log(folder: Path, name: str) -> Log | None:
    try:
        return Log(**json.loads(_log_path(folder, name).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def training_log(bank: Bank) -> list[dict[str, Any]]:
    """Return the log of a trained bank: a `Log` per entry, and the reason of each skipped task."""
    logs = [_read_log(bank.folder, entry.name) for entry in bank.index.entries]
    skipped = [
        {"task": skip.adapter.rpartition("/")[2], "skipped": skip.reason}
        for skip in bank.index.skipped
    ]
    return [*(asdict(log) for log in logs if log), *skipped]


def _write_log(bank: Bank) -> None:
    lines = [json.dumps(line, ensure_ascii=False) + "\n" for line in training_log(bank)]
    write_atomically(bank.folder / LOG_FILE, "".join(lines).encode())
