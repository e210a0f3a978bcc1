"""The command that shows what an adapter is."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_lorameta.cli.options import AdapterArgument, TokenOption, example
from hf_lorameta.cli.output import LEGEND, emit, prints_json
from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.data.prompt import as_option
from hf_lorameta.pipeline.request import Request
from hf_lorameta.quoting import shell
from hf_lorameta.tables import coefficient_table, plural, table

if TYPE_CHECKING:
    from hf_lorameta.cards.record import MergeRecord
    from hf_lorameta.pipeline.adapter_folder import SavedAdapter

logger = logging.getLogger(__name__)

_LISTED_APART = (
    "schema_version", "base_model", "rank", "modules", "remarks", "adapters", "check",
)  # fmt: skip
"""Parts of an adapter's record that are shown elsewhere, or not at all."""


@example("hf-lorameta inspect user/adapter", "hf-lorameta inspect my-adapter --json")
def inspect(
    adapter: AdapterArgument,
    revision: Annotated[str | None, typer.Option(help="Revision of a repo.")] = None,
    token: TokenOption = None,
) -> None:
    """Show a LoRA adapter's base model and shape; if generated, its recipe and coefficients."""
    from hf_lorameta.hub.client import Hub
    from hf_lorameta.pipeline.adapter_folder import locate_adapter, read_adapter

    saved = read_adapter(locate_adapter(adapter, revision=revision, hub=Hub(token)))
    emit(saved.to_dict(), lambda: _describe(saved))
    if saved.coefficients and not prints_json():
        logger.info(LEGEND)


def _describe(saved: "SavedAdapter") -> str:
    """Return a readable summary of an adapter and what it was made from."""
    from hf_lorameta.cards.record import MergeRecord

    fields = [
        ["base model", saved.config.base_model],
        ["rank", str(saved.config.rank)],
        ["modules", str(saved.modules)],
        ["dtype", ", ".join(saved.dtypes)],
    ]
    if saved.record is None:
        fields.append(["library", "unknown: not made by hf-lorameta, or recipe.json is damaged"])
        return table(["field", "value"], fields)
    shown = {k: v for k, v in saved.record.to_dict().items() if v and k not in _LISTED_APART}
    if (shown.get("training") or {}).get("folds"):
        shown.pop("rows", None)  # what would be held out without folds: it was trained on all
    for name, value in shown.items():
        fields += _OWN_ROWS[name](value) if name in _OWN_ROWS else _fields(value, name)
    for remark in saved.record.remarks:
        if remark.level != "doubt":  # the verdict has its text
            name = remark.level if remark.level in ("note", "warning") else "verdict"
            fields.append([name, as_option(remark.text)])
    lines = [table(["field", "value"], fields)]
    if isinstance(saved.record, MergeRecord):
        lines += ["", _merged(saved.record)]
    elif saved.coefficients:
        lines += ["", _combined(saved)]
    return "\n".join(lines)


def _settings(recipe: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield the settings that are not the defaults, as options of the command line."""
    yield ["settings", shell(*Request.of(**recipe).words()) or "the defaults"]


def _dataset(stored: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield what is stored about a dataset, and how it was read as options of the command line."""
    columns = Columns.model_validate(stored["columns"])
    yield ["dataset", stored["id"] or "a private or local one"]
    facts = ("config", "split", "revision", "rows", "tokens")
    yield from _fields({name: stored.get(name) for name in facts}, "dataset")
    yield ["columns", str(columns)]
    made = ", made from the rows" if stored.get("proposed_instruction") else ""
    prompt = {f"instruction{made}": columns.instruction_text, "template": columns.template}
    for name, text in prompt.items():
        if text:
            yield [name, as_option(text)]


def _training(result: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield what was trained."""
    from hf_lorameta.cards.results import Training

    training = Training(**result)
    yield ["trained", f"{training.seen_rows}, {plural(training.steps, 'step')}"]
    if folds := training.folds:
        other = "another adapter was trained on the rows outside of each, to answer those in it"
        yield ["folds of these rows", f"{folds}: {other}"]


def _drawn(rows: Mapping[str, int]) -> Iterator[list[str]]:
    """Yield for what rows were drawn from the dataset."""
    purposes = {"train": "train on", "held_out": "count right answers on", "check": "check on"}
    drawn = [f"{rows[name]:,} to {purpose}" for name, purpose in purposes.items() if rows[name]]
    if drawn:
        yield ["rows drawn", f"{', '.join(drawn)}; from {rows['pool']:,}"]


_PRIVATE = (
    "its dataset, base model and adapters are not all public: push makes a private repo by default"
)
_OWN_ROWS: Mapping[str, Callable[[Any], Iterable[list[str]]]] = {
    "recipe": _settings, "dataset": _dataset, "training": _training,
    "rows": _drawn,
    "private": lambda _: [["sources", _PRIVATE]],
    "merge": lambda recipe: [["combination", recipe["combine"]]],
    "kept": lambda share: [["share of the weighted sum's squared norm kept", f"{share:.1%}"]],
    "general_coefficient": lambda share: [["coefficient of the general adapter", f"{share:z.1%}"]],
    "output_prior": lambda value: [["strength of the output prior", f"{value:.2g}"]],
    "scale": lambda value: [["scale of all coefficients", f"{value:.2f}"]],
    "effective_number": lambda value: [["effective number of adapters", f"{value:.1f}"]],
}  # fmt: skip
"""Parts of an adapter's record that are shown in the words of the command line."""


def _fields(value: Any, name: str) -> Iterator[list[str]]:
    """Yield the name and value of each leaf of a JSON value, on one line each.

    Example:
        >>> list(_fields({"id": "user/a", "kept": {"top_k": [1, 2]}}, "bank"))
        [['bank id', 'user/a'], ['bank kept top k', '1, 2']]
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _fields(item, f"{name} {key}")
    elif value is not None:
        name = name.replace("_", " ")
        parts = value if isinstance(value, list) else [value]
        texts = (f"{x:.4g}" if isinstance(x, float) else as_option(str(x)) for x in parts)
        yield [name, ", ".join(texts)]


def _merged(record: "MergeRecord") -> str:
    rows = [[row.adapter, row.revision or "", f"{row.weight:g}"] for row in record.adapters]
    return table(["adapter", "revision", "weight"], rows)


def _combined(saved: "SavedAdapter") -> str:
    rows = [
        [
            c.label,
            "in the bank" if c.title and c.adapter.startswith("local/") else c.adapter,
            f"{c.distance:.3f}",
            f"{c.coefficient:.1%}",
        ]
        for c in saved.coefficients
    ]
    values = [c.coefficient for c in saved.coefficients]
    return coefficient_table(["dataset", "adapter", "distance", "coefficient"], rows, values)
