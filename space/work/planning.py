"""Read the dataset that a visitor names or uploads, and plan an adapter for it.

Only token counts and up to `SAMPLES` clipped rows leave the process that reads the dataset. A
`PlanResult` is stored for the visitor, so it holds no token and no open stream.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from pydantic import Field

from hf_lorameta.bank.bank import Bank
from hf_lorameta.data.chat_form import CHAT, end_of_prompt
from hf_lorameta.data.preview import Preview, preview
from hf_lorameta.data.sources.files import splits_of
from hf_lorameta.data.sources.formats import ON_PAGE, is_on_page
from hf_lorameta.data.sources.hub_repos import repo_choices
from hf_lorameta.data.sources.reading_limits import ReadingLimits
from hf_lorameta.errors import LoraMetaError
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.repo import DATASET_LINK, Token, is_repo_id, on_hub
from hf_lorameta.pipeline.plan import Plan, plan_from_reading
from hf_lorameta.pipeline.progress import with_progress
from hf_lorameta.pipeline.read import ReadDataset, TokenCounting, read_dataset, token_counting
from hf_lorameta.pipeline.request import Request
from hf_lorameta.pipeline.rows import POOL_ROWS
from hf_lorameta.pipeline.session import Opening, Session
from space_error import SpaceError
from visitors.kept import StoredRows
from work.jobs import Job
from work.reader_process import read, report

CHOICES = ("config", "split", "columns", "instruction", "template")
"""What can be chosen about a dataset, by the names that links and the command line share."""
TEXT_CHARACTERS = 4000
"""Most characters of an instruction or a template."""
SAMPLES = POOL_ROWS
"""Rows kept for the visitor, to try the adapter on, and to train and check it on."""
SAMPLE_CHARACTERS = 8000
"""Most characters kept of an input, and of an output; more than training and checks read."""
LIMITS = ReadingLimits(characters=10_000_000, text=100_000, seconds=4.0)
"""How much of a dataset is counted. Counting so many characters takes 5 s of computing, or a minute
of digits and marks that other people's datasets do not have: the seconds end that."""


class RequestError(SpaceError):
    """The visitor's input is invalid; the message says what is expected."""

    code = "page.invalid"


def _field(name: str) -> Any:
    """Return a field of a request again, to narrow its type."""
    return Field(default=None, description=Request.model_fields[name].description)


class PageRequest(Request):
    """What a visitor asks for: of a dataset on the Hub, or of a file that was uploaded.

    Attributes:
        file: path of the uploaded file, whose name stands for it in commands; None for a dataset.

    Example:
        >>> PageRequest(file="/uploads/rows.csv", split="test").command("plan")
        'hf-lorameta plan --dataset rows.csv --split test'
    """

    split: str | None = _field("split")
    template: str | None = _field("template")
    file: str | None = Field(
        default=None, description="a data file instead, such as .csv, .jsonl or .parquet."
    )

    @classmethod
    def given(cls, values: Mapping[str, Any]) -> Self:
        """Return the request with these values; those that are empty or 0 are the defaults.

        Raises:
            UsageError: the columns are no roles, or a setting is out of range.
        """
        named = {name: values.get(name) for name in cls.model_fields}
        return cls.of(**{name: value for name, value in named.items() if value})

    @property
    def name(self) -> str:
        """The dataset's id, or the file's name without its folder."""
        return Path(self.file).name if self.file else str(self.dataset or "")

    @property
    def chosen(self) -> dict[str, str]:
        """What was chosen of `CHOICES`."""
        values = {name: getattr(self, name) for name in CHOICES}
        return {name: str(value) for name, value in values.items() if value}

    @property
    def changed(self) -> dict[str, Any]:
        """The values that are not the defaults, with the file's name as the dataset."""
        given = {name: value for name, value in super().changed.items() if name != "file"}
        return ({"dataset": self.name} if self.file else {}) | given


def fitting(request: PageRequest) -> PageRequest:
    """Return a request, without its instruction and template if they do not fit its columns."""
    try:
        return validated(request)
    except LoraMetaError:
        return request.but(instruction=None, template=None)


def validated(request: PageRequest) -> PageRequest:
    """Check a request before anything is read, and normalize it.

    Raises:
        RequestError: no dataset is named, the id or file type is invalid, or a text is too long.
        UsageError: rows with an instruction get another one, or the template does not fit the
            columns.
    """
    instruction = prompt_text(request.instruction, "instruction")
    template = prompt_text(request.template, "template")
    request = request.but(instruction=instruction, template=template)
    if request.columns:
        request.columns.with_prompt(instruction, None if template == CHAT else template)
    if request.file:
        if not is_on_page(request.file):
            raise RequestError(
                f"The file {request.name} is not one of {', '.join(ON_PAGE)}",
                code="file.unknown-ending",
            )
        return request.but(dataset=None, config=None)
    name = str(request.dataset or "").strip()
    if not name:
        raise RequestError(
            "No dataset was named: type an id such as user/name, or upload a file",
            code="dataset.unnamed",
        )
    return request.but(dataset=_validated_id(name), file=None)


def prompt_text(text: str | None, kind: str) -> str | None:
    r"""Return an instruction or a template without ``\r``; None if it is empty.

    Args:
        text: as a visitor sent it.
        kind: its name in an error.

    Raises:
        RequestError: it is longer than `TEXT_CHARACTERS`.

    Example:
        >>> prompt_text("Sort it.\r\n", "instruction"), prompt_text(" ", "template")
        ('Sort it.\n', None)
    """
    text = text or ""
    if len(text) > TEXT_CHARACTERS:
        raise RequestError(
            f"The {kind} is longer than {TEXT_CHARACTERS:,} characters", code="page.text-too-long"
        )
    return text.replace("\r\n", "\n") if text.strip() else None


def _validated_id(text: str) -> str:
    """Return the Hub id in a name or link; raise if it could be a path or URL on this machine."""
    link = DATASET_LINK.match(text)
    name = link[1] if link else text.removesuffix("/")
    if not is_repo_id(name):
        raise RequestError(
            f"{name[:80]!r} is not a dataset id of the form user/name", code="repo.invalid-id"
        )
    if is_on_page(name) or Path(name).exists():
        raise RequestError(f"{name!r} looks like a file: upload it instead", code="page.is-a-file")
    return name


@dataclass(frozen=True)
class Source:
    """What a dataset offers to choose from.

    Attributes:
        configs: all configurations; empty for a file.
        splits: all splits of the configuration; of a file, its sheets or tables, if it has several.
        preview: columns and first rows of the split.
    """

    configs: list[str]
    splits: list[str]
    preview: Preview


def read_source(request: PageRequest, credential: Token) -> Source:
    """Return what a dataset offers.

    If none is requested, the configuration is that of `repo_choices`, and the split ``train`` if
    there is one, else the first one.

    Raises:
        LoraMetaError: there is no such dataset, configuration or split, or it cannot be read.
    """
    hub = Hub(credential)
    with hidden_path(request.file, request.name):
        if request.file:
            splits = splits_of(Path(request.file))
            split = request.split or (_usual(splits) if splits else None)
            return Source([], splits, preview(request.file, hub, split=split))
        name = str(request.dataset or "")
        repo = hub.resolve(name, "dataset")
        configs, config, splits = repo_choices(hub, repo, request.config)
        split = request.split or _usual(splits)
        named = config if len(configs) > 1 else None
        return Source(configs, splits, preview(on_hub(name), hub, config=named, split=split))


def _usual(splits: Sequence[str]) -> str:
    return "train" if "train" in splits else splits[0]


@contextmanager
def hidden_path(path: str | None, name: str) -> Iterator[None]:
    """Replace the path of a file on this machine with a name in error messages."""
    try:
        yield
    except LoraMetaError as error:
        if path:
            error.args = (str(error).replace(path, name), *error.args[1:])
        raise


# --- plans --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlanResult:
    """A plan and what the page shows with it.

    Attributes:
        plan: the plan.
        samples: rows with an output, drawn at random: the end of the input and the start of the
            output. Shown only to the visitor.
        request: what was asked for.
    """

    plan: Plan
    samples: Sequence[tuple[str, str]]
    request: PageRequest

    @property
    def name(self) -> str:
        """Dataset id or file name."""
        return self.request.name


def make_plan(
    bank: Bank,
    request: PageRequest,
    max_rows: int,
    credential: Token,
    job: Job,
    samples: int = SAMPLES,
) -> PlanResult:
    """Read the dataset once, in a process of its own, and plan.

    Args:
        bank: its adapters are combined.
        request: the dataset.
        max_rows: maximum number of rows to read; of characters, there are `LIMITS`.
        credential: token of the visitor.
        job: checked while the dataset is read.
        samples: labeled rows to keep, to train and check on.

    Raises:
        RequestError: the request is invalid.
        LoraMetaError: the dataset or the bank cannot be used.
    """
    job.report("Finding the dataset")
    request = validated(request)
    opening = Session(bank, token=credential).opening(request.reading)
    limits, counting = replace(LIMITS, rows=max_rows), token_counting(bank)
    reading = read(job, _read, request, credential, opening, limits, counting, samples)
    return PlanResult(plan_from_reading(reading, bank), StoredRows(reading.pool), request)


def _read(
    request: PageRequest,
    credential: Token,
    opening: Opening,
    limits: ReadingLimits,
    counting: TokenCounting,
    samples: int,
) -> ReadDataset:
    """Return what was read, its pool with short rows only; runs in a `reader_process`."""
    with hidden_path(request.file, request.name):
        dataset = request.file or on_hub(str(request.dataset or ""))
        opened = with_progress(opening.open(dataset, Hub(credential), limits), report)
        reading = read_dataset(opened, request.recipe, counting, collect=samples)
        cut = ((end_of_prompt(text, SAMPLE_CHARACTERS), out[:SAMPLE_CHARACTERS])
               for text, out in reading.pool)  # fmt: skip
        return replace(reading, pool=tuple(cut))
