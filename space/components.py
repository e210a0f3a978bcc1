"""The widgets of the page, in the order in which they appear."""

from pathlib import Path
from typing import Any

import gradio as gr

from forms.html_forms import data_form, search
from forms.inputs import settings_inputs
from hf_lorameta.data.sources.formats import ON_PAGE
from settings import SpaceSettings
from views.blocks import render
from work.planning import TEXT_CHARACTERS
from work.predicting import LINES_CHARACTERS, MOST_ROWS
from work.trying import PROMPT_CHARACTERS
from work.visit import Visit

TITLE = "A LoRA adapter for your dataset"
PAPER = "https://arxiv.org/abs/2507.01806"
FILLED = ("instruction", "template", "prompt", "repo_id", "visibility", "overwrite")
"""Names of the fields that answers fill, unless something is typed meanwhile."""
_FORMS = Path(__file__).parent / "forms"
_VISIBILITY = [("public: everybody can see it", "public"), ("private: only you", "private")]


class Components:
    """Creates the widgets inside the `gr.Blocks` that is open, and holds them.

    Args:
        settings: limits and sign-in.
    """

    def __init__(self, settings: SpaceSettings) -> None:
        self._settings = settings
        self.visit = gr.State(Visit(), time_to_live=3600)
        self.number = gr.Number(visible=False, precision=0)
        self.version = gr.Number(0, visible=False, precision=0)  # of the adapter that is shown
        self.filled = gr.JSON(visible="hidden")  # what answers put into the fields `FILLED`
        gr.HTML(
            render("page.header", title=TITLE, paper=PAPER, space_id=settings.space_id),
            padding=False,
        )
        self.sign_in = _html("lm-sign-in-first")  # to read private data
        with gr.Column(elem_classes="lm-step"):
            self._build_data()
        with gr.Column(visible=False, elem_classes="lm-step") as self.verdict_step:
            self.heading = _html("lm-heading")
            self.verdict, self.report = _html("lm-verdict"), _html("lm-report")
        self.problem = _html("lm-problem")
        with gr.Column(visible=False, elem_classes="lm-step") as self.result_step:
            self._build_result()
        with gr.Row(visible=False, elem_id="lm-bar") as self.bar:  # shown at the bottom
            self.progress = _html("lm-work")
            self.run_timer = gr.Timer(2, active=False)
            self.make = gr.Button("Make adapter", variant="primary", elem_id="lm-make")
            self.cancel = gr.Button("Cancel", variant="stop", visible=False, elem_id="lm-cancel")
            self.stop = gr.Button("Stop here", variant="stop", visible=False, elem_id="lm-stop")
        with gr.Column(visible=False) as self.details_step:
            self._build_details()
        self._build_footer()

    @property
    def all(self) -> list[Any]:
        """All widgets, as outputs of an event."""
        return [widget for widget in vars(self).values() if isinstance(widget, gr.blocks.Block)]

    def _build_data(self) -> None:
        gr.HTML('<h2 class="lm-h2">1 · Your data</h2>', padding=False)
        self.data_form = _html(
            "lm-data",
            data_form(self._settings.max_upload_mb),
            js_on_load=(_FORMS / "data_form.js").read_text(encoding="utf-8"),
            server_functions=[search],
        )
        self.status = _html("lm-status")
        script = (_FORMS / "columns_form.js").read_text(encoding="utf-8")
        self.columns_form = _html("lm-columns", js_on_load=script)

    def _build_details(self) -> None:
        with gr.Accordion("Prompt", open=False):
            self.instruction = gr.Textbox(
                label="Instruction, the same for all rows",
                lines=2,
                max_length=TEXT_CHARACTERS,
                elem_id="lm-instruction",
            )
            self.template = gr.Textbox(
                label="Form, if not the usual one",
                info="{instruction} and {input} where they belong; {prompt} for rows that are "
                "complete; the word chat for the base model's own chat form",
                lines=2,
                max_length=TEXT_CHARACTERS,
                elem_id="lm-template",
            )
            self.use_prompt = gr.Button("Use this prompt", elem_id="lm-use-prompt")
            self.prompt_error = _html("lm-prompt-error")
        with gr.Accordion("More settings", open=False):
            self.settings = settings_inputs()
            self.use_settings = gr.Button("Use these settings", elem_id="lm-use-settings")
            self.settings_error = _html("lm-settings-error")
        with gr.Accordion("Details", open=False):
            self.details = _html("lm-figures")
        with gr.Accordion("Another base model", open=False):
            self.other_base = _markdown("lm-other-base")

    def _build_result(self) -> None:
        self.no_model = _html("lm-no-model")
        with gr.Row(elem_id="lm-files"):
            self.download = gr.DownloadButton("Download", variant="primary", elem_id="lm-download")
            self.download_gguf = gr.DownloadButton(visible=False, elem_id="lm-download-gguf")
            self.more = gr.Button("More time", visible=False, elem_id="lm-more")
        with gr.Column(elem_id="lm-save"):
            self._build_saving()
        self.saved = _html("lm-saved")
        with gr.Column(visible=False, elem_id="lm-try") as self.try_form:
            gr.HTML('<h3 class="lm-h3">Try it</h3>', padding=False)
            self.prompt = gr.Textbox(
                label="Input", lines=2, max_length=PROMPT_CHARACTERS, elem_id="lm-prompt"
            )
            self.compare = gr.Button("Compare the answers")
        self.answers = _html("lm-answers")
        with gr.Accordion("Answer many rows", open=False, visible=False) as self.many_form:
            self._build_many()
        with gr.Accordion("Use it: Transformers, llama.cpp, Ollama", open=False):
            self.usage = _markdown("lm-usage")
        with gr.Accordion("Model card", open=False, elem_id="lm-card-box"):
            self.card = _markdown("lm-card")

    def _build_many(self) -> None:
        self.lines = gr.Textbox(
            label=f"Inputs, a line each, at most {MOST_ROWS:,}",
            lines=4,
            max_length=LINES_CHARACTERS,
            elem_id="lm-lines",
        )
        self.sure = gr.Number(
            0,
            label="Leave the answer empty where its probability is lower",
            minimum=0,
            maximum=1,
            step=0.05,
            elem_id="lm-sure",
        )
        with gr.Row(elem_id="lm-many-buttons"):
            self.answer_lines = gr.Button("Answer these lines")
            self.answer_file = gr.UploadButton(
                "Answer the rows of a file", file_types=list(ON_PAGE), elem_id="lm-rows-file"
            )
        self.many_download = gr.DownloadButton(visible=False, elem_id="lm-many-download")
        self.many = _html("lm-many")

    def _build_saving(self) -> None:
        gr.HTML('<h3 class="lm-h3">Save to the Hub</h3>', padding=False)
        with gr.Column(visible=False) as self.sign_in_to_save:
            gr.HTML(render("page.sign_in_to_save", settings=self._settings), padding=False)
            self.publish_command = _markdown("lm-publish")
        self.account = _html("lm-account")
        if self._settings.sign_in:
            gr.LoginButton(
                "Sign in with Hugging Face", logout_value="Sign out {}", elem_id="lm-sign-in"
            )
        with gr.Column(visible=False) as self.save_form:
            self.repo_id = gr.Textbox(
                label="Name", max_lines=2, max_length=96, elem_id="lm-repo_id"
            )
            self.visibility = gr.Radio(_VISIBILITY, label="Who sees it", elem_id="lm-visibility")
            self.overwrite = gr.Checkbox(label="Replace what is there", elem_id="lm-overwrite")
            self.save = gr.Button("Save to Hub", variant="primary", elem_id="lm-save-adapter")
        with gr.Column(visible=False, elem_id="lm-ask-again") as self.ask_again:
            gr.HTML(render("page.ask_again"), padding=False)
            self.save_anyway = gr.Button("Save anyway", elem_id="lm-save-anyway")

    def _build_footer(self) -> None:
        with gr.Accordion("Run your own copy, or call this one from a program", open=False):
            self.own_copy = _markdown("lm-own")  # names the page's address
            if self._settings.space_id:
                gr.DuplicateButton("Duplicate this Space", size="sm")


def _html(elem_id: str, value: str = "", **options: Any) -> gr.HTML:
    return gr.HTML(value, elem_id=elem_id, padding=False, **options)


def _markdown(elem_id: str, value: str = "") -> gr.Markdown:
    return gr.Markdown(value, latex_delimiters=[], elem_id=elem_id, elem_classes="lm-text")
