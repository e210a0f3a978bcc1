"""Add measured scores, each with the dataset it was measured on, to a model card."""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard

from hf_lorameta.cards.card_data import public_id
from hf_lorameta.cards.markdown import clean, render
from hf_lorameta.data.dataset import DatasetInfo
from hf_lorameta.engines.scoring import ADAPTER_METHOD
from hf_lorameta.errors import AdapterError

_METRICS = {
    "loss": ("loss", "Loss (nats per token)"),
    "rouge_l": ("rouge", "Rouge-L"),
    "exact_match": ("exact_match", "Exact match"),
    "label_f1": ("f1", "F1 of labels (micro)"),
}
"""Scores in the metadata: the Hub's name of the metric and a title."""
_MEASURED, _NOT_MEASURED = "## What was measured", "## What was not measured"


@dataclass(frozen=True)
class MeasuredScores:
    """Scores of a generated adapter on one split of one dataset.

    `scores` has for each method the values by the field names of
    `hf_lorameta.engines.scoring.Scores`, None if not computed. The method ``generated`` is the
    adapter that the card describes.
    """

    dataset: DatasetInfo
    rows: int
    scores: Mapping[str, Mapping[str, float | None]]

    def of(self, name: str, adapters: Collection[str]) -> "MeasuredScores":
        """Return the scores for the card of one of several adapters, without those of the others.

        A card does not name other adapters, which may be private.
        """
        scores = {ADAPTER_METHOD if m == name else m: s for m, s in self.scores.items()
                  if m == name or m not in adapters}  # fmt: skip
        return replace(self, scores=scores)


def with_scores(text: str, measured: MeasuredScores, repo_id: str | None) -> str:
    """Return a card with measured scores: a table and, for a public dataset, ``model-index``.

    The scores replace earlier ones of the same dataset, configuration and split. The metadata list
    this adapter's scores only; the table has those of the other methods too.

    Args:
        text: README.md from `render_card`, possibly edited since.
        measured: the scores.
        repo_id: repo of the adapter; None for a local folder.
    """
    try:
        card = ModelCard(text)
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise AdapterError(f"the card's metadata cannot be read: {clean(str(error))}") from None
    data: Any = card.data
    new = _results(measured)
    replaced = {_scored_split(result) for result in new}
    others = [r for r in data.eval_results or [] if _scored_split(r) not in replaced]
    if others or new:
        data.eval_results = [*others, *new]
        data.model_name = data.model_name or repo_id or "LoRA adapter"
    card.text = _with_table(card.text, measured)
    return str(card)


def _results(measured: MeasuredScores) -> list[EvalResult]:
    dataset, public = measured.dataset, public_id(measured.dataset)
    scores = measured.scores[ADAPTER_METHOD]
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=public,
            dataset_name=public,
            dataset_config=dataset.config,
            dataset_split=dataset.split,
            dataset_revision=dataset.revision,
            metric_type=kind,
            metric_name=title,
            metric_value=scores[name],
        )
        for name, (kind, title) in _METRICS.items()
        if public and scores.get(name) is not None and math.isfinite(scores[name] or 0)
    ]


def _scored_split(result: EvalResult) -> tuple[object, ...]:
    return result.dataset_type, result.dataset_config, result.dataset_split


def _with_table(body: str, measured: MeasuredScores) -> str:
    """Return the card's text with this dataset's table in the section on measured scores."""
    sections = re.split(r"\n(?=## )", body)
    titles = [section.split("\n", 1)[0] for section in sections]
    position = len(sections)
    if _NOT_MEASURED in titles:
        position = titles.index(_NOT_MEASURED)
        _, fence, command = sections[position].partition("\n```")
        sections[position] = (
            f"{_NOT_MEASURED}\n\nOnly the scores above were measured: no other dataset, no harmful "
            f"or biased output.{' To score other rows:' if fence else ''}\n{fence}{command}"
        )
    if _MEASURED not in titles:
        sections.insert(position, f"{_MEASURED}\n")
        titles.insert(position, _MEASURED)
    position = titles.index(_MEASURED)
    head, *tables = re.split(r"\n(?=### )", sections[position])
    dataset = measured.dataset
    config = None if dataset.config == "default" else dataset.config
    name = public_id(dataset)
    new = render("scores.md.j2", measured=measured, name=name, config=config or "")
    others = [table for table in tables if table.split("\n", 1)[0] != new.split("\n", 1)[0]]
    sections[position] = "\n".join([head, *others, new])
    return "\n".join(sections)
