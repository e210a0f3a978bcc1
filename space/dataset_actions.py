"""Actions that lead from a dataset to a plan.

Handlers yield updates for the page's components. An error becomes a message on the page, never a
traceback.
"""

import time
from collections.abc import Callable, Generator, Iterator
from functools import lru_cache
from typing import Any, TypeVar

import gradio as gr

from actions import Actions, Updates, push_button
from adapter_view import target_html
from dataset_request import (
    Credential,
    DatasetRequest,
    read_columns,
    read_splits,
    validated,
)
from generating import Destination
from hf_lorameta import ColumnsError, Hub, LoraMetaError, UnlabeledDatasetError
from html_blocks import progress_html
from inputs import credential_of, recipe_of
from jobs import Job, Step, stream_job
from map_view import map_html
from messages import error_html, unexpected_error
from page_text import EMPTY_PLAN, LOADING_PLAN
from plan_view import plan_html, samples_html
from planning import PlanResult, make_plan
from reader_process import read_first

T = TypeVar("T")
_SEARCH_SECONDS = 600


class DatasetActions(Actions):
    """Handlers of the dataset's and the recipe's widgets."""

    # --- handlers -----------------------------------------------------------------------------

    def search(self, typed: gr.KeyUpData, token: gr.OAuthToken | None) -> Any:
        """Suggest datasets whose names match the typed text."""
        text = typed.input_value or ""
        credential = credential_of(token, self.settings)
        try:
            if credential is False:
                names = _search_public(text, int(time.time() // _SEARCH_SECONDS))
            else:
                names = Hub(credential).search_datasets(text)
        except LoraMetaError:
            return gr.skip()  # typing works without suggestions
        return gr.Dropdown(choices=names) if names else gr.skip()

    def choose_dataset(
        self,
        token: gr.OAuthToken | None,
        profile: gr.OAuthProfile | None,
        dataset: str | None,
        *options: Any,
    ) -> Iterator[Updates]:
        """Plan for a dataset of the Hub."""
        if not (dataset or "").strip():
            yield self._cleared()
            return
        yield self._cleared() | {self.components.file: None}
        yield from self._plan(DatasetRequest(dataset), options, token, profile, is_new=True)

    def choose_file(
        self,
        token: gr.OAuthToken | None,
        profile: gr.OAuthProfile | None,
        file: str | None,
        *options: Any,
    ) -> Iterator[Updates]:
        """Plan for an uploaded file."""
        if not file:
            yield self._cleared()
            return
        yield self._cleared() | {self.components.dataset: None}
        yield from self._plan(DatasetRequest(file=file), options, token, profile, is_new=True)

    def read_again(
        self,
        token: gr.OAuthToken | None,
        profile: gr.OAuthProfile | None,
        dataset: str | None,
        file: str | None,
        config: str | None,
        split: str | None,
        input_column: str | None,
        output_column: str | None,
        *options: Any,
    ) -> Iterator[Updates]:
        """Plan for another configuration, split or choice of columns."""
        names = {"input": input_column, "output": output_column}
        columns = ",".join(f"{role}={name}" for role, name in names.items() if name)
        request = DatasetRequest(dataset, file, config, split, columns)
        yield from self._plan(request, options, token, profile, is_new=False)

    def change_options(self, plan_result: PlanResult | None, *options: Any) -> Updates:
        """Plan with another recipe, without reading the dataset again."""
        c = self.components
        if plan_result is None:
            return {c.status: gr.skip()}
        try:
            recipe = recipe_of(*options)
            recipe = recipe.model_copy(update={"max_rows": plan_result.plan.recipe.max_rows})
            plan = plan_result.plan.with_recipe(recipe)
            map_ = map_html(plan, self.bank_loader.map(recipe.metric))
        except LoraMetaError as error:
            return {c.status: error_html(error)}
        return {
            c.plan_result: PlanResult(plan, plan_result.samples, plan_result.name),
            c.status: "",
            c.plan: plan_html(plan),
            c.map: map_,
        }

    # --- planning -----------------------------------------------------------------------------

    def _plan(
        self,
        request: DatasetRequest,
        options: tuple[Any, ...],
        token: gr.OAuthToken | None,
        profile: gr.OAuthProfile | None,
        *,
        is_new: bool,
    ) -> Iterator[Updates]:
        c, credential = self.components, credential_of(token, self.settings)
        yield {c.status: progress_html("Finding the dataset"), c.plan: LOADING_PLAN}
        try:
            recipe = recipe_of(*options)
            if is_new and request.dataset:
                request = yield from self._select_split(request, credential)

            def work(job: Job) -> tuple[PlanResult, str]:
                max_rows = self.settings.max_rows
                result = make_plan(self.bank_loader, request, recipe, max_rows, credential, job)
                job.report("Drawing the map")
                return result, map_html(result.plan, self.bank_loader.map(recipe.metric))

            plan_result, map_ = yield from self._stream(work)
        except LoraMetaError as error:
            yield self._failed(error) | self._column_choice(error, request, credential)
        except Exception as error:  # noqa: BLE001 - shown as a message
            yield self._failed(unexpected_error(error))
        else:
            yield self._planned(plan_result, map_, profile)

    def _select_split(
        self, request: DatasetRequest, credential: Credential
    ) -> Generator[Updates, None, DatasetRequest]:
        """Select ``default`` and ``train`` if there are such, else the first; offer the others."""
        c = self.components
        configs, splits = yield from self._stream(
            lambda job: read_first(job, read_splits, validated(request), credential)
        )
        config = "default" if "default" in configs else configs[0]
        split = "train" if "train" in splits else splits[0]
        yield {
            c.splits: gr.Row(visible=True),
            c.config: gr.Dropdown(choices=configs, value=config, interactive=len(configs) > 1),
            c.split: gr.Dropdown(choices=splits, value=split, interactive=len(splits) > 1),
        }
        return DatasetRequest(
            request.dataset, config=config if len(configs) > 1 else None, split=split
        )

    def _stream(self, work: Callable[[Job], T]) -> Generator[Updates, None, T]:
        return stream_job(work, self.settings.time_limit, self._show_step)

    def _show_step(self, step: Step) -> Updates:
        return {self.components.status: progress_html(step.text, step.done, step.total)}

    # --- updates ------------------------------------------------------------------------------

    def _no_plan(self) -> Updates:
        c = self.components
        return {
            c.plan_result: None,
            c.plan: EMPTY_PLAN,
            c.map: "",
            c.samples: "",
            c.target: "",
            c.generate: gr.Button(interactive=False),
            c.push: gr.Button(interactive=False),
        }

    def _no_result(self) -> Updates:
        c = self.components
        return {
            c.progress: "",
            c.result: gr.Column(visible=False),
            c.details: gr.Column(visible=False),
        }

    def _cleared(self) -> Updates:
        c = self.components
        return {
            c.status: "",
            c.splits: gr.Row(visible=False),
            c.columns: gr.Group(visible=False),
            c.input_column: gr.Dropdown(choices=[], value=None),
            c.output_column: gr.Dropdown(choices=[], value=None),
        } | self._no_plan() | self._no_result()  # fmt: skip

    def _failed(self, error: LoraMetaError) -> Updates:
        return self._no_plan() | {self.components.status: error_html(error)}

    def _column_choice(
        self, error: LoraMetaError, request: DatasetRequest, credential: Credential
    ) -> Updates:
        """Offer the columns to choose from, if they were the problem."""
        if not isinstance(error, (ColumnsError, UnlabeledDatasetError)):
            return {}
        try:
            job = Job(self.settings.time_limit)
            names = read_first(job, read_columns, validated(request), credential)
        except LoraMetaError:
            return {}
        return {
            self.components.columns: gr.Group(visible=True),
            self.components.input_column: gr.Dropdown(choices=names),
            self.components.output_column: gr.Dropdown(choices=names),
        }

    def _planned(
        self, plan_result: PlanResult, map_: str, profile: gr.OAuthProfile | None
    ) -> Updates:
        c, dataset = self.components, plan_result.plan.dataset
        columns = " and ".join(dataset.columns.names())
        target = Destination(private=dataset.private)
        return self._no_result() | {
            c.plan_result: plan_result,
            c.status: "",
            c.samples: samples_html(plan_result.name, dataset.split, columns, plan_result.samples),
            c.columns: gr.Group(visible=False),
            c.plan: plan_html(plan_result.plan),
            c.map: map_,
            c.visibility: "private" if dataset.private else "public",
            c.target: target_html(plan_result, target, profile.username) if profile else "",
            c.repo_id: "",
            c.generate: gr.Button(interactive=True),
            c.push: push_button(profile, plan_result),
        }


@lru_cache(maxsize=256)
def _search_public(text: str, period: int) -> list[str]:
    """Search as a signed-out user, once per period."""
    return Hub(False).search_datasets(text)
