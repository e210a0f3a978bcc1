"""Measured scores, added to a finished card: no number that was not measured on that dataset."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard

from hf_lorameta.cards.card_data import public_name
from hf_lorameta.cards.markdown import clean, code, link, number, table
from hf_lorameta.errors import AdapterError

_METRICS = {
    "loss": ("loss", "Loss, in nats a token"),
    "rouge_l": ("rouge", "Rouge-L"),
    "exact_match": ("exact_match", "Exact match"),
}
"""Scores that the metadata lists, with the Hub's name of each and one for people."""
_COLUMNS = {
    "loss": "Loss", "rouge_l": "Rouge-L", "exact_match": "Exact match", "contains": "Contains",
}  # fmt: skip
_MEASURED, _NOT_MEASURED = "## What was measured", "## What was not measured"
_OWN = "generated"


@dataclass(frozen=True)
class MeasuredScores:
    """What a finished adapter scored on one split of one dataset.

    Attributes:
        dataset_id: Hub id; None for a local file.
        dataset_revision: commit read.
        dataset_config: configuration read.
        dataset_split: split read.
        dataset_private: then neither id nor revision nor configuration is shown.
        rows: number of rows.
        engine: what held the base model, ``transformers`` or ``llama.cpp``.
        scores: method to values by the names of `hf_lorameta.engines.scoring.Scores`, None where nothing was
            computed. The method ``generated`` is the adapter that the card is about.
    """

    dataset_id: str | None
    dataset_revision: str | None
    dataset_config: str | None
    dataset_split: str
    dataset_private: bool
    rows: int
    engine: str
    scores: Mapping[str, Mapping[str, float | None]]

    @property
    def public_dataset(self) -> str | None:
        """The dataset's id if the world may know it."""
        return public_name(self.dataset_id, self.dataset_private)


def with_scores(text: str, measured: MeasuredScores, repo_id: str | None) -> str:
    """A card with measured scores: a table for people and, of a public dataset, ``model-index``.

    Scores of the same dataset, configuration and split are replaced, others stay. The metadata
    lists this adapter's scores; those of the other methods stand in the table alone, as they are
    not of this model.

    Args:
        text: README.md as `render_card` made it, whatever its owner added since.
        measured: the scores.
        repo_id: where the adapter lies; None for a local folder.

    Raises:
        AdapterError: the card's metadata cannot be read.
    """
    try:
        made = ModelCard(text)
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise AdapterError(f"the card's metadata cannot be read: {clean(str(error))}") from None
    data: Any = made.data
    new = _results(measured)
    places = {_place(result) for result in new}
    kept = [result for result in data.eval_results or [] if _place(result) not in places]
    if kept or new:
        data.eval_results = [*kept, *new]
        data.model_name = data.model_name or repo_id or "LoRA adapter"
    made.text = _with_table(made.text, measured)
    return str(made)


def _results(measured: MeasuredScores) -> list[EvalResult]:
    dataset = measured.public_dataset
    own = measured.scores[_OWN]
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_config=measured.dataset_config,
            dataset_split=measured.dataset_split,
            dataset_revision=measured.dataset_revision,
            metric_type=kind,
            metric_name=title,
            metric_value=own[name],
        )
        for name, (kind, title) in _METRICS.items()
        if dataset and own.get(name) is not None and math.isfinite(own[name] or 0)
    ]


def _place(result: EvalResult) -> tuple[object, ...]:
    return result.dataset_type, result.dataset_config, result.dataset_split


def _with_table(body: str, measured: MeasuredScores) -> str:
    """The card's text with a part on this dataset in its section on what was measured."""
    sections = re.split(r"\n(?=## )", body)
    titles = [section.split("\n", 1)[0] for section in sections]
    if _NOT_MEASURED in titles:
        place = titles.index(_NOT_MEASURED)
        _, fence, command = sections[place].partition("\n```")
        said = "Nothing but the values above: no other dataset, and no harmful or biased output."
        sections[place] = f"{_NOT_MEASURED}\n\n{said}\n{fence}{command}"
    else:
        place = len(sections)
    if _MEASURED not in titles:
        sections.insert(place, f"{_MEASURED}\n")
        titles.insert(place, _MEASURED)
    place = titles.index(_MEASURED)
    head, *parts = re.split(r"\n(?=### )", sections[place])
    fresh = _score_part(measured)
    others = [part for part in parts if part.split("\n", 1)[0] != fresh.split("\n", 1)[0]]
    sections[place] = "\n".join([head, *others, fresh])
    return "\n".join(sections)


def _score_part(measured: MeasuredScores) -> str:
    name, config = measured.public_dataset, measured.dataset_config
    shown = code(name) if name else "a local or private dataset"
    within = f" {code(config)}" if name and config not in (None, "", "default") else ""
    at = f" ({link(name, measured.dataset_revision, 'datasets/')})" if name else ""
    rows = [
        (code(method), *(_score(values.get(key)) for key in _COLUMNS))
        for method, values in measured.scores.items()
    ]
    listed = table(("Method", *_COLUMNS.values()), rows, numbers=(1, 2, 3, 4))
    return f"""### {shown}{within}, split {code(measured.dataset_split)}

{measured.rows:,} rows{at}, scored through {code(measured.engine)}; loss in nats a token, the \
others from 0 to 1. {code(_OWN)} is this adapter.

{listed}
"""


def _score(value: float | None) -> str:
    return "–" if value is None else number(value)
