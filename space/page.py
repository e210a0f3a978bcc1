"""The page: its components, and the action that each event calls."""

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from components import FILLED, TITLE, Components
from dataset_actions import DatasetActions
from endpoints import add_endpoints
from limits.callers import call_of
from limits.lines import Line as WaitingLine
from settings import Settings
from views.blocks import render
from work.bank_loader import BankLoader
from work.jobs import Updates
from work.visit import Line, Visit

_NUMBER_REQUESTS = """(...values) => {
    values[1] = window.lorametaRequests = (window.lorametaRequests ?? 0) + 1;
    return values;
}"""
"""Sets the second input to the number of the page's request, as requests may change order."""
_FILL = f"""(filled, ...values) => {json.dumps(FILLED)}.map((name, i) =>
    name in filled && !window.lorametaTyped.has("lm-" + name) ? filled[name] : values[i])"""
"""Returns the new values of `FILLED`; only the browser knows what was typed meanwhile."""
_PRIVATE: dict[str, Any] = {
    "queue": False, "show_progress": "hidden", "api_visibility": "private"
}  # fmt: skip


def build_page(
    settings: Settings, bank_loader: BankLoader, lines: Mapping[str, WaitingLine]
) -> Any:
    """Return the `gr.Blocks` of the page and the endpoints, whose requests wait in lines."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        components = Components(settings)
        Wiring(DatasetActions(components, bank_loader, settings, lines)).connect()

        def show_account(profile: gr.OAuthProfile | None) -> list[str]:
            user = profile.username if profile else None
            first = render("page.sign_in_first", user=user, sign_in=settings.sign_in)
            return [render("page.account", user=user), first]

        account = [components.account, components.sign_in]
        blocks.load(show_account, None, account, **_PRIVATE)
        add_endpoints(bank_loader.bank, settings, lines)
    for event in blocks.fns.values():
        if event.api_name == "_check_login_status":  # of gr.LoginButton
            event.api_visibility = "private"
    return blocks


class Wiring:
    """Connects the widgets with the actions.

    Args:
        actions: all of them, the widgets, and the lines in which requests wait.
    """

    def __init__(self, actions: DatasetActions) -> None:
        self._actions, self._components = actions, actions.components
        self._at_once = _PRIVATE | {"outputs": actions.components.all}

    def connect(self) -> None:
        """Connect the forms, the options, and the buttons of the bar and of the result."""
        c, actions = self._components, self._actions
        self._request(c.data_form.submit, actions.choose, "plan")
        self._request(c.columns_form.submit, actions.choose_columns, "plan")
        self._request(
            c.use_prompt.click, actions.choose_prompt, "plan", [c.instruction, c.template]
        )
        fields = [getattr(c, name) for name in FILLED]
        c.filled.change(None, [c.filled, *fields], fields, js=_FILL, **_PRIVATE)
        self._request(c.make.click, actions.make, "adapter")
        c.more.click(actions.more_time, c.visit, **self._at_once)
        self._request(c.compare.click, actions.try_out, "model", [c.prompt])
        for button in (c.save, c.save_anyway):
            target = [c.repo_id, c.visibility, c.overwrite]
            self._request(button.click, actions.save, "adapter", target)
        # the last updates of an event may not arrive, if the page's stream of messages was reopened
        c.run_timer.tick(actions.refresh, [c.visit, c.version], **self._at_once)
        c.stop.click(actions.stop, c.visit, **self._at_once)
        canceled = self._ask(c.cancel.click, actions.cancel)
        canceled.then(actions.settle, c.visit, **self._at_once)

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
        """Have an action put a task in line, which waits for its turn and runs."""
        c, actions = self._components, self._actions
        places = actions.lines[line]

        async def run(visit: Visit, request: gr.Request) -> AsyncIterator[Updates]:
            async for updates in actions.run_in_turn(visit, line, places, call_of(request)):
                yield updates

        self._ask(trigger, action, inputs).then(
            run, c.visit, c.all, concurrency_limit=None, trigger_mode="multiple",
            show_progress="minimal", show_progress_on=c.progress, api_visibility="private",
        )  # fmt: skip
