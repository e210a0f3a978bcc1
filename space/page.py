"""The page: its components, and the action that each event calls."""

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from components import FILLED, TITLE, Components
from dataset_actions import DatasetActions
from endpoints import add_endpoints
from settings import SpaceSettings
from views.blocks import render
from visitors.callers import call_of
from visitors.lines import Line
from work.bank_loader import BankLoader
from work.jobs import LineName, Updates
from work.visit import Visit

_NUMBER_REQUESTS = """(...values) => {
    const last = Number(sessionStorage.getItem("lm-requests"));
    values[1] = Math.max(last + 1, 1000 * Math.round(performance.timeOrigin));
    sessionStorage.setItem("lm-requests", values[1]);
    return values;
}"""
"""Sets the second input to the number of the page's request, as requests may change order; a later
page has higher ones than all of an earlier one, in the same tab also if the clock was set back."""
_FILL = f"(filled, ...values) => window.lorametaFill({json.dumps(FILLED)}, filled, values)"
"""Returns the new values of `FILLED`; only the browser knows what was typed meanwhile, or before
the page was reloaded."""
_PRIVATE: dict[str, Any] = {
    "queue": False, "show_progress": "hidden", "api_visibility": "private"
}  # fmt: skip


def build_page(settings: SpaceSettings, bank_loader: BankLoader, lines: Mapping[str, Line]) -> Any:
    """Return the `gr.Blocks` of the page and the endpoints, whose requests wait in lines."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        components = Components(settings)
        _connect(DatasetActions(components, bank_loader, settings, lines))

        def show_account(request: gr.Request, profile: gr.OAuthProfile | None) -> list[str]:
            user = profile.username if profile else None
            first = render("page.sign_in_first", user=user, settings=settings)
            address = request.headers.get("origin", "http://127.0.0.1:7860")
            own_copy = render("page.own_copy", space_id=settings.space_id, address=address)
            return [render("page.account", user=user), first, own_copy]

        account = [components.account, components.sign_in, components.own_copy]
        blocks.load(show_account, None, account, **_PRIVATE)
        add_endpoints(bank_loader, settings, lines)
    blocks.space_id = None  # else Gradio adds a header for which it asks other hosts for fonts
    for event in blocks.fns.values():
        if event.api_name == "_check_login_status":  # of gr.LoginButton
            event.api_visibility = "private"
    return blocks


def _connect(actions: DatasetActions) -> None:
    """Connect the forms, and the buttons of the bar and of the result, with their actions."""
    c = actions.components
    at_once = _PRIVATE | {"outputs": c.all}

    def ask(trigger: Any, action: Callable[..., Updates], inputs: Sequence[Any] = ()) -> Any:
        """Have an action answer at once; requests are numbered in the order of the page."""
        return trigger(
            action, [c.visit, c.number, *inputs], js=_NUMBER_REQUESTS, trigger_mode="multiple",
            **at_once,
        )  # fmt: skip

    def put_in_line(asked: Any, line: LineName) -> None:
        """Have the task that an action has put in line wait for its turn, and run."""

        async def run(visit: Visit, request: gr.Request) -> AsyncIterator[Updates]:
            async for updates in actions.run_in_turn(visit, line, call_of(request)):
                yield updates

        asked.then(
            run, c.visit, c.all, concurrency_limit=None, trigger_mode="multiple",
            show_progress="minimal", show_progress_on=c.progress, api_visibility="private",
        )  # fmt: skip

    target = [c.repo_id, c.visibility, c.overwrite]
    put_in_line(ask(c.data_form.submit, actions.choose), "plan")
    put_in_line(ask(c.columns_form.submit, actions.choose_columns), "plan")
    prompt = [c.instruction, c.template]
    put_in_line(ask(c.use_prompt.click, actions.choose_prompt, prompt), "plan")
    settings = [*c.settings.values()]
    put_in_line(ask(c.use_settings.click, actions.choose_settings, settings), "plan")
    put_in_line(ask(c.make.click, actions.make), "adapter")
    put_in_line(ask(c.compare.click, actions.try_out, [c.prompt]), "model")
    put_in_line(ask(c.answer_lines.click, actions.answer_lines, [c.lines, c.sure]), "model")
    put_in_line(ask(c.answer_file.upload, actions.answer_file, [c.answer_file, c.sure]), "model")
    put_in_line(ask(c.save.click, actions.save, target), "adapter")
    put_in_line(ask(c.save_anyway.click, actions.save, target), "adapter")
    ask(c.cancel.click, actions.cancel).then(actions.settle, c.visit, **at_once)
    c.more.click(actions.more_time, c.visit, **at_once)
    c.stop.click(actions.stop, c.visit, **at_once)
    # the last updates of an event may not arrive, if the page's stream of messages was reopened
    c.run_timer.tick(actions.refresh, [c.visit, c.version], **at_once)
    fields = [getattr(c, name) for name in FILLED]
    c.filled.change(None, [c.filled, *fields], fields, js=_FILL, **_PRIVATE)
