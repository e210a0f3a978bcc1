"""What a page, or several in one browser tab, have chosen and made; the last request wins.

A `Visit` is the value of the page's only `gr.State`. All handlers of a page share it, and Gradio
drops it, and with it the files of the adapter, an hour after its last use.
"""

import secrets
import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hf_lorameta.errors import LoraMetaError
from visitors.kept import KEPT, PLAN_BYTES, StoredRows
from visitors.uploads import Upload
from work.background import Background
from work.generating import Adapter, Saved
from work.jobs import Job, LineName, Updates
from work.planning import PageRequest, PlanResult, RequestError, Source
from work.predicting import Answered

T = TypeVar("T")


@dataclass
class Task:
    """Work that a visitor asked for.

    Attributes:
        job: reports its progress and results.
        work: runs in a thread.
        problem: component of the page that shows an error.
        started: whether its turn has come.
    """

    job: Job
    work: Callable[[Job], None]
    problem: Any
    started: bool = False


@dataclass
class Visit:
    """State of a page.

    Attributes:
        number: of the page's latest request; the page counts them, so that an earlier request that
            arrives late can be told from a new one.
        opened: the number of the request with which its latest page went on with it.
        task: the one that waits or runs; None if there is none.
        left: what the next page says of the task that was not done when the page was left.
        canceled: whether the latest request was Cancel, and ended all that went on.
        request: the dataset that was asked for.
        linked: what a link has chosen about it, by the names of `CHOICES`.
        upload: its file, if it was uploaded; the file is kept as long as this is set.
        dataset_number: of that dataset; forms of earlier datasets state earlier numbers.
        source: what that dataset offers to choose from.
        plan_result: its plan.
        adapter: the best so far.
        answers: of the adapter and the base model to what was tried last, as HTML.
        answered: rows that it has answered; None if there are none.
        said: a sentence about its training, or why that failed.
        more: whether more time might make it better.
        version: number of adapters, reports and answers so far.
        results: number of adapters that the visitor has asked for and got.
        unseen: whether the page showed nothing of the adapter when it last asked for news.
        background: trains and checks; None if nothing does.
        saved: the version that was saved last, and where; None if none was.
        user: who was signed in when it was used last; None if nobody was.
        filled: what answers have put into fields.
        key: lets a later page of the same browser tab, after signing in, go on with this visit.
        lock: held while a request is answered and while a result is shown, so that a Cancel finds
            either all of a request or nothing of it.
    """

    number: int = 0
    opened: int = 0
    task: Task | None = None
    left: Updates = field(default_factory=dict)
    canceled: bool = False
    request: PageRequest | None = None
    linked: dict[str, str] = field(default_factory=dict)
    upload: Upload | None = None
    dataset_number: int = 0
    source: Source | None = None
    plan_result: PlanResult | None = None
    adapter: Adapter | None = None
    answers: str = ""
    answered: Answered | None = None
    said: str | LoraMetaError = ""
    more: bool = False
    version: int = 0
    results: int = 0
    unseen: bool = False
    background: Background | None = None
    saved: Saved | None = None
    user: str | None = None
    filled: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.lock = threading.RLock()  # no field: Gradio copies those
        self.key = secrets.token_urlsafe(16)
        self.filled["visit"] = self.key  # tells a page whether it goes on with what was typed
        _VISITS[self.key] = self

    def __deepcopy__(self, memo: object) -> "Visit":
        """Return a new visit: Gradio copies the initial value of the state for each page."""
        return Visit()

    @property
    def offered(self) -> list[str]:
        """What the page offers to choose above the table of rows."""
        source = self.source
        choices = {"config": source.configs, "split": source.splits} if source else {}
        return [name for name, values in choices.items() if len(values) > 1]

    def drop_background(self) -> None:
        """End the background work; it shows nothing more."""
        if self.background is not None:
            self.background.job.cancel()
        self.background = None

    def keep(self, address: str) -> None:
        """Count what this visit keeps in memory for an address, whose oldest visits make room."""
        rows = self.plan_result.samples if self.plan_result else ()
        texts = rows.size if isinstance(rows, StoredRows) else 0
        names = self.source.configs + self.source.preview.names if self.source else []
        KEPT.keep(self, address, PLAN_BYTES + texts + sum(map(sys.getsizeof, names)))

    def accept(self, number: int) -> bool:
        """Return whether a request is later than all before it; if so, cancel what runs."""
        if number <= self.number:
            return False
        self.number, self.canceled, self.left = number, False, {}
        self.drop_task()
        return True

    def take(self, line: LineName) -> Task | None:
        """Return the task that waits in a line; None if it was canceled, replaced or taken."""
        with self.lock:
            task = self.task
            if task is None or task.started or task.job.line != line:
                return None
            task.started = True
            return task

    def cancel(self, number: int) -> bool:
        """Cancel the task; return whether it was in time."""
        if number <= self.number:
            return False
        self.number = number
        if self.task is None or self.task.job.committed:
            return False
        self.drop_task()
        self.canceled = self.background is None
        return True

    def drop_task(self) -> None:
        """Cancel the task; it shows nothing more, unless it was committed."""
        if self.task is not None:
            self.task.job.cancel()
        self.task = None

    def choose(self, request: PageRequest) -> None:
        """Replace the dataset."""
        self.dataset_number += 1
        self.request, self.source = request, None
        self.forget_plan()

    def forget_plan(self) -> None:
        """Drop the plan and what was made from it."""
        self.drop_background()
        self.plan_result = self.adapter = self.answered = None
        self.answers, self.said, self.more, self.saved = "", "", False, None


_VISITS: weakref.WeakValueDictionary[str, Visit] = weakref.WeakValueDictionary()
"""Visits by their keys, as long as Gradio keeps them: an hour."""


def is_kept(key: str) -> bool:
    """Return whether a visit still exists."""
    return key in _VISITS


def earlier_visit(key: str, user: str | None) -> Visit | None:
    """Return the visit of an earlier page, if that has a plan, and forget it if its user left.

    Args:
        key: of that visit, which nobody else knows.
        user: who is signed in now.
    """
    visit = _VISITS.get(key)
    if visit is None or visit.plan_result is None:
        return None
    if visit.user and visit.user != user:  # signed out, perhaps on a machine of several people
        with visit.lock:
            visit.drop_task()
            visit.choose(PageRequest())
            visit.upload = None
        return None
    return visit


def known(value: T | None) -> T:
    """Return a part of a visit.

    Raises:
        RequestError: it is missing, since the state of the page was dropped.
    """
    if value is None:
        raise RequestError(
            "The plan of this page is no longer kept: read the dataset again", code="page.plan-gone"
        )
    return value
