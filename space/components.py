"""The widgets of the page, in the order in which they appear."""

from pathlib import Path
from typing import Any

import gradio as gr

import page_text
from bank_loader import BankLoader
from data_form import data_form
from options_form import options_form
from searching import dataset_search
from settings import Settings
from visit import Visit

_FOLDER = Path(__file__).parent
_FORM_JS = (_FOLDER / "form.js").read_text(encoding="utf-8")
_DATA_FORM_JS = (_FOLDER / "data_form.js").read_text(encoding="utf-8")


class Components:
    """Creates the widgets inside the `gr.Blocks` that is open, and holds them.

    Args:
        settings: limits and sign-in.
        bank_loader: provides the bank's name and state.
    """

    def __init__(self, settings: Settings, bank_loader: BankLoader) -> None:
        self._settings, self._bank_loader = settings, bank_loader
        self.visit = gr.State(Visit(), time_to_live=3600)
        self._build_header()
        with gr.Column(elem_classes="lm-step"):
            self._build_data()
        with gr.Column(visible=False, elem_classes="lm-step") as self.verdict_step:
            self._build_verdict()
        with gr.Column(visible=False, elem_classes="lm-step") as self.result_step:
            self._build_result()
        self._build_footer()
        with gr.Row(visible=False, elem_id="lm-bar") as self.bar:
            self.progress = gr.HTML("", elem_id="lm-work", padding=False)
            self.make = gr.Button("Make adapter", variant="primary", elem_id="lm-make")
            self.cancel = gr.Button("Cancel", variant="stop", visible=False, elem_id="lm-cancel")
            self.request_number = gr.Number(visible=False, precision=0)

    @property
    def all(self) -> list[Any]:
        """All widgets, as outputs of an event."""
        return [widget for widget in vars(self).values() if isinstance(widget, gr.blocks.Block)]

    def _build_header(self) -> None:
        gr.HTML(page_text.HEADER, padding=False)
        with gr.Row(elem_classes="lm-account-row"):
            bank = page_text.bank_html(self._bank_loader, self._settings)
            self.bank = gr.HTML(bank, elem_id="lm-bank", padding=False)
            if self._settings.sign_in != "none":
                gr.LoginButton(
                    "Sign in with Hugging Face", logout_value="Sign out {}", size="sm", scale=0,
                    min_width=220,
                )  # fmt: skip
        account = page_text.account_html(None, self._settings.sign_in)
        self.account = gr.HTML(account, elem_id="lm-account", padding=False)
        self.bank_timer = gr.Timer(1.5, active=False)

    def _build_data(self) -> None:
        gr.HTML('<h2 class="lm-h2">1 · Your data</h2>', padding=False)
        self.data_form = gr.HTML(
            data_form(self._settings.max_upload_mb),
            elem_id="lm-data",
            padding=False,
            js_on_load=_DATA_FORM_JS,
            server_functions=[dataset_search(self._settings)],
        )
        self.status = gr.HTML("", elem_id="lm-status", padding=False)
        self.columns_form = _form("lm-columns")
        self.template_error = gr.HTML("", elem_id="lm-template-error", padding=False)

    def _build_verdict(self) -> None:
        gr.HTML('<h2 class="lm-h2">2 · Will it help?</h2>', padding=False)
        self.verdict = gr.HTML("", elem_id="lm-verdict", padding=False)
        with gr.Accordion("Details", open=False, elem_id="lm-details"):
            self.details = gr.HTML("", padding=False)
            self.map = gr.HTML("", elem_id="lm-map", padding=False)
        with gr.Accordion("Options", open=False, elem_id="lm-options"):
            unknown = self._settings.bank is not None and not self._bank_loader.opened
            form = options_form(unknown or self._bank_loader.has_neural())
            self.options_form = _form("lm-options-form", form)
            self.option_error = gr.HTML("", elem_id="lm-option-error", padding=False)
        self.problem = gr.HTML("", elem_id="lm-problem", padding=False)

    def _build_result(self) -> None:
        self.stale = gr.HTML("", elem_id="lm-stale", padding=False)
        self.heading = gr.HTML("", elem_id="lm-heading", padding=False)
        self.download = gr.DownloadButton("Download the adapter", elem_id="lm-download")
        self.try_form = _form("lm-try")
        self.answers = gr.HTML("", elem_id="lm-answers", padding=False)
        self.test_form = _form("lm-test")
        self.report = gr.HTML("", elem_id="lm-report", padding=False)
        self.improve_form = _form("lm-improve")
        self.improved = gr.HTML("", elem_id="lm-improved", padding=False)
        self.save_form = _form("lm-save")
        self.ask_again = _form("lm-ask-again")
        self.saved = gr.HTML("", elem_id="lm-saved", padding=False)
        with gr.Accordion("Use it: Transformers, llama.cpp, Ollama", open=False):
            self.usage = gr.HTML("", elem_id="lm-usage", padding=False)
        with gr.Accordion("Model card", open=False, elem_id="lm-card-box"):
            self.card = gr.Markdown("", latex_delimiters=[], elem_id="lm-card")

    def _build_footer(self) -> None:
        space_id = self._settings.space_id
        with gr.Accordion("Run your own copy, or call this one from a program", open=False):
            gr.HTML(page_text.own_copy_html(space_id or "user/space"), padding=False)
            if space_id:
                gr.DuplicateButton("Duplicate this Space", size="sm")


def _form(elem_id: str, value: str = "") -> gr.HTML:
    """Return a component whose forms trigger its event ``submit`` with their values."""
    return gr.HTML(value, elem_id=elem_id, padding=False, js_on_load=_FORM_JS)
