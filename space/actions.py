"""What all actions have in common, and the actions that no visitor triggers."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

import gradio as gr

from bank_loader import BankLoader
from components import Components
from html_blocks import note, progress_html
from jobs import Canceled, Job, Step, known_error, stream_job
from messages import error_html
from page_text import account_html, bank_html
from settings import Settings
from visit import Visit
from waiting_line import Lines, WaitingLine

T = TypeVar("T")
Updates = dict[Any, Any]
"""New values or properties by component."""


@dataclass(frozen=True)
class Actions:
    """Base class of event handlers.

    Attributes:
        components: widgets to update.
        bank_loader: provides the bank.
        settings: limits and sign-in.
        lines: where jobs wait for their turn.
    """

    components: Components
    bank_loader: BankLoader
    settings: Settings
    lines: Lines

    def run(
        self,
        visit: Visit,
        line: WaitingLine,
        work: Callable[[Job], T],
        show: Callable[[T], Updates],
        problem: Any,
        *,
        first: Updates | None = None,
        undo: Callable[[], Updates] | None = None,
        cancellations: int | None = None,
    ) -> Generator[Updates, None, T | None]:
        """Run work for a visit, and yield its progress and then its result, which is returned.

        The visit's earlier job is canceled. Once a later one has begun, nothing more is yielded
        and nothing is returned.

        Args:
            visit: of the page.
            line: where the work waits for its turn.
            work: runs in a thread.
            show: updates for the result.
            problem: component that shows an error.
            first: further updates when the work begins.
            undo: takes the result back if Cancel is pressed before the visitor can see it.
            cancellations: of the visit when the event began. If there are more by now, the work is
                canceled at once. None is as many as there are now.
        """
        job = visit.begin(self.settings.time_limit, cancellations)

        def take_turn(job: Job) -> T:
            with line.turn(job):
                return work(job)

        yield self._running("Starting") | {problem: ""} | (first or {})
        result: T | None = None
        try:
            result = yield from stream_job(
                job,
                take_turn,
                lambda step: self._show_step(step) if visit.job is job else self.nothing(visit),
            )
            updates = show(result) if visit.job is job or job.committed else {}
        except Canceled:
            updates = self._canceled()
        except Exception as error:  # noqa: BLE001 - shown as a message
            updates = {problem: error_html(known_error(error))}
        if visit.job is job:
            yield self.idle(visit) | updates
        elif job.committed:  # a later job runs, but this one has changed something on the Hub
            yield updates
        if not visit.finish(job):
            result = None
        elif result is not None and undo:
            if job.canceled:  # while the result was on its way
                yield undo() | self.idle(visit) | self._canceled()
                result = None
            else:
                visit.undo = undo
        # Gradio sends the last updates again when an event ends. This one changes nothing, so it
        # cannot replace what a later event has shown by then.
        yield self.nothing(visit)
        if undo and visit.undo is not undo:
            return None  # taken back, or a later job has begun
        return result

    def nothing(self, visit: Visit) -> Updates:
        """Change nothing. A handler that yields no updates at all would empty the whole page."""
        return {self.components.visit: visit}

    def idle(self, visit: Visit) -> Updates:
        """Show that nothing runs; without a plan, the bar would be empty and is hidden."""
        c, ready = self.components, visit.plan_result is not None
        return {
            c.visit: visit,  # keeps it for another hour
            c.progress: "",
            c.bar: gr.Row(visible=ready),
            c.make: gr.Button(visible=ready, interactive=visit.recipe is not None),
            c.cancel: gr.Button(visible=False),
        }

    def _show_step(self, step: Step) -> Updates:
        return {self.components.progress: progress_html(step.text, step.done, step.total)}

    def _running(self, text: str) -> Updates:
        c = self.components
        return {
            c.progress: progress_html(text),
            c.bar: gr.Row(visible=True),
            c.make: gr.Button(visible=False),
            c.cancel: gr.Button(visible=True),
        }

    def cancel(self, visit: Visit, number: int) -> Updates:
        """Cancel the running job, whose handler then shows that; undo one that has just ended.

        Args:
            visit: of the page.
            number: of the page's latest request for a dataset, which may arrive only later. If a
                later one has arrived, it is not canceled.
        """
        visit.accept(number)
        outdated, undo = number < visit.number, visit.undo
        if outdated or visit.cancel() or undo is None:
            return {self.components.progress: gr.skip()}
        visit.undo = None
        return undo() | self.idle(visit) | self._canceled()

    def _canceled(self) -> Updates:
        return {self.components.progress: _CANCELED, self.components.bar: gr.Row(visible=True)}


_CANCELED = f'<div data-announce="Canceled">{note("info", "Canceled")}</div>'


class StatusActions(Actions):
    """Show the account and the state of the bank."""

    def show_account(self, profile: gr.OAuthProfile | None) -> Updates:
        """Show who is signed in."""
        user = profile.username if profile else None
        return {self.components.account: account_html(user, self.settings.sign_in)}

    def show_bank(self) -> Updates:
        """Show the bank's state, and repeat until it is final."""
        final = self.bank_loader.state in ("ready", "failed", "damaged", "incomplete")
        return {
            self.components.bank: bank_html(self.bank_loader, self.settings),
            self.components.bank_timer: gr.Timer(active=not final),
        }
