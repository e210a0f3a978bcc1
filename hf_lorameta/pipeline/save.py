"""Save and publish adapters, generated ones and merged ones."""

import json
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hf_lorameta._version import __version__
from hf_lorameta.bank.index import EMBEDDED_BANK
from hf_lorameta.cards.card_data import Card
from hf_lorameta.cards.chart import CHART_FILE, render_chart
from hf_lorameta.cards.gguf_usage import GGUF_FILE, MODELFILE, render_modelfile
from hf_lorameta.cards.model_card import CARD_FILE, render_card
from hf_lorameta.cards.record import RECIPE_FILE, MergeRecord, Record
from hf_lorameta.cards.results import Outcome
from hf_lorameta.data.chat_form import CHAT
from hf_lorameta.engines.scoring import Report
from hf_lorameta.formats import gguf_adapter
from hf_lorameta.formats.lora_file import WEIGHTS_FILE, write_tensors
from hf_lorameta.formats.lora_layout import Layout
from hf_lorameta.formats.peft_config import CONFIG_FILE, write_config
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.packaged_model import SMOLLM2
from hf_lorameta.hub.repo import Token, is_hub_id
from hf_lorameta.paths import expanded, resolved
from hf_lorameta.pipeline.adapter_folder import (
    COEFFICIENTS_FILE,
    Export,
    WithRecord,
    new_folder,
    read_adapter,
    require_free_target,
)
from hf_lorameta.pipeline.export import export_config
from hf_lorameta.pipeline.plan import Plan, recorded
from hf_lorameta.pipeline.publish import (
    Consent,
    publish_or_keep,
    resolve_target,
    staging_folder,
)
from hf_lorameta.pipeline.remarks import remarks_on, runs_four_bit
from hf_lorameta.pipeline.request import Request
from hf_lorameta.pipeline.verdict import Verdict
from hf_lorameta.remarks import Remark
from hf_lorameta.types import FactorPair


class SavableAdapter(WithRecord, ABC):
    """Base class of adapters that can be saved to a folder and published.

    Attributes:
        record: content of ``recipe.json``.
        layout: the modules that it changes.
        rank: r of every module.
        pairs: (lora_A (r, in_features), lora_B (out_features, r)) of every module, scaling
            included.
    """

    record: Record | MergeRecord
    layout: Layout
    rank: int
    pairs: tuple[FactorPair, ...]

    @property
    def base_model(self) -> str:
        """Hub id of the base model."""
        return self.record.base_model.id

    @property
    def base_revision(self) -> str | None:
        """Commit of the base model; None if it is unknown, or merged adapters state several."""
        return self.record.base_model.revision

    @property
    def dtype(self) -> str:
        """Dtype of the tensors written."""
        return self.record.dtype

    @abstractmethod
    def texts(self, repo_id: str | None = None, *, exported: bool = False) -> dict[str, str]:
        """Return the text files by their names: recipe, card, and what belongs to them.

        Args:
            repo_id: the repo that the adapter will be published to, for the card.
            exported: whether the folder has the adapter as GGUF as well.
        """

    def _peft_config(self) -> bytes:
        return write_config(self.base_model, self.layout, self.rank, self.base_revision)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        repo_id: str | None = None,
        overwrite: bool = False,
        export: Export | None = None,
        token: Token = None,
    ) -> Path:
        """Write the adapter folder completely or not at all, and read it back.

        Args:
            folder: target.
            repo_id: the repo it will be published to, for the card.
            overwrite: replace an adapter that is already there.
            export: ``gguf`` adds the adapter for llama.cpp and Ollama. It needs the base model's
                config.json, from the Hub or its cache, and the extra ``gguf``.
            token: of the Hub, for `export`; None uses the saved one.

        Returns:
            The folder: PEFT's two files, ``recipe.json``, the card and, except for a merge,
            ``coefficients.json`` and, if a bank was used, a chart. The same inputs give the same
            bytes.

        Raises:
            UsageError: the folder holds other files, or an adapter and `overwrite` is false; or the
                base model's architecture cannot be exported.
            AdapterError: the files cannot be read back, or the disk is full.
            HubError: an adapter or, with `export`, the base model's config.json cannot be fetched.
            MissingExtraError: with `export`, the package `gguf` is not installed.
        """
        folder = expanded(folder)
        target = resolved(folder)
        require_free_target(target, overwrite)
        base_config = export_config(self.base_model, self.base_revision, export, token)
        with new_folder(target) as new:
            write_tensors(new / WEIGHTS_FILE, self.layout, self.rank, self.dtype, self.pairs)
            (new / CONFIG_FILE).write_bytes(self._peft_config())
            for name, text in self.texts(repo_id, exported=export is not None).items():
                (new / name).write_bytes(text.encode())
            read_adapter(new).require_record()
            if base_config is not None:
                gguf_adapter.export(new, new / GGUF_FILE, base_config)
        return folder

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        create_pr: bool = False,
        overwrite: bool = False,
        export: Export | None = None,
        token: str | None = None,
    ) -> str:
        """Save, check and publish the adapter in one commit.

        Args:
            repo_id: target, ``user/name``.
            private: None makes a private repo if a source is private (see `private`), and keeps
                the visibility of an existing repo.
            create_pr: open a pull request instead of committing.
            overwrite: replace files of the same names in an existing repo.
            export: as in `save_pretrained`.
            token: of the Hub; None uses the saved one.

        Returns:
            URL of the repo or of the pull request.

        Raises:
            AuthError: no token, or no right to write to the repo.
            ConflictError: the repo holds such files, has another visibility, or changed meanwhile.
            ConnectionLostError: the connection was lost.
            LoraMetaError: as `save_pretrained` raises.
        """
        hub = Hub(token)
        target = resolve_target(
            repo_id,
            Consent(private, create_pr, overwrite),
            source_private=self.private,
            proposed=self.proposed_instruction,
            hub=hub,
        )
        folder = staging_folder(repo_id)
        self.save_pretrained(folder, repo_id=repo_id, export=export, token=hub.token)
        return str(publish_or_keep(folder, target, hub).url)


@dataclass(frozen=True)
class Generation(SavableAdapter):
    """A generated adapter.

    Attributes:
        plan: as it was decided, before the base model was run.
        layout: the modules that it changes: those of the plan, or more if it was trained.
        rank: r of every module.
        pairs: (lora_A (r, in_features), lora_B (out_features, r)) of every module, scaling
            included.
        seconds: wall time of combining, training and checking, not counting the time to fetch the
            adapters.
        outcome: what was done with the base model.
        seconds_with_model: part of `seconds`, with the base model in memory.
        seconds_of_steps: part of `seconds_with_model`, in training steps.
        report: what its check counted; None without one.
    """

    plan: Plan
    layout: Layout
    rank: int
    pairs: tuple[FactorPair, ...]
    seconds: float
    outcome: Outcome = field(default=Outcome(), kw_only=True)
    seconds_with_model: float = field(default=0.0, kw_only=True)
    seconds_of_steps: float = field(default=0.0, kw_only=True)
    report: Report | None = field(default=None, kw_only=True)

    @cached_property
    def replay(self) -> dict[str, Any]:
        """The settings that make the same adapter again, whatever time or limits there are then.

        They are those of the recipe and of all stages that were asked for, apart from what came
        out, such as the number of steps.
        """
        return self.plan.replay.model_dump() | self.outcome.settings

    @property
    def repeating(self) -> Request:
        """The request that makes the same adapter again.

        ``DATASET``, ``CONFIG`` and ``BANK`` stand for those without a public name: a dataset that
        is not public may have a configuration whose name says as much as its own.
        """
        data, bank, index = self.plan.dataset, self.plan.bank, self.plan.bank.index
        columns, name, settings = data.columns, data.public_id, self.replay
        named_base = bank.is_empty or (bank.id == EMBEDDED_BANK and index.base_model != SMOLLM2)
        hidden = None if data.config in (None, "default") else "CONFIG"
        return Request.of(
            **settings,
            dataset=name or "DATASET",
            revision=data.revision if name else None,
            config=data.config if name else hidden,
            split=data.split,
            columns=str(columns),
            instruction=columns.instruction_text,
            template=CHAT if columns.chat else columns.template,
            budget=None if settings.get("train") else 0,
            base=bank.public_base if named_base else None,
            base_revision=index.base_revision if bank.is_empty else None,
            bank=_public_bank(bank.id),
            bank_revision=None if bank.is_empty else bank.revision,
        )

    @cached_property
    def remarks(self) -> tuple[*tuple[Remark, ...], Verdict]:
        """What a user should know before relying on the adapter; the last is the verdict."""
        return remarks_on(self.plan, self.outcome)

    @property
    def verdict(self) -> Verdict:
        """Whether the adapter helps, judged by right answers if they were counted."""
        return self.remarks[-1]

    @cached_property
    def record(self) -> Record:  # type: ignore[override]
        """Content of ``recipe.json``."""
        plan, outcome = self.plan.record, self.outcome
        came_out = {
            "recipe": self.replay,
            "base_model": plan.base_model.model_copy(update={"four_bit": self.four_bit}),
            "remarks": recorded(self.remarks),
            "training": outcome.training,
            "check": outcome.check,
            "interrupted": outcome.interrupted and outcome.interrupted.stage,
            "rows": outcome.drawn,
            "stages": outcome.recorded,
            "rank": self.rank,
        }
        return plan.model_copy(update=came_out)

    @property
    def four_bit(self) -> bool:
        """Whether the base model was run with quantized weights in place of its own."""
        return runs_four_bit(self.plan.bank.index, self.outcome)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values, as ``generate --json`` prints it."""
        plan, record, seconds_with_model = (
            self.plan.to_dict(),
            self.record.to_dict(),
            self.seconds_with_model,
        )
        return plan | {
            **record,
            "dataset": plan["dataset"],
            "remarks": [remark.to_dict() for remark in self.remarks],
            "verdict": self.verdict.to_dict(),
            "seconds": self.seconds,
            "pace": self.outcome.pace and asdict(self.outcome.pace),
            "step_share": self.seconds_of_steps / seconds_with_model
            if seconds_with_model
            else None,
        }

    def __repr__(self) -> str:
        name, bank = self.plan.dataset.id or "a local dataset", self.plan.bank
        count, from_base = len(self.plan.neighbors()), f"from {bank.index.base_model} alone"
        source = f"of {count} adapters of {bank.id}" if count else from_base
        verdict = f". {self.verdict.text}" if self.outcome.check else ""
        return f"Generation(rank {self.rank} for {name}, {source}){verdict}"

    def card(self, exported: bool = False) -> Card:
        """Return what the model card states.

        Args:
            exported: whether the folder has the adapter as GGUF as well.
        """
        plan, bank, index = self.plan, self.plan.bank, self.plan.bank.index
        general = tuple(task.license for task in index.general.tasks) if index.general else ()
        return Card(
            base_model=bank.public_base,
            base_revision=index.base_revision,
            base_license=index.base_license,
            dataset=plan.dataset,
            rows=plan.profile.rows,
            tokens=plan.profile.input.total + plan.profile.output.total,
            bank_id=bank.id,
            bank_revision=bank.revision,
            bank_size=len(bank),
            bank_published=index.published,
            neighbors=plan.neighbors(),
            effective_number=plan.effective_number,
            nearest_in_bank=plan.nearest_in_bank,
            rank=self.rank,
            remarks=self.remarks,
            recipe=plan.replay,
            command=["hf-lorameta", "generate", *self.repeating.words(output="my-adapter")],
            outcome=self.outcome,
            library_version=__version__,
            general=plan.general_coefficient,
            general_licenses=general,
            output_prior=plan.output_strength,
            scale=plan.scale,
            example=plan.example,
            gguf=exported,
        )

    def texts(self, repo_id: str | None = None, *, exported: bool = False) -> dict[str, str]:
        """Return recipe, coefficients, card, pictures and Modelfile by their file names.

        Args:
            repo_id: the repo that the adapter will be published to, for the card.
            exported: whether the folder has the adapter as GGUF as well; else no Modelfile.
        """
        plan, neighbors = self.plan, self.plan.neighbors()
        rows = [as_json(neighbor.to_dict(), indent=None) for neighbor in neighbors]
        files = {
            RECIPE_FILE: as_json(self.record.to_dict()) + "\n",
            COEFFICIENTS_FILE: "[\n" + ",\n".join(rows) + "\n]\n",
            CARD_FILE: render_card(self.card(exported), repo_id),
        }
        if neighbors:
            files[CHART_FILE] = render_chart(neighbors, plan.recipe.metric)
        for record in self.outcome.records:
            files |= record.pictures
        if exported:
            files[MODELFILE] = render_modelfile(self.base_model, plan.dataset.columns)
        return files


def _public_bank(name: str) -> str | None:
    """Return how a command names a bank; None if it is the one in this package."""
    return None if name == EMBEDDED_BANK else name if is_hub_id(name) else "BANK"


def as_json(value: object, indent: int | None = 2) -> str:
    """Return JSON for a file of an adapter folder."""
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
