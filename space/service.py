"""Plan, generate, publish: the package's steps, for one visitor and one request.

A visitor's token comes in as an argument and goes when the call returns: nothing that is kept, a
`PlanResult` least of all, refers to it.
"""

import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from bank_loader import BankLoader
from hf_lorameta import (
    Dataset,
    Hub,
    LoraMetaError,
    Plan,
    Recipe,
    check_no_overwrite,
    column_names,
    default_repo_id,
    generate_from_plan,
    open_dataset,
    parse_columns,
    plan,
    publish_folder,
    resolve_target,
)
from isolate import Child, first
from jobs import Job

Credential = str | Literal[False] | None
"""A visitor's token; False for a visitor who is not signed in; None for this machine's own."""

FILE_TYPES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
SAMPLES = 3
_BATCH_ROWS = 512
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


class RequestError(LoraMetaError):
    """What was typed cannot be followed; the message says what is expected."""


class SignInError(LoraMetaError):
    """Publishing needs an account."""


@dataclass(frozen=True)
class DatasetRequest:
    """Which dataset, and how to read it.

    Attributes:
        dataset: Hub id; empty if a file was uploaded.
        file: the uploaded file.
        config: configuration, None for the obvious one.
        split: None for train, or the only one.
        columns: as ``input=question,output=answer``; None finds them.
    """

    dataset: str = ""
    file: str | None = None
    config: str | None = None
    split: str | None = None
    columns: str | None = None


@dataclass(frozen=True)
class PlanResult:
    """A plan and what its owner is shown beside it.

    Attributes:
        plan: its dataset can no longer be read.
        samples: the first rows, for the visitor who asked.
        name: of the dataset or file, for repo names and headings.
    """

    plan: Plan
    samples: list[tuple[str, str]]
    name: str


@dataclass(frozen=True)
class AdapterResult:
    """A finished adapter.

    Attributes:
        archive: zip file of the adapter folder, in a folder of its own.
        card: README.md of the adapter.
        recipe: content of recipe.json.
        seconds: that combining took.
        url: of the repo, None if it was not published.
        repo_id: where it went.
        private: whether that repo is private.
    """

    archive: Path
    card: str
    recipe: str
    seconds: float
    url: str | None = None
    repo_id: str | None = None
    private: bool = False


@dataclass(frozen=True)
class Destination:
    """Where an adapter is to go.

    Attributes:
        repo_id: None names it after the dataset.
        private: None makes it as private as the dataset.
        overwrite: replace an adapter that is there.
    """

    repo_id: str | None = None
    private: bool | None = None
    overwrite: bool = False


# --- opening ------------------------------------------------------------------------------------


def checked_id(text: str) -> str:
    """A Hub id, and nothing that could be read as a path or an address on this machine.

    Raises:
        RequestError: it is not of the form user/name.
    """
    name = text.strip().removeprefix("https://huggingface.co/datasets/").removesuffix("/")
    if not _HUB_ID.fullmatch(name) or ".." in name or "--" in name or len(name) > 96:
        raise RequestError(f"{name[:80]!r} is not a dataset id of the form user/name")
    if Path(name).suffix.lower() in FILE_TYPES or Path(name).exists():
        raise RequestError(f"{name!r} looks like a file: upload it instead")
    return name


def choices(asked: DatasetRequest, credential: Credential, job: Job) -> tuple[list[str], list[str]]:
    """Configurations of a Hub dataset, and the splits of the chosen or the first one."""
    name = checked_id(asked.dataset)
    found: tuple[list[str], list[str]] = first(job, _list_choices, name, asked.config, credential)
    return found


def _list_choices(
    name: str, config: str | None, credential: Credential
) -> Iterator[tuple[list[str], list[str]]]:
    hub = Hub(credential)
    repo = hub.resolve(name, "dataset")
    configs, splits = hub.choices(repo, config)
    yield configs, splits or hub.choices(repo, configs[0])[1]


def columns_of(asked: DatasetRequest, credential: Credential, job: Job) -> list[str]:
    """Names of the columns, to choose from."""
    names: list[str] = first(job, _list_columns, asked, credential)
    return names


def _list_columns(asked: DatasetRequest, credential: Credential) -> Iterator[list[str]]:
    with _plain_names(asked):
        yield column_names(
            asked.file or checked_id(asked.dataset),
            Hub(credential),
            config=None if asked.file else asked.config,
            split=None if asked.file else asked.split,
        )


def open_asked(asked: DatasetRequest, credential: Credential) -> Dataset:
    """Open the dataset or the uploaded file."""
    columns = parse_columns(asked.columns) if asked.columns else None
    if asked.file:
        return open_dataset(_checked_file(asked.file), columns=columns)
    return open_dataset(
        checked_id(asked.dataset),
        Hub(credential),
        config=asked.config,
        split=asked.split,
        columns=columns,
    )


def check(asked: DatasetRequest) -> None:
    """Look at what was typed before anything is asked of anybody.

    Raises:
        RequestError: nothing was named, or no Hub id, or no file that can be read.
        UsageError: the columns are not of the form role=column.
    """
    if asked.columns:
        parse_columns(asked.columns)
    if asked.file:
        _checked_file(asked.file)
    elif asked.dataset.strip():
        checked_id(asked.dataset)
    else:
        raise RequestError(
            "No dataset was named: type an id of the form user/name, or upload a file"
        )


def _checked_file(path: str) -> Path:
    if Path(path).suffix.lower() not in FILE_TYPES:
        raise RequestError(f"{Path(path).name} is not one of {', '.join(FILE_TYPES)}")
    return Path(path)


class _plain_names:  # noqa: N801 - used as a function
    """Around work on an uploaded file: its place on this machine stays out of messages."""

    def __init__(self, asked: DatasetRequest) -> None:
        self._file = asked.file

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._file and isinstance(error, LoraMetaError):
            told = str(error).replace(self._file, Path(self._file).name)
            error.args = (told, *error.args[1:])


# --- planning -----------------------------------------------------------------------------------


def make_plan(
    keeper: BankLoader,
    asked: DatasetRequest,
    recipe: Recipe,
    limit: int,
    credential: Credential,
    job: Job,
) -> PlanResult:
    """Read the dataset once and plan.

    Args:
        keeper: of the bank.
        asked: the dataset.
        recipe: settings; its ``max_rows`` is set if the limit cut the dataset off.
        limit: rows to read at most.
        credential: the visitor's.
        job: asked at every row.
    """
    job.say("Finding the dataset")
    check(asked)
    bank = keeper.wait(job)
    with Child(job, _read, asked, credential) as child:
        items = iter(child)
        opened = next(items)
        reader = _Reader(items, job)
        watched = replace(opened, rows=reader.rows)
        made = plan(watched, bank, recipe.model_copy(update={"max_rows": limit}))
    if reader.ended:  # the limit changed nothing: the same recipe as without one
        made = replace(made, recipe=recipe)
    made = replace(made, dataset=replace(opened, rows=_spent))
    return PlanResult(made, reader.samples, Path(asked.file).name if asked.file else str(opened.id))


def _read(asked: DatasetRequest, credential: Credential) -> Iterator[Any]:
    """In a process of its own: the dataset as it was found, then its rows, some at a time."""
    with _plain_names(asked):
        opened = open_asked(asked, credential)
        yield replace(opened, rows=_spent)
        rows, size = opened.rows(), 1
        while batch := list(islice(rows, size)):
            yield batch
            size = min(2 * size + SAMPLES, _BATCH_ROWS)


class _Reader:
    """A dataset's rows, counted; keeps the first few and whether the end was reached."""

    def __init__(self, batches: Iterator[list[tuple[str, str]]], job: Job) -> None:
        self._batches, self._job = batches, job
        self.samples: list[tuple[str, str]] = []
        self.ended = False

    def rows(self) -> Iterator[tuple[str, str]]:
        flat = (row for batch in self._batches for row in batch)
        for row in self._job.watch(flat, "Reading rows"):
            if len(self.samples) < SAMPLES:
                self.samples.append(row)
            yield row
        self.ended = True


def _spent() -> Iterator[tuple[str, str]]:
    raise RequestError("The rows of this dataset are not kept: plan again to read them")


# --- making -------------------------------------------------------------------------------------


def make_adapter(planned: PlanResult, job: Job) -> AdapterResult:
    """Carry the plan out; the files are what ``hf-lorameta generate`` writes."""
    with tempfile.TemporaryDirectory(prefix="lorameta-") as scratch:
        folder, seconds = _combine(planned.plan, Path(scratch), None, job)
        return _packed(folder, planned, seconds, job)


def make_and_publish(
    planned: PlanResult, to: Destination, credential: Credential, job: Job
) -> AdapterResult:
    """Look at the target, carry the plan out, publish in one commit.

    Raises:
        SignInError: nobody is signed in.
        LoraMetaError: as `look`, `generate_from_plan` and `publish_folder` raise.
    """
    if credential is False:
        raise SignInError("Publishing needs an account: sign in first")
    token = credential
    repo_id = target_name(planned, to, Hub(token).user())
    job.say("Looking at the repo")
    target = resolve_target(
        repo_id, private=to.private, dataset_private=planned.plan.dataset.private, token=token
    )
    if not to.overwrite:
        check_no_overwrite(target)
    with tempfile.TemporaryDirectory(prefix="lorameta-") as scratch:
        folder, seconds = _combine(planned.plan, Path(scratch), repo_id, job)
        made = _packed(folder, planned, seconds, job)
        try:
            job.say("Publishing: one commit, which cannot be cancelled any more")
            url = publish_folder(folder, target, token=token)
        except BaseException:
            discard(made)
            raise
    return replace(made, url=url, repo_id=repo_id, private=target.private)


def target_name(planned: PlanResult, to: Destination, user: str) -> str:
    """The repo an adapter goes to.

    Raises:
        RequestError: not of the form user/name, or it would give a private dataset's name away.
    """
    if to.repo_id and to.repo_id.strip():
        name = to.repo_id.strip()
        name = name if "/" in name else f"{user}/{name}"
        if not _HUB_ID.fullmatch(name):
            raise RequestError(f"{name[:80]!r} is not a repo id of the form user/name")
        return name
    if planned.plan.dataset.private and to.private is False:
        raise RequestError(
            "The dataset is private, and a public repo named after it would give its name away: "
            "type a repo name in the options"
        )
    return default_repo_id(user, planned.name, planned.plan.bank.index.base_model)


def _combine(made: Plan, scratch: Path, repo_id: str | None, job: Job) -> tuple[Path, float]:
    text = f"Combining {len(made.active_indices)} adapters"
    job.say(text)
    result = generate_from_plan(made, lambda done, total: job.say(text, done, total))
    job.say("Writing and reading back")
    return result.save_pretrained(scratch / "adapter", repo_id=repo_id), result.seconds


def _packed(folder: Path, planned: PlanResult, seconds: float, job: Job) -> AdapterResult:
    stem = re.sub(r"[^A-Za-z0-9]+", "-", Path(planned.name).stem).strip("-") or "adapter"
    job.check()
    place = Path(tempfile.mkdtemp(prefix="lorameta-download-"))
    archive = place / f"{stem[:60]}-lorameta.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
        for path in sorted(folder.iterdir()):
            info = zipfile.ZipInfo(path.name)  # a fixed date: the same files, the same bytes
            info.external_attr = 0o644 << 16
            packed.writestr(info, path.read_bytes())
    card = (folder / "README.md").read_text(encoding="utf-8")
    recipe = (folder / "recipe.json").read_text(encoding="utf-8")
    return AdapterResult(archive, card, recipe, seconds)


def discard(made: AdapterResult) -> None:
    """Remove the archive, once Gradio has its own copy or nobody wants it."""
    shutil.rmtree(made.archive.parent, ignore_errors=True)


Work = Callable[[Job], PlanResult | AdapterResult]
