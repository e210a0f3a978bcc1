"""What all actions have in common.

A request of a visitor is two events. The first is answered at once: it validates what was asked
for, cancels what runs, and puts a task in line. The second, `Actions.run`, waits in Gradio's queue
and streams the task's progress and results.
"""

import functools
from collections.abc import AsyncIterator, Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import gradio as gr
from starlette.concurrency import iterate_in_threadpool

from components import Components
from limits.callers import Call
from limits.lines import FullError
from limits.lines import Line as WaitingLine
from settings import Settings
from views.blocks import error_html, note, progress_html
from views.plan import verdict_html
from work.bank_loader import BankLoader
from work.jobs import Canceled, Job, Step, Updates, known_error
from work.visit import Line, Task, Visit

_CANCELED = f'<div data-announce="Canceled">{note("info", "Canceled")}</div>'
_AGAIN = note("warning", "All places in the line are taken", ["Asking again in five seconds."])
_BUSY = note("error", "Too many people use this page at the moment", ["Try again in a minute."])

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

    It cancels what runs.
    """

    @functools.wraps(answer)
    def accepted(actions: "Actions", visit: Visit, number: int, *values: Any) -> Updates:
        if not visit.accept(number):
            return actions.nothing(visit)
        return answer(actions, visit, number, *values)

    return in_turn(cast(F, accepted))


@dataclass(frozen=True)
class Actions:
    """Base class of event handlers.

    Attributes:
        components: widgets to update.
        bank_loader: provides the bank.
        settings: limits and sign-in.
    """

    components: Components
    bank_loader: BankLoader
    settings: Settings

    def begin(
        self,
        visit: Visit,
        line: Line,
        work: Callable[[Job], None],
        problem: Any,
        *,
        restores: bool = False,
        asked: bool = True,
    ) -> Updates:
        """Put work in line for a visit whose request was accepted; arguments as in `Task`."""
        visit.begin(Task(line, Job(self.settings.time_limit), work, problem, restores, asked))
        return self._running(visit) | {problem: ""}

    async def run_in_turn(
        self, visit: Visit, name: Line, line: WaitingLine, call: Call
    ) -> AsyncIterator[Updates]:
        """Run the task that waits in a line once its turn comes; yield its place before.

        Raises:
            gr.Error: it gets no place.
        """
        task, progress = visit.task, self.components.progress
        if task is None:
            yield self.settle(visit)
            return
        try:
            async with line.place_of(call) as place:
                async for number in line.turn(place, lambda: call.wanted and visit.task is task):
                    text = f"Waiting: place {number} in the line"
                    yield self.nothing(visit) | {progress: progress_html(text)}
                if place.began is None:  # canceled, replaced, or left
                    yield self.settle(visit)
                    return
                running = self.run(visit, name, call)
                try:
                    async for updates in iterate_in_threadpool(running):
                        yield updates
                finally:
                    running.close()
        except FullError as error:
            raise gr.Error(str(error), visible=False, print_exception=False) from None

    def run(
        self, visit: Visit, line: Line, call: Call | None = None
    ) -> Generator[Updates, None, None]:
        """Run the task that waits in a line; yield its progress and results.

        Answers may reach a page in another order, so it is told what runs at the start and at the
        end, whatever it was told before.
        """
        task = visit.take(line)
        if task is None:
            yield self.settle(visit)
            yield self.nothing(visit)
            return
        task.job.call = call or task.job.call
        updates: Updates = {}
        try:
            yield self._shown(visit, task, lambda: self._running(visit))
            for news in task.job.run(task.work):
                yield self._shown(visit, task, news)
        except Canceled:
            pass
        except Exception as error:  # noqa: BLE001 - shown as a message
            found = known_error(error)
            updates = {task.problem: error_html(found)} if task.asked else {}
        finally:  # Gradio closes this generator where it takes a page for closed
            with visit.lock:
                visit.finish(task)
        with visit.lock:
            if visit.task is None:
                updates = self.idle(visit) | updates
            elif not task.job.committed:
                updates = {}
        yield self.nothing(visit) | updates
        # Gradio sends the last updates again when an event ends. These change nothing, so they
        # cannot replace what a later event has shown by then.
        yield self.nothing(visit)

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
    def ask_again(self, visit: Visit) -> Updates:
        """Say that a task got no place in Gradio's queue, or lost it, and will ask once more."""
        return self.nothing(visit) | ({self.components.progress: _AGAIN} if visit.task else {})

    @in_turn
    def busy(self, visit: Visit) -> Updates:
        """Say that Gradio's queue is full."""
        visit.drop_task()
        c = self.components
        return self.idle(visit) | {c.progress: _BUSY, c.bar: gr.Row(visible=True)}

    @in_turn
    def cancel(self, visit: Visit, number: int) -> Updates:
        """Cancel the task that waits or runs, or take its result back if that is on its way.

        Args:
            visit: of the page.
            number: of this request.
        """
        return self.idle(visit) if visit.cancel(number) else self.nothing(visit)

    @in_turn
    def settle(self, visit: Visit) -> Updates:
        """Show that nothing runs, if so."""
        return self.nothing(visit) if visit.task else self.idle(visit)

    def fill(self, visit: Visit, **values: Any) -> Updates:
        """Fill fields, by their names, in which the visitor has not typed meanwhile.

        All of them are sent, and the number of answers, so that the page notices each.
        """
        visit.filled |= values | {"answers": visit.filled.get("answers", 0) + 1}
        return {self.components.filled: dict(visit.filled)}

    def nothing(self, visit: Visit) -> Updates:
        """Change nothing. A handler that yields no updates at all would empty the whole page."""
        return {self.components.visit: visit}

    def _running(self, visit: Visit) -> Updates:
        c = self.components
        return {
            c.visit: visit,
            c.progress: progress_html("Starting"),
            c.bar: gr.Row(visible=True),
            c.make: gr.Button(visible=visit.task is not None and not visit.task.asked),
            c.cancel: gr.Button(visible=True),
            c.run_timer: gr.Timer(active=True),
        }

    def idle(self, visit: Visit) -> Updates:
        """Show that nothing runs; without a plan, the bar would be empty and is hidden."""
        c, ready, made = self.components, visit.plan_result is not None, visit.adapter is not None
        updates: Updates = {
            c.visit: visit,  # keeps it for another hour
            c.progress: _CANCELED if visit.canceled else "",
            c.bar: gr.Row(visible=ready or visit.canceled),
            c.make: gr.Button(
                "Make again" if made else "Make adapter",
                variant="secondary" if made else "primary",
                visible=ready,
                interactive=visit.recipe is not None,
            ),
            c.cancel: gr.Button(visible=False),
            c.run_timer: gr.Timer(active=False),
            c.verdict_step: gr.Column(visible=ready),
            c.details_step: gr.Column(visible=ready),
            c.result_step: gr.Column(visible=made),
        }
        if visit.counting:
            updates |= self.verdict(visit)
        return updates

    def verdict(self, visit: Visit, *, counting: bool = False) -> Updates:
        """Show what to expect of the adapter, if a dataset was read."""
        result, visit.counting = visit.plan_result, counting
        if result is None:
            return {}
        html = verdict_html(visit.shown or result.plan, result.name, counting=counting)
        return {self.components.verdict: html}
