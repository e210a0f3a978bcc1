"""Values of a card for tests, and readers of rendered cards."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from hf_lorameta.cards.card_data import Card, WeightedAdapter
from hf_lorameta.cards.model_card import render_card
from hf_lorameta.cards.results import CheckResult, Counted, Outcome
from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.data.dataset import DatasetInfo
from hf_lorameta.pipeline.request import Request
from hf_lorameta.pipeline.verdict import verdict_on
from hf_lorameta.recipe import Recipe
from hf_lorameta.remarks import Remark

RIGHT = {"generated": 12, "base": 2, "most-frequent": 7}
SVG = "{http://www.w3.org/2000/svg}"


def checked(
    right: Mapping[str, int | None],
    losses: Mapping[str, float] | None = None,
    scores: Mapping[str, float] | None = None,
    *,
    rows: int = 16,
    measure: str | None = None,
) -> CheckResult:
    """Return what a check counted, by method; None leaves a method out."""
    losses, scores = losses or {"generated": 1.0, "base": 2.0}, scores or {}
    counted = {
        method: Counted(count, losses.get(method), scores.get(method))
        for method, count in right.items()
        if count is not None
    }
    return CheckResult(rows, counted, measure)


def neighbor(index: int, coefficient: float, **changes: Any) -> WeightedAdapter:
    plain = WeightedAdapter(
        adapter=f"bank/lora-{index}",
        adapter_revision=f"{index:040x}",
        dataset=f"bank/task-{index}",
        dataset_revision=f"{index + 256:040x}",
        license="apache-2.0",
        distance=0.1 * (index + 1),
        coefficient=coefficient,
    )
    return replace(plain, **changes)


QUESTIONS = DatasetInfo(
    id="me/questions",
    revision="d" * 40,
    config="main",
    split="train",
    columns=Columns(input="question", output="answer"),
    private=False,
    license="cc-by-4.0",
)


def command_of(**changes: Any) -> list[str]:
    """Return the command of an adapter with other settings."""
    request = Request(
        dataset="me/questions", revision="d" * 40, config="main", split="train",
        columns=QUESTIONS.columns, bank="org/bank", bank_revision="e" * 40,
        metric="kl", coefficients="normalized", temperature=0.5, budget=0,
    )  # fmt: skip
    return ["hf-lorameta", "generate", *request.but(**changes).words(output="my-adapter")]


PLAIN = Card(
    base_model="org/base-7b",
    base_revision="b" * 40,
    base_license="apache-2.0",
    dataset=QUESTIONS,
    rows=1234,
    tokens=56789,
    bank_id="org/bank",
    bank_revision="e" * 40,
    bank_size=3,
    bank_published=True,
    neighbors=(neighbor(0, 0.6), neighbor(1, 0.3), neighbor(2, 0.1)),
    effective_number=2.17,
    nearest_in_bank=0.08,
    rank=16,
    remarks=(
        Remark("warning", "the dataset has 12 rows_only [see] <docs>", code="rows.few"),
        verdict_on(None),
    ),
    recipe=Recipe(metric="kl", coefficients="normalized", temperature=0.5),
    command=command_of(),
    library_version="0.1.0",
    outcome=Outcome(),
    general=None,
    general_licenses=(),
    output_prior=None,
    scale=1.0,
    example=None,
    gguf=False,
)


def metadata(text: str) -> ModelCardData:
    """Return a card's metadata."""
    data = ModelCard(text).data
    assert isinstance(data, ModelCardData)
    return data


def metadata_fields(text: str) -> dict[str, Any]:
    """Return a card's metadata as the Hub's client writes it."""
    fields: dict[str, Any] = metadata(text).to_dict()  # type: ignore[no-untyped-call]
    return fields


def rendered(repo_id: str | None = None, **changes: Any) -> str:
    """Return the card of an adapter with other values."""
    return render_card(replace(PLAIN, **changes), repo_id)


def of_dataset(**changes: Any) -> dict[str, Any]:
    """Return other fields of the dataset, as values of a card."""
    return {"dataset": replace(QUESTIONS, **changes)}


def many(count: int) -> tuple[WeightedAdapter, ...]:
    """Return adapters whose coefficients fall and sum to one."""
    weights = [1 / (i + 1) for i in range(count)]
    return tuple(neighbor(i, w / sum(weights)) for i, w in enumerate(weights))


def section(text: str, title: str) -> str:
    """Return the text under a heading of a card."""
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows_of(table: str) -> list[list[str]]:
    """Return the cells of a GFM table, split at pipes without a backslash, as GFM does."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
