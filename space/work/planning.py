"""Plan an adapter for one request.

Only token counts and up to `SAMPLES` clipped rows leave the process that reads the dataset. A
`PlanResult` is stored for the visitor, so it holds no token and no open stream.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from hf_lorameta.data.counts.sample import RowSample
from hf_lorameta.data.sources.reading_limits import ReadingLimits
from hf_lorameta.pipeline.plan import Plan, plan_from_reading
from hf_lorameta.pipeline.read import Reading, TokenCounting, read_dataset, token_counting
from hf_lorameta.pipeline.session import Session
from hf_lorameta.recipe import Recipe
from work.bank_loader import BankLoader
from work.dataset_request import (
    CHAT,
    Credential,
    DatasetRequest,
    hidden_path,
    open_request,
    validated,
)
from work.jobs import Job
from work.reader_process import read, report_rows

SAMPLES = 120
"""Rows kept for the visitor, to try and test the adapter on, and to train it on."""
SAMPLE_CHARACTERS = 4000
"""Of an input and an output; more than training reads."""
MAX_CHARACTERS = 10_000_000
"""Characters read from a dataset at most; counting their tokens takes about 6 s of computing."""


@dataclass(frozen=True)
class PlanResult:
    """A plan and what the page shows with it.

    Attributes:
        plan: the plan.
        samples: rows with an output, drawn at random: the end of the input and the start of the
            output. Shown only to the visitor.
        name: dataset id or file name.
    """

    plan: Plan
    samples: list[tuple[str, str]]
    name: str


def make_plan(
    bank_loader: BankLoader,
    request: DatasetRequest,
    recipe: Recipe,
    max_rows: int,
    credential: Credential,
    job: Job,
) -> PlanResult:
    """Read the dataset once, in a process of its own, and plan.

    Args:
        bank_loader: provides the bank.
        request: the dataset.
        recipe: settings; the plan's recipe states ``max_rows`` only if a limit was reached.
        max_rows: maximum number of rows to read; of characters, it is `MAX_CHARACTERS`.
        credential: token of the visitor.
        job: checked while the dataset is read.

    Raises:
        RequestError: the request is invalid.
        LoraMetaError: the dataset or the bank cannot be used.
    """
    job.report("Finding the dataset")
    request = validated(request)
    bank = bank_loader.wait(job)
    if request.template == CHAT:
        request = replace(request, template=Session(bank, token=credential).chat_form)
    limits = ReadingLimits(characters=MAX_CHARACTERS, rows=max_rows)
    reading, samples = read(job, _read, request, credential, recipe, limits, token_counting(bank))
    return PlanResult(plan_from_reading(reading, bank), samples, request.name)


def _read(
    request: DatasetRequest,
    credential: Credential,
    recipe: Recipe,
    limits: ReadingLimits,
    counting: TokenCounting,
) -> tuple[Reading, list[tuple[str, str]]]:
    """Return the token counts of a dataset, and some of its rows; runs in a `reader_process`."""
    with hidden_path(request):
        opened = open_request(request, credential, limits)
        sample = RowSample(SAMPLES, "samples")

        def rows() -> Iterator[tuple[str, str]]:
            return sample.of(report_rows(opened.rows()))

        reading = read_dataset(replace(opened, rows=rows), recipe, counting)
        samples = [
            (prompt[-SAMPLE_CHARACTERS:], output[:SAMPLE_CHARACTERS])
            for prompt, output in sample.rows
        ]
        return reading, samples
