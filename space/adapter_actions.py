"""Actions that generate, publish and cancel."""

from collections.abc import Callable, Iterator

import gradio as gr

from actions import Actions, Updates, push_button
from adapter_view import card_body, loading_code, result_html, target_html
from dataset_request import RequestError
from generating import (
    PUBLISHING,
    AdapterResult,
    Destination,
    discard,
    make_adapter,
    make_and_publish,
)
from hf_lorameta import LoraMetaError
from html_blocks import note, progress_html
from inputs import credential_of
from jobs import Job, Step, stream_job
from messages import error_html, unexpected_error
from planning import PlanResult


class AdapterActions(Actions):
    """Handlers of the buttons and of the push target."""

    def show_target(
        self,
        plan_result: PlanResult | None,
        repo_id: str,
        visibility: str,
        profile: gr.OAuthProfile | None,
    ) -> str:
        """Show which repo a push would create."""
        if plan_result is None or profile is None:
            return ""
        destination = Destination(repo_id or None, visibility == "private")
        return target_html(plan_result, destination, profile.username)

    def generate_only(self, plan_result: PlanResult | None) -> Iterator[Updates]:
        """Generate an adapter for download."""
        yield from self._run(lambda job: make_adapter(_require(plan_result), job), plan_result)

    def publish(
        self,
        plan_result: PlanResult | None,
        repo_id: str,
        visibility: str,
        overwrite: bool,
        token: gr.OAuthToken | None,
    ) -> Iterator[Updates]:
        """Generate an adapter and push it."""
        destination = Destination(repo_id or None, visibility == "private", overwrite)
        credential = credential_of(token, self.settings)
        yield from self._run(
            lambda job: make_and_publish(_require(plan_result), destination, credential, job),
            plan_result,
            may_push=token is not None and plan_result is not None,
        )

    def cancel(self, plan_result: PlanResult | None, profile: gr.OAuthProfile | None) -> Updates:
        """Reset the buttons; Gradio has closed the running handler, which ends its job."""
        c = self.components
        return {
            c.progress: note("info", "Canceled", ["Nothing was published or stored."]),
            c.cancel: gr.Button(visible=False),
            c.generate: gr.Button(interactive=plan_result is not None),
            c.push: push_button(profile, plan_result),
        }

    def _run(
        self,
        work: Callable[[Job], AdapterResult],
        plan_result: PlanResult | None,
        may_push: bool | None = None,
    ) -> Iterator[Updates]:
        """Run a job and show its progress and its result.

        Args:
            work: makes the adapter.
            plan_result: the plan to carry out.
            may_push: state of the push button afterwards; None leaves the button alone.
        """
        c, adapter = self.components, None
        idle: Updates = {
            c.generate: gr.Button(interactive=plan_result is not None),
            c.cancel: gr.Button(visible=False),
        }
        started: Updates = {
            c.progress: progress_html("Starting"),
            c.result: gr.Column(visible=False),
            c.details: gr.Column(visible=False),
            c.generate: gr.Button(interactive=False),
            c.cancel: gr.Button(visible=True),
        }
        if may_push is not None:
            idle[c.push] = gr.Button(interactive=may_push)
            started[c.push] = gr.Button(interactive=False)
        yield started
        try:
            adapter = yield from stream_job(work, self.settings.time_limit, self._show_step)
            yield idle | self._show_result(adapter)
        except LoraMetaError as error:
            yield idle | {c.progress: error_html(error)}
        except Exception as error:  # noqa: BLE001 - shown as a message
            yield idle | {c.progress: error_html(unexpected_error(error))}
        finally:
            if adapter is not None:  # Gradio has copied the archive
                discard(adapter)

    def _show_step(self, step: Step) -> Updates:
        updates: Updates = {
            self.components.progress: progress_html(step.text, step.done, step.total)
        }
        if step.text == PUBLISHING:
            updates[self.components.cancel] = gr.Button(visible=False)
        return updates

    def _show_result(self, adapter: AdapterResult) -> Updates:
        c, base_model = self.components, self.bank_loader.bank.index.base_model
        return {
            c.progress: "",
            c.result: gr.Column(visible=True),
            c.details: gr.Column(visible=True),
            c.result_heading: result_html(adapter, base_model),
            c.code: loading_code(adapter),
            c.download: gr.DownloadButton(value=str(adapter.archive)),
            c.card: card_body(adapter.card),
            c.recipe: adapter.recipe,
        }


def _require(plan_result: PlanResult | None) -> PlanResult:
    if plan_result is None:
        raise RequestError("There is no plan yet: name a dataset first")
    return plan_result
