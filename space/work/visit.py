"""What one open page has chosen and made; the last request wins.

A `Visit` is the value of the page's only `gr.State`. All handlers of a page share it, and Gradio
drops it, and with it the files of the adapter, an hour after its last use.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from hf_lorameta.engines.scoring import Report
from hf_lorameta.recipe import Recipe
from limits.uploads import Upload
from work.generating import Adapter
from work.jobs import Job
from work.planning import DatasetRequest, PlanResult, RequestError, Source

READ_AGAIN, MAKE_AGAIN = "read the dataset again", "make the adapter again"
T = TypeVar("T")
Line = Literal["plan", "adapter", "model"]
"""What waits in Gradio's queue for each other: reading datasets and planning; combining and saving
adapters; running the base model."""


@dataclass
class Task:
    """Work that a visitor asked for.

    Attributes:
        line: where it waits for its turn.
        job: reports its progress and results.
        work: runs in a thread.
        problem: component of the page that shows an error.
        restores: whether a Cancel that comes while the result is on its way takes it back.
        started: whether its turn has come.
    """

    line: Line
    job: Job
    work: Callable[[Job], None]
    problem: Any
    restores: bool
    started: bool = False


@dataclass
class Visit:
    """State of one open page.

    Attributes:
        number: of the page's latest request; the page counts them, so that an earlier request that
            arrives late is told from a new one.
        task: the one that waits or runs; None if there is none.
        canceled: whether the latest request was Cancel.
        request: the dataset that was asked for.
        upload: its file, if it was uploaded, which is kept for as long.
        dataset_number: of that dataset; forms of earlier datasets state earlier numbers.
        source: what that dataset offers to choose from.
        recipe: the options as a recipe; None if they are invalid.
        plan_result: its plan.
        adapter: the adapter that was made from the plan.
        report: scores of the adapter, if it was tested.
        results: number of adapters that were made.
        lock: held while a request is answered and while a result is shown, for milliseconds, so
            that a Cancel finds either all of a request or nothing of it.
    """

    number: int = 0
    task: Task | None = None
    canceled: bool = False
    request: DatasetRequest | None = None
    upload: Upload | None = None
    dataset_number: int = 0
    source: Source | None = None
    recipe: Recipe | None = field(default_factory=Recipe)
    plan_result: PlanResult | None = None
    adapter: Adapter | None = None
    report: Report | None = None
    results: int = 0
    _before: tuple[PlanResult | None, Adapter | None, Report | None] | None = None

    def __post_init__(self) -> None:
        self.lock = threading.RLock()  # no field: Gradio copies those

    def __deepcopy__(self, memo: object) -> "Visit":
        """Return a new visit: Gradio copies the initial value of the state for each page."""
        return Visit()

    def accept(self, number: int) -> bool:
        """Whether a request is later than all before it; if so, what runs is canceled."""
        if number <= self.number:
            return False
        self.number, self.canceled = number, False
        self.drop_task()
        return True

    def begin(self, task: Task) -> None:
        """Put a task in line; Cancel will bring back what is planned and made by now."""
        self.task = task
        self._before = (self.plan_result, self.adapter, self.report)

    def take(self, line: Line) -> Task | None:
        """Return the task that waits in a line; None if it was canceled, replaced or taken."""
        with self.lock:
            task = self.task
            if task is None or task.started or task.line != line:
                return None
            task.started = True
            return task

    def finish(self, task: Task) -> None:
        """End a task, unless a later one has begun."""
        if self.task is task:
            self.task = None
            self._before = self._before if task.restores else None

    def cancel(self, number: int) -> bool:
        """Cancel the task, also one whose result is on its way; return whether it was in time."""
        if number <= self.number:
            return False
        self.number = number
        if self._before is None or (self.task and self.task.job.committed):
            return False
        self.plan_result, self.adapter, self.report = self._before
        self.drop_task()
        self.canceled = True
        return True

    def drop_task(self) -> None:
        """Cancel the task; it shows nothing more, unless it was committed."""
        if self.task is not None:
            self.task.job.cancel()
        self.task = self._before = None

    def choose(self, request: DatasetRequest) -> None:
        """Replace the dataset."""
        self.dataset_number += 1
        self.request, self.source = request, None
        self.forget_plan()

    def forget_plan(self) -> None:
        """Drop the plan and what was made from it."""
        self.plan_result, self.adapter, self.report = None, None, None


def known(value: T | None, remedy: str) -> T:
    """Return a part of a visit.

    Raises:
        RequestError: it is missing, since the state of the page was dropped.
    """
    if value is None:
        raise RequestError(f"This page was idle for an hour: {remedy}")
    return value
