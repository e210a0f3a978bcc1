"""The page: its components, and the action that each event calls."""

import importlib.resources
from typing import Any

import gradio as gr

from actions import StatusActions
from adapter_actions import AdapterActions
from bank_loader import BankLoader
from components import Components
from dataset_actions import DatasetActions
from endpoints import add_endpoints
from settings import Settings

_HIDDEN: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
"""Settings of an event that is no endpoint and shows no progress of its own."""


def build_page(settings: Settings, bank_loader: BankLoader) -> Any:
    """Return the `gr.Blocks` of the page and the endpoints."""
    with gr.Blocks(
        title="LoRA adapter for your dataset", analytics_enabled=False, delete_cache=(600, 3600)
    ) as blocks:
        components = Components(settings, bank_loader)
        _wire_status(blocks, components, StatusActions(components, bank_loader, settings))
        _wire_dataset(components, DatasetActions(components, bank_loader, settings))
        _wire_adapter(components, AdapterActions(components, bank_loader, settings), settings)
        add_endpoints(bank_loader, settings)
    for event in blocks.fns.values():
        if event.api_name == "_check_login_status":  # of gr.LoginButton
            event.api_visibility = "private"
    return blocks


def _wire_status(blocks: Any, c: Components, actions: StatusActions) -> None:
    event = _HIDDEN | {"outputs": c.all}
    blocks.load(actions.show_account, None, **event)
    blocks.load(actions.show_bank, None, **event)
    c.bank_timer.tick(actions.show_bank, None, **event)


def _wire_dataset(c: Components, actions: DatasetActions) -> None:
    event = _HIDDEN | {
        "outputs": c.all,
        "concurrency_limit": 4,
        "concurrency_id": "plan",
        "trigger_mode": "always_last",
    }
    c.dataset.key_up(
        actions.search, None, c.dataset, trigger_mode="always_last", queue=False, **_HIDDEN
    )
    c.dataset.input(actions.choose_dataset, [c.dataset, *c.options], **event)
    gr.on([c.file.upload, c.file.clear], actions.choose_file, [c.file, *c.options], **event)
    c.example.click(
        lambda: str(importlib.resources.files("hf_lorameta") / "demo/data/train.jsonl"),
        None,
        c.file,
        **_HIDDEN,
    ).then(actions.choose_file, [c.file, *c.options], **event)
    request = [c.dataset, c.file, c.config, c.split, c.input_column, c.output_column]
    gr.on(
        [c.config.input, c.split.input, c.use_columns.click],
        actions.read_again,
        [*request, *c.options],
        **event,
    )
    gr.on(
        [option.change for option in c.options],
        actions.change_options,
        [c.plan_result, *c.options],
        **event,
    )


def _wire_adapter(c: Components, actions: AdapterActions, settings: Settings) -> None:
    event = _HIDDEN | {"outputs": c.all}
    generating = event | {
        "concurrency_limit": settings.concurrency,
        "concurrency_id": "work",
        "trigger_mode": "once",
    }
    target = [c.plan_result, c.repo_id, c.visibility]
    generated = c.generate.click(actions.generate_only, c.plan_result, **generating)
    pushed = c.push.click(actions.publish, [*target, c.overwrite], **generating)
    gr.on([c.repo_id.change, c.visibility.change], actions.show_target, target, c.target, **_HIDDEN)
    c.cancel.click(actions.cancel, c.plan_result, cancels=[generated, pushed], queue=False, **event)
