"""Plan an adapter for one request.

A `PlanResult` is stored for the visitor, so it holds no token and no open stream.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from bank_loader import BankLoader
from dataset_request import (
    Credential,
    DatasetRequest,
    RequestError,
    hidden_path,
    open_request,
    validated,
)
from hf_lorameta import Plan, Recipe, plan
from jobs import Job
from reader_process import reader_process

SAMPLES = 3
_BATCH_ROWS = 512


@dataclass(frozen=True)
class PlanResult:
    """A plan and what the page shows with it.

    Attributes:
        plan: the plan; its dataset cannot be read again.
        samples: first rows, shown only to the visitor.
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
    """Read the dataset once and plan.

    Args:
        bank_loader: provides the bank.
        request: the dataset.
        recipe: settings; the plan's recipe states ``max_rows`` only if the limit was reached.
        max_rows: maximum number of rows to read.
        credential: token of the visitor.
        job: checked at every row.

    Raises:
        RequestError: the request is invalid.
        LoraMetaError: the dataset or the bank cannot be used.
    """
    job.report("Finding the dataset")
    request = validated(request)
    bank = bank_loader.wait(job)
    with reader_process(job, _read_dataset, request, credential) as items:
        dataset = next(items)
        rows = _Rows(items, job)
        limited = recipe.model_copy(update={"max_rows": max_rows})
        result = plan(replace(dataset, rows=rows.read), bank, limited)
    if rows.exhausted:
        result = replace(result, recipe=recipe)
    name = Path(request.file).name if request.file else str(dataset.id)
    return PlanResult(replace(result, dataset=dataset), rows.samples, name)


def _read_dataset(request: DatasetRequest, credential: Credential) -> Iterator[Any]:
    """Yield the opened dataset without its rows, then its rows in batches."""
    with hidden_path(request):
        dataset = open_request(request, credential)
        yield replace(dataset, rows=_unavailable_rows)
        rows, size = dataset.rows(), 1
        while batch := list(islice(rows, size)):
            yield batch
            size = min(2 * size + SAMPLES, _BATCH_ROWS)


class _Rows:
    """Rows of a dataset; `samples` holds the first few, `exhausted` says whether all were read."""

    def __init__(self, batches: Iterator[list[tuple[str, str]]], job: Job) -> None:
        self._batches, self._job = batches, job
        self.samples: list[tuple[str, str]] = []
        self.exhausted = False

    def read(self) -> Iterator[tuple[str, str]]:
        rows = (row for batch in self._batches for row in batch)
        for row in self._job.count(rows, "Reading rows"):
            if len(self.samples) < SAMPLES:
                self.samples.append(row)
            yield row
        self.exhausted = True


def _unavailable_rows() -> Iterator[tuple[str, str]]:
    raise RequestError("The rows of this dataset are not stored: plan again to read them")
