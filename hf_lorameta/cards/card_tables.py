"""The rows of the tables on a generated adapter's card, as Markdown.

A name that others chose is escaped here.
"""

from collections.abc import Iterator, Sequence

from hf_lorameta.cards.card_data import Card, WeightedAdapter
from hf_lorameta.cards.markdown import Markdown, code, license_name, link, prose, source
from hf_lorameta.cards.results import CheckResult, method_in_words
from hf_lorameta.data.prompt import as_option
from hf_lorameta.engines.scoring import MEASURES
from hf_lorameta.method.registries import COEFFICIENT_RULES, COMBINERS, METRICS
from hf_lorameta.tables import plural

_EMPTY = "–"


def table_row(cells: Sequence[object]) -> Markdown:
    """Return a row of a table; cells are Markdown.

    Example:
        >>> table_row(["a", 1])
        '| a | 1 |'
    """
    return Markdown(f"| {' | '.join(map(str, cells))} |")


def source_row(adapter: WeightedAdapter, published: bool) -> Markdown:
    """Return the row of a source adapter: dataset, adapter, distance, coefficient, license."""
    dataset = source(adapter, published)
    shown = link(adapter.adapter, adapter.adapter_revision, "", published)
    if adapter.title and published:
        dataset = Markdown(f"{dataset}: {prose(adapter.title)}")
    elif adapter.title:
        shown = Markdown("in the bank")
    numbers = f"{adapter.distance:.3f}", f"{adapter.coefficient:.1%}"
    return table_row([dataset, shown, *numbers, license_name(adapter.license)])


def check_table(check: CheckResult) -> Iterator[Markdown]:
    """Yield the lines of a table: right answers, scores and losses by method.

    Example:
        >>> from hf_lorameta.cards.results import Counted
        >>> counted = {"generated": Counted(7, 0.5), "most-frequent": Counted(5)}
        >>> for line in check_table(CheckResult(8, counted)):
        ...     print(line)
        | Method | Right answers | Loss |
        | --- | ---: | ---: |
        | the adapter | 7 | 0.500 |
        | the most frequent answer for all rows | 5 | – |
    """
    measure = [MEASURES[check.measure]] if check.measure else []
    yield table_row(["Method", "Right answers", *measure, "Loss"])
    yield table_row(["---", "---:", *("---:" for _ in measure), "---:"])
    for method, of in check.counted.items():
        score = [_EMPTY if of.score is None else f"{of.score:.2f}"] if check.measure else []
        loss = _EMPTY if of.loss is None else f"{of.loss:.3f}"
        yield table_row([method_in_words(method), of.right, *score, loss])


def settings(card: Card) -> Iterator[Markdown]:
    """Yield the rows of the table of settings."""
    recipe, dataset = card.recipe, card.dataset
    columns, public = dataset.columns, dataset.public_id
    rows: dict[str, str | None] = {}
    if card.neighbors:
        rule, combiner = COEFFICIENT_RULES[recipe.coefficients], COMBINERS[recipe.combine]
        kept = "all" if recipe.top_k is None else f"the {recipe.top_k} largest coefficients"
        rows = {
            "Metric": prose(METRICS[recipe.metric].title),
            "Coefficients": f"{prose(recipe.coefficients)}: {prose(rule.title)}",
            "Combination": f"{prose(recipe.combine)}: {prose(combiner.title)}",
            "Adapters kept": kept,
            "Temperature": f"{recipe.temperature:g}",
        }
    template = columns.template and code(as_option(columns.template))
    rows |= {
        "Rank": str(card.rank),
        "Data type": code(recipe.dtype),
        "Seed": str(recipe.seed),
        "Rows read": f"{plural(card.rows, 'row')}, {plural(card.tokens, 'token')}",
        "Columns": code(str(columns)),
        "Instruction": columns.instruction_text and prose(columns.instruction_text),
        "Template": template,
        "Configuration": code(dataset.config) if public and dataset.config else None,
        "Split": code(dataset.split) if dataset.split else None,
        "Dataset revision": code(dataset.revision) if public and dataset.revision else None,
        "Bank": _bank(card),
        "hf-lorameta": code(card.library_version),
    }
    yield from (table_row(row) for row in rows.items() if row[1])


def _bank(card: Card) -> str:
    revision = f" at {code(card.bank_revision)}" if card.bank_revision else ""
    size = ""
    if card.has_bank:
        size = ", with a general adapter alone"
    if card.has_bank and card.bank_size:
        size = f", {plural(card.bank_size, 'adapter')}"
    return f"{code(card.bank_id)}{revision}{size}"
