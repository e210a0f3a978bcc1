"""The page: its components, and which of them calls which action."""

import importlib.resources
from html import escape
from typing import Any

import gradio as gr

from actions import Actions
from bank_loader import BankLoader
from endpoints import add_endpoints
from hf_lorameta import COEFFICIENT_RULES, COMBINERS, METRICS, Recipe
from plan_view import holdings, note
from service import FILE_TYPES
from settings import Settings

TITLE = "A LoRA adapter for your dataset, without training"
PAPER = "https://arxiv.org/abs/2507.01806"
EXAMPLE = "hf_lorameta/demo/data/train.jsonl"
_WORK = "work"


class Page:
    """All components, by name.

    Args:
        settings: limits, and how signing in works.
        keeper: of the bank.
    """

    def __init__(self, settings: Settings, keeper: BankLoader) -> None:
        self.settings, self.keeper = settings, keeper
        self.actions = Actions(self, keeper, settings)
        with gr.Blocks(
            title="LoRA adapter for your dataset",
            analytics_enabled=False,
            delete_cache=(600, 3600),
        ) as self.blocks:
            self.planned = gr.State(None, time_to_live=3600)
            self._head()
            with gr.Row(elem_classes="lm-columns"):
                with gr.Column(elem_classes="lm-first"):
                    self._dataset()
                    self._options()
                with gr.Column(elem_classes="lm-second"):
                    gr.HTML('<h2 class="lm-h2">2 · The plan</h2>', padding=False)
                    self.plan = gr.HTML(self.empty_plan(), elem_id="lm-plan", padding=False)
                    self.map = gr.HTML("", elem_id="lm-map", padding=False)
                with gr.Column(elem_classes="lm-third"):
                    self._make()
                    self._result()
            self._papers()
            self._foot()
            self._wire()
            add_endpoints(keeper, settings)
        for event in self.blocks.fns.values():
            if event.api_name == "_check_login_status":  # of the button, of no use to programs
                event.api_visibility = "private"

    # --- components -------------------------------------------------------------------------------

    def _head(self) -> None:
        with gr.Row(elem_classes="lm-head-row"):
            with gr.Column(scale=7, min_width=300):
                gr.HTML(
                    f'<header><h1 class="lm-h1">{TITLE}</h1><p class="lm-lead">Name a dataset. In '
                    "half a minute you own a LoRA adapter for it, combined on a CPU from adapters "
                    f'that others trained. <a href="{PAPER}" target="_blank" rel="noopener">How it '
                    "works</a></p></header>",
                    padding=False,
                )
            with gr.Column(scale=2, min_width=250):
                self._sign_in()
        self.bank = gr.HTML(self.bank_text(), elem_id="lm-bank", padding=False)
        self.clock = gr.Timer(1.5, active=False)

    def _sign_in(self) -> None:
        if self.settings.sign_in != "none":
            gr.LoginButton("Sign in with Hugging Face", logout_value="Sign out {}", size="sm")
        self.account = gr.HTML(self.account_text(None), elem_id="lm-account", padding=False)

    def _dataset(self) -> None:
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
                    label=f"{', '.join(FILE_TYPES)} up to {self.settings.max_upload_mb} MB",
                    file_types=list(FILE_TYPES),
                    height=120,
                    elem_id="lm-file",
                )
        self.example = gr.Button("No dataset at hand? Try the guest book", size="sm")
        self.status = gr.HTML("", elem_id="lm-status", padding=False)
        with gr.Row(visible=False) as self.choices:
            self.config = gr.Dropdown(choices=[], label="Configuration", min_width=120)
            self.split = gr.Dropdown(choices=[], label="Split", min_width=120)
        with gr.Group(visible=False) as self.columns:
            with gr.Row():
                self.input_column = gr.Dropdown(
                    choices=[],
                    value=None,
                    label="Input column",
                    info="What goes in; may stay empty",
                )
                self.output_column = gr.Dropdown(
                    choices=[],
                    value=None,
                    label="Output column",
                    info="What should come out; may stay empty",
                )
            self.use_columns = gr.Button("Read these columns", size="sm", variant="primary")
        self.samples = gr.HTML("", elem_id="lm-samples", padding=False)

    def _options(self) -> None:
        usual = Recipe()
        with gr.Accordion("Options", open=False, elem_id="lm-options"):
            self.metric = _choice("Metric", METRICS, usual.metric, "How far datasets are")
            self.coefficients = _choice(
                "Coefficients", self._rules(), usual.coefficients, "From distances to shares"
            )
            self.combine = _choice("Combine", COMBINERS, usual.combine, "How adapters are added up")
            with gr.Row():
                self.top_k = gr.Number(
                    usual.top_k or 0,
                    label="Top k",
                    info="0 keeps all",
                    precision=0,
                    minimum=0,
                    min_width=90,
                )
                self.temperature = gr.Number(
                    usual.temperature,
                    label="Temperature",
                    info="Below 1 is sharper",
                    minimum=0.01,
                    step=0.1,
                    min_width=90,
                )
                self.rank = gr.Number(
                    usual.rank or 0,
                    label="Rank",
                    info="0 is the usual",
                    precision=0,
                    minimum=0,
                    min_width=90,
                )
            self.repo_id = gr.Textbox(
                "", label="Repo name", placeholder="named after the dataset", max_length=96
            )
            self.private = gr.Radio(
                ["public", "private"],
                value="public",
                label="Visibility",
                info="A private dataset, or a file, gives a private repo unless you say otherwise",
            )
            self.overwrite = gr.Checkbox(
                False, label="Replace the files if the repo already holds an adapter"
            )

    def _rules(self) -> dict[str, Any]:
        fitted = self.settings.bank is None or self.keeper.ready
        neural = fitted and self.keeper.has_neural()
        return {k: v for k, v in COEFFICIENT_RULES.items() if k != "neural" or neural or not fitted}

    def _make(self) -> None:
        gr.HTML('<h2 class="lm-h2">3 · Your adapter</h2>', padding=False)
        with gr.Row():
            self.push = gr.Button(
                "Generate and push", variant="primary", interactive=False, elem_id="lm-push"
            )
            self.generate = gr.Button("Generate only", interactive=False, elem_id="lm-generate")
            self.cancel = gr.Button("Cancel", variant="stop", visible=False, elem_id="lm-cancel")
        self.target = gr.HTML("", elem_id="lm-target", padding=False)
        self.work = gr.HTML("", elem_id="lm-work", padding=False)

    def _result(self) -> None:
        with gr.Column(visible=False, elem_id="lm-result") as self.result:
            self.result_head = gr.HTML("", padding=False)
            self.download = gr.DownloadButton("Download the files (zip)", elem_id="lm-download")
            self.code = gr.Code(
                "", language="python", label="Load it", interactive=False, wrap_lines=True
            )

    def _papers(self) -> None:
        with gr.Column(visible=False, elem_id="lm-papers") as self.papers:
            with gr.Accordion("The card", open=False):
                self.card = gr.Markdown("", latex_delimiters=[], elem_id="lm-card")
            with gr.Accordion("The recipe", open=False):
                self.recipe = gr.Code("", language="json", label="recipe.json", interactive=False)

    def _foot(self) -> None:
        with gr.Accordion("A page like this of your own, and use from programs", open=False):
            gr.HTML(self._duplicating(), padding=False)
            if self.settings.space_id:
                gr.DuplicateButton("Duplicate this Space", size="sm")
            gr.Code(
                _PROGRAM.format(space=self.settings.space_id or "user/space"),
                language="python",
                label="From Python",
                interactive=False,
            )

    def _wire(self) -> None:
        act, all_ = self.actions, [c for c in vars(self).values() if isinstance(c, gr.blocks.Block)]
        outputs = [c for c in all_ if c is not self.blocks]
        options = [
            self.metric, self.coefficients, self.combine, self.top_k, self.temperature, self.rank,
        ]  # fmt: skip
        quiet: dict[str, Any] = {"api_visibility": "private", "outputs": outputs}
        reading = quiet | {
            "concurrency_limit": 4, "concurrency_id": "plan", "show_progress": "hidden",
            "trigger_mode": "always_last",
        }  # fmt: skip
        self.blocks.load(act.greet, None, **quiet, show_progress="hidden")
        self.blocks.load(act.bank_state, None, **quiet, show_progress="hidden")
        self.clock.tick(act.bank_state, None, **quiet, show_progress="hidden")
        self.dataset.key_up(
            act.search, None, self.dataset, api_visibility="private", show_progress="hidden",
            trigger_mode="always_last", queue=False,
        )  # fmt: skip
        self.dataset.input(act.dataset_chosen, [self.dataset, *options], **reading)
        gr.on(
            [self.file.upload, self.file.clear], act.file_chosen, [self.file, *options], **reading
        )
        self.example.click(
            lambda: str(importlib.resources.files("hf_lorameta") / "demo/data/train.jsonl"),
            None, self.file, api_visibility="private", show_progress="hidden",
        ).then(act.file_chosen, [self.file, *options], **reading)  # fmt: skip
        which = [
            self.dataset, self.file, self.config, self.split, self.input_column, self.output_column,
        ]  # fmt: skip
        gr.on(
            [self.config.input, self.split.input, self.use_columns.click],
            act.asked_again, [*which, *options], **reading,
        )  # fmt: skip
        gr.on([c.change for c in options], act.planned_again, [self.planned, *options], **reading)
        making = quiet | {
            "concurrency_limit": self.settings.concurrency, "concurrency_id": _WORK,
            "show_progress": "hidden", "trigger_mode": "once",
        }  # fmt: skip
        made = self.generate.click(act.make, self.planned, **making)
        pushed = self.push.click(
            act.publish, [self.planned, self.repo_id, self.private, self.overwrite], **making
        )
        gr.on(
            [self.repo_id.change, self.private.change], act.target_text,
            [self.planned, self.repo_id, self.private], self.target, api_visibility="private",
            show_progress="hidden",
        )  # fmt: skip
        self.cancel.click(
            act.cancelled, self.planned, **quiet, cancels=[made, pushed], queue=False,
            show_progress="hidden",
        )  # fmt: skip

    # --- texts ------------------------------------------------------------------------------------

    def account_text(self, user: str | None) -> str:
        """What signing in is for."""
        if user:
            return f'<p class="lm-soft">Signed in as <b>{escape(user)}</b>.</p>'
        if self.settings.sign_in == "none":
            return (
                '<p class="lm-soft">Signing in works on the Hub, and on your own machine after '
                "<code>hf auth login</code>. Without it: plan, generate, download.</p>"
            )
        return '<p class="lm-soft">Needed for pushing only. All else works without.</p>'

    def bank_text(self) -> str:
        """Which bank, and whether it is whole."""
        keeper = self.keeper
        if keeper.state == "failed":
            return note("error", "The bank of this Space cannot be used", [keeper.problem])
        if not keeper.ready:
            return '<p class="lm-bank">Opening the bank …</p>'
        bank = keeper.bank
        name = "the small bank inside the package" if self.settings.bank is None else bank.id
        told = {
            "ready": "every file checked",
            "damaged": f"damaged: {keeper.problem}",
            "checking": f"checking files: {keeper.fetched} of {len(bank)}",
        }.get(keeper.state, "drawing the map")
        return (
            f'<p class="lm-bank lm-{escape(keeper.state)}"><b>Bank</b> {escape(name)} · '
            f"{holdings(bank)} · {escape(told)}</p>"
        )

    def empty_plan(self) -> str:
        """What the plan will be, before there is one."""
        return _EMPTY

    def waiting_plan(self) -> str:
        """The plan's place while the dataset is read."""
        bars = "".join(f'<i style="width:{w}%"></i>' for w in (92, 71, 64, 48, 40, 33))
        return f'<div class="lm-waiting" aria-hidden="true">{bars}</div>'

    def _duplicating(self) -> str:
        return _DUPLICATING


def _choice(label: str, table: dict[str, Any], value: str, info: str) -> gr.Dropdown:
    choices = [(row.title[:1].upper() + row.title[1:], name) for name, row in table.items()]
    return gr.Dropdown(choices=choices, value=value, label=label, info=info, min_width=160)


_EMPTY = """<div class="lm-empty"><ol>
<li><b>Read.</b> Your dataset becomes a distribution over tokens. None of its text is kept.</li>
<li><b>Compare.</b> Its distance to every dataset of the bank is measured: you see which are
near.</li>
<li><b>Combine.</b> The bank's adapters are added up, near ones with more weight. No gradient
step.</li>
</ol><p class="lm-soft">The plan appears here as soon as you name a dataset. If nothing in the bank
is near, it says so.</p></div>"""

_DUPLICATING = """<div class="lm-prose">
<p><b>Duplicate.</b> With a PRO or Team account this page runs on CPU Basic hardware, at no further
cost. A free account can duplicate it to one of its two ZeroGPU Spaces. Either way the copy acts
with its visitors' own sign-in, holds no secret, and uses the small bank inside the package until
you name another one in its variables.</p>
<p><b>Or from a terminal.</b> <code>hf-lorameta space deploy --repo user/space</code></p>
<p><b>From programs.</b> Three named endpoints, <code>/plan</code>, <code>/generate</code> and
<code>/push</code>; the first is an MCP tool, too.</p></div>"""

_PROGRAM = """from gradio_client import Client

client = Client("{space}", oauth_token="hf_…")  # the token is needed for private data and /push
plan = client.predict(dataset="user/name", api_name="/plan")
pushed = client.predict(dataset="user/name", api_name="/push")"""
