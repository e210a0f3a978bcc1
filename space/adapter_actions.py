"""Actions that make, try, test, improve and save an adapter."""

from os import environ

import gradio as gr

from actions import Actions, in_turn, last_wins
from forms.inputs import credential_of
from hf_lorameta.pipeline.publish import default_repo_id
from hf_lorameta.pipeline.resolve import NO_BASE
from views import result as view
from views.blocks import note, render
from work import trying
from work.generating import Adapter, Destination, make_adapter, publish
from work.jobs import Job, Updates
from work.planning import PlanResult
from work.visit import Line, Visit, known

_ELSEWHERE = "“Use it” below has the commands to try it on your own machine."


class AdapterActions(Actions):
    """Handlers of the buttons of the result."""

    @last_wins
    def make(self, visit: Visit, number: int, profile: gr.OAuthProfile | None) -> Updates:
        """Make the adapter of the plan, or show the one that was made to test it."""
        if visit.draft is None or visit.adapter not in (None, visit.draft):
            visit.report = None  # it is not of the adapter that will be shown
        visit.adapter = None

        def work(job: Job) -> None:
            result = known(visit.plan_result)
            adapter = visit.draft or make_adapter(result, job)
            job.show(lambda: self.show_result(visit, result, adapter, profile))

        c = self.components
        started = self.begin(visit, "adapter", work, c.problem, restores=True)
        return started | {c.result_step: gr.Column(visible=False)}

    @last_wins
    def try_out(self, visit: Visit, number: int, text: str) -> Updates:
        """Show the answers of the base model and of the adapter to an input."""
        c = self.components

        def work(job: Job) -> None:
            result, adapter = _made(visit)
            base, adapted = trying.answers(adapter, self.bank_loader.session, text, job)
            prompt = adapter.plan.dataset.columns.prompt_of(text)
            expected = dict(result.samples).get(prompt, "")
            job.show(lambda: {c.answers: view.answers_html(base, adapted, expected, text)})

        return self.begin(visit, "model", work, c.answers)

    @last_wins
    def test(self, visit: Visit, number: int) -> Updates:
        """Count right answers of base model, few-shot prompt and adapter on rows of the dataset."""
        return self._begin_test(visit, asked=True)

    @in_turn
    def test_unasked(self, visit: Visit) -> Updates:
        """Do so while nothing else runs, if it can be done here and was not done yet."""
        idle = visit.task is None and not visit.canceled and visit.report is None
        if not idle or self.bank_loader.no_model or environ.get(NO_BASE):
            return self.nothing(visit)
        if visit.plan_result is None or not trying.rows_of(visit.plan_result).check:
            return self.nothing(visit)
        return self._begin_test(visit, asked=False)

    def _begin_test(self, visit: Visit, *, asked: bool) -> Updates:
        def work(job: Job) -> None:
            result = known(visit.plan_result)
            adapter = visit.adapter or visit.draft or make_adapter(result, job)
            report = trying.test(adapter, self.bank_loader.session, result, job, asked=asked)

            def show() -> Updates:
                visit.report = report
                if visit.adapter is None:
                    visit.draft = adapter
                return self._show_report(visit, result)

            job.show(show)

        line: Line = "model" if asked else "test"
        begun = self.begin(visit, line, work, self.components.report, asked=asked)
        return begun | self.verdict(visit, counting=True)

    @last_wins
    def improve(self, visit: Visit, number: int, profile: gr.OAuthProfile | None) -> Updates:
        """Train the adapter further; it replaces the result if it is better on held-out rows."""
        c = self.components

        def work(job: Job) -> None:
            result, adapter = _made(visit)
            trained, message = trying.improve(adapter, result, self.bank_loader.session, job)

            def show() -> Updates:
                if trained is None:
                    return {}
                visit.report = None
                return self.show_result(visit, result, trained, profile)

            job.show(lambda: show() | {c.improved: note("info", f"{message}.")})

        return self.begin(visit, "model", work, c.improved)

    @last_wins
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
        """Save the adapter to the Hub; ask first if a test found that it does not help."""
        c, credential = self.components, credential_of(token, self.settings)
        destination = Destination(repo_id, visibility == "private", overwrite)
        asked = event.target is not None and event.target.elem_id == c.save_anyway.elem_id
        if visit.shown and visit.shown.verdict.level == "unlikely" and not asked:
            return self.idle(visit) | {c.ask_again: gr.Column(visible=True), c.saved: ""}

        def work(job: Job) -> None:
            result, adapter = _made(visit)
            request = known(visit.request)
            published = publish(result, adapter, destination, credential, job)
            usage = view.usage_markdown(result, request, published.repo_id, self.settings)
            shown = render("result.published", published=published)
            job.show(lambda: {c.saved: shown, c.usage: usage})

        started = self.begin(visit, "adapter", work, c.saved)
        return started | {c.ask_again: gr.Column(visible=False)}

    # --- showing --------------------------------------------------------------------------------

    def show_result(
        self,
        visit: Visit,
        result: PlanResult,
        adapter: Adapter,
        profile: gr.OAuthProfile | None,
    ) -> Updates:
        """Show an adapter, and what can be done with it."""
        c, rows = self.components, len(trying.rows_of(result).check)
        user, no_model = profile.username if profile else None, self.bank_loader.no_model
        improvable = not no_model and not adapter.trained and trying.can_improve(result)
        visit.adapter, visit.results = adapter, visit.results + 1
        request, folder = known(visit.request), f"./{adapter.archive.stem}"
        base_model = self.bank_loader.bank.index.base_model
        return (
            dict.fromkeys((c.stale, c.answers, c.report, c.improved, c.saved), "")
            | {
                c.result_step: gr.Column(visible=True, elem_classes=["lm-step"]),
                c.heading: render(
                    "result.heading", adapter=adapter, number=visit.results, base_model=base_model
                ),
                c.no_model: note("info", no_model, [_ELSEWHERE]) if no_model else "",
                c.try_form: gr.Column(visible=not no_model),
                c.test_form: gr.Column(visible=not no_model),
                c.test_text: render("result.test", rows=rows),
                c.improve_form: gr.Column(visible=improvable),
                c.sign_in_to_save: gr.HTML(visible=user is None),
                c.save_form: gr.Column(visible=user is not None),
                c.ask_again: gr.Column(visible=False),
                c.usage: view.usage_markdown(result, request, folder, self.settings),
            }
            | self.fill(
                visit,
                prompt=view.example_input(result),
                repo_id=default_repo_id(user, result.name, base_model) if user else "",
                visibility="private" if result.plan.private else "public",
                overwrite=False,
            )
            | self._show_report(visit, result)
        )

    def _show_report(self, visit: Visit, result: PlanResult) -> Updates:
        """Show the verdict, and if the adapter was tested, answers beside those of the base."""
        c, updates = self.components, self.verdict(visit)
        if visit.adapter is not None:
            rows = trying.rows_of(result).check
            updates |= {
                c.card: view.card_body(visit.adapter.read("README.md")),
                c.download: gr.DownloadButton(value=str(visit.adapter.archive)),
                c.test: gr.Button(visible=visit.report is None and bool(rows)),
            }
        if visit.report is None:
            return updates
        example = view.best_example(visit.report)
        base, adapted = (example.outputs[method] for method in ("base", "generated"))
        text = view.bare_input(result, example.input)
        return (
            updates
            | self.fill(visit, prompt=text)
            | {
                c.report: view.report_html(visit.report),
                c.answers: view.answers_html(base, adapted, example.reference, text),
            }
        )


def _made(visit: Visit) -> tuple[PlanResult, Adapter]:
    return known(visit.plan_result), known(visit.adapter)
