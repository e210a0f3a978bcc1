"""What one open page has chosen and made; the last request wins.

A `Visit` is the value of the page's only `gr.State`. All handlers of a page share it, and Gradio
drops it, and with it the files of the adapter, an hour after its last plan.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dataset_request import DatasetRequest, Source
from generating import AdapterResult
from hf_lorameta import Recipe, Report
from jobs import Job
from planning import PlanResult

IDLE = "This page was idle for an hour"
"""Begins the message for a page whose state was dropped; a remedy follows."""


@dataclass
class Visit:
    """State of one open page.

    Attributes:
        job: the running job; None if nothing runs.
        request: the dataset that was asked for.
        dataset_number: of that dataset; forms of earlier datasets state earlier numbers.
        source: what that dataset offers to choose from.
        recipe: the options as a recipe; None if they are invalid.
        plan_result: its plan.
        adapter: the adapter that was made from the plan.
        report: scores of the adapter, if it was tested.
        results: number of adapters that were made.
        target: values of the form that saves the adapter, to be confirmed.
        undo: takes back what the last job has shown, for a Cancel that comes late; None if nothing
            can be taken back. Returns updates of components.
        cancellations: how often Cancel was pressed.
        number: of the latest request for a dataset that was accepted.
    """

    job: Job | None = None
    request: DatasetRequest | None = None
    dataset_number: int = 0
    source: Source | None = None
    recipe: Recipe | None = field(default_factory=Recipe)
    plan_result: PlanResult | None = None
    adapter: AdapterResult | None = None
    report: Report | None = None
    target: Mapping[str, str] = field(default_factory=dict)
    results: int = 0
    undo: Callable[[], dict[Any, Any]] | None = None
    cancellations: int = 0
    number: int = 0

    def accept(self, number: int) -> bool:
        """Whether a numbered request is newer than all before it."""
        if number <= self.number:
            return False
        self.number = number
        return True

    def begin(self, time_limit: float, cancellations: int | None = None) -> Job:
        """Cancel the running job and return a new one in its place.

        The new one is canceled if Cancel was pressed since there were so many cancellations.
        """
        self.drop_job()
        self.job = job = Job(time_limit)
        if cancellations not in (None, self.cancellations):
            job.cancel()
        return job

    def cancel(self) -> bool:
        """Cancel the running job; return whether there was one."""
        self.cancellations += 1
        if self.job is not None:
            self.job.cancel()
        return self.job is not None

    def finish(self, job: Job) -> bool:
        """End a job; return whether it was the running one, whose result counts."""
        if self.job is not job:
            return False
        self.job = None
        return True

    def drop_job(self) -> None:
        """Cancel the running job; its handler shows nothing more."""
        if self.job is not None:
            self.job.cancel()
        self.job, self.undo = None, None

    def choose(self, request: DatasetRequest) -> None:
        """Replace the dataset."""
        self.dataset_number += 1
        self.request, self.source = request, None
        self.forget_plan()

    def forget_plan(self) -> None:
        """Drop the plan and what was made from it."""
        self.plan_result, self.adapter, self.report = None, None, None
