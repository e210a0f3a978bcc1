"""Actions that lead from a dataset to a verdict."""

import importlib.resources
from collections.abc import Iterator, Mapping
from dataclasses import replace
from html import escape
from typing import Any
from urllib.parse import urlencode

import gradio as gr

from actions import Actions, Updates
from columns_form import columns_form, columns_from_form, prompt_from_form
from dataset_request import (
    DatasetRequest,
    RequestError,
    Source,
    TemplateError,
    read_source,
    validated,
)
from hf_lorameta import LoraMetaError, Recipe
from inputs import columns_of, credential_of, recipe_from_form, uploaded_file
from jobs import Job
from map_view import map_html
from messages import error_html
from plan_view import details_html
from planning import PlanResult, make_plan
from reader_process import read_first
from verdict_view import verdict_html
from visit import IDLE, Visit


class DatasetActions(Actions):
    """Handlers of the forms for the dataset, its columns and the options."""

    def choose(
        self, visit: Visit, event: gr.EventData, token: gr.OAuthToken | None
    ) -> Iterator[Updates]:
        """Read the dataset that the data form names, and plan for it."""
        cancellations = visit.cancellations
        values = dict(event._data or {})
        if not visit.accept(int(values.get("number", 0))):
            yield self.nothing(visit)
            return
        try:
            request = validated(_request_of(values))
        except LoraMetaError as error:
            visit.choose(DatasetRequest())
            yield self._refused(visit, error) | {self.components.columns_form: ""}
            return
        visit.choose(request)
        yield from self._read(visit, request, token, cancellations)

    def choose_columns(
        self, visit: Visit, event: gr.EventData, token: gr.OAuthToken | None
    ) -> Iterator[Updates]:
        """Plan with the roles of the columns form, or read another configuration or split."""
        cancellations = visit.cancellations
        values = dict(event._data or {})
        request, source = visit.request, visit.source
        if request is None:
            error = RequestError(f"{IDLE}: read the dataset again")
            yield self._refused(visit, error)
            return
        if values.get("dataset_number") != str(visit.dataset_number) or source is None:
            yield self.nothing(visit)
            return
        preview = source.preview
        instruction, template = prompt_from_form(values)
        request = replace(request, instruction=instruction, template=template)
        config, split = values.get("config", preview.config), values.get("split", preview.split)
        if config != preview.config or split != preview.split:
            split = split if config == preview.config else None
            request = replace(request, config=config, split=split, columns=None)
            visit.choose(request)
            yield from self._read(visit, request, token, cancellations)
            return
        try:
            columns = columns_from_form(values, preview.names, preview.columns)
        except TemplateError as error:
            shown = error_html(error)
            yield self._refused(visit, None) | {self.components.template_error: shown}
            return
        except RequestError as error:
            yield self._refused(visit, error)
            return
        visit.request = replace(request, columns=columns)
        yield from self._plan(visit, visit.request, token, cancellations)

    def change_options(self, visit: Visit, event: gr.EventData) -> Updates:
        """Plan with another recipe, without reading the dataset again."""
        c, problem = self.components, ""
        try:
            visit.recipe = recipe_from_form(dict(event._data or {}))
            if visit.plan_result is not None:
                visit.plan_result = with_recipe(visit.plan_result, visit.recipe)
        except LoraMetaError as error:
            visit.recipe, problem = None, error_html(error)
        updates: Updates = {c.option_error: problem}
        if visit.plan_result is not None:  # nothing is being planned, but perhaps made
            visit.drop_job()
            updates |= self.idle(visit) | self._verdict(visit.plan_result)
        if visit.adapter is not None:
            old = gr.Column(elem_classes=["lm-step", "lm-old"])
            updates |= {c.result_step: old, c.stale: _STALE}
        return updates

    # --- reading and planning -------------------------------------------------------------------

    def _read(
        self,
        visit: Visit,
        request: DatasetRequest,
        token: gr.OAuthToken | None,
        cancellations: int,
    ) -> Iterator[Updates]:
        """Read what the dataset offers, show its columns, and plan if these are clear."""
        c, credential = self.components, credential_of(token, self.settings)

        def show(source: Source) -> Updates:
            visit.source, preview = source, source.preview
            if request.dataset:
                config = preview.config if len(source.configs) > 1 else None
                visit.request = replace(request, config=config, split=preview.split)
            form = columns_form(source, visit.dataset_number, request)
            problem = None if request.columns else preview.problem
            return {c.columns_form: form, c.status: error_html(problem) if problem else ""}

        source = yield from self.run(
            visit,
            self.lines.plans,
            lambda job: read_first(job, read_source, request, credential),
            show,
            c.status,
            first=self._no_plan(visit) | {c.columns_form: ""},
            undo=lambda: {c.status: ""},
            cancellations=cancellations,
        )
        if source is None or visit.request is None:
            return
        preview = source.preview
        columns = request.columns or (preview.columns if preview.problem is None else None)
        if columns:
            visit.request = replace(visit.request, columns=columns)
            yield from self._plan(visit, visit.request, token, cancellations)

    def _plan(
        self,
        visit: Visit,
        request: DatasetRequest,
        token: gr.OAuthToken | None,
        cancellations: int,
    ) -> Iterator[Updates]:
        """Read the rows and show the verdict."""
        c, credential = self.components, credential_of(token, self.settings)

        def work(job: Job) -> PlanResult:
            recipe, max_rows = visit.recipe or Recipe(), self.settings.max_rows
            result = make_plan(self.bank_loader, request, recipe, max_rows, credential, job)
            self.bank_loader.map(recipe.metric)  # drawn once
            return result

        def show(result: PlanResult) -> Updates:
            visit.plan_result = with_recipe(result, visit.recipe or Recipe())
            chosen = {"dataset": request.dataset, **request.chosen}
            link = urlencode(chosen) if request.dataset else ""
            return self._verdict(visit.plan_result) | {
                c.verdict_step: gr.Column(visible=True),
                c.status: f'<span data-link="{escape(link)}" hidden></span>',
                c.make: gr.Button(visible=True, interactive=visit.recipe is not None),
            }

        yield from self.run(
            visit, self.lines.plans, work, show, c.status,
            first=self._no_plan(visit), undo=lambda: self._no_plan(visit),
            cancellations=cancellations,
        )  # fmt: skip

    def _no_plan(self, visit: Visit) -> Updates:
        c = self.components
        visit.forget_plan()
        return {
            c.status: "",
            c.template_error: "",
            c.verdict_step: gr.Column(visible=False),
            c.result_step: gr.Column(visible=False),
            c.problem: "",
        }

    def _refused(self, visit: Visit, error: LoraMetaError | None) -> Updates:
        """Show that a request is invalid; nothing is read."""
        visit.drop_job()
        status = error_html(error) if error else ""
        return self._no_plan(visit) | self.idle(visit) | {self.components.status: status}

    def _verdict(self, result: PlanResult) -> Updates:
        c, plan = self.components, result.plan
        return {
            c.verdict: verdict_html(plan, result.name),
            c.details: details_html(plan),
            c.map: map_html(plan, self.bank_loader.map(plan.recipe.metric)),
        }


_LINKED = ("dataset", "config", "split", "instruction", "template")
"""Names of texts in a link; it also has the columns."""
_STALE = (
    '<p class="lm-note lm-info" data-announce="The options have changed.">The options have changed '
    "since this adapter was made. Make it again to use them.</p>"
)


def with_recipe(result: PlanResult, recipe: Recipe) -> PlanResult:
    """Return the plan with other options; the number of rows that were read stays."""
    recipe = recipe.model_copy(update={"max_rows": result.plan.recipe.max_rows})
    if recipe == result.plan.recipe:
        return result
    return replace(result, plan=result.plan.with_recipe(recipe))


def _request_of(values: Mapping[str, Any]) -> DatasetRequest:
    """Return the request of a data form, or of a link that names more than the dataset."""
    if values.get("example"):
        folder = importlib.resources.files("hf_lorameta") / "demo" / "data"
        return DatasetRequest(file=str(folder / "train.jsonl"))
    if values.get("file"):
        return DatasetRequest(file=uploaded_file(str(values["file"])))
    named = {name: str(values.get(name) or "") for name in _LINKED}
    return DatasetRequest(**named, columns=columns_of(str(values.get("columns") or "")))
