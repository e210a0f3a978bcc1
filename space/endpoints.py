"""The page's steps for programs: /plan, /generate and /push; /plan is an MCP tool, too."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

import service
from actions import credential_of, recipe_of
from bank_loader import BankLoader
from hf_lorameta import COEFFICIENT_RULES, COMBINERS, METRICS, LoraMetaError, Recipe
from jobs import Job, finish
from messages import advice
from service import AdapterResult, DatasetRequest, Destination, PlanResult
from settings import Settings

MCP_TOOL = "plan"


def add_endpoints(keeper: BankLoader, settings: Settings) -> None:
    """Add the endpoints to the Blocks being built; nothing of them is seen on the page."""
    calls = Calls(keeper, settings)
    with gr.Row(visible=False):
        asked = _inputs()
        target = [
            gr.Textbox("", label="repo_id"),
            gr.Radio(["", "public", "private"], value="", label="visibility"),
            gr.Checkbox(False, label="overwrite"),
        ]
        told, files, go = gr.JSON(label="result"), gr.File(label="adapter"), gr.Button()
    making: dict[str, Any] = {"concurrency_limit": settings.concurrency, "concurrency_id": "work"}
    go.click(calls.plan, asked, told, api_name="plan", concurrency_limit=4, concurrency_id="plan")
    go.click(calls.generate, asked, [files, told], api_name="generate", **making)
    go.click(calls.push, [*asked, *target], told, api_name="push", **making)


def _inputs() -> list[Any]:
    usual = Recipe()
    return [
        gr.Textbox("", label="dataset"),
        gr.File(value=None, label="file", file_types=list(service.FILE_TYPES)),
        gr.Textbox("", label="config"),
        gr.Textbox("", label="split"),
        gr.Textbox("", label="columns"),
        gr.Dropdown(list(METRICS), value=usual.metric, label="metric"),
        gr.Dropdown(list(COEFFICIENT_RULES), value=usual.coefficients, label="coefficients"),
        gr.Dropdown(list(COMBINERS), value=usual.combine, label="combine"),
        gr.Number(usual.top_k or 0, label="top_k", precision=0),
        gr.Number(usual.temperature, label="temperature"),
        gr.Number(usual.rank or 0, label="rank", precision=0),
    ]


class Calls:
    """The endpoints' functions; their docstrings are what a caller reads.

    Args:
        keeper: of the bank.
        settings: limits.
    """

    def __init__(self, keeper: BankLoader, settings: Settings) -> None:
        self._keeper, self._settings = keeper, settings

    def plan(
        self,
        dataset: str,
        file: str | None = None,
        config: str = "",
        split: str = "",
        columns: str = "",
        metric: str | None = None,
        coefficients: str | None = None,
        combine: str | None = None,
        top_k: float = 0,
        temperature: float = 1.0,
        rank: float = 0,
        oauth_token: gr.OAuthToken | None = None,
    ) -> dict[str, Any]:
        """Which LoRA adapters of the bank would be combined for a dataset, and how near they are.

        Reads the dataset's rows, changes nothing, writes nothing.

        Args:
            dataset: id of a dataset on the Hugging Face Hub, as user/name; empty with a file.
            file: a .jsonl, .json, .csv, .tsv or .parquet file instead.
            config: configuration; empty for the only or default one.
            split: split; empty for train, or the only one.
            columns: as input=question,output=answer; empty finds them.
            metric: distance between datasets.
            coefficients: rule from distances to coefficients.
            combine: how adapters are added up.
            top_k: keep the k largest coefficients; 0 keeps all.
            temperature: of the softmin; below 1 is sharper.
            rank: of the adapter; 0 for the usual one.
        """
        options = (metric, coefficients, combine, top_k, temperature, rank)
        asked = _asked(dataset, file, config, split, columns)
        credential = credential_of(oauth_token, self._settings)
        planned: PlanResult = self._done(lambda job: self._plan(asked, options, credential, job))
        return planned.plan.to_dict()

    def generate(
        self,
        dataset: str,
        file: str | None = None,
        config: str = "",
        split: str = "",
        columns: str = "",
        metric: str | None = None,
        coefficients: str | None = None,
        combine: str | None = None,
        top_k: float = 0,
        temperature: float = 1.0,
        rank: float = 0,
        oauth_token: gr.OAuthToken | None = None,
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Make a LoRA adapter for a dataset, without training.

        Returns a zip of the files that ``hf-lorameta generate`` writes, and the plan. Nothing is
        published. The arguments are those of /plan.
        """
        options = (metric, coefficients, combine, top_k, temperature, rank)
        asked = _asked(dataset, file, config, split, columns)
        credential = credential_of(oauth_token, self._settings)

        def work(job: Job) -> tuple[PlanResult, AdapterResult]:
            planned = self._plan(asked, options, credential, job)
            return planned, service.make_adapter(planned, job)

        planned, made = self._done(work)
        told = {"seconds": made.seconds, "plan": planned.plan.to_dict()}
        try:
            yield str(made.archive), told
        finally:
            service.discard(made)  # Gradio has its own copy by now

    def push(
        self,
        dataset: str,
        file: str | None = None,
        config: str = "",
        split: str = "",
        columns: str = "",
        metric: str | None = None,
        coefficients: str | None = None,
        combine: str | None = None,
        top_k: float = 0,
        temperature: float = 1.0,
        rank: float = 0,
        repo_id: str = "",
        visibility: str = "",
        overwrite: bool = False,
        oauth_token: gr.OAuthToken | None = None,
    ) -> dict[str, Any]:
        """Make a LoRA adapter for a dataset and publish it in one commit; needs ``oauth_token``.

        The arguments are those of /plan, and besides:

        Args:
            repo_id: target, as user/name; empty names it after the dataset.
            visibility: public or private; empty makes it as private as the dataset.
            overwrite: replace an adapter that is there.
        """
        options = (metric, coefficients, combine, top_k, temperature, rank)
        asked = _asked(dataset, file, config, split, columns)
        credential = credential_of(oauth_token, self._settings)
        private = {"public": False, "private": True}.get(visibility or "")
        to = Destination(repo_id or None, private, overwrite)

        def work(job: Job) -> AdapterResult:
            if credential is False:
                raise service.SignInError("Publishing needs an account: pass oauth_token")
            planned = self._plan(asked, options, credential, job)
            return service.make_and_publish(planned, to, credential, job)

        made = self._done(work)
        service.discard(made)
        return {
            "url": made.url,
            "repo_id": made.repo_id,
            "private": made.private,
            "seconds": made.seconds,
        }

    def _plan(
        self,
        asked: DatasetRequest,
        options: tuple[Any, ...],
        credential: service.Credential,
        job: Job,
    ) -> PlanResult:
        recipe, limit = recipe_of(*options), self._settings.max_rows
        return service.make_plan(self._keeper, asked, recipe, limit, credential, job)

    def _done(self, work: Any) -> Any:
        """Wait for a job; an error becomes one that Gradio passes on."""
        try:
            return finish(work, self._settings.time_limit)
        except LoraMetaError as error:
            told = " ".join([f"{error}.", *advice(error)])
            raise gr.Error(told, print_exception=False) from None


def _asked(dataset: str, file: str | None, config: str, split: str, columns: str) -> DatasetRequest:
    return DatasetRequest(dataset or "", file, config or None, split or None, columns or None)
