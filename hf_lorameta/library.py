"""Where banks and adapters come from and go to: the embedded bank, folders, Hub repos, builds.

The default bank is ``HF_LORAMETA_BANK`` (a folder or a Hub dataset repo) if that is set, else the
bank embedded in this package.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hf_lorameta import bank as banks
from hf_lorameta import building, calibration, distance, fit, hub
from hf_lorameta.adapter import CONFIG_FILE, WEIGHTS_FILE, write_atomically
from hf_lorameta.bank import Bank, Gain
from hf_lorameta.dataset import Dataset, checked_columns, open_dataset
from hf_lorameta.errors import (
    AdapterError,
    BankError,
    ConflictError,
    HubError,
    IntegrityError,
    LoraMetaError,
    MissingExtraError,
    NotFoundError,
    UsageError,
)
from hf_lorameta.facts import EMBEDDED_BANK
from hf_lorameta.generation import FILES
from hf_lorameta.manifest import BankEntry, Manifest
from hf_lorameta.profile import ProfileTable, Row
from hf_lorameta.recipe import Recipe

BANK_VARIABLE = "HF_LORAMETA_BANK"
EMBEDDED_FOLDER = Path(__file__).parent / "demo" / "bank"
_SAMPLED = 32


def open_bank(
    name: str | Path | None = None, *, revision: str | None = None, token: str | None = None
) -> Bank:
    """Open a bank; see `Bank.from_pretrained`, which calls this."""
    name = name or os.environ.get(BANK_VARIABLE) or None
    if name is None:
        return Bank(EMBEDDED_FOLDER, id=EMBEDDED_BANK)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _open_folder(folder, token)
    if len(folder.parts) != 2 or folder.is_absolute():
        raise BankError(
            f"{name} is neither a folder here nor a Hub id of the form user/bank",
            hint="hf-lorameta bank build bank_manifest.yaml -o DIR makes a bank",
        )
    connection = hub.Hub(token)
    repo = connection.resolve(str(name), "dataset", revision, blobs=True)
    index = connection.download(repo, banks.INDEX_FILE)
    return Bank(
        index.parent,
        fetch=lambda file: connection.download(repo, file),
        id=repo.repo_id,
        revision=repo.sha,
    )


def _open_folder(folder: Path, token: str | None) -> Bank:
    origin = folder / banks.ORIGIN_FILE
    if not origin.exists():
        return Bank(folder)
    try:
        stored = json.loads(origin.read_bytes())
        repo = hub.Resolved(stored["repo_id"], "dataset", stored["sha"])
    except (ValueError, KeyError, TypeError):
        raise BankError(
            f"{origin} is damaged", hint=f"hf-lorameta bank pull REPO -o {folder}"
        ) from None
    return Bank(
        folder,
        fetch=lambda file: hub.Hub(token).download(repo, file, local_dir=folder),
        id=repo.repo_id,
        revision=repo.sha,
    )


def adapter_folder(
    name: str | Path, *, revision: str | None = None, token: str | None = None
) -> Path:
    """A folder with an adapter's files: itself, or a repo's in the client's cache.

    Args:
        name: folder, or Hub id.
        revision: of a repo.
        token: None uses the saved one.

    Raises:
        AdapterError: the repo holds no safetensors adapter.
        HubError: the repo is missing or out of reach.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if len(folder.parts) != 2 or folder.is_absolute():
        raise AdapterError(
            f"{name} is neither a folder here nor a Hub id of the form user/adapter",
            hint="hf-lorameta generate --dataset user/name -o my-adapter makes one",
        )
    connection = hub.Hub(token)
    repo = connection.resolve(str(name), "model", revision, blobs=True)
    wanted = [file for file in FILES if file in repo.files]
    if not {CONFIG_FILE, WEIGHTS_FILE} <= set(wanted):
        raise AdapterError(
            f"{name} lacks {CONFIG_FILE} or {WEIGHTS_FILE}: not a PEFT adapter",
            hint="name a repo that holds one",
        )
    paths = [connection.download(repo, file) for file in wanted]
    return paths[0].parent


# --- building -----------------------------------------------------------------------------------


class HubSource:
    """Reads a manifest's repos from the Hub; the `hf_lorameta.building.Source` of real builds."""

    def __init__(self, connection: hub.Hub) -> None:
        self._hub = connection

    def resolve(self, repo_id: str, revision: str | None) -> hub.Resolved:
        """Pin a model repo."""
        return self._hub.resolve(repo_id, "model", revision, blobs=True)

    def size(self, repo: building.Repo, path: str) -> int:
        """Size of a file of a pinned model repo."""
        return self._hub.size(_resolved(repo), path)

    def reader(self, repo: building.Repo, path: str, size: int) -> Callable[[int, int], bytes]:
        """Ranged reader of a file."""
        return self._hub.reader(_resolved(repo), path, size)

    def dataset(self, entry: BankEntry) -> Dataset:
        """Open an entry's dataset as a stream."""
        return open_dataset(
            entry.dataset,
            self._hub,
            config=entry.config,
            split=entry.split,
            revision=entry.dataset_revision,
            columns=checked_columns(entry.columns) if entry.columns else None,
        )


def _resolved(repo: building.Repo) -> hub.Resolved:
    if isinstance(repo, hub.Resolved):
        return repo
    return hub.Resolved(repo.repo_id, "model", repo.sha, repo.private, repo.license, repo.files)


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
    connection = hub.Hub(token)
    base = _base_repo(connection, manifest)
    content = _read(tokenizer) if tokenizer else _tokenizer(connection, manifest)
    with _executor(executor, workers) as pool:
        return building.build(
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
    try:
        import distributed
    except ImportError:
        raise MissingExtraError(
            "distributed is not installed", hint="pip install 'hf-lorameta[dask]'"
        ) from None
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


def _base_repo(connection: hub.Hub, manifest: Manifest) -> hub.Resolved | None:
    try:
        return connection.resolve(manifest.base_model, "model")
    except NotFoundError:
        return None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BankError(f"{path}: {error.strerror}", hint="name a file with --tokenizer") from None


def _tokenizer(connection: hub.Hub, manifest: Manifest) -> bytes:
    """The tokenizer of the Hub, else the embedded bank's if it is for the same base model."""
    try:
        repo = connection.resolve(manifest.tokenizer_repo, "model", blobs=True)
        return connection.download(repo, banks.TOKENIZER_FILE).read_bytes()
    except HubError as error:
        if EMBEDDED_FOLDER.exists():
            embedded = Bank(EMBEDDED_FOLDER)
            if embedded.index.base_model == manifest.tokenizer_repo:
                return (EMBEDDED_FOLDER / banks.TOKENIZER_FILE).read_bytes()
        raise BankError(
            f"no tokenizer.json in {manifest.tokenizer_repo}: {error}",
            hint="name a local one with --tokenizer FILE, or a repo in the manifest's `tokenizer`",
        ) from None


def geometry(
    profiles: ProfileTable, vocab_size: int
) -> tuple[dict[str, float], dict[str, NDArray[np.float32]]]:
    """How near bank datasets are to each other: the scale on which a new dataset is near or far.

    Args:
        profiles: of the bank, N of them.
        vocab_size: V.

    Returns:
        Per metric, the median over up to 32 evenly chosen bank datasets of the distance to their
        nearest other dataset (empty for a bank of one); and for the metric that the rule kernel
        has by default, all (N, N) distances: whole, and of inputs alone, for datasets that have
        nothing else.
    """
    default: str = Recipe().metric
    inside = distance.between(profiles, vocab_size, default)
    apart = {default: inside.astype(np.float32)}
    inputs = profiles.only("input")
    if inputs.arrays["input.ids"].size:
        of_inputs = distance.between(inputs, vocab_size, default)
        apart[distance.name_of(default, "input")] = of_inputs.astype(np.float32)
    if len(profiles) < 2:
        return {}, apart
    chosen = np.unique(np.linspace(0, len(profiles) - 1, _SAMPLED).round().astype(int))

    def row(i: int, metric: str) -> NDArray[np.float64]:
        if metric == default:
            return np.asarray(inside[i])
        return distance.distances(profiles[i], profiles, vocab_size, metric)

    nearest = {
        metric: [np.delete(row(i, metric), i).min() for i in map(int, chosen)]
        for metric in distance.DISTANCES
    }
    return {metric: float(np.median(found)) for metric, found in nearest.items()}, apart


def fit_bank(
    opened: Bank,
    *,
    hidden: int = 256,
    steps: int = 40,
    seed: int = 0,
    progress: Callable[[str], None] = lambda what: None,
) -> dict[str, fit.FitReport]:
    """Train the neural rule for every metric and store it in the bank.

    Args:
        opened: a bank folder; all its adapters are read once, one module at a time.
        hidden: width of the network; the paper's experiment has 4,000.
        steps: of the optimizer.
        seed: of the split and the network's start.
        progress: called with what is done next.

    Returns:
        Per metric, how the fit went.

    Raises:
        MissingExtraError: torch is not installed.
        BankError: fewer than 3 adapters.
    """
    opened.insist_on_own()
    progress("Gram matrix")
    G = fit.gram(opened.blocks())
    arrays: dict[str, NDArray[np.float32]] = {}
    reports: dict[str, fit.FitReport] = {}
    for metric, row in distance.DISTANCES.items():
        progress(row.title)
        D = distance.between(opened.profiles, opened.index.vocab_size, metric)
        model, reports[metric] = fit.fit_neural(D, G, hidden=hidden, steps=steps, seed=seed)
        arrays |= {f"{metric}.{name}": array for name, array in model.to_arrays().items()}
    opened.store_neural(arrays)
    return reports


def calibrate_bank(
    opened: Bank,
    *,
    token: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Gain, ...]:
    """Measure what each dataset of a bank gains from the others, and store it in the index.

    Args:
        opened: a bank folder; its datasets are read from the Hub, some rows each.
        token: None uses the saved one.
        progress: called after each dataset with (done, total).

    Raises:
        MissingExtraError: the extra ``eval`` is not installed.
        BankError: fewer than 3 adapters, or a bank that was fetched from the Hub.
        HubError: a dataset or the base model is out of reach.
    """
    from hf_lorameta.base_model import locate
    from hf_lorameta.evaluate import Evaluator
    from hf_lorameta.probe import Probe

    opened.insist_on_own()
    connection, index = hub.Hub(token), opened.index

    def rows(i: int) -> list[Row]:
        entry = index.entries[i]
        return open_dataset(
            entry.dataset,
            connection,
            config=entry.config,
            split=entry.split,
            revision=entry.dataset_revision,
            columns=entry.columns,
        ).head(calibration.ROWS)

    evaluator = Evaluator(locate(index.base_model), base_model=index.base_model)
    between = distance.between(opened.profiles, index.vocab_size, Recipe().metric)
    probe = Probe(evaluator, opened.layout)
    gains = calibration.measure(opened, between, rows, probe, progress)
    opened.amend(gains=gains)
    return gains


# --- the Hub ------------------------------------------------------------------------------------


def push_bank(
    folder: Path, repo_id: str, *, private: bool | None = None, token: str | None = None
) -> str:
    """Publish a built bank as a dataset repo, in one commit.

    Args:
        folder: the bank; what its index does not list stays here.
        repo_id: dataset repo, ``user/name``.
        private: None makes a public repo, or a private one if an adapter or dataset of the bank
            is private (their names and token counts are in it), and respects one that exists.
        token: None uses the saved one.

    Returns:
        The repo's URL.

    Raises:
        IntegrityError: the bank is not whole.
        ConflictError: the repo exists and has another visibility.
        HubError: the Hub refused.
    """
    opened = Bank(folder)
    problems = opened.verify()
    if problems:
        raise IntegrityError(
            f"{folder} is not whole: {problems[0]}", hint=f"hf-lorameta bank verify {folder}"
        )
    connection = hub.Hub(token)
    connection.user()
    existing = connection.existing(repo_id, "dataset")
    if existing is not None and private not in (None, existing.private):
        raise ConflictError(
            f"{repo_id} exists and is {'private' if existing.private else 'public'}, "
            "which is not what was asked for",
            hint="change it in the repo's settings on the Hub, or name another repo",
        )
    secret = [entry.name for entry in opened.index.entries if entry.private]
    if secret and private is None and existing is not None and not existing.private:
        raise ConflictError(
            f"{repo_id} is public, and {len(secret)} entries of the bank are private",
            hint="add --public if all may see their names and token counts, or name another repo",
        )
    listed = [banks.INDEX_FILE, "README.md", *opened.index.files]
    write_atomically(folder / "README.md", bank_card(opened, repo_id).encode())
    return connection.publish(
        folder,
        repo_id,
        message=f"Bank of {len(opened)} adapters for {opened.index.base_model}",
        private=bool(secret) if private is None else private,
        parent=existing,
        repo_type="dataset",
        only=[*listed, *(banks.adapter_path(entry.name) for entry in opened.index.entries)],
    )


def pull_bank(
    repo_id: str,
    folder: Path,
    *,
    revision: str | None = None,
    everything: bool = False,
    token: str | None = None,
) -> Bank:
    """Bring a bank repo here: index, tokenizer and profiles now, adapters when they are needed.

    Args:
        repo_id: dataset repo made by `push_bank`.
        folder: target; may hold an earlier pull, which is then brought to this revision.
        revision: branch, tag or commit.
        everything: fetch the adapters too.
        token: None uses the saved one.

    Raises:
        BankError: the folder holds a bank that was built here.
        IntegrityError: a file differs from its checksum in the index.
        HubError: the repo is missing or out of reach.
    """
    origin = folder / banks.ORIGIN_FILE
    if (folder / banks.INDEX_FILE).exists() and not origin.exists():
        raise BankError(f"{folder} holds a bank built here", hint="name another folder with -o")
    connection = hub.Hub(token)
    repo = connection.resolve(repo_id, "dataset", revision, blobs=True)
    if banks.INDEX_FILE not in repo.files:
        raise BankError(f"{repo_id} is not a bank: it holds no {banks.INDEX_FILE}")
    try:
        opened = _fetch(connection, repo, folder, token)
    except OSError as error:
        raise BankError(
            f"{folder} could not be written: {error.strerror or error}",
            hint="free some space or name another folder with -o",
        ) from None
    _drop_stale(opened)
    try:
        for name in set(opened.index.files) - {banks.BASIS_FILE}:
            opened.small_file(name)
        if everything:
            opened.adapters()
            _ = opened.basis
        problems = opened.verify()
    except IntegrityError:
        _drop_stale(opened)
        raise
    if problems:
        raise IntegrityError(f"{folder}: {problems[0]}", hint="run the same command again")
    return opened


def _fetch(connection: hub.Hub, repo: hub.Resolved, folder: Path, token: str | None) -> Bank:
    folder.mkdir(parents=True, exist_ok=True)
    origin = folder / banks.ORIGIN_FILE
    # the origin first and the index last: whenever this is cut off, the same command mends it
    write_atomically(origin, json.dumps({"repo_id": repo.repo_id, "sha": repo.sha}).encode())
    for name in (name for name in _SMALL if name in repo.files):
        connection.download(repo, name, local_dir=folder)
    try:
        return _open_folder(folder, token)
    except BankError:
        (folder / banks.INDEX_FILE).unlink()  # or the client would take it for what it fetched
        raise


_SMALL = (
    banks.PROFILES_FILE, banks.TOKENIZER_FILE, banks.NEURAL_FILE, banks.DISTANCES_FILE,
    banks.INDEX_FILE,
)  # fmt: skip


def _drop_stale(opened: Bank) -> None:
    """Remove files of an earlier revision, or come damaged, so that they are fetched anew."""
    wanted = {banks.adapter_path(entry.name): entry.sha256 for entry in opened.index.entries}
    wanted |= {banks.BASIS_FILE: ""} | opened.index.files
    for name, digest in wanted.items():
        path = opened.folder / name
        if path.exists() and banks.sha256(path) != digest:
            path.unlink()


def bank_card(opened: Bank, repo_id: str) -> str:
    """README of a bank's repo."""
    index = opened.index
    licences = sorted({entry.license or "unknown" for entry in index.entries})
    packed = ""
    if index.packing:
        packing = index.packing
        source = f"a bank whose `bank.json` has the SHA-256 `{packing.source}`"
        if packing.source_id:
            source = f"`{packing.source_id}` at commit `{packing.source_revision}`"
        packed = (
            f"It is a pack, made by `hf-lorameta bank pack` from {source}: the adapters lie in a "
            f"basis that all share (`{banks.BASIS_FILE}`), which keeps "
            f"{packing.retained_whole:.1%} of the energy of their updates, "
            f"{packing.retained_least:.1%} of the adapter that lost most.\n"
        )
    return f"""---
tags:
- hf-lorameta
- lora
---

# A bank of {len(opened)} LoRA adapters for `{index.base_model}`

Made by `hf-lorameta bank build`; each adapter stands beside the token histogram of the dataset it
was trained on (no text). `bank.json` lists every source with its commit, checksum and licence
({", ".join(licences)}); {len(index.skipped)} entries of the manifest were skipped, with reasons
there.
{packed}
```
hf-lorameta push --dataset user/dataset --bank {repo_id}
```
"""
