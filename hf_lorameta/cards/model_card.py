"""What is written beside an adapter for people: its model card.

A pure function of `hf_lorameta.cards.card_data.CardData`: no network, no clock, so the same facts give the same
bytes. Names that others chose (ids, columns, licenses) are escaped wherever they land, and no text
of the dataset and no local path ever gets here. A private dataset stays unnamed.
"""

import json
import math
import shlex
from collections import Counter

from huggingface_hub import ModelCard, ModelCardData

from hf_lorameta.bank.index import EMBEDDED_BANK
from hf_lorameta.cards.card_data import CardData
from hf_lorameta.cards.chart import CHART_FILE
from hf_lorameta.cards.gguf_usage import render_usage
from hf_lorameta.cards.licenses import license_of
from hf_lorameta.cards.markdown import clean, code, is_hub_id, link, number, prose, table
from hf_lorameta.method.coefficients import COEFFICIENT_RULES
from hf_lorameta.method.distances import METRICS
from hf_lorameta.method.merging import COMBINERS

CARD_FILE = "README.md"
TABLE_ROWS = 20
_ENGINE = "transformers"


def render_card(facts: CardData, repo_id: str | None) -> str:
    """The whole README.md of an adapter repo.

    Args:
        facts: of the run.
        repo_id: where the adapter is going; None for a local folder.

    Returns:
        Metadata block and Markdown, ending in a newline.
    """
    title = prose((repo_id or "").rpartition("/")[2]) or "LoRA adapter"
    sections = (
        f"# {title}",
        _what(facts),
        _no_training(facts),
        _loading(facts, repo_id),
        _laptop(facts, repo_id),
        _nearness(facts),
        _neighbors(facts),
        _refined(facts),
        _checked(facts),
        _recipe(facts),
        _licenses(facts),
        _not_measured(facts, repo_id),
        _warnings(facts),
        _reproducing(facts),
        _CITATION,
    )
    body = "\n\n".join(section for section in sections if section)
    return str(ModelCard(f"---\n{_metadata(facts).to_yaml()}\n---\n\n{body}\n"))


def _metadata(facts: CardData) -> ModelCardData:
    base = facts.base_model if is_hub_id(facts.base_model) else None
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


def _dataset(facts: CardData) -> str:
    if facts.dataset_id is None:
        return "a local dataset"
    if facts.dataset_private:
        return "a private dataset"
    return link(facts.dataset_id, facts.dataset_revision, "datasets/")


def _adapters(count: int) -> str:
    return "1 adapter" if count == 1 else f"{count:,} adapters"


def _what(facts: CardData) -> str:
    base = link(facts.base_model, facts.base_revision)
    return (
        f"A LoRA adapter of rank {facts.rank} for {base}, put together on a CPU by hf-lorameta"
        f" {code(facts.library_version)} for {_dataset(facts)}."
    )


def _no_training(facts: CardData) -> str:
    return (
        f"**No training took place.** This is a weighted combination of"
        f" {_adapters(len(facts.neighbors))} that existed before, each trained on a dataset of its"
        " own. The coefficients depend on how near each of those datasets is to this one"
        f"{' and on a few of its rows' if facts.refinement else ''}: the adapter is conditioned on"
        " this dataset, not trained on it."
    )


def _loading(facts: CardData, repo_id: str | None) -> str:
    def quoted(value: str) -> str:
        return json.dumps(clean(value))

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


def _laptop(facts: CardData, repo_id: str | None) -> str:
    named = clean(repo_id) if repo_id else None
    return render_usage(link(facts.base_model), named) if facts.gguf else ""


def _nearness(facts: CardData) -> str:
    nearest, usual = facts.nearest, facts.nearest_in_bank
    name = link(
        nearest.dataset, nearest.dataset_revision, "datasets/", published=facts.bank_published
    )
    said = [
        f"Of the datasets behind this adapter, {name} is the nearest, at a"
        f" {METRICS[facts.recipe.metric].title} of {number(nearest.distance)}.",
        _verdict(nearest.distance, usual),
    ]
    if len(facts.neighbors) > 1:
        spread = f"{facts.effective_number:.1f} adapters"
        said.append(f"The coefficients are spread as if {spread} had equal weight.")
    return f"""## How near the bank comes

{" ".join(said)}

![coefficients]({CHART_FILE})"""


def _verdict(distance: float, usual: float) -> str:
    if not (math.isfinite(usual) and usual > 0):
        return "The bank is too small to say whether that is near or far."
    if distance == 0:
        return "Its tokens are distributed exactly as here: it may well be the same dataset."
    typical = f"(median distance to the nearest neighbor: {number(usual)})"
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


def _neighbors(facts: CardData) -> str:
    shown, rest = facts.neighbors[:TABLE_ROWS], facts.neighbors[TABLE_ROWS:]
    published = facts.bank_published
    rows = [
        (
            link(n.dataset, n.dataset_revision, "datasets/", published=published),
            link(n.adapter, n.adapter_revision, published=published),
            number(n.distance),
            f"{n.coefficient:.4f}",
            code(n.license) if n.license else "unknown",
        )
        for n in shown
    ]
    head = ("Dataset", "Adapter", "Distance", "Coefficient", "License of the adapter")
    share = sum(n.coefficient for n in rest)
    more = f"\n\nand {len(rest)} more, together {100 * share:.1f} %." if rest else ""
    return f"## The adapters it is made of\n\n{table(head, rows, numbers=(2, 3))}{more}"


def _refined(facts: CardData) -> str:
    fit = facts.refinement
    if fit is None:
        return ""
    negative = sum(n.coefficient < 0 for n in facts.neighbors)
    total = sum(n.coefficient for n in facts.neighbors)
    apart = (
        " Each adapted module has coefficients of its own; the table and the picture show their"
        " means."
    )
    rows = [
        ("base model", number(fit.base)),
        ("coefficients from the distances alone", number(fit.start)),
        ("this adapter, fitted on them", number(fit.end)),
        ("fitted on the others, rows held out in turns (an estimate)", number(fit.held_out)),
    ]
    said = (
        f"The coefficients started where the distances put them and were then fitted on {fit.rows}"
        " rows of the dataset; no weight of the base model or of any adapter moved."
        f"{apart if fit.by_module else ''} They sum to"
        f" {total:.2f}, and {negative} of {len(facts.neighbors)} are negative."
        f" {_loss(fit.engine)} of these rows, in nats a token; they are too few to be a score:"
    )
    losses = table(("Method", "Loss"), rows, numbers=(1,))
    return f"## Fitted on {fit.rows} rows\n\n{said}\n\n{losses}"


def _loss(engine: str) -> str:
    """Says so where another engine ran the base model, perhaps one of fewer bits."""
    return "Loss" if engine == _ENGINE else f"Loss, as {clean(engine)} computes it,"


def _checked(facts: CardData) -> str:
    found = facts.check
    if found is None:
        return ""
    before = [("the adapter as it was made", number(found.start))] if found.scale < 1 else []
    rows = [("base model", number(found.base)), *before, ("this adapter", number(found.end))]
    drawn_back = (
        f" It was worse than the base model at first, so its coefficients were multiplied with"
        f" {found.scale:g}, the first share that was not."
    )
    said = (
        f"{_loss(found.engine)} on {found.rows} rows of the dataset that no coefficient was fitted"
        " on, in nats a token; too few to be a score."
        f"{drawn_back if before else ''}"
    )
    losses = table(("Method", "Loss"), rows, numbers=(1,))
    return f"## Checked on {found.rows} rows\n\n{said}\n\n{losses}"


def _recipe(facts: CardData) -> str:
    recipe, pinned = facts.recipe, facts.public_dataset
    keep = "all" if recipe.top_k is None else f"the {recipe.top_k} largest coefficients"
    at = f" at {code(facts.bank_revision)}" if facts.bank_revision else ""
    rows = [
        ("Metric", METRICS[recipe.metric].title),
        ("Coefficients", f"{recipe.coefficients}: {COEFFICIENT_RULES[recipe.coefficients].title}"),
        ("Combined by", f"{recipe.combine}: {COMBINERS[recipe.combine].title}"),
        ("Adapters kept", keep),
        ("Temperature", number(recipe.temperature)),
        ("Rank", str(facts.rank)),
        ("Numbers stored as", code(facts.dtype)),
        ("Seed", str(recipe.seed)),
        ("Read", f"{facts.rows:,} rows, {facts.tokens:,} tokens"),
        ("Columns", code(facts.columns)),
        ("Configuration", code(facts.dataset_config or "") if pinned else ""),
        ("Split", code(facts.dataset_split) if facts.dataset_split else ""),
        ("Dataset revision", code(facts.dataset_revision or "") if pinned else ""),
        ("Bank", f"{code(facts.bank_id)}{at}, {_adapters(facts.bank_size)}"),
        ("hf-lorameta", code(facts.library_version)),
    ]
    rows = [row for row in rows if row[1] not in ("", "<code></code>")]
    return f"## Recipe\n\n{table(('Setting', 'Value'), rows)}"


def _licenses(facts: CardData) -> str:
    def named(stated: str | None) -> str:
        return code(stated) if stated else "unknown"

    counted = sorted(
        Counter(named(n.license) for n in facts.neighbors).items(),
        key=lambda item: (-item[1], item[0]),
    )
    adapters = ", ".join(f"{name} ({count:,})" for name, count in counted)
    unknown = not all((facts.base_license, *(n.license for n in facts.neighbors)))
    warning = "\n\nUnknown means that its authors state no license: ask them before you pass it on."
    return f"""## Licenses

- Base model: {named(facts.base_license)}
- Adapters used: {adapters}
- Dataset it is conditioned on: {named(facts.dataset_license)}; none of its text is in this repo\
{warning if unknown else ""}"""


def _not_measured(facts: CardData, repo_id: str | None) -> str:
    scored = facts.refinement or facts.check
    beyond = "Beyond the few rows above, this adapter" if scored else "This adapter"
    said = (
        f"{beyond} was not evaluated, on this dataset or any other. Whether it does better than the"
        " base model, its nearest neighbor or a few-shot prompt is not known. To find out:"
    )
    command = shlex.join(
        ["hf-lorameta", "evaluate", clean(repo_id or "FOLDER"), "--dataset", _asked(facts)]
    )
    return f"## What was not measured\n\n{said}\n\n```bash\n{command}\n```"


def _asked(facts: CardData) -> str:
    return facts.public_dataset or "DATASET"


def _warnings(facts: CardData) -> str:
    if not facts.warnings:
        return ""
    texts = list(facts.warnings)
    if facts.dataset_id and facts.dataset_private:
        texts = [text.replace(facts.dataset_id, "the dataset") for text in texts]
    return "## Warnings of the run\n\n" + "\n".join(f"- {prose(text)}" for text in texts)


def reproduce_command(facts: CardData) -> list[str]:
    """The command line that makes this adapter again, as a list of arguments.

    The weights are the same; of an adapter that was fitted or checked, with the same base alone: in
    ``BASE.gguf``, the same quantization. Settings that equal the recipe's defaults are left out,
    and so are the default bank, which is embedded, and its base's GGUF, which is found by itself.
    ``DATASET`` and ``BANK`` stand for what has no public name.
    """
    named = facts.public_dataset is not None
    bank = facts.bank_id if is_hub_id(facts.bank_id) else "BANK"
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
        (f"--{name}", clean(str(value)))
        for name, value in options.items()
        if value not in (None, "")
    ]
    given.append(("--output", "my-adapter"))
    return ["hf-lorameta", "generate", *(part for pair in given for part in pair)]


def _reproducing(facts: CardData) -> str:
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
