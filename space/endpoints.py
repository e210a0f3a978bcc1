"""The endpoints /plan, /generate and /push; /plan is also an MCP tool."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import gradio as gr

from bank_loader import BankLoader
from dataset_request import FILE_TYPES, Credential, DatasetRequest
from generating import (
    Destination,
    SignInError,
    make_adapter,
    make_and_publish,
)
from hf_lorameta import LoraMetaError, Recipe
from hf_lorameta.errors import (
    AuthError,
    ColumnsError,
    ConflictError,
    RecipeError,
    UnlabeledDatasetError,
)
from hf_lorameta.method.coefficients import COEFFICIENT_RULES
from hf_lorameta.method.merging import COMBINERS
from hf_lorameta.method.metrics import METRICS
from inputs import columns_of, credential_of, recipe_of
from jobs import Job, known_error
from messages import advice, message_of
from planning import PlanResult, make_plan
from settings import Settings
from waiting_line import Lines, WaitingLine

T = TypeVar("T")
_ADVICE: dict[type[LoraMetaError], str] = {
    AuthError: "Pass another oauth_token: it has expired, or its account may not write there.",
    ColumnsError: "Pass columns, such as input=question,output=answer.",
    UnlabeledDatasetError: "Pass columns with the output, or with the input alone.",
    ConflictError: "Pass another repo_id, or overwrite=true.",
    RecipeError: "",
    SignInError: "",
}
"""Where `messages.advice`, for people, names parts of the page."""
MCP_TOOL = "plan"


def add_endpoints(bank_loader: BankLoader, settings: Settings, lines: Lines) -> None:
    """Add the endpoints to the `gr.Blocks` that is open; they are invisible on the page."""
    endpoints = Endpoints(bank_loader, settings, lines)
    with gr.Row(visible=False):
        inputs = _inputs()
        target = [
            gr.Textbox("", label="repo_id"),
            gr.Radio(["", "public", "private"], value="", label="visibility"),
            gr.Checkbox(False, label="overwrite"),
        ]
        result, archive = gr.JSON(label="result"), gr.File(label="adapter")
        trigger = gr.Button()
    planning: dict[str, Any] = {"concurrency_limit": 4, "concurrency_id": "plan"}
    work: dict[str, Any] = {"concurrency_limit": settings.concurrency, "concurrency_id": "work"}
    trigger.click(endpoints.plan, inputs, result, api_name="plan", **planning)
    trigger.click(endpoints.generate, inputs, [archive, result], api_name="generate", **work)
    trigger.click(endpoints.push, [*inputs, *target], result, api_name="push", **work)


def _inputs() -> list[Any]:
    default = Recipe()
    return [
        gr.Textbox("", label="dataset"),
        gr.File(value=None, label="file", file_types=list(FILE_TYPES)),
        gr.Textbox("", label="config"),
        gr.Textbox("", label="split"),
        gr.Textbox("", label="columns"),
        gr.Textbox("", label="instruction"),
        gr.Textbox("", label="template"),
        gr.Dropdown(list(METRICS), value=default.metric, label="metric"),
        gr.Dropdown(list(COEFFICIENT_RULES), value=default.coefficients, label="coefficients"),
        gr.Dropdown(list(COMBINERS), value=default.combine, label="combine"),
        gr.Number(default.top_k or 0, label="top_k", precision=0),
        gr.Number(default.temperature, label="temperature"),
        gr.Number(default.rank or 0, label="rank", precision=0),
    ]


class Endpoints:
    """Functions of the endpoints; Gradio shows their signatures and docstrings to callers.

    Args:
        bank_loader: provides the bank.
        settings: limits.
        lines: where jobs wait for their turn.
    """

    def __init__(self, bank_loader: BankLoader, settings: Settings, lines: Lines) -> None:
        self._bank_loader, self._settings, self._lines = bank_loader, settings, lines

    def plan(
        self,
        dataset: str, file: str | None = None,
        config: str = "", split: str = "", columns: str = "",
        instruction: str = "", template: str = "",
        metric: str | None = None, coefficients: str | None = None, combine: str | None = None,
        top_k: float = 0, temperature: float = 1.0, rank: float = 0,
        oauth_token: gr.OAuthToken | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Which LoRA adapters of the bank would be combined for a dataset, and how near they are.

        Reads the dataset's rows, changes nothing, writes nothing.

        Args:
            dataset: id of a dataset on the Hugging Face Hub, as user/name; empty with a file.
            file: a .jsonl, .json, .csv, .tsv or .parquet file instead.
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
        options = (metric, coefficients, combine, top_k, temperature, rank)
        read = partial(
            DatasetRequest, dataset, file, config, split, instruction=instruction, template=template
        )
        credential = credential_of(oauth_token, self._settings)

        def work(job: Job) -> PlanResult:
            return self._plan(read(columns_of(columns)), options, credential, job)

        return self._run(work, self._lines.plans).plan.to_dict()

    def generate(
        self,
        dataset: str, file: str | None = None,
        config: str = "", split: str = "", columns: str = "",
        instruction: str = "", template: str = "",
        metric: str | None = None, coefficients: str | None = None, combine: str | None = None,
        top_k: float = 0, temperature: float = 1.0, rank: float = 0,
        oauth_token: gr.OAuthToken | None = None,
    ) -> Iterator[tuple[str, dict[str, Any]]]:  # fmt: skip
        """Generate a LoRA adapter for a dataset, without training.

        Returns a zip of the files that ``hf-lorameta generate`` writes, and the plan. Nothing is
        published. The arguments are those of /plan.
        """
        options = (metric, coefficients, combine, top_k, temperature, rank)
        read = partial(
            DatasetRequest, dataset, file, config, split, instruction=instruction, template=template
        )
        credential = credential_of(oauth_token, self._settings)

        plan_result = self._run(
            lambda job: self._plan(read(columns_of(columns)), options, credential, job),
            self._lines.plans,
        )
        adapter = self._run(lambda job: make_adapter(plan_result, job), self._lines.adapters)
        try:
            yield (
                str(adapter.files.archive),
                {"seconds": adapter.seconds, "plan": plan_result.plan.to_dict()},
            )
        finally:
            adapter.files.discard()  # Gradio has copied the archive

    def push(
        self,
        dataset: str, file: str | None = None,
        config: str = "", split: str = "", columns: str = "",
        instruction: str = "", template: str = "",
        metric: str | None = None, coefficients: str | None = None, combine: str | None = None,
        top_k: float = 0, temperature: float = 1.0, rank: float = 0,
        repo_id: str = "", visibility: str = "", overwrite: bool = False,
        oauth_token: gr.OAuthToken | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Generate a LoRA adapter for a dataset and publish it in one commit.

        Needs ``oauth_token``. The other arguments are those of /plan.

        Args:
            repo_id: target, as user/name; empty names it after the dataset.
            visibility: public or private; empty makes it as private as the dataset.
            overwrite: replace an adapter that the repo already holds.
        """
        options = (metric, coefficients, combine, top_k, temperature, rank)
        read = partial(
            DatasetRequest, dataset, file, config, split, instruction=instruction, template=template
        )
        credential = credential_of(oauth_token, self._settings)
        private = {"public": False, "private": True}.get(visibility or "")
        destination = Destination(repo_id or None, private, overwrite)

        def read_and_plan(job: Job) -> PlanResult:
            if credential is False:
                raise SignInError("Publishing needs an account: pass oauth_token")
            return self._plan(read(columns_of(columns)), options, credential, job)

        plan_result = self._run(read_and_plan, self._lines.plans)
        published = self._run(
            lambda job: make_and_publish(plan_result, destination, credential, job),
            self._lines.adapters,
        )
        return {
            "url": published.url,
            "repo_id": published.repo_id,
            "private": published.private,
            "seconds": published.seconds,
        }

    def _plan(
        self, request: DatasetRequest, options: tuple[Any, ...], credential: Credential, job: Job
    ) -> PlanResult:
        recipe, max_rows = recipe_of(*options), self._settings.max_rows
        return make_plan(self._bank_loader, request, recipe, max_rows, credential, job)

    def _run(self, work: Callable[[Job], T], line: WaitingLine) -> T:
        """Run a job and convert an error to one that Gradio sends to the caller."""
        job = Job(self._settings.time_limit)
        try:
            with line.turn(job):
                return work(job)
        except Exception as error:  # noqa: BLE001 - shown as a message
            known = known_error(error)
            message = " ".join([f"{message_of(known)}.", *_advice(known)])
            raise gr.Error(message, print_exception=False) from None


def _advice(error: LoraMetaError) -> list[str]:
    own = next((_ADVICE[kind] for kind in type(error).__mro__ if kind in _ADVICE), None)
    return advice(error) if own is None else [own] * bool(own)
