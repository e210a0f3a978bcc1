"""Building a bank: one independent task an entry, each finished or not begun.

Entries run through any `concurrent.futures.Executor` and read from a `Source` that is passed in.
A finished entry leaves a record in the bank's work folder, so that a build that was killed goes on
where it stopped; the index is written last, in the manifest's order.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, Executor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors.numpy
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from hf_lorameta.bank.bank import EMBEDDED_FOLDER, Bank, load_arrays
from hf_lorameta.bank.geometry import geometry
from hf_lorameta.bank.index import (
    BASIS_FILE,
    DISTANCES_FILE,
    INDEX_FILE,
    PROFILES_FILE,
    TOKENIZER_FILE,
    WORK_FOLDER,
    Index,
    IndexEntry,
    Skipped,
    adapter_path,
)
from hf_lorameta.bank.manifest import BankEntry, Manifest
from hf_lorameta.data.columns import Columns, check_columns
from hf_lorameta.data.dataset import Dataset, open_dataset
from hf_lorameta.data.profile import PROFILE_FORMAT, Profile, ProfileTable, profile_rows
from hf_lorameta.data.tokenizer import load_encode, vocab_size
from hf_lorameta.environment import require_extra
from hf_lorameta.errors import (
    AdapterError,
    BankError,
    ConnectionLostError,
    HubError,
    LoraMetaError,
    NotFoundError,
    UsageError,
)
from hf_lorameta.files import sha256, write_atomically
from hf_lorameta.formats.lora_file import WEIGHTS_FILE, AdapterFile, canonicalize
from hf_lorameta.formats.lora_layout import Layout, read_layout
from hf_lorameta.formats.peft_config import CONFIG_FILE, read_config
from hf_lorameta.formats.safetensors import read_header
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.repo import PinnedRepo
from hf_lorameta.types import Encode, Row

logger = logging.getLogger(__name__)

Geometry = Callable[[ProfileTable, int], tuple[dict[str, float], dict[str, NDArray[np.float32]]]]
"""Profiles and vocabulary size → typical distances in a bank, and (N, N) ones; both by metric."""
_FILES = (PROFILES_FILE, TOKENIZER_FILE, DISTANCES_FILE)


class Repo(Protocol):
    """A repo pinned to a commit, as a `Source` resolves it."""

    @property
    def repo_id(self) -> str: ...  # noqa: D102
    @property
    def sha(self) -> str: ...  # noqa: D102
    @property
    def license(self) -> str | None: ...  # noqa: D102
    @property
    def private(self) -> bool: ...  # noqa: D102
    @property
    def files(self) -> tuple[str, ...]: ...  # noqa: D102


class Rows(Protocol):
    """A dataset opened for reading."""

    @property
    def revision(self) -> str: ...  # noqa: D102
    @property
    def config(self) -> str | None: ...  # noqa: D102
    @property
    def split(self) -> str: ...  # noqa: D102
    @property
    def columns(self) -> Columns: ...  # noqa: D102
    @property
    def private(self) -> bool: ...  # noqa: D102
    @property
    def rows(self) -> Callable[[], Iterator[Row]]: ...  # noqa: D102


class Source(Protocol):
    """Where a build reads from; passed in, so that this room never touches the network."""

    def resolve(self, repo_id: str, revision: str | None) -> Repo:
        """Pin an adapter or base model repo."""
        ...

    def size(self, repo: Repo, path: str) -> int:
        """Size of a file."""
        ...

    def reader(self, repo: Repo, path: str, size: int) -> Callable[[int, int], bytes]:
        """Ranged reader of a file."""
        ...

    def dataset(self, entry: BankEntry) -> Rows:
        """Open an entry's dataset."""
        ...


@dataclass(frozen=True)
class Job:
    """What a worker needs besides the entry: small, and picklable if the source is."""

    folder: Path
    source: Source
    base_model: str
    vocab_size: int
    tokenizer: str


def build(
    manifest: Manifest,
    folder: Path,
    source: Source,
    executor: Executor,
    *,
    tokenizer: bytes,
    base: Repo | None,
    geometry: Geometry,
    strict: bool = False,
    progress: Callable[[str, LoraMetaError | None], None] = lambda name, error: None,
) -> Bank:
    """Build a bank, or go on with one: finished entries are not fetched again.

    Args:
        manifest: what goes in. A longer one extends a bank.
        folder: target; made if missing.
        source: where repos are read from.
        executor: runs one task an entry.
        tokenizer: content of the base model's ``tokenizer.json``.
        base: the base model's repo, None if it cannot be seen.
        geometry: typical distances inside a bank, for the index, and all of them, to be stored.
        strict: a bad entry is an error instead of being skipped with its reason.
        progress: called after each entry.

    Returns:
        The finished bank. The same sources give the same bytes, whatever the order of work.

    Raises:
        BankError: nothing usable, another build is at work in the folder, or the executor's
            workers are gone.
        LoraMetaError: with `strict`, the first bad entry's error.
    """
    if (folder / BASIS_FILE).exists():
        raise BankError(
            f"{folder} holds a pack, which cannot be extended",
            hint="build the bank it was made from, then pack that: hf-lorameta bank pack",
        )
    for sub in ("adapters", WORK_FOLDER):
        _make_folder(folder / sub)
    lock = FileLock(folder / WORK_FOLDER / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise BankError(
            f"another build is at work in {folder}", hint="wait for it, or name another folder"
        ) from None
    try:
        path = folder / TOKENIZER_FILE
        write_atomically(path, tokenizer)
        job = Job(folder, source, manifest.base_model, vocab_size(path), sha256(path))
        outcomes = _run(manifest, job, executor, strict, progress)
        return _finish(manifest, job, outcomes, base, geometry, strict)
    except OSError as error:
        raise BankError(
            f"{folder} could not be written: {error.strerror or error}",
            hint="free some space and run the same command again; finished entries are kept",
        ) from None
    finally:
        lock.release()


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BankError(f"{path} cannot be made: {error.strerror}") from None


Outcome = IndexEntry | Skipped


def _run(
    manifest: Manifest,
    job: Job,
    executor: Executor,
    strict: bool,
    progress: Callable[[str, LoraMetaError | None], None],
) -> dict[str, Outcome]:
    futures = {executor.submit(build_entry, entry, job): entry for entry in manifest.entries}
    outcomes: dict[str, Outcome] = {}
    try:
        for future in as_completed(futures):
            entry = futures[future]
            error: LoraMetaError | None = None
            try:
                outcomes[entry.name] = future.result()
            except (OSError, MemoryError):
                raise  # of this machine, not of the entry
            except BrokenExecutor as problem:
                raise BankError(
                    f"the workers of the executor are gone ({type(problem).__name__})",
                    hint="run the build again; finished entries are kept",
                ) from None
            except Exception as problem:
                if strict:
                    raise
                error = _foreseen(problem)
                outcomes[entry.name] = Skipped(
                    adapter=entry.adapter, dataset=entry.dataset, reason=_reason(error)
                )
            progress(entry.adapter, error)
    finally:
        for future in futures:
            future.cancel()
    return outcomes


def _foreseen(error: Exception) -> LoraMetaError:
    """One bad entry must not end the build, whatever a reader of foreign files makes of it."""
    if isinstance(error, LoraMetaError):
        return error
    logger.warning("an entry failed in an unforeseen way", exc_info=error)
    return LoraMetaError(f"unforeseen {type(error).__name__}")


def _reason(error: LoraMetaError) -> str:
    again = " (run the build again to retry)" if isinstance(error, ConnectionLostError) else ""
    return f"{error}{again}"


def build_entry(entry: BankEntry, job: Job) -> IndexEntry:
    """Fetch, check and store one entry, unless it is finished already.

    Raises:
        LoraMetaError: the entry cannot be used.
    """
    record = job.folder / WORK_FOLDER / f"{entry.name}.json"
    key = {
        "entry": entry.model_dump(),
        "base_model": job.base_model,
        "tokenizer": job.tokenizer,
        "profile": PROFILE_FORMAT,
    }
    done = _finished(record, key, job.folder / adapter_path(entry.name))
    if done:
        return done
    weights = _store_adapter(entry, job)
    try:
        dataset = job.source.dataset(entry)
        profile = profile_rows(dataset.rows(), _job_encode(job.folder), job.vocab_size)
    except Exception:
        (job.folder / adapter_path(entry.name)).unlink()  # of no use without its dataset
        raise
    arrays = ProfileTable.from_profiles([profile]).arrays
    write_atomically(record.with_suffix(".safetensors"), safetensors.numpy.save(arrays))
    result = IndexEntry(
        name=entry.name,
        adapter=entry.adapter,
        dataset=entry.dataset,
        dataset_revision=dataset.revision,
        config=dataset.config,
        split=dataset.split,
        columns=dataset.columns,
        rows=profile.rows,
        private=weights.pop("private") or dataset.private,
        **weights,
    )
    write_atomically(record, json.dumps(key | {"result": result.model_dump()}).encode())
    return result


def _job_encode(folder: Path) -> Encode:
    path = folder / TOKENIZER_FILE
    return _encode_once(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _encode_once(path: Path, changed: int) -> Encode:
    """One tokenizer a process, as long as the file stays the same."""
    return load_encode(path)


def _finished(record: Path, key: Mapping[str, object], weights: Path) -> IndexEntry | None:
    """The result of an earlier run, if it was of the same entry and its files are still there."""
    try:
        stored = json.loads(record.read_bytes())
        result = IndexEntry.model_validate(stored.pop("result"))
    except (OSError, ValueError, KeyError, AttributeError, RecursionError):
        return None  # never finished
    whole = weights.exists() and sha256(weights) == result.sha256
    same = stored == json.loads(json.dumps(dict(key)))
    return result if same and whole and record.with_suffix(".safetensors").exists() else None


def _store_adapter(entry: BankEntry, job: Job) -> dict[str, Any]:
    source = job.source
    repo = source.resolve(entry.adapter, entry.revision)
    if WEIGHTS_FILE not in repo.files:
        pickled = [f for f in repo.files if f.endswith((".bin", ".pt", ".pth"))]
        reason = f"only a pickle ({pickled[0]}), which can run code" if pickled else "no weights"
        raise AdapterError(f"{entry.adapter}: {reason}, expected {WEIGHTS_FILE}")
    config = read_config(_read_config_file(source, repo))
    if config.base_model.lower() != job.base_model.lower():
        raise AdapterError(
            f"made for {config.base_model or 'no'} base model, expected {job.base_model}"
        )
    size = source.size(repo, WEIGHTS_FILE)
    read = source.reader(repo, WEIGHTS_FILE, size)
    infos = read_header(read, size)
    _, rank = read_layout(infos)
    if rank != config.rank:
        raise AdapterError(f"the config says rank {config.rank}, the weights have {rank}")
    path = job.folder / adapter_path(entry.name)
    canonicalize(read, infos, path)
    return {
        "adapter_revision": repo.sha,
        "license": entry.license or repo.license,
        "private": repo.private,
        "rank": rank,
        "scaling": config.scaling,
        "size": path.stat().st_size,
        "sha256": sha256(path),
    }


_MAX_CONFIG_BYTES = 1 << 20


def _read_config_file(source: Source, repo: Repo) -> dict[str, Any]:
    size = source.size(repo, CONFIG_FILE)
    if size > _MAX_CONFIG_BYTES:
        raise AdapterError(f"{CONFIG_FILE} has {size} bytes, expected {_MAX_CONFIG_BYTES} at most")
    try:
        config = json.loads(source.reader(repo, CONFIG_FILE, size)(0, size))
    except (ValueError, RecursionError):
        raise AdapterError(f"{CONFIG_FILE} is not JSON") from None
    if not isinstance(config, dict):
        raise AdapterError(f"{CONFIG_FILE} is not a JSON object")
    return config


def _finish(
    manifest: Manifest,
    job: Job,
    outcomes: dict[str, Outcome],
    base: Repo | None,
    geometry: Geometry,
    strict: bool,
) -> Bank:
    ordered = [outcomes[entry.name] for entry in manifest.entries]
    entries = [o for o in ordered if isinstance(o, IndexEntry)]
    layout, strangers = _common_layout(job.folder, entries)
    if strict and strangers:
        raise AdapterError(f"{next(iter(strangers))} adapts other modules or shapes than the rest")
    kept = [entry for entry in entries if entry.name not in strangers]
    if not kept:
        reasons = "; ".join(o.reason for o in ordered if isinstance(o, Skipped))[:500]
        raise BankError(f"not one of {len(ordered)} entries can be used: {reasons}")
    table = ProfileTable.from_profiles([_stored_profile(job.folder, entry) for entry in kept])
    write_atomically(job.folder / PROFILES_FILE, safetensors.numpy.save(table.arrays))
    usual, apart = geometry(table, job.vocab_size)
    write_atomically(job.folder / DISTANCES_FILE, safetensors.numpy.save(apart))
    index = Index(
        base_model=manifest.base_model,
        base_revision=base.sha if base else None,
        base_license=base.license if base else None,
        vocab_size=job.vocab_size,
        published=manifest.published,
        layout=tuple((m.name, m.in_features, m.out_features) for m in layout),
        entries=tuple(kept),
        skipped=tuple(_as_skipped(o, strangers) for o in ordered if o not in kept),
        files={name: sha256(job.folder / name) for name in _FILES},
        neighbourhood=usual,
    )
    write_atomically(job.folder / INDEX_FILE, index.to_bytes())
    _tidy(job.folder)
    return Bank(job.folder)


def _tidy(folder: Path) -> None:
    """Remove what killed builds left half-written."""
    for part in (folder, folder / "adapters", folder / WORK_FOLDER):
        for path in part.glob(".*.partial"):
            path.unlink()


def _as_skipped(outcome: Outcome, strangers: set[str]) -> Skipped:
    if isinstance(outcome, Skipped):
        return outcome
    return Skipped(
        adapter=outcome.adapter,
        dataset=outcome.dataset,
        reason="adapts other modules or shapes than most of the bank",
    )


def _common_layout(folder: Path, entries: list[IndexEntry]) -> tuple[Layout, set[str]]:
    """The layout most entries have (of equals, the first), and the names of those with another."""
    by_layout: dict[Layout, set[str]] = {}
    for entry in entries:
        layout = AdapterFile(folder / adapter_path(entry.name)).layout
        by_layout.setdefault(layout, set()).add(entry.name)
    if not by_layout:
        return (), set()
    common = max(by_layout, key=lambda layout: len(by_layout[layout]))
    return common, {
        name for layout, names in by_layout.items() if layout != common for name in names
    }


def _stored_profile(folder: Path, entry: IndexEntry) -> Profile:
    return ProfileTable(load_arrays(folder / WORK_FOLDER / f"{entry.name}.safetensors"))[0]


# --- building -----------------------------------------------------------------------------------


class HubSource:
    """Reads a manifest's repos from the Hub; the `hf_lorameta.bank.build.Source` of real builds."""

    def __init__(self, connection: Hub) -> None:
        self._hub = connection

    def resolve(self, repo_id: str, revision: str | None) -> PinnedRepo:
        """Pin a model repo."""
        return self._hub.resolve(repo_id, "model", revision, blobs=True)

    def size(self, repo: Repo, path: str) -> int:
        """Size of a file of a pinned model repo."""
        return self._hub.size(_as_resolved(repo), path)

    def reader(self, repo: Repo, path: str, size: int) -> Callable[[int, int], bytes]:
        """Ranged reader of a file."""
        return self._hub.reader(_as_resolved(repo), path, size)

    def dataset(self, entry: BankEntry) -> Dataset:
        """Open an entry's dataset as a stream."""
        return open_dataset(
            entry.dataset,
            self._hub,
            config=entry.config,
            split=entry.split,
            revision=entry.dataset_revision,
            columns=check_columns(entry.columns) if entry.columns else None,
        )


def _as_resolved(repo: Repo) -> PinnedRepo:
    if isinstance(repo, PinnedRepo):
        return repo
    return PinnedRepo(repo.repo_id, "model", repo.sha, repo.private, repo.license, repo.files)


def build_bank(
    manifest: Manifest,
    folder: Path,
    *,
    token: str | None = None,
    tokenizer: Path | None = None,
    workers: int = 8,
    executor: Executor | None = None,
    strict: bool = False,
    progress: Callable[[str, LoraMetaError | None], None] = lambda name, error: None,
) -> Bank:
    """Build a bank from the Hub, or go on with one that was interrupted.

    Args:
        manifest: what goes in.
        folder: target.
        token: None uses the saved one.
        tokenizer: a ``tokenizer.json`` to use instead of the base model's on the Hub.
        workers: threads, if no executor is given.
        executor: runs one task an entry: threads, processes, or other machines that see the folder
            under the same path. The bytes are the same. A token given here does not travel: each
            process uses its own.
        strict: a bad entry is an error.
        progress: called after each entry, with its error if it was skipped.

    Raises:
        BankError: nothing usable, no tokenizer, or another build is at work there.
        LoraMetaError: with `strict`, the first bad entry's error.
    """
    connection = Hub(token)
    base = _base_repo(connection, manifest)
    content = _read_tokenizer(tokenizer) if tokenizer else _base_tokenizer(connection, manifest)
    with _executor(executor, workers) as pool:
        return build(
            manifest,
            folder,
            HubSource(connection),
            pool,
            tokenizer=content,
            base=base,
            geometry=geometry,
            strict=strict,
            progress=progress,
        )


@contextmanager
def dask_executor(address: str) -> Iterator[Executor]:
    """The workers of a Dask scheduler, as an executor for `build_bank` (extra: dask).

    Workers read and write the same folder as this process, by the same path, and use their own
    Hub token. What a worker was at when it died is done by another.

    Args:
        address: of the scheduler, such as ``tcp://10.0.0.1:8786``.

    Raises:
        MissingExtraError: distributed is not installed.
        UsageError: no scheduler answers there.
    """
    require_extra("distributed", extra="dask")
    import distributed

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    try:
        client = distributed.Client(address, timeout=10, set_as_default=False)
    except (OSError, ValueError, TypeError):  # no answer, no scheme, no host
        raise UsageError(
            f"no Dask scheduler answers at {address}", hint="--dask tcp://HOST:8786"
        ) from None
    with client, client.get_executor(pure=False) as executor:
        yield executor


@contextmanager
def _executor(given: Executor | None, workers: int) -> Iterator[Executor]:
    if given is not None:
        yield given
        return
    with ThreadPoolExecutor(workers) as pool:
        yield pool


def _base_repo(connection: Hub, manifest: Manifest) -> PinnedRepo | None:
    try:
        return connection.resolve(manifest.base_model, "model")
    except NotFoundError:
        return None


def _read_tokenizer(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BankError(f"{path}: {error.strerror}", hint="name a file with --tokenizer") from None


def _base_tokenizer(connection: Hub, manifest: Manifest) -> bytes:
    """The tokenizer of the Hub, else the embedded bank's if it is for the same base model."""
    try:
        repo = connection.resolve(manifest.tokenizer_repo, "model", blobs=True)
        return connection.download(repo, TOKENIZER_FILE).read_bytes()
    except HubError as error:
        if EMBEDDED_FOLDER.exists():
            embedded = Bank(EMBEDDED_FOLDER)
            if embedded.index.base_model == manifest.tokenizer_repo:
                return (EMBEDDED_FOLDER / TOKENIZER_FILE).read_bytes()
        raise BankError(
            f"no tokenizer.json in {manifest.tokenizer_repo}: {error}",
            hint="name a local one with --tokenizer FILE, or a repo in the manifest's `tokenizer`",
        ) from None
