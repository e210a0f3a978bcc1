"""The base class of all actions.

A visitor's request is two events. The first is answered at once: it validates what was asked for,
cancels what runs, and puts a task in line. The second, `Actions.run`, waits in Gradio's queue and
streams the task's progress and results.
"""

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import gradio as gr

from components import Components
from settings import SpaceSettings
from views.blocks import error_html, note, progress_html
from visitors.callers import Call
from visitors.lines import FullError, Line
from work.bank_loader import BankLoader
from work.jobs import Canceled, Job, LineName, Step, Updates, known_error
from work.visit import Task, Visit

_CANCELED = f'<div data-announce="Canceled">{note("info", "Canceled")}</div>'
_LEFT = note(
    "info", "The page was left, which ended what it did", ["To go on, press the button again."]
)
_SAVING = note(
    "info",
    "The page was left while the adapter was being saved",
    ["Reload it in a moment to see where it is. If that shows nothing, save it again."],
)
_ELSEWHERE = note("error", "This page goes on in another tab", ["To go on here, reload it."])
_AGAIN = note("warning", "All places in the line are taken", ["Asking again in a few seconds."])
_AGAIN_SECONDS, _ASKING_SECONDS = 5.0, 60.0
"""How often, and for how long, a place is asked for."""

F = TypeVar("F", bound=Callable[..., Updates])


def in_turn(answer: F) -> F:
    """Decorate a method that answers requests: those of one page wait for each other."""

    @functools.wraps(answer)
    def with_lock(actions: "Actions", visit: Visit, *values: Any) -> Updates:
        with visit.lock:
            return answer(actions, visit, *values)

    return cast(F, with_lock)


def last_wins(answer: F) -> F:
    """Decorate a method that answers a request with a number: the last one of a page wins.

    It cancels whatever runs.
    """

    @functools.wraps(answer)
    def accepted(actions: "Actions", visit: Visit, number: int, *values: Any) -> Updates:
        if not visit.accept(number):
            return actions.refuse(visit, number)
        return answer(actions, visit, number, *values)

    return in_turn(cast(F, accepted))


@dataclass(frozen=True)
class Actions:
    """Base class of event handlers.

    Attributes:
        components: widgets to update.
        bank_loader: provides the bank.
        settings: limits and sign-in.
        lines: the lines in which requests wait.
    """

    components: Components
    bank_loader: BankLoader
    settings: SpaceSettings
    lines: Mapping[str, Line] = field(default_factory=dict)

    def begin(
        self, visit: Visit, line: LineName, work: Callable[[Job], None], problem: Any
    ) -> Updates:
        """Put work in line for a visit whose request was accepted; see `Job` and `Task`."""
        visit.task = Task(Job(self.settings.time_limit, line), work, problem)
        return self._running(visit) | {problem: ""}

    async def run_in_turn(self, visit: Visit, line: LineName, call: Call) -> AsyncIterator[Updates]:
        """Run the task that waits in a line once its turn comes; yield its place until then.

        If there is no place, it keeps asking for a minute.
        """
        task, progress = visit.task, self.components.progress
        end = time.monotonic() + _ASKING_SECONDS

        def wanted() -> bool:  # not canceled, replaced, or left
            return task is not None and visit.task is task and call.wanted

        while wanted():
            begun = False
            try:
                work = functools.partial(self.run, visit, line, call)
                running = self.lines[line].run(call, work, wanted)
                async with aclosing(running):
                    async for news in running:
                        begun = not isinstance(news, int)
                        place = f"Waiting: place {news} in the line"
                        shown = {progress: progress_html(place)}
                        yield news if isinstance(news, dict) else self.nothing(visit) | shown
                if begun:
                    return
            except FullError as full:
                if time.monotonic() > end:
                    yield self.give_up(visit, full)
                    return
                yield self.nothing(visit) | {progress: _AGAIN}
                await asyncio.sleep(_AGAIN_SECONDS)
        yield self.settle(visit)

    def run(
        self, visit: Visit, line: LineName, call: Call | None = None
    ) -> Generator[Updates, None, None]:
        """Run the task that waits in a line; yield its progress and results.

        Answers may reach a page out of order, so the page is told what runs both at the start and
        at the end.
        """
        task = visit.take(line)
        if task is None:
            yield self.settle(visit)
            yield self.nothing(visit)
            return
        task.job.call = call or task.job.call
        updates, ended = Updates(), False
        try:
            yield self._shown(visit, task, lambda: self._running(visit))
            for news in task.job.run(task.work):
                yield self._shown(visit, task, news)
            ended = True
        except Canceled:
            pass
        except Exception as error:  # noqa: BLE001 - shown as a message
            found, ended = known_error(error), True
            updates = {task.problem: error_html(found, visit.offered)}
        finally:  # Gradio closes this generator if it takes the page for closed
            with visit.lock:
                if visit.task is task:
                    self.leave(visit, ended)
        with visit.lock:
            if visit.task is None:
                updates = self.idle(visit) | updates
            elif not task.job.committed:
                updates = {}
        yield self.nothing(visit) | updates
        # Gradio sends the last updates again when an event ends. These change nothing, so they
        # cannot replace what a later event has shown by then.
        yield self.nothing(visit)

    def leave(self, visit: Visit, ended: bool = False) -> None:
        """Drop the task; if it has not ended, its page was left, which the next one says."""
        task = visit.task
        if task and not ended and task.job.line != "plan":
            visit.left = {task.problem: _SAVING if task.job.committed else _LEFT}
        visit.drop_task()

    def _shown(self, visit: Visit, task: Task, news: Step | Callable[[], Updates]) -> Updates:
        """Return the updates for a step or a result, none if a later task has begun."""
        with visit.lock:
            current = visit.task is task
            if isinstance(news, Step) and current:
                html = progress_html(news.text, news.done, news.total)
                return {self.components.progress: html}
            if not isinstance(news, Step) and (current or task.job.committed):
                return news()
        return self.nothing(visit)

    @in_turn
    def give_up(self, visit: Visit, full: FullError) -> Updates:
        """Give up a task that got no place in a line."""
        visit.drop_task()
        c = self.components
        return self.idle(visit) | {c.progress: error_html(full), c.bar: gr.Row(visible=True)}

    @in_turn
    def cancel(self, visit: Visit, number: int) -> Updates:
        """Cancel the task that waits or runs; what it has shown by now stays."""
        return self.idle(visit) if visit.cancel(number) else self.nothing(visit)

    @in_turn
    def stop(self, visit: Visit) -> Updates:
        """End the training with the steps so far."""
        if visit.background is not None:
            visit.background.job.stopped = True
        return self.settle(visit)

    @in_turn
    def settle(self, visit: Visit) -> Updates:
        """Show that nothing runs, if that is so."""
        return self.nothing(visit) if visit.task else self.idle(visit)

    def fill(self, visit: Visit, **values: Any) -> Updates:
        """Fill fields by name, except those in which the visitor has typed meanwhile.

        All values are sent, with the number of answers, so that the page notices every answer.
        """
        visit.filled |= values | {"answers": visit.filled.get("answers", 0) + 1}
        return {self.components.filled: dict(visit.filled)}

    def refuse(self, visit: Visit, number: int) -> Updates:
        """Answer a request that is not the last one; a copy of the page's tab may go on with it."""
        if number >= visit.opened:
            return self.nothing(visit)
        return {self.components.visit: visit, self.components.problem: _ELSEWHERE}

    def nothing(self, visit: Visit) -> Updates:
        """Change nothing. A handler that yields no updates at all would empty the whole page."""
        return {self.components.visit: visit}

    def _running(self, visit: Visit) -> Updates:
        shown = {self.components.run_timer: gr.Timer(active=True)}
        return self._bar(visit, progress_html("Starting"), cancel=True) | shown

    def idle(self, visit: Visit) -> Updates:
        """Show that nothing runs except in the background; an empty bar is hidden."""
        c, ready, made = self.components, visit.plan_result is not None, visit.adapter is not None
        background, progress = visit.background, _CANCELED if visit.canceled else ""
        stopped = background is not None and background.job.stopped
        if background is not None:
            background.ask()
            step = Step("Stopping") if stopped else background.job.step
            progress = progress_html(step.text, step.done, step.total)
        to_stop = background is not None and not stopped
        return self._bar(visit, progress, make=ready and not made, stop=to_stop) | {
            c.run_timer: gr.Timer(active=background is not None),
            c.verdict_step: gr.Column(visible=ready),
            c.details_step: gr.Column(visible=ready),
            c.result_step: gr.Column(visible=made),
        }

    def _bar(
        self, visit: Visit, progress: str, *, make: bool = False, cancel: bool = False,
        stop: bool = False,
    ) -> Updates:  # fmt: skip
        """Show the bar, if it has a progress or a button, and keep the visit for another hour."""
        c = self.components
        return {
            c.visit: visit,
            c.progress: progress,
            c.bar: gr.Row(visible=make or bool(progress)),
            c.make: gr.Button(visible=make),
            c.cancel: gr.Button(visible=cancel),
            c.stop: gr.Button(visible=stop),
        }
