"""The endpoints /plan, /generate and /push; /plan is also an MCP tool."""

import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
from starlette.concurrency import run_in_threadpool

from hf_lorameta import errors
from hf_lorameta.bank.bank import Bank
from hf_lorameta.data.columns.columns import as_columns
from hf_lorameta.data.sources.formats import ON_PAGE
from hf_lorameta.errors import LoraMetaError, Option
from hf_lorameta.hub.repo import Token
from hf_lorameta.pipeline.publish import Consent
from hf_lorameta.recipe import REGISTRIES, Recipe
from limits.callers import call_of
from limits.lines import FullError, Line
from limits.uploads import used
from settings import SpaceSettings
from views.blocks import advice, message_of
from work.generating import find_target, make_adapter, publish
from work.jobs import Canceled, Job, SpaceError, known_error
from work.planning import (
    CHOICES,
    DatasetRequest,
    PlanResult,
    make_plan,
    refuse_many_keys,
)
from work.reader_process import read

F = TypeVar("F", bound=Callable[..., Any])
_TEXTS = ("dataset", *CHOICES)
OPTIONS = ("metric", "coefficients", "combine", "top_k", "temperature", "rank")
"""Of a recipe; an empty value or 0 is the default."""
_INPUTS = (*_TEXTS, "file", *OPTIONS, "repo_id", "visibility", "overwrite")
MCP_TOOL = "plan"


def add_endpoints(bank: Bank, settings: SpaceSettings, lines: Mapping[str, Line]) -> None:
    """Add the endpoints to the `gr.Blocks` that is open; they are invisible on the page.

    Calls wait in lines of their own.
    """
    endpoints = Endpoints(bank, settings, lines)
    with gr.Row(visible=False):
        inputs, target = _inputs(), _target()
        result, archive = gr.JSON(label="result"), gr.File(label="adapter")
        trigger = gr.Button()
    for name, function, given, outputs in (
        (MCP_TOOL, endpoints.plan, inputs, result),
        ("generate", endpoints.generate, inputs, [archive, result]),
        ("push", endpoints.push, inputs | target, result),
    ):
        trigger.click(
            function, None, outputs, inputs_kwargs=given, api_name=name, concurrency_limit=None
        )


def _inputs() -> dict[str, Any]:
    """Return a widget for each input of all endpoints; its value is the default."""
    default = Recipe()
    inputs: dict[str, Any] = {
        "dataset": gr.Textbox("", label="dataset"),
        "file": gr.File(label="file", file_types=list(ON_PAGE)),
    }
    for name in CHOICES:
        inputs[name] = gr.Textbox("", label=name)
    for name, table in REGISTRIES.items():
        inputs[name] = gr.Dropdown(list(table), value=getattr(default, name), label=name)
    for name in ("top_k", "temperature", "rank"):
        inputs[name] = gr.Number(getattr(default, name) or 0, label=name)
    return inputs


def _target() -> dict[str, Any]:
    return {
        "repo_id": gr.Textbox("", label="repo_id"),
        "visibility": gr.Radio(["", "public", "private"], value="", label="visibility"),
        "overwrite": gr.Checkbox(False, label="overwrite"),
    }


def _naming_inputs(function: F) -> F:
    """Name the inputs in the signature of an endpoint: Gradio documents only those it finds there.

    The docstring describes them.
    """
    itself, request, token, _ = inspect.signature(function).parameters.values()
    named = [Parameter(name, Parameter.KEYWORD_ONLY, default=None) for name in _INPUTS]
    function.__signature__ = Signature([itself, request, token, *named])  # type: ignore[attr-defined]
    return function


class Endpoints:
    """Functions of the endpoints; Gradio shows their docstrings to callers.

    Args:
        bank: its adapters are combined.
        settings: limits.
        lines: in which calls wait.
    """

    def __init__(self, bank: Bank, settings: SpaceSettings, lines: Mapping[str, Line]) -> None:
        self._bank, self._settings, self._lines = bank, settings, lines

    @_naming_inputs
    async def plan(
        self, request: gr.Request, oauth_token: gr.OAuthToken | None, **inputs: Any
    ) -> dict[str, Any]:
        """Show which LoRA adapters would be combined for a dataset, and their distances.

        Reads the dataset's rows, changes nothing, writes nothing.

        Args:
            dataset: id of a dataset on the Hugging Face Hub, as user/name; empty with a file.
            file: a data file instead, such as .csv, .jsonl or .parquet.
            config: configuration; empty for the only or default one.
            split: split; empty for train, or the only one.
            columns: as input=question,output=answer; empty detects them.
            instruction: put before every input, for rows that hold none.
            template: with {instruction} and {input}; chat: the base model's own; empty: the usual.
            metric: distance between datasets.
            coefficients: rule that turns distances into coefficients.
            combine: how the adapters are merged.
            top_k: use only the k largest coefficients; 0 uses all.
            temperature: of the softmin; below 1 is sharper.
            rank: of the adapter; 0 for the default.
        """
        credential = self._settings.credential(oauth_token)
        async with self._job("api-plan", request) as job:
            result = await run_in_threadpool(self._plan, inputs, credential, job)
            return result.plan.to_dict()

    @_naming_inputs
    async def generate(
        self, request: gr.Request, oauth_token: gr.OAuthToken | None, **inputs: Any
    ) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Generate a LoRA adapter for a dataset from those of the bank, without training.

        Returns a zip of the files that ``hf-lorameta generate`` writes, and the plan. Nothing is
        published. The arguments are those of /plan.
        """
        credential = self._settings.credential(oauth_token)
        async with self._job("api-adapter", request) as job:
            result = await run_in_threadpool(self._plan, inputs, credential, job)
            adapter = await run_in_threadpool(make_adapter, result, job)
        try:
            yield (
                str(adapter.archive),
                {"seconds": adapter.generation.seconds, "plan": result.plan.to_dict()},
            )
        finally:
            adapter.discard()  # Gradio has copied the archive

    @_naming_inputs
    async def push(
        self, request: gr.Request, oauth_token: gr.OAuthToken | None, **inputs: Any
    ) -> dict[str, Any]:
        """Generate a LoRA adapter for a dataset and publish it in one commit.

        Needs ``oauth_token``. The other arguments are those of /plan.

        Args:
            repo_id: target, as user/name; empty names it after the dataset.
            visibility: public or private; empty makes it as private as the dataset.
            overwrite: replace an adapter that the repo already holds.
        """
        credential = self._settings.credential(oauth_token)
        private = {"public": False, "private": True}.get(inputs["visibility"] or "")
        consent = Consent(private, overwrite=inputs["overwrite"])
        async with self._job("api-adapter", request) as job:
            if credential is False:
                raise SpaceError("Publishing needs an account: pass oauth_token")
            result = await run_in_threadpool(self._plan, inputs, credential, job)
            where = inputs["repo_id"] or "", consent, credential, job
            target = await run_in_threadpool(find_target, result, *where)
            adapter = await run_in_threadpool(make_adapter, result, job)
            saved = await run_in_threadpool(publish, adapter, target, credential, job)
            return {
                "url": saved.published.url,
                "repo_id": target.repo_id,
                "private": target.private,
                "seconds": adapter.generation.seconds,
            }

    def _plan(self, inputs: dict[str, Any], credential: Token, job: Job) -> PlanResult:
        named = {name: inputs[name] for name in (*_TEXTS, "file")}
        kept = used(named["file"] or "")
        request = DatasetRequest(**named | {"columns": as_columns(inputs["columns"] or None)})
        if request.file:
            read(job, refuse_many_keys, Path(request.file))
        recipe = Recipe.of(**{name: inputs[name] for name in OPTIONS if inputs[name]})
        most = self._settings.max_rows
        result = make_plan(self._bank, request, recipe, most, credential, job, samples=0)
        del kept  # and with it the file
        return result

    @asynccontextmanager
    async def _job(self, name: str, request: gr.Request) -> AsyncIterator[Job]:
        """Wait in a line, and run a job that ends if the caller leaves.

        Errors become those that Gradio sends.
        """
        call, line = call_of(request), self._lines[name]
        try:
            async with line.place_of(call) as place:
                async for _ in line.turn(place, lambda: call.wanted):
                    pass
                job = Job(self._settings.time_limit)
                job.call = call
                job.check()
                yield job
        except FullError as error:
            raise gr.Error(str(error), print_exception=False) from None
        except Canceled:
            raise gr.Error("The caller has left", print_exception=False) from None
        except Exception as error:  # noqa: BLE001 - shown as a message
            known = known_error(error)
            message = f"{message_of(known)}. {_advice(known)}".strip()
            raise gr.Error(message, print_exception=False) from None


def _advice(error: LoraMetaError) -> str:
    """Return what a caller can do: change an input, or what the page says."""
    options = [part for part in error.advice if isinstance(part, Option) and part.name in _INPUTS]
    if options:
        return f"To go on, {errors.in_words(options, errors.in_python)}."
    return " ".join(advice(error))
