"""Actions that make, try, test, save and cancel."""

from collections.abc import Iterator

import gradio as gr

import result_view as view
from actions import Actions, Updates
from dataset_request import DatasetRequest, RequestError
from generating import AdapterResult, Destination, Published, make_adapter, make_and_publish
from hf_lorameta import Report
from improving import ROWS, Improvement, TooSlowError, improve, why_not_improve
from inputs import credential_of
from jobs import Job
from planning import PlanResult
from trying import answers, is_worse, test, why_not
from visit import IDLE, Visit


class AdapterActions(Actions):
    """Handlers of the buttons and forms of the result."""

    def make(self, visit: Visit, profile: gr.OAuthProfile | None) -> Iterator[Updates]:
        """Make the adapter of the plan."""
        c = self.components
        user = profile.username if profile else None

        def drop_result() -> Updates:
            visit.adapter, visit.report = None, None
            return {c.result_step: gr.Column(visible=False)}

        def show(adapter: AdapterResult) -> Updates:
            visit.adapter = adapter
            return self._result(visit, _plan_of(visit), adapter, user)

        yield from self.run(
            visit, self.lines.adapters, lambda job: make_adapter(_plan_of(visit), job), show,
            c.problem, first=drop_result(), undo=drop_result,
        )  # fmt: skip

    def try_out(self, visit: Visit, event: gr.EventData) -> Iterator[Updates]:
        """Show the answers of the base model and of the adapter to a prompt."""
        c, bank = self.components, self.bank_loader.bank
        prompt = str((event._data or {}).get("prompt", ""))[:20_000]

        def show(both: tuple[str, str]) -> Updates:
            expected = dict(_plan_of(visit).samples).get(prompt, "")
            return {c.answers: view.answers_html(*both, expected)}

        yield from self.run(
            visit, self.lines.model,
            lambda job: answers(_adapter_of(visit), bank, self.settings, prompt, job), show,
            c.answers, undo=lambda: {c.answers: ""},
        )  # fmt: skip

    def test(self, visit: Visit) -> Iterator[Updates]:
        """Score base model, few-shot prompt and adapter on rows of the dataset."""
        c, bank = self.components, self.bank_loader.bank

        def show(report: Report) -> Updates:
            visit.report, files = report, _adapter_of(visit).files
            return {
                c.report: view.report_html(report),
                c.card: view.card_body(files.read("README.md")),
                c.download: gr.DownloadButton(value=str(files.archive)),
            }

        yield from self.run(
            visit, self.lines.model,
            lambda job: test(_adapter_of(visit), bank, self.settings, _plan_of(visit), job), show,
            c.report,
        )  # fmt: skip

    def improve(self, visit: Visit) -> Iterator[Updates]:
        """Train the adapter further; it replaces the result if it is better on held-out rows."""
        c, bank = self.components, self.bank_loader.bank

        def work(job: Job) -> Improvement | TooSlowError:
            try:
                return improve(_adapter_of(visit), _plan_of(visit), bank, job)
            except TooSlowError as error:
                return error

        def show(improvement: Improvement | TooSlowError) -> Updates:
            if isinstance(improvement, TooSlowError):
                return {c.improve_form: view.improve_form(f"{improvement}.", _command(visit))}
            updates: Updates = {c.improved: view.improved_html(improvement)}
            if improvement.adapter is None:
                return updates
            seconds = _adapter_of(visit).seconds
            visit.adapter, visit.report = improvement.adapter, None
            files = improvement.adapter.files
            base_model = bank.index.base_model
            return updates | {
                c.heading: view.heading_html(seconds, visit.results, base_model, trained=True),
                c.answers: "",
                c.report: "",
                c.ask_again: "",
                c.saved: "",
                c.card: view.card_body(files.read("README.md")),
                c.download: gr.DownloadButton(value=str(files.archive)),
            }

        yield from self.run(
            visit, self.lines.model, work, show, c.improved,
        )  # fmt: skip

    def save(
        self, visit: Visit, event: gr.EventData, token: gr.OAuthToken | None
    ) -> Iterator[Updates]:
        """Save the adapter to the Hub; ask once more if a test found it worse than the base."""
        c, values = self.components, dict(event._data or {})
        if values.get("action") != "yes":
            visit.target = values
            if visit.report and is_worse(visit.report):
                yield {c.ask_again: view.ask_again_html(), c.saved: ""}
                return
        target, report = visit.target, visit.report
        trained = visit.adapter if visit.adapter and visit.adapter.trained else None
        destination = Destination(
            target.get("repo_id"), target.get("visibility") == "private", "overwrite" in target
        )
        credential = credential_of(token, self.settings)

        def show(published: Published) -> Updates:
            return {
                c.saved: view.published_html(published),
                c.usage: view.usage_html(_plan_of(visit), published.repo_id),
            }

        yield from self.run(
            visit, self.lines.adapters,
            lambda job: make_and_publish(
                _plan_of(visit), destination, credential, job, report, trained
            ),
            show, c.saved, first={c.ask_again: ""},
        )  # fmt: skip

    def _result(
        self, visit: Visit, result: PlanResult, adapter: AdapterResult, user: str | None
    ) -> Updates:
        c, bank = self.components, self.bank_loader.bank
        reason, base_model = why_not(bank, self.settings), bank.index.base_model
        archive, card = adapter.files.archive, adapter.files.read("README.md")
        visit.results += 1
        return {
            c.result_step: gr.Column(visible=True, elem_classes=["lm-step"]),
            c.stale: "",
            c.heading: view.heading_html(adapter.seconds, visit.results, base_model),
            c.download: gr.DownloadButton(value=str(archive)),
            c.try_form: view.no_model_html(reason) if reason else view.try_form(result),
            c.answers: "",
            c.test_form: "" if reason else view.test_form(result),
            c.report: "",
            c.improve_form: view.improve_form(why_not_improve(result, bank), _command(visit)),
            c.improved: "",
            c.save_form: view.save_form(result, user),
            c.ask_again: "",
            c.saved: "",
            c.usage: view.usage_html(result, f"./{archive.stem}"),
            c.card: view.card_body(card),
        }


def _command(visit: Visit) -> str:
    """Return how to make and train the adapter on the visitor's own machine."""
    request = visit.request or DatasetRequest("DATASET")
    return request.command("--train", str(ROWS), "-o", "my-adapter")


def _plan_of(visit: Visit) -> PlanResult:
    if visit.plan_result is None:
        raise RequestError(f"{IDLE}: read the dataset again")
    return visit.plan_result


def _adapter_of(visit: Visit) -> AdapterResult:
    if visit.adapter is None:
        raise RequestError(f"{IDLE}: make the adapter again")
    return visit.adapter
