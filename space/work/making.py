"""What one call of a program makes: the stages of the page's button, one after the other."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from hf_lorameta.hub.repo import Token
from hf_lorameta.pipeline.publish import Consent, Target
from hf_lorameta.pipeline.verdict import Verdict
from work import trying
from work.bank_loader import BankLoader
from work.generating import Adapter, Saved, find_target, make_adapter, publish
from work.jobs import Job, LineName
from work.planning import PlanResult
from work.visit import known


@dataclass
class Making:
    """An adapter that is made step by step, each in its line.

    Attributes:
        loader: provides the bank and the base model.
        credential: of the caller.
        read: reads the dataset and plans.
        repo_id: repo id or name to publish to; empty names it after the dataset.
        consent: how it is published; None publishes nothing.
        anyway: whether it is published although it is unlikely to help.
        result: the plan.
        target: the repo, checked before the adapter is made.
        adapter: the best so far.
        said: a sentence about its training.
        saved: what was published.
    """

    loader: BankLoader
    credential: Token
    read: Callable[[Job], PlanResult]
    repo_id: str = ""
    consent: Consent | None = None
    anyway: bool = False
    result: PlanResult | None = None
    target: Target | None = None
    adapter: Adapter | None = None
    said: str = ""
    saved: Saved | None = None

    def stages(self) -> Iterator[tuple[LineName, Callable[[Job], None]]]:
        """Yield each stage and its line; what follows depends on what the one before found."""
        yield "plan", self._plan
        yield "adapter", self._combine
        if self.loader.rows_to_improve(known(self.result)).train:
            yield "training", self._improve
        if self.target and (self.anyway or self._verdict.level != "unlikely"):
            yield "adapter", self._publish

    @property
    def _verdict(self) -> Verdict:
        return known(self.adapter).generation.verdict

    def to_dict(self) -> dict[str, Any]:
        """Return what ``generate --json`` prints, a sentence on the training, and the repo."""
        found = known(self.adapter).generation.to_dict()
        if said := self.said or self.loader.no_model:
            found["said"] = said
        if self.saved:
            to, url = self.saved.published.target, self.saved.published.url
            found["published"] = {"url": url, "repo_id": to.repo_id, "private": to.private}
        elif self.target:
            found["not_published"] = {"code": self._verdict.code, "next": 'publish="anyway"'}
        return found

    def _plan(self, job: Job) -> None:
        self.result = self.read(job)

    def _combine(self, job: Job) -> None:
        result = known(self.result)
        if self.consent:
            self.target = find_target(result, self.repo_id, self.consent, self.credential, job)
        self.adapter = make_adapter(result, job)

    def _improve(self, job: Job) -> None:
        adapter, result = known(self.adapter), known(self.result)
        self.adapter, self.said, _ = trying.improve(adapter, result, self.loader.model, job)

    def _publish(self, job: Job) -> None:
        self.saved = publish(known(self.adapter), known(self.target), self.credential, job)
