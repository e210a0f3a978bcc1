"""What is written beside an adapter for people: its model card and a picture of its coefficients.

Pure functions of `Facts`: no network, no clock, so the same facts give the same bytes. Names that
others chose (ids, columns, licences) are escaped wherever they land, and no text of the dataset and
no local path ever gets here. A private dataset stays unnamed.
"""

import json
import math
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hf_lorameta.errors import AdapterError, LoraMetaError
from hf_lorameta.recipe import Combiner, Metric, Recipe, Rule
from hf_lorameta.refine import Check, Refinement
from hf_lorameta.serving import render_lines

CARD_FILE = "README.md"
PICTURE_FILE = "neighbours.svg"
EMBEDDED_BANK = "embedded bank"
"""``Facts.bank_id`` of the bank that comes with the package."""
_ENGINE = "transformers"

TABLE_ROWS = 20
BARS = 12

METRICS: dict[Metric, str] = {
    "wd": "1-Wasserstein distance on token ids",
    "kl": "Kullback–Leibler divergence",
    "js": "Jensen–Shannon divergence",
    "mmd": "maximum mean discrepancy on token ids",
    "js-io": "Jensen–Shannon divergence of inputs plus that of outputs",
    "js-task": "Jensen–Shannon divergence of inputs plus that of outputs plus the distance of the "
    "outputs' lengths",
}
RULES: dict[Rule, str] = {
    "attentional": "softmin of the distances",
    "normalized": "softmin of the standardised distances",
    "neural": "softmin of a small network over the standardised distances, trained on the bank",
    "kernel": "kernel ridge regression on the distances, with the mean of the bank as its prior",
}
COMBINERS: dict[Combiner, str] = {
    "factors": "lora_A and lora_B averaged separately",
    "exact": "the weighted sum of the updates B·A, cut to the rank by an SVD",
}


@dataclass(frozen=True)
class Neighbour:
    """One adapter that takes part in the combination.

    Attributes:
        adapter: Hub id of the adapter.
        adapter_revision: commit read.
        dataset: Hub id of its training dataset.
        dataset_revision: commit read.
        license: of the adapter, as its authors state it; None if they do not.
        distance: from the user's dataset to this one, in the recipe's metric.
        coefficient: weight in the combination; may be negative.
        by_module: weight in each adapted module, where they differ; `coefficient` is their mean
            then.
    """

    adapter: str
    adapter_revision: str
    dataset: str
    dataset_revision: str
    license: str | None
    distance: float
    coefficient: float
    by_module: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Facts:
    """Everything a card says about one run.

    Attributes:
        base_model: Hub id of the base model.
        base_revision: commit of the base model, if known.
        base_license: as the base model's authors state it; None if they do not.
        dataset_id: Hub id of the dataset; None for a local file.
        dataset_revision: commit read.
        dataset_config: configuration read.
        dataset_split: split read.
        columns: what was read from the rows, e.g. ``input=question, output=answer``.
        rows: number of rows read.
        tokens: number of tokens in them.
        dataset_license: as the dataset's authors state it; None if they do not.
        dataset_private: then neither id nor revision nor configuration is shown.
        bank_id: repo id, or `EMBEDDED_BANK`.
        bank_revision: commit of the bank.
        bank_size: number of usable adapters in the bank.
        bank_published: the bank's entries can be found on the Hub: link to them.
        neighbours: every adapter used, by falling coefficient; at least one.
        effective_number: 1 / Σc², between 1 and the number of adapters used.
        nearest_in_bank: median over the bank of the distance to the nearest other dataset.
        rank: r of the result.
        dtype: of the tensors written.
        warnings: shown to the user during the run.
        recipe: every setting.
        library_version: of hf-lorameta.
        refinement: how the coefficients were fitted on rows of the dataset; None if they were not.
        check: how it did on other rows of the dataset; None if it was not scored.
        gguf: the adapter lies beside the PEFT files for llama.cpp and Ollama too.
    """

    base_model: str
    base_revision: str | None
    base_license: str | None
    dataset_id: str | None
    dataset_revision: str | None
    dataset_config: str | None
    dataset_split: str | None
    columns: str
    rows: int
    tokens: int
    dataset_license: str | None
    dataset_private: bool
    bank_id: str
    bank_revision: str | None
    bank_size: int
    bank_published: bool
    neighbours: tuple[Neighbour, ...]
    effective_number: float
    nearest_in_bank: float
    rank: int
    dtype: str
    warnings: tuple[str, ...]
    recipe: Recipe
    library_version: str
    refinement: Refinement | None = None
    check: Check | None = None
    gguf: bool = False

    def __post_init__(self) -> None:
        if not self.neighbours:
            raise LoraMetaError("a card needs at least one adapter used, got none")

    @property
    def nearest(self) -> Neighbour:
        """The adapter whose dataset is nearest; of equals, the one with the larger coefficient."""
        return min(self.neighbours, key=lambda n: n.distance)

    @property
    def public_dataset(self) -> str | None:
        """The dataset's id if the world may know it."""
        return _public(self.dataset_id, self.dataset_private)


# --- licences -----------------------------------------------------------------------------------

HUB_LICENSES = frozenset({
    "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "creativeml-openrail-m",
    "bigscience-bloom-rail-1.0", "bigcode-openrail-m", "afl-3.0", "artistic-2.0", "bsl-1.0",
    "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "c-uda", "cc", "cc0-1.0",
    "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0",
    "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0",
    "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
    "cdla-sharing-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "wtfpl", "ecl-2.0",
    "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1", "eupl-1.2", "agpl-3.0", "gfdl", "gpl",
    "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "isc", "h-research", "intel-research",
    "lppl-1.3c", "ms-pl", "apple-ascl", "apple-amlr", "mpl-2.0", "odc-by", "odbl", "openmdw-1.0",
    "openrail++", "osl-3.0", "postgresql", "ofl-1.1", "ncsa", "unlicense", "zlib", "pddl",
    "lgpl-lr", "deepfloyd-if-license", "fair-noncommercial-research-license", "llama2", "llama3",
    "llama3.1", "llama3.2", "llama3.3", "llama4", "grok2-community", "gemma",
})  # fmt: skip
"""What the Hub accepts as ``license`` at a commit, besides ``other`` and ``unknown``
(huggingface_hub issue 4218)."""


def license_of(facts: Facts) -> tuple[str, str | None, str | None]:
    """The licence of a combination: one if all agree, otherwise ``other`` with every name.

    Args:
        facts: base model and adapters used count; the dataset does not, as none of it is passed on.

    Returns:
        The Hub's licence id, and for ``other`` a name that lists each licence (``unknown`` where
        the authors state none) and a link to the base model, whose terms come first.
    """
    stated = [facts.base_license, *(n.license for n in facts.neighbours)]
    names = sorted({_license_name(value) for value in stated})
    if len(names) == 1 and names[0] in HUB_LICENSES:
        return names[0], None, None
    link = _hub_url(facts.base_model) if _is_hub_id(facts.base_model) else None
    return "other", "-and-".join(names), link


def _license_name(stated: str | None) -> str:
    """A licence as the Hub spells them: lower case, digits, dots, pluses and dashes."""
    words = re.findall(r"[a-z0-9.+]+", (stated or "").lower())
    return "-".join(words)[:60] or "unknown"


# --- escaping -----------------------------------------------------------------------------------

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_PLAIN = re.compile(r"[A-Za-z0-9_./:@+=()-]([A-Za-z0-9_./:@+=(), -]*[A-Za-z0-9_./:@+=()-])?")


def _is_hub_id(value: str) -> bool:
    tricks = ".." in value or "--" in value
    return not tricks and len(value) <= 96 and _HUB_ID.fullmatch(value) is not None


def _public(dataset_id: str | None, private: bool) -> str | None:
    """A dataset's id if the world may know it."""
    return dataset_id if dataset_id and not private and _is_hub_id(dataset_id) else None


def _clean(value: str) -> str:
    """One line: controls, line ends, surrogates and direction marks become single spaces."""
    spaced = (" " if unicodedata.category(c)[0] in "CZ" else c for c in value)
    return " ".join("".join(spaced).split())


def _entities(value: str) -> str:
    """Every ASCII sign that is neither letter nor digit as an entity: nothing left to parse."""
    return re.sub(r"[!-/:-@\[-`{-~]", lambda m: f"&#{ord(m[0])};", _clean(value))


def _code(value: str) -> str:
    """Inline code, also inside a table cell."""
    return f"`{value}`" if _PLAIN.fullmatch(value) else f"<code>{_entities(value)}</code>"


def _prose(value: str) -> str:
    """Text that reads as it is and starts no markup, block or HTML."""
    text = re.sub(r"([\\`*\[\]{}|~#$!])", r"\\\1", _clean(value))
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"^([-+=]|\d+(?=[.)](\s|$)))", lambda m: f"&#{ord(m[0][0])};{m[0][1:]}", text)


def _hub_url(repo: str, revision: str | None = None, kind: str = "") -> str:
    pinned = f"/tree/{revision}" if revision and _is_hub_id(revision) else ""
    return f"https://huggingface.co/{kind}{repo}{pinned}"


def _link(repo: str, revision: str | None = None, kind: str = "", *, published: bool = True) -> str:
    """A repo as inline code, linked to the commit read if it can be found there."""
    if not published or not _is_hub_id(repo):
        return _code(repo)
    return f"[{_code(repo)}]({_hub_url(repo, revision, kind)})"


def _number(value: float) -> str:
    return f"{value:.4g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    rule = ["---:" if i in numbers else "---" for i in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


# --- the card -----------------------------------------------------------------------------------


def render_card(facts: Facts, repo_id: str | None) -> str:
    """The whole README.md of an adapter repo.

    Args:
        facts: of the run.
        repo_id: where the adapter is going; None for a local folder.

    Returns:
        Metadata block and Markdown, ending in a newline.
    """
    title = _prose((repo_id or "").rpartition("/")[2]) or "LoRA adapter"
    sections = (
        f"# {title}",
        _what(facts),
        _no_training(facts),
        _loading(facts, repo_id),
        _laptop(facts, repo_id),
        _nearness(facts),
        _neighbours(facts),
        _refined(facts),
        _checked(facts),
        _recipe(facts),
        _licences(facts),
        _not_measured(facts, repo_id),
        _warnings(facts),
        _reproducing(facts),
        _CITATION,
    )
    body = "\n\n".join(section for section in sections if section)
    return str(ModelCard(f"---\n{_metadata(facts).to_yaml()}\n---\n\n{body}\n"))


def _metadata(facts: Facts) -> ModelCardData:
    base = facts.base_model if _is_hub_id(facts.base_model) else None
    license_id, license_name, license_link = license_of(facts)
    dataset = facts.public_dataset
    return ModelCardData(
        base_model=base,
        base_model_relation="adapter" if base else None,
        datasets=[dataset] if dataset else None,
        library_name="peft",
        license=license_id,
        license_name=license_name,
        license_link=license_link,
        pipeline_tag="text-generation",
        tags=[
            "lora",
            "hf-lorameta",
            *([f"base_model:adapter:{base}"] if base else []),
            "arxiv:2507.01806",
        ],
    )


def _dataset(facts: Facts) -> str:
    if facts.dataset_id is None:
        return "a local dataset"
    if facts.dataset_private:
        return "a private dataset"
    return _link(facts.dataset_id, facts.dataset_revision, "datasets/")


def _adapters(count: int) -> str:
    return "1 adapter" if count == 1 else f"{count:,} adapters"


def _what(facts: Facts) -> str:
    base = _link(facts.base_model, facts.base_revision)
    return (
        f"A LoRA adapter of rank {facts.rank} for {base}, put together on a CPU by hf-lorameta"
        f" {_code(facts.library_version)} for {_dataset(facts)}."
    )


def _no_training(facts: Facts) -> str:
    return (
        f"**No training took place.** This is a weighted combination of"
        f" {_adapters(len(facts.neighbours))} that existed before, each trained on a dataset of its"
        " own. The coefficients depend on how near each of those datasets is to this one"
        f"{' and on a few of its rows' if facts.refinement else ''}: the adapter is conditioned on"
        " this dataset, not trained on it."
    )


def _loading(facts: Facts, repo_id: str | None) -> str:
    def quoted(value: str) -> str:
        return json.dumps(_clean(value))

    pin = f", revision={quoted(facts.base_revision)}" if facts.base_revision else ""
    base = f"{quoted(facts.base_model)}{pin}"
    return f"""## How to use it

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({base})
model = AutoModelForCausalLM.from_pretrained({base})
model = PeftModel.from_pretrained(model, {quoted(repo_id or "path/to/this/folder")})
question = tokenizer("the input of a row", return_tensors="pt")
print(tokenizer.decode(model.generate(**question, max_new_tokens=64)[0]))
```

Text format: the input, one space, the output, then the end-of-sequence token. To ask, \
give the input alone, without a chat template; the answer follows it."""


def _laptop(facts: Facts, repo_id: str | None) -> str:
    named = _clean(repo_id) if repo_id else None
    return render_lines(_link(facts.base_model), named) if facts.gguf else ""


def _nearness(facts: Facts) -> str:
    nearest, usual = facts.nearest, facts.nearest_in_bank
    name = _link(
        nearest.dataset, nearest.dataset_revision, "datasets/", published=facts.bank_published
    )
    said = [
        f"Of the datasets behind this adapter, {name} is the nearest, at a"
        f" {METRICS[facts.recipe.metric]} of {_number(nearest.distance)}.",
        _verdict(nearest.distance, usual),
    ]
    if len(facts.neighbours) > 1:
        spread = f"{facts.effective_number:.1f} adapters"
        said.append(f"The coefficients are spread as if {spread} had equal weight.")
    return f"""## How near the bank comes

{" ".join(said)}

![coefficients]({PICTURE_FILE})"""


def _verdict(distance: float, usual: float) -> str:
    if not (math.isfinite(usual) and usual > 0):
        return "The bank is too small to say whether that is near or far."
    if distance == 0:
        return "Its tokens are distributed exactly as here: it may well be the same dataset."
    typical = f"(median distance to the nearest neighbour: {_number(usual)})"
    times = distance / usual
    if times <= 1:
        return f"That is as near as datasets of the bank usually are to each other {typical}."
    if times <= 2:
        return (
            f"That is {times:.1f} times as far as datasets of the bank usually are from each other"
            f" {typical}: related, but loosely."
        )
    return (
        f"That is {times:.1f} times as far as datasets of the bank usually are from each other"
        f" {typical}: nothing in the bank is close to this dataset. Expect little."
    )


def _neighbours(facts: Facts) -> str:
    shown, rest = facts.neighbours[:TABLE_ROWS], facts.neighbours[TABLE_ROWS:]
    published = facts.bank_published
    rows = [
        (
            _link(n.dataset, n.dataset_revision, "datasets/", published=published),
            _link(n.adapter, n.adapter_revision, published=published),
            _number(n.distance),
            f"{n.coefficient:.4f}",
            _code(n.license) if n.license else "unknown",
        )
        for n in shown
    ]
    head = ("Dataset", "Adapter", "Distance", "Coefficient", "Licence of the adapter")
    share = sum(n.coefficient for n in rest)
    more = f"\n\nand {len(rest)} more, together {100 * share:.1f} %." if rest else ""
    return f"## The adapters it is made of\n\n{_table(head, rows, numbers=(2, 3))}{more}"


def _refined(facts: Facts) -> str:
    fit = facts.refinement
    if fit is None:
        return ""
    negative = sum(n.coefficient < 0 for n in facts.neighbours)
    total = sum(n.coefficient for n in facts.neighbours)
    apart = (
        " Each adapted module has coefficients of its own; the table and the picture show their"
        " means."
    )
    rows = [
        ("base model", _number(fit.base)),
        ("coefficients from the distances alone", _number(fit.start)),
        ("this adapter, fitted on them", _number(fit.end)),
        ("fitted on the others, rows held out in turns (an estimate)", _number(fit.held_out)),
    ]
    said = (
        f"The coefficients started where the distances put them and were then fitted on {fit.rows}"
        " rows of the dataset; no weight of the base model or of any adapter moved."
        f"{apart if fit.by_module else ''} They sum to"
        f" {total:.2f}, and {negative} of {len(facts.neighbours)} are negative."
        f" {_loss(fit.engine)} of these rows, in nats a token; they are too few to be a score:"
    )
    losses = _table(("Method", "Loss"), rows, numbers=(1,))
    return f"## Fitted on {fit.rows} rows\n\n{said}\n\n{losses}"


def _loss(engine: str) -> str:
    """Says so where another engine ran the base model, perhaps one of fewer bits."""
    return "Loss" if engine == _ENGINE else f"Loss, as {_clean(engine)} computes it,"


def _checked(facts: Facts) -> str:
    found = facts.check
    if found is None:
        return ""
    before = [("the adapter as it was made", _number(found.start))] if found.scale < 1 else []
    rows = [("base model", _number(found.base)), *before, ("this adapter", _number(found.end))]
    drawn_back = (
        f" It was worse than the base model at first, so its coefficients were multiplied with"
        f" {found.scale:g}, the first share that was not."
    )
    said = (
        f"{_loss(found.engine)} on {found.rows} rows of the dataset that no coefficient was fitted"
        " on, in nats a token; too few to be a score."
        f"{drawn_back if before else ''}"
    )
    losses = _table(("Method", "Loss"), rows, numbers=(1,))
    return f"## Checked on {found.rows} rows\n\n{said}\n\n{losses}"


def _recipe(facts: Facts) -> str:
    recipe, pinned = facts.recipe, facts.public_dataset
    keep = "all" if recipe.top_k is None else f"the {recipe.top_k} largest coefficients"
    at = f" at {_code(facts.bank_revision)}" if facts.bank_revision else ""
    rows = [
        ("Metric", METRICS[recipe.metric]),
        ("Coefficients", f"{recipe.coefficients}: {RULES[recipe.coefficients]}"),
        ("Combined by", f"{recipe.combine}: {COMBINERS[recipe.combine]}"),
        ("Adapters kept", keep),
        ("Temperature", _number(recipe.temperature)),
        ("Rank", str(facts.rank)),
        ("Numbers stored as", _code(facts.dtype)),
        ("Seed", str(recipe.seed)),
        ("Read", f"{facts.rows:,} rows, {facts.tokens:,} tokens"),
        ("Columns", _code(facts.columns)),
        ("Configuration", _code(facts.dataset_config or "") if pinned else ""),
        ("Split", _code(facts.dataset_split) if facts.dataset_split else ""),
        ("Dataset revision", _code(facts.dataset_revision or "") if pinned else ""),
        ("Bank", f"{_code(facts.bank_id)}{at}, {_adapters(facts.bank_size)}"),
        ("hf-lorameta", _code(facts.library_version)),
    ]
    rows = [row for row in rows if row[1] not in ("", "<code></code>")]
    return f"## Recipe\n\n{_table(('Setting', 'Value'), rows)}"


def _licences(facts: Facts) -> str:
    def named(stated: str | None) -> str:
        return _code(stated) if stated else "unknown"

    counted = sorted(
        Counter(named(n.license) for n in facts.neighbours).items(),
        key=lambda item: (-item[1], item[0]),
    )
    adapters = ", ".join(f"{name} ({count:,})" for name, count in counted)
    unknown = not all((facts.base_license, *(n.license for n in facts.neighbours)))
    warning = "\n\nUnknown means that its authors state no licence: ask them before you pass it on."
    return f"""## Licences

- Base model: {named(facts.base_license)}
- Adapters used: {adapters}
- Dataset it is conditioned on: {named(facts.dataset_license)}; none of its text is in this repo\
{warning if unknown else ""}"""


def _not_measured(facts: Facts, repo_id: str | None) -> str:
    scored = facts.refinement or facts.check
    beyond = "Beyond the few rows above, this adapter" if scored else "This adapter"
    said = (
        f"{beyond} was not evaluated, on this dataset or any other. Whether it does better than the"
        " base model, its nearest neighbour or a few-shot prompt is not known. To find out:"
    )
    command = shlex.join(
        ["hf-lorameta", "evaluate", _clean(repo_id or "FOLDER"), "--dataset", _asked(facts)]
    )
    return f"## What was not measured\n\n{said}\n\n```bash\n{command}\n```"


def _asked(facts: Facts) -> str:
    return facts.public_dataset or "DATASET"


def _warnings(facts: Facts) -> str:
    if not facts.warnings:
        return ""
    texts = list(facts.warnings)
    if facts.dataset_id and facts.dataset_private:
        texts = [text.replace(facts.dataset_id, "the dataset") for text in texts]
    return "## Warnings of the run\n\n" + "\n".join(f"- {_prose(text)}" for text in texts)


def reproduce_command(facts: Facts) -> list[str]:
    """The command line that makes this adapter again, as a list of arguments.

    The weights are the same; of an adapter that was fitted or checked, with the same base alone: in
    ``BASE.gguf``, the same quantisation. Settings that equal the recipe's defaults are left out,
    and so are the default bank, which is embedded, and its base's GGUF, which is found by itself.
    ``DATASET`` and ``BANK`` stand for what has no public name.
    """
    named = facts.public_dataset is not None
    bank = facts.bank_id if _is_hub_id(facts.bank_id) else "BANK"
    options: dict[str, object] = {
        "dataset": _asked(facts),
        "revision": facts.dataset_revision if named else None,
        "config": facts.dataset_config if named else None,
        "split": facts.dataset_split,
        "columns": facts.columns.replace(", ", ","),
        "bank": None if facts.bank_id == EMBEDDED_BANK else bank,
        "bank-revision": facts.bank_revision,
    }
    scored = facts.refinement or facts.check
    engine = scored.engine if scored else _ENGINE
    if engine != _ENGINE:
        found = facts.bank_id == EMBEDDED_BANK
        options |= {"engine": engine, "base-gguf": None if found else "BASE.gguf"}
    settings = facts.recipe.model_dump(exclude_defaults=True)
    options |= {name.replace("_", "-"): value for name, value in settings.items()}
    given = [
        (f"--{name}", _clean(str(value)))
        for name, value in options.items()
        if value not in (None, "")
    ]
    given.append(("--output", "my-adapter"))
    return ["hf-lorameta", "generate", *(part for pair in given for part in pair)]


def _reproducing(facts: Facts) -> str:
    command = reproduce_command(facts)
    lines = [shlex.join(command[i : i + 2]) for i in range(0, len(command), 2)]
    return "## How to make it again\n\n```bash\n" + " \\\n    ".join(lines) + "\n```"


_CITATION = """## Citation

```bibtex
@misc{arabpour2025lora,
  title = {LoRA Fine-Tuning Without GPUs: A CPU-Efficient Meta-Generation Framework for LLMs},
  author = {Arabpour, Reza and S{\\'a}ez de Oc{\\'a}riz Borde, Haitz and Kratsios, Anastasis},
  year = {2025},
  eprint = {2507.01806},
  archivePrefix = {arXiv}
}
```"""


# --- scores, added to a finished card -----------------------------------------------------------

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
class Measured:
    """What a finished adapter scored on one split of one dataset.

    Attributes:
        dataset_id: Hub id; None for a local file.
        dataset_revision: commit read.
        dataset_config: configuration read.
        dataset_split: split read.
        dataset_private: then neither id nor revision nor configuration is shown.
        rows: number of rows.
        engine: what held the base model, ``transformers`` or ``llama.cpp``.
        scores: method to values by the names of `hf_lorameta.scores.Scores`, None where nothing was
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
        return _public(self.dataset_id, self.dataset_private)


def with_scores(text: str, measured: Measured, repo_id: str | None) -> str:
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
        raise AdapterError(f"the card's metadata cannot be read: {_clean(str(error))}") from None
    data: Any = made.data
    new = _results(measured)
    places = {_place(result) for result in new}
    kept = [result for result in data.eval_results or [] if _place(result) not in places]
    if kept or new:
        data.eval_results = [*kept, *new]
        data.model_name = data.model_name or repo_id or "LoRA adapter"
    made.text = _with_table(made.text, measured)
    return str(made)


def _results(measured: Measured) -> list[EvalResult]:
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


def _with_table(body: str, measured: Measured) -> str:
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


def _score_part(measured: Measured) -> str:
    name, config = measured.public_dataset, measured.dataset_config
    shown = _code(name) if name else "a local or private dataset"
    within = f" {_code(config)}" if name and config not in (None, "", "default") else ""
    at = f" ({_link(name, measured.dataset_revision, 'datasets/')})" if name else ""
    rows = [
        (_code(method), *(_score(values.get(key)) for key in _COLUMNS))
        for method, values in measured.scores.items()
    ]
    table = _table(("Method", *_COLUMNS.values()), rows, numbers=(1, 2, 3, 4))
    return f"""### {shown}{within}, split {_code(measured.dataset_split)}

{measured.rows:,} rows{at}, scored through {_code(measured.engine)}; loss in nats a token, the \
others from 0 to 1. {_code(_OWN)} is this adapter.

{table}
"""


def _score(value: float | None) -> str:
    return "–" if value is None else _number(value)


# --- the picture --------------------------------------------------------------------------------

_WIDTH, _ROW, _TOP = 760, 28, 92
_LABEL_END, _BAR_START, _BAR_WIDTH, _DISTANCE_END = 316, 330, 270, 736
_LABEL_CELLS = 40


def render_picture(facts: Facts) -> str:
    """The largest coefficients as a bar chart.

    Returns:
        A self-contained SVG with a title and a description, on a panel of its own, so that it reads
        the same on light and dark pages.
    """
    bars, rest = facts.neighbours[:BARS], facts.neighbours[BARS:]
    height = _TOP + _ROW * len(bars) + (48 if rest else 22)
    largest = max(abs(n.coefficient) for n in bars) or 1.0
    rows = "\n".join(_bar(i, n, largest) for i, n in enumerate(bars))
    share = 100 * sum(n.coefficient for n in rest)
    more = f"and {len(rest)} more, together {share:.1f} %" if rest else ""
    footer = (
        f'\n<text x="{_BAR_START}" y="{height - 20}" class="soft">{more}</text>' if rest else ""
    )
    count = (
        "The coefficient"
        if len(facts.neighbours) == 1
        else f"{len(bars)} of {len(facts.neighbours)} coefficients"
    )
    subtitle = f"{count} · distance: {METRICS[facts.recipe.metric]}"
    listed = "; ".join(
        f"{_short(n.dataset)}: coefficient {n.coefficient:.4f}, distance {_number(n.distance)}"
        for n in bars
    )
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" \
height="{height}" role="img" aria-labelledby="title desc">
<title id="title">The adapters behind this one, by coefficient</title>
<desc id="desc">{_xml(listed)}{". " + more if more else ""}.</desc>
<style>
text {{ font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; \
fill: #1f2937 }}
.head {{ font-size: 17px; font-weight: 600 }}
.soft {{ font-size: 12px; fill: #5b6472 }}
.end {{ text-anchor: end }}
</style>
<rect x="0.5" y="0.5" width="{_WIDTH - 1}" height="{height - 1}" rx="10" fill="#ffffff" \
stroke="#d5d9e0"/>
<text x="24" y="34" class="head">The adapters behind this one</text>
<text x="24" y="55" class="soft">{_xml(subtitle)}</text>
<text x="{_LABEL_END}" y="{_TOP - 10}" class="soft end">dataset</text>
<text x="{_BAR_START}" y="{_TOP - 10}" class="soft">coefficient</text>
<text x="{_DISTANCE_END}" y="{_TOP - 10}" class="soft end">distance</text>
{rows}{footer}
</svg>
"""


def _bar(index: int, neighbour: Neighbour, largest: float) -> str:
    top = _TOP + _ROW * index
    width = max(1.0, _BAR_WIDTH * abs(neighbour.coefficient) / largest)
    color = "#dd6b20" if neighbour.coefficient >= 0 else "#718096"
    base = top + 17
    label = _xml(_shortened(_short(neighbour.dataset), _LABEL_CELLS))
    distance = _number(neighbour.distance)
    return (
        f'<text x="{_LABEL_END}" y="{base}" class="end">{label}</text>\n'
        f'<rect x="{_BAR_START}" y="{top + 3}" width="{width:.1f}" height="{_ROW - 8}" rx="3" '
        f'fill="{color}"/>\n'
        f'<text x="{_BAR_START + width + 8:.1f}" y="{base}">{neighbour.coefficient:.4f}</text>\n'
        f'<text x="{_DISTANCE_END}" y="{base}" class="soft end">{distance}</text>'
    )


def _short(repo: str) -> str:
    return _clean(repo.rpartition("/")[2])


def _shortened(name: str, cells: int) -> str:
    """A name that fits, cut in the middle, where names of one family differ least at the ends.

    Example:
        >>> _shortened("task003_mctaco_question_generation", 16)
        'task003…neration'
    """
    if _cells(name) <= cells:
        return name
    head, tail = name[: len(name) // 2], name[len(name) // 2 :]
    while _cells(head) + _cells(tail) + 1 > cells:
        head, tail = (head[:-1], tail) if _cells(head) >= _cells(tail) else (head, tail[1:])
    return f"{head}…{tail}"


def _cells(name: str) -> float:
    """Width in average letters: ideographs take two, capitals and m, w a little more than one."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in name)
    return len(name) + wide + 0.4 * sum(c.isupper() or c in "mw" for c in name)


def _xml(value: str) -> str:
    return _clean(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
