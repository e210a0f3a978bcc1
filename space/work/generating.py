"""Generate an adapter from a plan, for download or for a repo on the Hub."""

import re
import shutil
import tempfile
import weakref
import zipfile
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from hf_lorameta.errors import LoraMetaError
from hf_lorameta.formats import gguf_adapter
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.repo import Token
from hf_lorameta.pipeline.export import export_config
from hf_lorameta.pipeline.make import make_adapter as combine
from hf_lorameta.pipeline.publish import (
    Consent,
    Published,
    Target,
    default_repo_id,
    publish_folder,
    target_for_dataset,
)
from hf_lorameta.pipeline.save import Generation
from hf_lorameta.pipeline.session import Session
from hf_lorameta.tables import plural
from space_error import SpaceError
from visitors.hourly import ADAPTERS
from work.jobs import Job
from work.planning import PlanResult


class Adapter:
    """A generated adapter, in a temporary folder that is deleted with this object.

    Args:
        name: of the adapter's dataset.
        generation: the adapter; its weights are only on disk once it is saved.

    Attributes:
        folder: its files.
        archive: their zip file.
        gguf: the adapter for llama.cpp and Ollama; None if it cannot be exported.
    """

    def __init__(self, name: str, generation: Generation) -> None:
        self.generation = generation
        stem = re.sub(r"[^A-Za-z0-9]+", "-", Path(name).stem).strip("-") or "adapter"
        scratch = Path(tempfile.mkdtemp(prefix="adapter-"))
        self.folder = scratch / "adapter"
        self.archive = scratch / f"{stem[:60]}-lorameta.zip"
        self.gguf: Path | None = self.archive.with_suffix(".gguf")
        self.discard = weakref.finalize(self, shutil.rmtree, scratch, ignore_errors=True)

    def save(self, job: Job) -> "Adapter":
        """Write the files that ``hf-lorameta generate`` writes, and their zip, or nothing."""
        job.report("Saving and validating the adapter")
        try:
            self.generation.save_pretrained(self.folder)
            job.check()
            self._write_archive()
            self._export()
        except BaseException:
            self.discard()
            raise
        files = filter(None, (self.archive, self.gguf))
        ADAPTERS.add(job.call.address, sum(path.stat().st_size for path in files))
        self.generation = replace(self.generation, pairs=())
        return self

    def _write_archive(self) -> None:
        """Write the zip file, without compression, which takes longer and saves little."""
        with zipfile.ZipFile(self.archive, "w") as opened:
            for path in sorted(self.folder.iterdir()):
                opened.write(path, path.name)

    def _export(self) -> None:
        index = self.generation.plan.bank.index
        try:
            config = _base_config(index.base_model, index.base_revision)
            gguf_adapter.export(self.folder, self.archive.with_suffix(".gguf"), config)
        except LoraMetaError:  # the page then has only the commands
            self.gguf = None


@lru_cache(maxsize=1)
def _base_config(base_model: str, revision: str | None) -> dict[str, Any]:
    """Return the base model's ``config.json``; to read it from a GGUF takes half a second."""
    return export_config(base_model, revision, "gguf", False) or {}


def make_adapter(result: PlanResult, job: Job) -> Adapter:
    """Combine the adapters of the plan, and save what comes out.

    Raises:
        SpaceError: the visitor has made as many adapters as one may.
    """
    ADAPTERS.check(job.call.address)
    text = f"Combining {plural(len(result.plan.neighbors()), 'adapter')}"
    job.report(text)
    with Session(
        result.plan.bank, progress=lambda stage, done, total: job.report(text, done, total)
    ) as session:
        generation = combine(result.plan, session=session)
    return Adapter(result.name, generation).save(job)


def find_target(
    result: PlanResult, repo_id: str, consent: Consent, credential: Token, job: Job
) -> Target:
    """Return the repo to publish an adapter to, checked before it is made.

    Args:
        result: the plan.
        repo_id: repo id or name; empty names it after the dataset.
        consent: what the visitor wants.
        credential: of the visitor.
        job: checked before.

    Raises:
        SpaceError: the visitor is signed out.
        LoraMetaError: as `target_for_dataset` raises.
    """
    if credential is False:
        raise SpaceError(
            "Saving needs an account: sign in first",
            code="page.needs-account",
            hint="The link is above.",
        )
    plan, hub = result.plan, Hub(credential)
    job.report("Checking the repo")
    name = chosen_name(result, repo_id, hub.user())
    return target_for_dataset(plan.dataset, plan.bank, hub, name, consent, name=result.name)


class Saved(NamedTuple):
    """What was saved to the Hub.

    Attributes:
        published: where.
        generation: which version; it is the present one of an adapter as long as that has the same.
    """

    published: Published
    generation: Generation


def publish(adapter: Adapter, target: Target, credential: Token, job: Job) -> Saved:
    """Publish an adapter in one commit; the job can be canceled until that begins.

    Raises:
        LoraMetaError: as `publish_folder` raises.
    """
    with tempfile.TemporaryDirectory(prefix="lorameta-") as scratch:
        folder = Path(scratch) / "adapter"
        shutil.copytree(adapter.folder, folder)
        for name, text in adapter.generation.texts(target.repo_id).items():
            (folder / name).write_text(text, encoding="utf-8", newline="")
        job.report("Saving to the Hub; this can no longer be canceled")
        job.commit()
        return Saved(publish_folder(folder, target, Hub(credential)), adapter.generation)


def chosen_name(result: PlanResult, repo_id: str, user: str) -> str | None:
    """Return the id of the repo to publish to; None if it is the one that the page proposes."""
    default = default_repo_id(user, result.name, result.plan.bank.index.base_model)
    name = repo_id.strip() or default
    name = name if "/" in name else f"{user}/{name}"
    return None if name.casefold() == default.casefold() else name
