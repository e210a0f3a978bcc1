"""The endpoints /plan, /generate and /predict, which are also MCP tools."""

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from functools import partial
from inspect import Parameter, Signature
from typing import Any, TypeVar

import gradio as gr

from forms.inputs import DATASET, SETTINGS, dataset_inputs, described, settings_inputs
from hf_lorameta import errors
from hf_lorameta.errors import LoraMetaError, Option
from hf_lorameta.hub.repo import Token
from hf_lorameta.pipeline.publish import Consent
from settings import SpaceSettings, credential_of
from space_error import SpaceError
from views.blocks import advice, message_of
from visitors.callers import Call, call_of
from visitors.lines import LOOK_SECONDS, Line
from visitors.uploads import hold_upload
from work.bank_loader import BankLoader
from work.dataset_words import marked
from work.jobs import Canceled, Job, LineName, Step, known_error
from work.making import Making
from work.planning import SAMPLES, PageRequest, PlanResult, make_plan
from work.predicting import KEPT_ADAPTERS, answer_inputs, command_to_predict
from work.visit import known

F = TypeVar("F", bound=Callable[..., Any])
_ASKED = described([*DATASET, *SETTINGS])
"""What callers read of the inputs that make a request; an empty value or 0 is the default."""
_TARGET = {
    "repo_id": "where it is published, as user/name; empty names it after the dataset.",
    "visibility": "of the repo, private or public.",
    "publish": "unless-unlikely: unless the verdict is that it is unlikely to help; anyway; never.",
    "overwrite": "replace an adapter that the repo already holds.",
}
"""The same of where an adapter is published."""
_ROWS = {
    "adapter": "what /generate returned as adapter, at most an hour ago; or the Hub id of one.",
    "inputs": 'up to 100, as a JSON list: of texts, or of rows, such as [{"question": "Why?"}].',
    "sure": "leave the answer empty where its probability is lower, such as 0.95.",
}
"""The same of what is answered."""
_ELSEWHERE = f"On your own machine: {command_to_predict('ADAPTER')}"
_PUBLISH = ("unless-unlikely", "anyway", "never")


def add_endpoints(loader: BankLoader, settings: SpaceSettings, lines: Mapping[str, Line]) -> None:
    """Add the endpoints to the `gr.Blocks` that is open; they are invisible on the page."""
    endpoints = Endpoints(loader, settings, lines)
    with gr.Row(visible=False):
        asked, target = dataset_inputs() | settings_inputs(), _target()
        result, archive = gr.JSON(label="result"), gr.File(label="adapter")
        trigger, rows = gr.Button(), _rows()
    for function, inputs, outputs in (
        (endpoints.plan, asked, result),
        (endpoints.generate, asked | target, [archive, result]),
        (endpoints.predict, rows, result),
    ):
        trigger.click(
            function, None, outputs, inputs_kwargs=inputs, api_name=function.__name__,
            concurrency_limit=None,
        )  # fmt: skip


def _target() -> dict[str, Any]:
    return {
        "repo_id": gr.Textbox("", label="repo_id"),
        "visibility": gr.Radio(["private", "public"], value="private", label="visibility"),
        "publish": gr.Radio(list(_PUBLISH), value=_PUBLISH[0], label="publish"),
        "overwrite": gr.Checkbox(False, label="overwrite"),
    }


def _rows() -> dict[str, Any]:
    inputs, example = gr.JSON([], label="inputs"), ["A text"]
    # The schema of JSON itself is one that the MCP library refuses; a subclass would make Gradio
    # write a file beside this one.
    items = {"anyOf": [{"type": "string"}, {"type": "object"}]}
    vars(inputs).update(
        api_info=lambda: {"type": "array", "items": items},
        example_payload=lambda: example,
        example_value=lambda: example,
    )
    return {
        "adapter": gr.Textbox("", label="adapter"),
        "inputs": inputs,
        "sure": gr.Number(0, label="sure"),
    }


def _naming_inputs(described: Mapping[str, str]) -> Callable[[F], F]:
    """Name the inputs in the signature of an endpoint, and describe them in its docstring.

    Gradio documents only those that it finds there.
    """

    def named(function: F) -> F:
        itself, request, token, _ = inspect.signature(function).parameters.values()
        inputs = [Parameter(name, Parameter.KEYWORD_ONLY, default=None) for name in described]
        function.__signature__ = Signature([itself, request, token, *inputs])  # type: ignore[attr-defined]
        lines = (f"    {name}: {text}" for name, text in described.items())
        function.__doc__ = "\n".join([inspect.getdoc(function) or "", "", "Args:", *lines])
        return function

    return named


class Endpoints:
    """Functions of the endpoints; Gradio shows their docstrings and inputs to callers.

    Args:
        loader: provides the bank, whose adapters are combined, and the base model.
        settings: limits.
        lines: in which calls wait.
    """

    def __init__(
        self, loader: BankLoader, settings: SpaceSettings, lines: Mapping[str, Line]
    ) -> None:
        self._loader, self._settings, self._lines = loader, settings, lines

    @_naming_inputs(_ASKED)
    async def plan(
        self, request: gr.Request, oauth_token: gr.OAuthToken | None, **inputs: Any
    ) -> dict[str, Any]:
        """Show which LoRA adapters would be combined for a dataset, and their distances.

        Reads the dataset's rows, changes nothing, writes nothing. Numbers of 0 are the defaults.
        """
        credential, found = credential_of(oauth_token), list[PlanResult]()
        with _explained():

            def work(job: Job) -> None:
                found.append(self._plan(inputs, credential, 0, job))

            async with aclosing(self._steps("plan", work, call_of(request))) as steps:
                async for _ in steps:
                    pass
            return marked(found[0].plan.to_dict(), found[0].plan.dataset)

    @_naming_inputs(_ASKED | _TARGET)
    async def generate(
        self, request: gr.Request, oauth_token: gr.OAuthToken | None, **inputs: Any
    ) -> AsyncIterator[tuple[str | None, dict[str, Any]]]:
        """Make a LoRA adapter for a dataset, train it on the rows, and count its right answers.

        Combines adapters of other datasets, then trains for up to two minutes. Until the end, the
        result is the progress: a sentence, and where known the place in the line, the training
        steps and the seconds left. At the end, the adapter is a zip of the files that
        ``hf-lorameta generate`` writes, and the result is what it prints: the verdict, the counts
        (check), the recipe, and a key (adapter) for predict. With oauth_token, which MCP callers do
        not send, it is published in one commit, unless it is unlikely to help.
        """
        credential, call = credential_of(oauth_token), call_of(request)
        with _explained():
            plan = partial(self._plan, inputs, credential, SAMPLES)
            repo_id = inputs["repo_id"] or ""
            consent, anyway = _consent(inputs, credential), inputs["publish"] == "anyway"
            making = Making(self._loader, credential, plan, repo_id, consent, anyway)
            for line, work in making.stages():
                async with aclosing(self._steps(line, work, call)) as steps:
                    async for step in steps:
                        yield None, step
            adapter, dataset = known(making.adapter), known(making.result).plan.dataset
            try:
                found = making.to_dict() | {"adapter": KEPT_ADAPTERS.keep(adapter)}
                yield str(adapter.archive), marked(found, dataset)
            finally:
                adapter.discard()  # Gradio has copied the archive

    @_naming_inputs(_ROWS)
    async def predict(
        self, request: gr.Request, oauth_token: gr.OAuthToken | None, **inputs: Any
    ) -> AsyncIterator[dict[str, Any]]:
        """Answer inputs with a LoRA adapter, each with a probability.

        If the adapter knows labels, each answer is one of them, and its probability is calibrated
        on the rows that were counted when it was made: counted_answered of these have at least the
        probability sure, and counted_right of them are right. Else answers are texts, whose
        probability is the mean of their tokens'. Until the end, the result is the progress.
        """
        found, sure = list[dict[str, Any]](), float(inputs["sure"] or 0)
        with _explained(_ROWS):
            if why := self._loader.no_model:
                raise SpaceError(why, code="predict.no-model", hint=_ELSEWHERE)

            def work(job: Job) -> None:
                model, credential = self._loader.model, credential_of(oauth_token)
                asked = inputs["adapter"] or "", inputs["inputs"]
                found.append(answer_inputs(*asked, sure, credential, model, job))

            async with aclosing(self._steps("model", work, call_of(request))) as steps:
                async for step in steps:
                    yield step
            yield found[0]

    def _plan(
        self, inputs: dict[str, Any], credential: Token, samples: int, job: Job
    ) -> PlanResult:
        kept, request = hold_upload(inputs["file"] or ""), PageRequest.given(inputs)
        most = self._settings.max_rows
        result = make_plan(self._loader.bank, request, most, credential, job, samples)
        del kept  # and with it the file
        return result

    async def _steps(
        self, name: LineName, work: Callable[[Job], None], call: Call
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Wait in a line, then run work, which ends if the caller leaves; yield the progress.

        Nothing begins before the caller asks for the answer.
        """
        while not call.stream.opened:
            if not call.wanted:
                raise Canceled
            await asyncio.sleep(LOOK_SECONDS)
        line, job = self._lines[name], Job(self._settings.time_limit, name)
        job.call = call
        async with aclosing(line.run(call, lambda: job.run(work), lambda: call.wanted)) as running:
            async for news in running:
                if isinstance(news, int):
                    yield {"progress": "Waiting for the requests of others", "place": news}
                elif isinstance(news, Step):
                    yield _progress(news)
        if not call.wanted:
            raise Canceled


def _progress(step: Step) -> dict[str, Any]:
    numbers = {"steps": step.steps, "seconds_left": step.seconds_left}
    return {"progress": step.text} | {name: number for name, number in numbers.items() if number}


def _consent(inputs: Mapping[str, Any], credential: Token) -> Consent | None:
    """Return how the caller wants the adapter to be published; None if it is not.

    Raises:
        SpaceError: the caller wants that, without a token.
    """
    visibility, overwrite = inputs["visibility"] or "private", bool(inputs["overwrite"])
    if credential is not False:
        never = inputs["publish"] == "never"
        return None if never else Consent(visibility == "private", False, overwrite)
    if inputs["repo_id"] or visibility == "public" or overwrite:
        raise SpaceError("Publishing needs an account: pass oauth_token", code="page.needs-account")
    return None


@contextmanager
def _explained(inputs: Mapping[str, str] = _ASKED | _TARGET) -> Iterator[None]:
    """Turn errors into those that Gradio sends, with the inputs that a caller can change."""
    try:
        yield
    except Canceled:
        raise gr.Error("The caller has left", print_exception=False) from None
    except Exception as error:  # noqa: BLE001 - shown as a message
        found = known_error(error)
        message = f"{message_of(found)}. {_advice(found, inputs)}".strip()
        raise gr.Error(message, title=found.code, print_exception=False) from None


def _advice(error: LoraMetaError, inputs: Mapping[str, str]) -> str:
    """Return what a caller can do: change an input, or what the page says."""
    options = [part for part in error.advice if isinstance(part, Option) and part.name in inputs]
    if options:
        return f"To go on, {errors.in_words(options, errors.in_python)}."
    return " ".join(advice(error))
