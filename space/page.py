"""The page: its components, and the action that each event calls."""

from typing import Any

import gradio as gr

from actions import StatusActions
from adapter_actions import AdapterActions
from bank_loader import BankLoader
from components import Components
from dataset_actions import DatasetActions
from endpoints import add_endpoints
from page_text import TITLE
from settings import Settings
from waiting_line import Lines

_EVENT: dict[str, Any] = {
    "api_visibility": "private",
    "show_progress": "hidden",
    "concurrency_limit": None,  # jobs wait in the lines of the Space, not in Gradio's queue
}
"""Settings of an event that is no endpoint and shows no progress of its own."""
_WITH_REQUEST_NUMBER = """
    (visit) => [visit, Number(document.querySelector('#lm-data form').dataset.number ?? 0)]
"""
"""Adds the number that `data_form.js` gave to its latest request."""


def build_page(settings: Settings, bank_loader: BankLoader) -> Any:
    """Return the `gr.Blocks` of the page and the endpoints."""
    lines = Lines.of(settings)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        components = Components(settings, bank_loader)
        context = (components, bank_loader, settings, lines)
        _wire_status(blocks, components, StatusActions(*context))
        _wire_dataset(components, DatasetActions(*context))
        _wire_adapter(components, AdapterActions(*context))
        add_endpoints(bank_loader, settings, lines)
    for event in blocks.fns.values():
        if event.api_name == "_check_login_status":  # of gr.LoginButton
            event.api_visibility = "private"
    return blocks


def _wire_status(blocks: Any, c: Components, actions: StatusActions) -> None:
    event = _EVENT | {"outputs": c.all}
    blocks.load(actions.show_account, None, **event)
    blocks.load(actions.show_bank, None, **event)
    c.bank_timer.tick(actions.show_bank, None, **event)


def _wire_dataset(c: Components, actions: DatasetActions) -> None:
    event = _EVENT | {"inputs": c.visit, "outputs": c.all, "trigger_mode": "multiple"}
    c.data_form.submit(actions.choose, **event)
    c.columns_form.submit(actions.choose_columns, **event)
    c.options_form.submit(actions.change_options, **event | {"trigger_mode": "always_last"})


def _wire_adapter(c: Components, actions: AdapterActions) -> None:
    event = _EVENT | {"inputs": c.visit, "outputs": c.all, "trigger_mode": "multiple"}
    c.make.click(actions.make, **event)
    with_number = {"inputs": [c.visit, c.request_number], "js": _WITH_REQUEST_NUMBER}
    c.cancel.click(actions.cancel, **event | with_number)
    c.try_form.submit(actions.try_out, **event)
    c.test_form.submit(actions.test, **event)
    c.improve_form.submit(actions.improve, **event)
    gr.on([c.save_form.submit, c.ask_again.submit], actions.save, **event)
