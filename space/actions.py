"""What happens when something on the page is typed, chosen or pressed.

Each handler yields updates for the components of a `Page`; an error becomes a sentence on the page,
never a traceback, and unforeseen ones go to the log by their type alone.
"""

import logging
import time
from collections.abc import Iterator
from functools import lru_cache
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

import service
from bank_loader import BankLoader
from hf_lorameta import Hub, LoraMetaError, Recipe
from jobs import Finished, Job, Step, finish, run
from map_view import map_html
from messages import card_body, code_lines, error_html, result_html
from plan_view import note, plan_html, progress_html, samples_html
from service import AdapterResult, Credential, DatasetRequest, Destination, PlanResult
from settings import MOCK_TOKEN, Settings

if TYPE_CHECKING:
    from page import Page

logger = logging.getLogger("space")
Updates = dict[Any, Any]
_SEARCH_SECONDS = 600


def credential_of(token: gr.OAuthToken | None, settings: Settings) -> Credential:
    """What a request may act with: its own token and nothing else.

    On one's own machine Gradio plays the sign-in and gives a token of its own making, which stands
    for the one saved there.
    """
    if token is None:
        return False
    if settings.sign_in == "local" and token.token == MOCK_TOKEN:
        return None
    return token.token


def recipe_of(
    metric: str | None,
    coefficients: str | None,
    combine: str | None,
    top_k: float | None,
    temperature: float | None,
    rank: float | None,
) -> Recipe:
    """The recipe that the options spell; what is empty or zero stays at its default."""
    whole = {"top_k": top_k, "rank": rank}
    settings: dict[str, object] = {
        name: int(value) for name, value in whole.items() if value is not None and value > 0
    }
    named = {"metric": metric, "coefficients": coefficients, "combine": combine}
    settings |= {name: value for name, value in named.items() if value}
    if temperature is not None:
        settings["temperature"] = float(temperature)
    return Recipe.of(**settings)


class Actions:
    """Handlers of a page.

    Args:
        page: whose components are updated.
        keeper: of the bank.
        settings: limits.
    """

    def __init__(self, page: "Page", keeper: BankLoader, settings: Settings) -> None:
        self.page, self.keeper, self.settings = page, keeper, settings

    # --- signing in and the bank ------------------------------------------------------------------

    def greet(self, profile: gr.OAuthProfile | None, planned: PlanResult | None = None) -> Updates:
        """Say what being signed in or out means, and how the bank is."""
        return self._account(profile) | self._push_state(profile is not None, planned)

    def _account(self, profile: gr.OAuthProfile | None) -> Updates:
        return {self.page.account: self.page.account_text(profile.username if profile else None)}

    def _push_state(self, signed_in: bool, planned: PlanResult | None) -> Updates:
        return {self.page.push: gr.Button(interactive=signed_in and planned is not None)}

    def bank_state(self) -> Updates:
        """The bank's state; asked again until it no longer changes."""
        settled = self.keeper.state in ("ready", "failed", "damaged")
        return {
            self.page.bank: self.page.bank_text(),
            self.page.clock: gr.Timer(active=not settled),
        }

    # --- the dataset ------------------------------------------------------------------------------

    def search(self, typed: gr.KeyUpData, token: gr.OAuthToken | None) -> Any:
        """Datasets whose names match what is typed."""
        words = typed.input_value or ""
        credential = credential_of(token, self.settings)
        try:
            if credential is False:
                found = _public_search(words, int(time.time() // _SEARCH_SECONDS))
            else:
                found = Hub(credential).search_datasets(words)
        except LoraMetaError:
            return gr.skip()  # typing goes on without suggestions
        return gr.Dropdown(choices=found) if found else gr.skip()

    def dataset_chosen(
        self,
        token: gr.OAuthToken | None,
        profile: gr.OAuthProfile | None,
        dataset: str | None,
        *options: Any,
    ) -> Iterator[Updates]:
        """A dataset of the Hub was named."""
        if not (dataset or "").strip():
            yield self._cleared()
            return
        page = self.page
        yield self._cleared() | {page.file: None}
        yield from self._ask(
            DatasetRequest(dataset=dataset or ""), options, token, profile, fresh=True
        )

    def file_chosen(
        self,
        token: gr.OAuthToken | None,
        profile: gr.OAuthProfile | None,
        file: str | None,
        *options: Any,
    ) -> Iterator[Updates]:
        """A file was uploaded."""
        if not file:
            yield self._cleared()
            return
        yield self._cleared() | {self.page.dataset: None}
        yield from self._ask(DatasetRequest(file=file), options, token, profile, fresh=True)

    def asked_again(
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
        """Another configuration or split, or columns chosen by hand."""
        pairs = {"input": input_column, "output": output_column}
        columns = ",".join(f"{role}={name}" for role, name in pairs.items() if name)
        asked = DatasetRequest(
            "" if file else dataset or "",
            file,
            None if file else config or None,
            None if file else split or None,
            columns or None,
        )
        yield from self._ask(asked, options, token, profile, fresh=False)

    def _cleared(self) -> Updates:
        page = self.page
        return {
            page.planned: None,
            page.status: "",
            page.work: "",
            page.target: "",
            page.samples: "",
            page.choices: gr.Row(visible=False),
            page.columns: gr.Group(visible=False),
            page.input_column: gr.Dropdown(choices=[], value=None),
            page.output_column: gr.Dropdown(choices=[], value=None),
            page.plan: page.empty_plan(),
            page.map: "",
            page.result: gr.Column(visible=False),
            page.papers: gr.Column(visible=False),
            page.generate: gr.Button(interactive=False),
            page.push: gr.Button(interactive=False),
        }

    def _ask(
        self,
        asked: DatasetRequest,
        options: tuple[Any, ...],
        token: gr.OAuthToken | None,
        profile: gr.OAuthProfile | None,
        *,
        fresh: bool,
    ) -> Iterator[Updates]:
        page, credential = self.page, credential_of(token, self.settings)
        yield {page.status: progress_html("Finding the dataset"), page.plan: page.waiting_plan()}
        try:
            recipe = recipe_of(*options)
            if fresh and asked.dataset:
                asked, shown = yield from self._fill_in(asked, credential)
                yield shown
            limit = self.settings.max_rows

            def work(job: Job) -> tuple[PlanResult, str]:
                made = service.make_plan(self.keeper, asked, recipe, limit, credential, job)
                job.say("Drawing the map")
                return made, map_html(made.plan, self.keeper.map(recipe.metric))

            planned, drawn = yield from self._follow(work)
        except LoraMetaError as error:
            yield self._refused(error) | self._choosing(error, asked, credential)
            return
        except Exception as error:  # noqa: BLE001 - the visitor gets a sentence
            yield self._refused(_unforeseen(error))
            return
        yield self._planned(planned, drawn, profile)

    def _fill_in(self, asked: DatasetRequest, credential: Credential) -> Any:
        """Configuration and split by themselves: the obvious ones, else the first."""
        page = self.page
        configs, splits = yield from self._follow(
            lambda job: service.choices(asked, credential, job)
        )
        config = "default" if "default" in configs else configs[0]
        split = "train" if "train" in splits else splits[0]
        shown = {
            page.choices: gr.Row(visible=True),
            page.config: gr.Dropdown(choices=configs, value=config, interactive=len(configs) > 1),
            page.split: gr.Dropdown(choices=splits, value=split, interactive=len(splits) > 1),
        }
        named = config if len(configs) > 1 else None
        return DatasetRequest(asked.dataset, None, named, split), shown

    def _follow(self, work: Any) -> Any:
        """Show the steps of a job; returns what it made."""
        for item in run(work, self.settings.time_limit):
            if isinstance(item, Finished):
                return item.value
            yield {self.page.status: _shown(item)}
        raise AssertionError("unreachable")

    def _choosing(
        self, error: LoraMetaError, asked: DatasetRequest, credential: Credential
    ) -> Updates:
        """Where no layout fits, the columns to choose from."""
        if type(error).__name__ not in ("ColumnsError", "UnlabeledDatasetError"):
            return {}
        try:
            names = finish(
                lambda job: service.columns_of(asked, credential, job), self.settings.time_limit
            )
        except LoraMetaError:
            return {}
        page = self.page
        return {
            page.columns: gr.Group(visible=True),
            page.input_column: gr.Dropdown(choices=names),
            page.output_column: gr.Dropdown(choices=names),
        }

    def _refused(self, error: LoraMetaError) -> Updates:
        page = self.page
        return {
            page.planned: None,
            page.status: error_html(error),
            page.plan: page.empty_plan(),
            page.map: "",
            page.samples: "",
            page.target: "",
            page.generate: gr.Button(interactive=False),
            page.push: gr.Button(interactive=False),
        }

    def _planned(self, planned: PlanResult, drawn: str, profile: gr.OAuthProfile | None) -> Updates:
        page, data = self.page, planned.plan.dataset
        columns = data.columns.model_dump(exclude_none=True).values()
        return {
            page.planned: planned,
            page.status: "",
            page.samples: samples_html(
                planned.name, data.split, " and ".join(columns), planned.samples
            ),
            page.columns: gr.Group(visible=False),
            page.plan: plan_html(planned.plan),
            page.map: drawn,
            page.result: gr.Column(visible=False),
            page.papers: gr.Column(visible=False),
            page.private: "private" if data.private else "public",
            page.target: self.target_text(
                planned, "", "private" if data.private else "public", profile
            ),
            page.repo_id: "",
            page.work: "",
            page.generate: gr.Button(interactive=True),
        } | self._push_state(profile is not None, planned)

    def planned_again(self, planned: PlanResult | None, *options: Any) -> Updates:
        """Other options: the same reading of the dataset under another recipe."""
        page = self.page
        if planned is None:
            return {page.status: gr.skip()}
        try:
            recipe = recipe_of(*options)
            recipe = recipe.model_copy(update={"max_rows": planned.plan.recipe.max_rows})
            made = PlanResult(planned.plan.with_recipe(recipe), planned.samples, planned.name)
            drawn = map_html(made.plan, self.keeper.map(recipe.metric))
        except LoraMetaError as error:
            return {page.status: error_html(error)}
        return {
            page.planned: made,
            page.status: "",
            page.plan: plan_html(made.plan),
            page.map: drawn,
        }

    def target_text(
        self,
        planned: PlanResult | None,
        repo_id: str,
        private: str,
        profile: gr.OAuthProfile | None,
    ) -> str:
        """Where a push would go."""
        if planned is None or profile is None:
            return ""
        to = Destination(repo_id or None, private == "private")
        try:
            name = service.target_name(planned, to, profile.username)
        except LoraMetaError as error:
            return note("warning", str(error))
        return (
            f'<p class="lm-soft">Pushing makes the {escape(private)} repo <b>{escape(name)}</b>. '
            "Name and visibility can be changed in the options.</p>"
        )

    # --- making -----------------------------------------------------------------------------------

    def make(self, planned: PlanResult | None) -> Iterator[Updates]:
        """Generate, for download."""
        yield from self._make(lambda job: service.make_adapter(_insist(planned), job), planned)

    def publish(
        self,
        planned: PlanResult | None,
        repo_id: str,
        private: str,
        overwrite: bool,
        token: gr.OAuthToken | None,
    ) -> Iterator[Updates]:
        """Generate and push."""
        to = Destination(repo_id or None, private == "private", overwrite)
        credential = credential_of(token, self.settings)
        yield from self._make(
            lambda job: service.make_and_publish(_insist(planned), to, credential, job),
            planned,
            signed_in=token is not None,
        )

    def _make(
        self, work: Any, planned: PlanResult | None, signed_in: bool | None = None
    ) -> Iterator[Updates]:
        page, made = self.page, None
        idle = {
            page.generate: gr.Button(interactive=planned is not None),
            page.cancel: gr.Button(visible=False),
        } | ({} if signed_in is None else self._push_state(signed_in, planned))
        yield {
            page.work: progress_html("Starting"),
            page.result: gr.Column(visible=False),
            page.papers: gr.Column(visible=False),
            page.generate: gr.Button(interactive=False),
            page.push: gr.Button(interactive=False) if signed_in is not None else gr.skip(),
            page.cancel: gr.Button(visible=True),
        }
        try:
            for item in run(work, self.settings.time_limit):
                if isinstance(item, Step):
                    yield {page.work: _shown(item)} | self._uncancellable(item)
                else:
                    made = item.value
            yield idle | self._made(_insist(made))
        except LoraMetaError as error:
            yield idle | {page.work: error_html(error)}
        except Exception as error:  # noqa: BLE001 - the visitor gets a sentence
            told = _unforeseen(error)
            yield idle | {page.work: error_html(told)}
        finally:
            if made is not None:  # Gradio has its own copy by now
                service.discard(made)

    def _uncancellable(self, step: Step) -> Updates:
        publishing = step.text.startswith("Publishing")
        return {self.page.cancel: gr.Button(visible=False)} if publishing else {}

    def _made(self, made: AdapterResult) -> Updates:
        page, base = self.page, self.keeper.bank.index.base_model
        return {
            page.work: "",
            page.result: gr.Column(visible=True),
            page.papers: gr.Column(visible=True),
            page.result_head: result_html(made, base),
            page.code: code_lines(made),
            page.download: gr.DownloadButton(value=str(made.archive)),
            page.card: card_body(made.card),
            page.recipe: made.recipe,
        }

    def cancelled(self, planned: PlanResult | None, profile: gr.OAuthProfile | None) -> Updates:
        """After a cancel: as before, and nothing is left behind."""
        page = self.page
        return {
            page.work: note("info", "Cancelled", ["Nothing was published and nothing is kept."]),
            page.cancel: gr.Button(visible=False),
            page.generate: gr.Button(interactive=planned is not None),
        } | self._push_state(profile is not None, planned)


def _shown(step: Step) -> str:
    return progress_html(step.text, step.done, step.total)


def _insist(value: Any) -> Any:
    if value is None:
        raise service.RequestError("There is no plan yet: name a dataset first")
    return value


def _unforeseen(error: Exception) -> LoraMetaError:
    logger.error("unforeseen %s", type(error).__name__)
    return LoraMetaError(f"Something went wrong that was not foreseen ({type(error).__name__})")


@lru_cache(maxsize=256)
def _public_search(words: str, period: int) -> list[str]:
    """What everybody may see, asked once per period."""
    return Hub(False).search_datasets(words)
