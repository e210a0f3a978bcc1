"""The page: its components, and the action that each event calls."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr

from actions import Actions
from adapter_actions import AdapterActions
from components import Components
from dataset_actions import DatasetActions
from endpoints import add_endpoints
from settings import Settings, line_limits
from views.page_text import TITLE, account_html, bank_html
from work.bank_loader import BankLoader
from work.jobs import Updates
from work.visit import Line, Visit

_NUMBER_REQUESTS = """(...values) => {
    values[1] = window.lorametaRequests = (window.lorametaRequests ?? 0) + 1;
    return values;
}"""
"""Sets the second input to the number of the page's request, as requests may change order."""


def build_page(settings: Settings, bank_loader: BankLoader) -> Any:
    """Return the `gr.Blocks` of the page and the endpoints."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        components = Components(settings, bank_loader)
        context = (components, bank_loader, settings)
        wiring = Wiring(components, settings, Actions(*context))
        wiring.wire_dataset(DatasetActions(*context))
        wiring.wire_adapter(AdapterActions(*context))
        _show_state(blocks, components, bank_loader, settings)
        add_endpoints(bank_loader, settings)
    for event in blocks.fns.values():
        if event.api_name == "_check_login_status":  # of gr.LoginButton
            event.api_visibility = "private"
    return blocks


class Wiring:
    """Connects the widgets with the actions.

    Args:
        components: the widgets.
        settings: number of adapters that are made at the same time.
        actions: run tasks and cancel them.
    """

    def __init__(self, components: Components, settings: Settings, actions: Actions) -> None:
        self._components, self._settings, self._actions = components, settings, actions
        self._at_once: dict[str, Any] = {
            "outputs": components.all,
            "queue": False,
            "show_progress": "hidden",
            "api_visibility": "private",
        }

    def wire_dataset(self, actions: DatasetActions) -> None:
        """Connect what leads to a verdict."""
        c = self._components
        self._request(c.data_form.submit, actions.choose, "plan")
        self._request(c.columns_form.submit, actions.choose_columns, "plan")
        changes = [field.change for field in c.options]
        gr.on(
            changes, actions.change_options, [c.visit, *c.options], **self._at_once,
            trigger_mode="always_last",
        )  # fmt: skip

    def wire_adapter(self, actions: AdapterActions) -> None:
        """Connect the buttons of the bar and of the result."""
        c = self._components
        self._request(c.make.click, actions.make, "adapter")
        self._request(c.compare.click, actions.try_out, "model", [c.prompt])
        self._request(c.test.click, actions.test, "model")
        self._request(c.improve.click, actions.improve, "model")
        for button in (c.save, c.save_anyway):
            target = [c.repo_id, c.visibility, c.overwrite]
            self._request(button.click, actions.save, "adapter", target)
        canceled = self._ask(c.cancel.click, self._actions.cancel)
        canceled.then(self._actions.settle, c.visit, **self._at_once)

    def _ask(self, trigger: Any, action: Callable[..., Updates], inputs: Sequence[Any] = ()) -> Any:
        """Have an action answer at once; requests are numbered in the order of the page."""
        c = self._components
        return trigger(
            action, [c.visit, c.number, *inputs], js=_NUMBER_REQUESTS, trigger_mode="multiple",
            **self._at_once,
        )  # fmt: skip

    def _request(
        self, trigger: Any, action: Callable[..., Updates], line: Line, inputs: Sequence[Any] = ()
    ) -> None:
        """Have an action put a task in line, which then waits in Gradio's queue."""
        c, actions = self._components, self._actions

        def run(visit: Visit) -> Iterator[Updates]:
            yield from actions.run(visit, line)

        queued = self._ask(trigger, action, inputs).then(
            run, c.visit, c.all, **line_limits(self._settings)[line], trigger_mode="multiple",
            show_progress="minimal", show_progress_on=c.progress, api_visibility="private",
        )  # fmt: skip
        queued.failure(actions.busy, c.visit, **self._at_once)


def _show_state(blocks: Any, c: Components, bank_loader: BankLoader, settings: Settings) -> None:
    """Show who is signed in, and the bank's state until it is final."""

    def show_account(profile: gr.OAuthProfile | None) -> str:
        return account_html(profile.username if profile else None, settings.sign_in)

    def show_bank() -> tuple[str, gr.Timer]:
        final = bank_loader.state in ("ready", "failed", "damaged", "incomplete")
        return bank_html(bank_loader, settings), gr.Timer(active=not final)

    event: dict[str, Any] = {
        "queue": False, "show_progress": "hidden", "api_visibility": "private"
    }  # fmt: skip
    blocks.load(show_account, None, c.account, **event)
    gr.on([blocks.load, c.bank_timer.tick], show_bank, None, [c.bank, c.bank_timer], **event)
