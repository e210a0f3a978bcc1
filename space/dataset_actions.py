"""Actions that lead from a dataset to a verdict."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import gradio as gr

from actions import in_turn, last_wins
from adapter_actions import AdapterActions
from forms.html_forms import columns_form, columns_from_form
from forms.inputs import DATASET
from hf_lorameta.data.chat_form import CHAT
from hf_lorameta.demo import TRAIN_FILE
from hf_lorameta.errors import ColumnsError, LoraMetaError, UnlabeledDatasetError
from hf_lorameta.pipeline.session import Session
from settings import credential_of
from views.blocks import error_html, note, render
from views.plan import details_html, expected_html
from views.result import other_base_markdown
from visitors.uploads import hold_upload, is_upload
from work.jobs import Job, Updates
from work.planning import (
    CHOICES,
    PageRequest,
    PlanResult,
    RequestError,
    Source,
    fitting,
    make_plan,
    read_source,
    validated,
)
from work.reader_process import read
from work.visit import Visit, earlier_visit, is_kept, known

_GONE = note(
    "info",
    "What this tab had is no longer kept",
    ["The server was restarted, or an hour has passed. Make the adapter again."],
)


class DatasetActions(AdapterActions):
    """Handlers of the forms for the dataset, its columns and its prompt, and of the result."""

    def choose(
        self,
        visit: Visit,
        number: int,
        event: gr.EventData,
        profile: gr.OAuthProfile | None,
        token: gr.OAuthToken | None,
    ) -> Updates:
        """Read the dataset that the data form names, and plan; or go on with an earlier visit."""
        values = dict(event._data or {})
        user, key = profile.username if profile else None, values.get("resume")
        gone = {self.components.problem: _GONE} if key and not is_kept(str(key)) else {}
        if earlier := earlier_visit(str(key), user):
            earlier.user = user
            return self._resume(earlier, number, profile)
        visit.user = user
        return self._choose(visit, number, values, token) | gone

    @last_wins
    def _choose(
        self, visit: Visit, number: int, values: Mapping[str, Any], token: gr.OAuthToken | None
    ) -> Updates:
        if values.get("resume") and not values.get("dataset"):
            return self.idle(visit)
        no_columns = {self.components.columns_form: ""}
        visit.choose(PageRequest())
        try:
            visit.request = validated(_request_of(values))
            visit.linked = visit.request.chosen if values.get("linked") else {}
            visit.upload = hold_upload(visit.request.file or "")
        except LoraMetaError as error:
            visit.upload = None
            return self._refused(visit, error) | no_columns
        return self._read(visit, token) | no_columns

    @in_turn
    def choose_columns(
        self, visit: Visit, number: int, event: gr.EventData, token: gr.OAuthToken | None
    ) -> Updates:
        """Plan with the roles of the columns form, or read another configuration or split."""
        values = dict(event._data or {})
        of_another = values.get("dataset_number") != str(visit.dataset_number)
        if visit.request and (of_another or visit.source is None):
            return self.nothing(visit)
        if not visit.accept(number):
            return self.refuse(visit, number)
        visit.forget_plan()
        try:
            request = known(visit.request)
            preview = known(visit.source).preview
            config, split = values.get("config", preview.config), values.get("split", preview.split)
            if (config, split) != (preview.config, preview.split):
                split = split if config == preview.config else None
                visit.choose(validated(request.but(config=config, split=split, columns=None)))
                return self._read(visit, token) | {self.components.columns_form: ""}
            columns = columns_from_form(values, preview.names, preview.columns)
        except LoraMetaError as error:
            return self._refused(visit, error)
        visit.request = fitting(request.but(columns=columns))
        return self._read(visit, token)

    @last_wins
    def choose_prompt(
        self,
        visit: Visit,
        number: int,
        instruction: str,
        template: str,
        token: gr.OAuthToken | None,
    ) -> Updates:
        """Plan with another instruction or form of the prompt; a kept proposal is no choice."""
        try:
            request = known(visit.request)
            shown = [visit.filled.get(name, "") for name in ("instruction", "template")]
            chosen = (request.instruction or "", request.template or "")
            given = [
                kept if text == proposed else text
                for text, proposed, kept in zip((instruction, template), shown, chosen, strict=True)
            ]
            request = validated(request.but(instruction=given[0].strip(), template=given[1]))
            Session(self.bank_loader.bank).check_instruction(request.instruction)
        except LoraMetaError as error:
            return self.idle(visit) | {self.components.prompt_error: error_html(error)}
        visit.forget_plan()
        visit.request = request
        return self._read(visit, token)

    @last_wins
    def choose_settings(
        self, visit: Visit, number: int, token: gr.OAuthToken | None, *values: Any
    ) -> Updates:
        """Plan with other settings; an empty one, or 0, is the default."""
        given = dict(zip(self.components.settings, values, strict=True))
        try:
            request = known(visit.request)
            kept = {name: getattr(request, name) for name in DATASET}
            visit.request = PageRequest.given(given).but(**kept)
        except LoraMetaError as error:
            return self.idle(visit) | {self.components.settings_error: error_html(error)}
        visit.forget_plan()
        return self._read(visit, token)

    @in_turn
    def _resume(self, visit: Visit, number: int, profile: gr.OAuthProfile | None) -> Updates:
        """Show the visit of an earlier page, such as the one before signing in."""
        if number <= visit.number:
            return self.nothing(visit)
        self.leave(visit)
        c, left = self.components, visit.left
        visit.accept(number)
        visit.opened = number

        def show(job: Job) -> Updates:
            result, request = known(visit.plan_result), known(visit.request)
            form = columns_form(known(visit.source), visit.dataset_number, request)
            updates = {c.columns_form: form} | self._show_plan(visit, result, request, job)
            if visit.adapter:
                updates |= self.show_result(visit, profile)
            said = {place: html + updates.get(place, "") for place, html in visit.left.items()}
            return updates | said

        begun = self.begin(visit, "plan", lambda job: job.show(lambda: show(job)), c.status)
        visit.left = left
        return self._no_plan() | begun

    # --- reading and planning -------------------------------------------------------------------

    def _read(self, visit: Visit, token: gr.OAuthToken | None) -> Updates:
        """Read what the dataset offers, unless that is known; plan if its columns are clear."""
        request, source = known(visit.request), visit.source
        credential = credential_of(token)

        def work(job: Job) -> None:
            asked = request
            if source is None:
                found = read(job, read_source, request, credential)
                asked = _as_found(request, found)
                job.show(lambda: self._show_source(visit, found, asked, job))
            if asked.columns:
                bank, max_rows = self.bank_loader.bank, self.settings.max_rows
                result = make_plan(bank, asked, max_rows, credential, job)
                job.show(lambda: self._show_plan(visit, result, asked, job))

        c = self.components
        return self._no_plan() | self.begin(visit, "plan", work, c.status)

    def _show_source(self, visit: Visit, source: Source, request: PageRequest, job: Job) -> Updates:
        visit.source, visit.request, problem = source, request, source.preview.problem
        visit.keep(job.call.address)
        form = columns_form(source, visit.dataset_number, request)
        asked = isinstance(problem, ColumnsError | UnlabeledDatasetError)  # by the form itself
        status = error_html(problem) if problem and not (request.columns or asked) else ""
        return {self.components.columns_form: form, self.components.status: status}

    def _show_plan(
        self, visit: Visit, result: PlanResult, request: PageRequest, job: Job
    ) -> Updates:
        visit.plan_result, plan = result, result.plan
        visit.keep(job.call.address)
        c, (instruction, template) = self.components, _shown_prompt(result, request)
        return {
            c.heading: render("plan.heading"),
            c.verdict: expected_html(plan, result.name, self.bank_loader.rows_to_improve(result)),
            c.report: "",
            c.details: details_html(plan),
            **self.fill(visit, instruction=instruction, template=template),
            c.status: _linked_html(visit, request) + _link_html(visit, request),
            c.other_base: other_base_markdown(plan, request, self.settings),
        }

    def _no_plan(self) -> Updates:
        c, hidden = self.components, gr.Column(visible=False)
        texts = dict.fromkeys((c.status, c.prompt_error, c.settings_error, c.problem), "")
        return texts | dict.fromkeys((c.verdict_step, c.details_step, c.result_step), hidden)

    def _refused(self, visit: Visit, error: LoraMetaError) -> Updates:
        """Show that a request is invalid; nothing is read."""
        return self._no_plan() | self.idle(visit) | {self.components.status: error_html(error)}


def _shown_prompt(result: PlanResult, request: PageRequest) -> tuple[str, str]:
    """Return instruction and form of a plan as the page shows them."""
    columns = result.plan.dataset.columns
    template = CHAT if columns.chat else columns.template
    return columns.instruction_text or "", template or ""


def _linked_html(visit: Visit, request: PageRequest) -> str:
    """Return what a link has chosen, as long as it holds: few read a link before they open it."""
    kept = dict(visit.linked.items() & request.chosen.items())
    if not kept:
        return ""
    lines = [f"{name.capitalize()}: {kept[name]}" for name in CHOICES if name in kept]
    return note("info", "The link to this page chose more than the dataset", lines)


def _link_html(visit: Visit, request: PageRequest) -> str:
    """Return what the page stores in the browser: a link to the dataset, and the visit's key."""
    named = {"dataset": request.name} | request.chosen if request.dataset else {}
    return render("plan.link", link=urlencode(named), key=visit.key)


def _as_found(request: PageRequest, source: Source) -> PageRequest:
    """Return the request with the configuration, split and columns that were found."""
    preview = source.preview
    columns = request.columns or (preview.columns if preview.problem is None else None)
    config = preview.config if len(source.configs) > 1 else None
    split = preview.split if source.splits else request.split
    return request.but(config=config, split=split, columns=columns)


def _request_of(values: Mapping[str, Any]) -> PageRequest:
    """Return the request of a data form, or of a link that names more than the dataset."""
    if values.get("example"):
        return PageRequest(file=str(TRAIN_FILE))
    if file := str(values.get("file") or ""):
        if not is_upload(file):
            raise RequestError(
                "The uploaded file is no longer there: choose it again", code="page.upload-gone"
            )
        return PageRequest(file=file)
    named = {name: str(values.get(name) or "") for name in ("dataset", *CHOICES)}
    return PageRequest.given(named)
