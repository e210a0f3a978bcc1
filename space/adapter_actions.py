"""Actions that make, try and save an adapter; training and checking run in the background."""

from pathlib import Path

import gradio as gr

from actions import Actions, in_turn, last_wins
from hf_lorameta.cards.model_card import CARD_FILE
from hf_lorameta.pipeline.publish import Consent, default_repo_id
from settings import credential_of
from views import result as view
from views.blocks import error_html, note, render
from views.plan import verdict_html
from visitors.callers import Call, call_of
from visitors.uploads import Upload, hold_upload
from work import trying
from work.background import Background
from work.generating import Adapter, find_target, make_adapter, publish
from work.jobs import Job, Updates
from work.planning import PlanResult, RequestError, make_plan
from work.predicting import Answered, answer_rows
from work.visit import Visit, known

_ELSEWHERE = "“Use it” below has the commands to try it on your own machine."


class AdapterActions(Actions):
    """Handlers of the buttons of the result."""

    @last_wins
    def make(
        self,
        visit: Visit,
        number: int,
        profile: gr.OAuthProfile | None,
        token: gr.OAuthToken | None,
    ) -> Updates:
        """Make the adapter of the plan, and begin to improve it."""
        credential, bank = credential_of(token), self.bank_loader.bank

        def work(job: Job) -> None:
            result = visit.plan_result
            if result is None:  # dropped, since others needed the memory
                request, most = known(visit.request), self.settings.max_rows
                result = make_plan(bank, request, most, credential, job)
            adapter = make_adapter(result, job)

            def show() -> Updates:
                visit.drop_background()
                visit.plan_result = result
                visit.adapter, visit.answers, visit.said, visit.saved = adapter, "", "", None
                visit.answered = None
                visit.version, visit.results = visit.version + 1, visit.results + 1
                self._improve(visit, trying.TRAINING_SECONDS, job.call)
                return self.show_result(visit, profile)

            job.show(show)

        return self.begin(visit, "adapter", work, self.components.problem)

    @in_turn
    def more_time(self, visit: Visit, request: gr.Request) -> Updates:
        """Train once more, for longer."""
        try:
            _made(visit)
        except RequestError as error:
            return self.idle(visit) | {self.components.problem: error_html(error)}
        if visit.background is None:
            self._improve(visit, trying.MORE_SECONDS, call_of(request))
        return self.settle(visit) | self._news(visit)

    def _improve(self, visit: Visit, seconds: float, call: Call) -> None:
        """Train and count right answers in the background, if that can be done here."""
        visit.more = False
        adapter, result = known(visit.adapter), known(visit.plan_result)
        if not self.bank_loader.rows_to_improve(result).train:
            return
        model, job = self.bank_loader.model, Job(self.settings.time_limit, "training")
        Background(
            visit, job, self.lines["training"], call,
            lambda job: trying.improve(adapter, result, model, job, seconds=seconds),
        )  # fmt: skip

    @in_turn
    def refresh(
        self,
        visit: Visit,
        version: int,
        request: gr.Request,
        profile: gr.OAuthProfile | None = None,
    ) -> Updates:
        """Show what is running, and the results since a version."""
        if visit.background is not None:
            visit.background.ask(call_of(request))
        nothing_shown = bool(visit.adapter and not version and not visit.task)
        twice, visit.unseen = visit.unseen, nothing_shown and not visit.unseen
        if nothing_shown and not twice:  # the result may be on its way: ask once more
            return self.settle(visit) | {self.components.run_timer: gr.Timer(active=True)}
        if nothing_shown:
            return self.settle(visit) | self.show_result(visit, profile)
        return self.settle(visit) | self._news_since(visit, version)

    @last_wins
    def try_out(self, visit: Visit, number: int, text: str) -> Updates:
        """Show the answers of the base model and of the adapter to an input."""

        def work(job: Job) -> None:
            result, adapter = _made(visit)
            base, adapted = trying.answers(adapter, self.bank_loader.model, text, job)
            prompt = adapter.generation.plan.dataset.columns.prompt_of(text)
            expected = dict(result.samples).get(prompt, "")
            most = trying.PROMPT_TOKENS if len(prompt) > trying.PROMPT_TOKENS else 0
            answers = {"base": base, "adapter": adapted, "expected": expected}
            html = render("result.answers", **answers, text=text, most=most)

            def show() -> Updates:
                visit.answers, visit.version = html, visit.version + 1
                return {self.components.answers: html}

            job.show(show)

        return self.begin(visit, "model", work, self.components.answers)

    @last_wins
    def answer_lines(self, visit: Visit, number: int, lines: str, sure: float | None) -> Updates:
        """Answer lines, each an input."""
        return self._answer(visit, lines or "", sure)

    @last_wins
    def answer_file(
        self, visit: Visit, number: int, path: str | None, sure: float | None
    ) -> Updates:
        """Answer the rows of a file, which is deleted afterwards."""
        upload = hold_upload(path or "")
        return self._answer(visit, Path(path) if path and upload else "", sure, upload)

    def _answer(
        self, visit: Visit, rows: str | Path, sure: float | None, upload: Upload | None = None
    ) -> Updates:
        held = [upload]

        def work(job: Job) -> None:
            adapter = _made(visit)[1]

            def show(answered: Answered) -> None:
                def shown() -> Updates:
                    visit.answered = answered
                    visit.version += answered.file is not None
                    return self._show_many(visit)

                job.show(shown)

            try:
                answer_rows(adapter, rows, sure or 0, self.bank_loader.model, job, show)
            finally:
                held.clear()

        return self.begin(visit, "model", work, self.components.many)

    def _show_many(self, visit: Visit) -> Updates:
        """Show the rows that were answered so far."""
        c, answered = self.components, visit.answered
        file, html = answered.file if answered else None, ""
        if answered:
            saved, made = visit.saved, known(visit.adapter)
            place = saved.published.target.repo_id if saved else f"./{made.archive.stem}"
            html = view.answered_html(answered, known(visit.plan_result), place)
        return {
            c.many: html,
            c.many_download: gr.DownloadButton(
                f"Download {file.name}" if file else "",
                value=str(file) if file else None,
                visible=file is not None,
            ),
        }

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
        c, credential = self.components, credential_of(token)
        consent = Consent(visibility == "private", overwrite=overwrite)
        asked = event.target is not None and event.target.elem_id == c.save_anyway.elem_id
        level = visit.adapter.generation.verdict.level if visit.adapter else ""
        if level == "unlikely" and not asked:
            return self.idle(visit) | {c.ask_again: gr.Column(visible=True), c.saved: ""}

        def work(job: Job) -> None:
            result, adapter = _made(visit)
            request, version = known(visit.request), visit.version
            target = find_target(result, repo_id or "", consent, credential, job)
            saved = publish(adapter, target, credential, job)
            usage = view.usage_markdown(result, request, target.repo_id, self.settings)
            with visit.lock:
                if visit.plan_result is result:  # also if the page was left meanwhile
                    visit.saved, visit.left = saved, {}

            def show() -> Updates:
                there = {c.saved: render("result.published", published=saved.published)}
                if visit.saved is not saved:  # something else was chosen meanwhile
                    return there
                # this may reach the page after a later version, which it then asks for again
                shown = there | {c.usage: usage, c.version: version}
                filled = self.fill(visit, repo_id=target.repo_id, overwrite=False)
                return shown | filled | self._news_since(visit, version)

            job.show(show)

        started = self.begin(visit, "adapter", work, c.saved)
        return started | {c.ask_again: gr.Column(visible=False)}

    # --- showing --------------------------------------------------------------------------------

    def show_result(self, visit: Visit, profile: gr.OAuthProfile | None) -> Updates:
        """Show an adapter, and what can be done with it."""
        c, result = self.components, known(visit.plan_result)
        user, no_model = profile.username if profile else None, self.bank_loader.no_model
        base_model, folder = result.plan.bank.index.base_model, known(visit.adapter).archive.stem
        name = default_repo_id(user, result.name, base_model) if user else ""
        place, private, saved = f"./{folder}", result.plan.private, ""
        if visit.saved:
            published, target = visit.saved.published, visit.saved.published.target
            place, name, private = target.repo_id, target.repo_id, target.private
            saved = render("result.published", published=published)
        shown: Updates = {
            c.saved: saved,
            c.result_step: gr.Column(visible=True),
            c.no_model: note("info", no_model, [_ELSEWHERE]) if no_model else "",
            c.try_form: gr.Column(visible=not no_model),
            c.many_form: gr.Accordion(visible=not no_model),
            c.sign_in_to_save: gr.Column(visible=user is None),
            c.publish_command: view.publish_markdown(result, folder, self.settings),
            c.save_form: gr.Column(visible=user is not None),
            c.ask_again: gr.Column(visible=False),
            c.usage: view.usage_markdown(result, known(visit.request), place, self.settings),
        }
        visibility, prompt = "private" if private else "public", view.example_input(result)
        fields = {"prompt": prompt, "repo_id": name, "visibility": visibility, "overwrite": False}
        return shown | self.fill(visit, **fields) | self._news(visit)

    def _news_since(self, visit: Visit, version: int) -> Updates:
        return self._news(visit) if visit.adapter and version != visit.version else {}

    def _news(self, visit: Visit) -> Updates:
        """Show the best adapter so far, what was counted, and what it has answered."""
        c, (result, adapter) = self.components, _made(visit)
        gguf, report, busy = adapter.gguf, adapter.generation.report, visit.background is not None
        first = (busy or visit.more) and not adapter.generation.outcome.training
        updates: Updates = {
            c.version: visit.version,
            c.answers: visit.answers,
            c.heading: render("result.heading", adapter=adapter, number=visit.results, first=first),
            c.verdict: verdict_html(adapter.generation, result.name, visit.said, busy=busy),
            c.report: view.report_html(report, result) if report else "",
            c.card: view.card_body((adapter.folder / CARD_FILE).read_text(encoding="utf-8")),
            c.download: gr.DownloadButton(
                f"Download{' this version' * first}, {_megabytes(adapter.archive)}",
                value=str(adapter.archive),
                variant="secondary" if first else "primary",
            ),
            c.download_gguf: gr.DownloadButton(
                f"For llama.cpp and Ollama (GGUF), {_megabytes(gguf)}" if gguf else "",
                value=str(gguf) if gguf else None,
                visible=gguf is not None,
            ),
            c.more: gr.Button(
                "More time" if report else "Train and count right answers", visible=visit.more
            ),
        }
        return updates | self._show_many(visit) | self._later_version(visit)

    def _later_version(self, visit: Visit) -> Updates:
        """Say that a version is later than the one that was saved, if it is."""
        saved = visit.saved
        if saved is None or saved.generation is known(visit.adapter).generation:
            return {}
        repo_id = saved.published.target.repo_id
        return {self.components.saved: render("result.later_version", repo_id=repo_id)}


def _made(visit: Visit) -> tuple[PlanResult, Adapter]:
    return known(visit.plan_result), known(visit.adapter)


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.0f} MB"
