"""Actions that make, try, test, improve and save an adapter."""

import gradio as gr

from actions import Actions, in_turn
from forms.inputs import credential_of
from views import result as view
from views.blocks import render
from work import trying
from work.generating import Adapter, Destination, make_adapter, make_and_publish
from work.jobs import Job, Updates
from work.planning import DatasetRequest, PlanResult
from work.visit import MAKE_AGAIN, READ_AGAIN, Visit, known


class AdapterActions(Actions):
    """Handlers of the buttons of the result."""

    @in_turn
    def make(self, visit: Visit, number: int, profile: gr.OAuthProfile | None) -> Updates:
        """Make the adapter of the plan."""
        if not visit.accept(number):
            return self.nothing(visit)
        visit.adapter, visit.report = None, None
        user = profile.username if profile else None

        def work(job: Job) -> None:
            result = known(visit.plan_result, READ_AGAIN)
            adapter, bank = make_adapter(result, job), self.bank_loader.bank
            no_model = trying.why_not(bank, self.settings)  # may ask the Hub
            no_training = trying.why_not_improve(result, bank)
            job.show(lambda: self._show_result(visit, result, adapter, user, no_model, no_training))

        c = self.components
        started = self.begin(visit, "adapter", work, c.problem, restores=True)
        return started | {c.result_step: gr.Column(visible=False)}

    @in_turn
    def try_out(self, visit: Visit, number: int, prompt: str) -> Updates:
        """Show the answers of the base model and of the adapter to a prompt."""
        c = self.components

        def work(job: Job) -> None:
            result, adapter = _made(visit)
            base, adapted = trying.answers(
                adapter, self.bank_loader.bank, self.settings, prompt, job
            )
            expected = dict(result.samples).get(prompt, "")
            job.show(lambda: {c.answers: view.answers_html(base, adapted, expected)})

        if not visit.accept(number):
            return self.nothing(visit)
        return self.begin(visit, "model", work, c.answers)

    @in_turn
    def test(self, visit: Visit, number: int) -> Updates:
        """Score base model, few-shot prompt and adapter on rows of the dataset."""
        c = self.components

        def work(job: Job) -> None:
            result, adapter = _made(visit)
            report = trying.test(adapter, self.bank_loader.bank, self.settings, result, job)

            def show() -> Updates:
                visit.report = report
                return {c.report: view.report_html(report)} | self._files(adapter)

            job.show(show)

        if not visit.accept(number):
            return self.nothing(visit)
        return self.begin(visit, "model", work, c.report)

    @in_turn
    def improve(self, visit: Visit, number: int) -> Updates:
        """Train the adapter further; it replaces the result if it is better on held-out rows."""
        c = self.components

        def work(job: Job) -> None:
            result, adapter = _made(visit)
            try:
                improvement = trying.improve(adapter, result, self.bank_loader.bank, job)
            except trying.TooSlowError as error:
                reason = f"{error}."
                job.show(lambda: self._show_training(visit, reason))
                return
            trained = improvement.adapter
            if trained is not None:
                job.show(lambda: self._show_trained(visit, trained))
            job.show(lambda: {c.improved: view.improved_html(improvement)})

        if not visit.accept(number):
            return self.nothing(visit)
        return self.begin(visit, "model", work, c.improved)

    @in_turn
    def save(
        self,
        visit: Visit,
        number: int,
        repo_id: str,
        visibility: str,
        overwrite: bool,
        event: gr.EventData,
        token: gr.OAuthToken | None,
    ) -> Updates:
        """Save the adapter to the Hub; ask first if a test found it worse than the base model."""
        c, report, credential = self.components, visit.report, credential_of(token, self.settings)
        destination = Destination(repo_id, visibility == "private", overwrite)
        asked = event.target is not None and event.target.elem_id == c.save_anyway.elem_id
        if report and trying.is_worse(report) and not asked:
            return {c.ask_again: gr.Column(visible=True), c.saved: ""}

        def work(job: Job) -> None:
            result, adapter = _made(visit)
            trained = adapter if adapter.trained else None
            published = make_and_publish(result, destination, credential, job, report, trained)
            job.show(
                lambda: {
                    c.saved: render("result.published", published=published),
                    c.usage: view.usage_html(result, published.repo_id),
                }
            )

        if not visit.accept(number):
            return self.nothing(visit)
        started = self.begin(visit, "adapter", work, c.saved)
        return started | {c.ask_again: gr.Column(visible=False)}

    # --- showing --------------------------------------------------------------------------------

    def _show_result(
        self,
        visit: Visit,
        result: PlanResult,
        adapter: Adapter,
        user: str | None,
        no_model: str,
        no_training: str,
    ) -> Updates:
        """Show an adapter, and what can be done with it or why not."""
        c, rows = self.components, len(trying.testable_rows(result)[1])
        visit.adapter, visit.results = adapter, visit.results + 1
        first = result.samples[0][0] if result.samples else ""
        name, private = view.proposed_name(result, user), result.plan.private
        return (
            dict.fromkeys((c.stale, c.answers, c.report, c.improved, c.saved), "")
            | self._show_training(visit, no_training)
            | self._files(adapter)
            | {
                c.result_step: gr.Column(visible=True, elem_classes=["lm-step"]),
                c.heading: self._heading(visit, adapter),
                c.no_model: view.no_model_html(no_model) if no_model else "",
                c.try_form: gr.Column(visible=not no_model),
                c.prompt: first,
                c.test_form: gr.Column(visible=not no_model),
                c.test_text: render("result.test", rows=rows),
                c.test: gr.Button(visible=bool(rows)),
                c.sign_in_to_save: gr.HTML(visible=user is None),
                c.save_form: gr.Column(visible=user is not None),
                c.repo_id: name,
                c.visibility: "private" if private else "public",
                c.overwrite: False,
                c.ask_again: gr.Column(visible=False),
                c.usage: view.usage_html(result, f"./{adapter.archive.stem}"),
            }
        )

    def _show_trained(self, visit: Visit, adapter: Adapter) -> Updates:
        c = self.components
        visit.adapter, visit.report = adapter, None
        return (
            dict.fromkeys((c.answers, c.report, c.saved), "")
            | self._files(adapter)
            | {
                c.heading: self._heading(visit, adapter),
                c.ask_again: gr.Column(visible=False),
            }
        )

    def _show_training(self, visit: Visit, why_not: str) -> Updates:
        """Offer to train the adapter further, or say why not and how to do it elsewhere."""
        request = visit.request or DatasetRequest("DATASET")
        command = request.command("--train", str(trying.TRAINING_ROWS), "-o", "my-adapter")
        return {
            self.components.improve_text: view.improve_text(why_not, command),
            self.components.improve: gr.Button(visible=not why_not),
        }

    def _heading(self, visit: Visit, adapter: Adapter) -> str:
        """Return the heading of a result, which takes the focus if its number is new."""
        base_model = self.bank_loader.bank.index.base_model
        return render(
            "result.heading", adapter=adapter, number=visit.results, base_model=base_model
        )

    def _files(self, adapter: Adapter) -> Updates:
        return {
            self.components.card: view.card_body(adapter.read("README.md")),
            self.components.download: gr.DownloadButton(value=str(adapter.archive)),
        }


def _made(visit: Visit) -> tuple[PlanResult, Adapter]:
    return known(visit.plan_result, READ_AGAIN), known(visit.adapter, MAKE_AGAIN)
