"""The widgets of the page, in the order in which they appear."""

from typing import Any

import gradio as gr

import page_text
from bank_loader import BankLoader
from dataset_request import FILE_TYPES
from hf_lorameta import COEFFICIENT_RULES, COMBINERS, METRICS, Recipe
from settings import Settings


class Components:
    """Creates the widgets inside the `gr.Blocks` that is open, and holds them.

    Args:
        settings: limits and sign-in.
        bank_loader: provides the bank's name and state.
    """

    def __init__(self, settings: Settings, bank_loader: BankLoader) -> None:
        self._settings, self._bank_loader = settings, bank_loader
        self.plan_result = gr.State(None, time_to_live=3600)
        self._build_header()
        with gr.Row(elem_classes="lm-columns"):
            with gr.Column(elem_classes="lm-first"):
                self._build_dataset()
                self._build_options()
            with gr.Column(elem_classes="lm-second"):
                gr.HTML('<h2 class="lm-h2">2 · The plan</h2>', padding=False)
                self.plan = gr.HTML(page_text.EMPTY_PLAN, elem_id="lm-plan", padding=False)
                self.map = gr.HTML("", elem_id="lm-map", padding=False)
            with gr.Column(elem_classes="lm-third"):
                self._build_buttons()
                self._build_result()
        self._build_details()
        self._build_footer()

    @property
    def all(self) -> list[Any]:
        """All widgets, as outputs of an event."""
        return [widget for widget in vars(self).values() if isinstance(widget, gr.blocks.Block)]

    @property
    def options(self) -> list[Any]:
        """The recipe's options, in the order of the parameters of `recipe_of`."""
        return [
            self.metric, self.coefficients, self.combine, self.top_k, self.temperature, self.rank,
        ]  # fmt: skip

    def _build_header(self) -> None:
        with gr.Row(elem_classes="lm-head-row"):
            with gr.Column(scale=7, min_width=300):
                gr.HTML(page_text.HEADER, padding=False)
            with gr.Column(scale=2, min_width=250):
                sign_in = self._settings.sign_in
                if sign_in != "none":
                    gr.LoginButton(
                        "Sign in with Hugging Face", logout_value="Sign out {}", size="sm"
                    )
                account = page_text.account_html(None, sign_in)
                self.account = gr.HTML(account, elem_id="lm-account", padding=False)
        bank = page_text.bank_html(self._bank_loader, self._settings)
        self.bank = gr.HTML(bank, elem_id="lm-bank", padding=False)
        self.bank_timer = gr.Timer(1.5, active=False)

    def _build_dataset(self) -> None:
        gr.HTML('<h2 class="lm-h2">1 · Your dataset</h2>', padding=False)
        with gr.Tabs():
            with gr.Tab("From the Hub"):
                self.dataset = gr.Dropdown(
                    choices=[],
                    value=None,
                    allow_custom_value=True,
                    label="Dataset id",
                    info="Type to search, or enter user/name and press Enter",
                    elem_id="lm-dataset",
                )
            with gr.Tab("Upload a file"):
                self.file = gr.File(
                    label=f"{', '.join(FILE_TYPES)} up to {self._settings.max_upload_mb} MB",
                    file_types=list(FILE_TYPES),
                    height=120,
                    elem_id="lm-file",
                )
        self.example = gr.Button("No dataset at hand? Try the guest book example", size="sm")
        self.status = gr.HTML("", elem_id="lm-status", padding=False)
        with gr.Row(visible=False) as self.splits:
            self.config = gr.Dropdown(choices=[], label="Configuration", min_width=120)
            self.split = gr.Dropdown(choices=[], label="Split", min_width=120)
        with gr.Group(visible=False) as self.columns:
            with gr.Row():
                self.input_column = _column_dropdown("Input column", "What the model is given")
                self.output_column = _column_dropdown("Output column", "What it should answer")
            self.use_columns = gr.Button("Read these columns", size="sm", variant="primary")
        self.samples = gr.HTML("", elem_id="lm-samples", padding=False)

    def _build_options(self) -> None:
        default = Recipe()
        with gr.Accordion("Options", open=False, elem_id="lm-options"):
            self.metric = _method_dropdown(
                "Metric", METRICS, default.metric, "Distance between two datasets"
            )
            rules = self._coefficient_rules()
            self.coefficients = _method_dropdown(
                "Coefficients", rules, default.coefficients, "How distances become weights"
            )
            self.combine = _method_dropdown(
                "Combine", COMBINERS, default.combine, "How the adapters are merged"
            )
            with gr.Row():
                self.top_k = _number("Top k", default.top_k or 0, "0 uses all", precision=0)
                self.temperature = _number(
                    "Temperature", default.temperature, "Below 1 is sharper", minimum=0.01, step=0.1
                )
                self.rank = _number("Rank", default.rank or 0, "0 is the default", precision=0)
            self.repo_id = gr.Textbox(
                "", label="Repo name", placeholder="named after the dataset", max_length=96
            )
            self.visibility = gr.Radio(
                ["public", "private"],
                value="public",
                label="Visibility",
                info="Private for a private dataset or a file, unless you choose otherwise",
            )
            self.overwrite = gr.Checkbox(
                False, label="Replace the files if the repo already holds an adapter"
            )

    def _coefficient_rules(self) -> dict[str, Any]:
        """Return the rules to offer; the neural one only if the bank has it or is not known yet."""
        unknown = self._settings.bank is not None and not self._bank_loader.opened
        if unknown or self._bank_loader.has_neural():
            return dict(COEFFICIENT_RULES)
        return {name: rule for name, rule in COEFFICIENT_RULES.items() if name != "neural"}

    def _build_buttons(self) -> None:
        gr.HTML('<h2 class="lm-h2">3 · Your adapter</h2>', padding=False)
        with gr.Row():
            self.push = gr.Button(
                "Generate and push", variant="primary", interactive=False, elem_id="lm-push"
            )
            self.generate = gr.Button("Generate only", interactive=False, elem_id="lm-generate")
            self.cancel = gr.Button("Cancel", variant="stop", visible=False, elem_id="lm-cancel")
        self.target = gr.HTML("", elem_id="lm-target", padding=False)
        self.progress = gr.HTML("", elem_id="lm-work", padding=False)

    def _build_result(self) -> None:
        with gr.Column(visible=False, elem_id="lm-result") as self.result:
            self.result_heading = gr.HTML("", padding=False)
            self.download = gr.DownloadButton("Download the files (zip)", elem_id="lm-download")
            self.code = gr.Code(
                "", language="python", label="Load it", interactive=False, wrap_lines=True
            )

    def _build_details(self) -> None:
        with gr.Column(visible=False, elem_id="lm-papers") as self.details:
            with gr.Accordion("Model card", open=False):
                self.card = gr.Markdown("", latex_delimiters=[], elem_id="lm-card")
            with gr.Accordion("Recipe", open=False):
                self.recipe = gr.Code("", language="json", label="recipe.json", interactive=False)

    def _build_footer(self) -> None:
        space_id = self._settings.space_id
        with gr.Accordion("Run your own copy, or call this one from a program", open=False):
            gr.HTML(page_text.OWN_COPY, padding=False)
            if space_id:
                gr.DuplicateButton("Duplicate this Space", size="sm")
            gr.Code(
                page_text.CLIENT_CODE.format(space=space_id or "user/space"),
                language="python",
                label="From Python",
                interactive=False,
            )


def _column_dropdown(label: str, info: str) -> gr.Dropdown:
    return gr.Dropdown(choices=[], value=None, label=label, info=f"{info}; may stay empty")


def _method_dropdown(label: str, table: dict[str, Any], value: str, info: str) -> gr.Dropdown:
    choices = [(row.title[:1].upper() + row.title[1:], name) for name, row in table.items()]
    return gr.Dropdown(choices=choices, value=value, label=label, info=info, min_width=160)


def _number(label: str, value: float, info: str, minimum: float = 0, **limits: Any) -> gr.Number:
    return gr.Number(value, label=label, info=info, minimum=minimum, min_width=90, **limits)
