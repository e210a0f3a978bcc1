"""The model card of an adapter: its metadata and the values for its template.

Rendering uses neither the network nor the clock: the same values give the same bytes. The card
contains no text of the dataset except one row of a public one, no local path, and no name of a
private dataset.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hf_lorameta.cards import card_tables, sentences
from hf_lorameta.cards.card_data import Card
from hf_lorameta.cards.chart import CHART_FILE
from hf_lorameta.cards.gguf_usage import ollama_name
from hf_lorameta.cards.markdown import Markdown, clean, hub_url, render
from hf_lorameta.cards.prompt_code import example_code, prompt_code
from hf_lorameta.cards.record import MergeRecord
from hf_lorameta.cards.results import CheckResult
from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.data.dataset import DatasetInfo
from hf_lorameta.engines.scoring import MEASURES
from hf_lorameta.hub.licenses import SEVERAL, combined_license
from hf_lorameta.hub.repo import is_hub_id
from hf_lorameta.method.registries import COMBINERS
from hf_lorameta.quoting import shell, shell_word
from hf_lorameta.tables import plural

CARD_FILE = "README.md"
TABLE_ROWS = 20
"""Source adapters in the card's table; the coefficients of the others are summed."""
_VLLM_RANKS = (16, 32, 64, 128, 256, 320, 512)
"""Values of vLLM's ``--max-lora-rank`` from its default on."""
_HUB_METRICS = {"rouge_l": "rouge", "label_f1": "f1"}
"""The Hub's names of `MEASURES`."""


def render_card(card: Card, repo_id: str | None) -> str:
    """Render the README.md of a generated adapter.

    Args:
        card: what it states.
        repo_id: None for a local folder.
    """
    dataset, outcome, example = card.dataset, card.outcome, card.example
    training, check, public = outcome.training, outcome.check, dataset.public_id
    return _render(
        "model_card.md.j2",
        _title(card),
        repo_id,
        lambda repo: _metadata(card, repo),
        card=card,
        base={"id": card.base_model, "revision": card.base_revision},
        base_license=card.base_license,
        unknown_license=not all((card.base_license, *card.licenses)),
        columns=dataset.columns,
        gguf=card.gguf,
        chat_kwargs=_chat_kwargs(card),
        chart_file=CHART_FILE,
        prompt_code=Markdown(prompt_code(dataset.columns)),
        example=example_code(example) if example and public else None,
        vllm_command=_vllm_command(card, repo_id),
        reproduce_command=_reproduce_lines(card),
        verdict=card.remarks[-1],
        warnings=[remark for remark in card.remarks if remark.level == "warning"],
        introduction=sentences.introduction(card),
        intended_use=sentences.intended_use(dataset),
        prompt_form=sentences.prompt_form(dataset.columns),
        similarity=sentences.similarity(card),
        sources=[
            card_tables.source_row(adapter, card.bank_published)
            for adapter in card.neighbors[:TABLE_ROWS]
        ],
        others=sentences.others(card.neighbors[TABLE_ROWS:]),
        datasets_listed=sentences.datasets_listed(card),
        training=training,
        how_trained=training and sentences.how_trained(card, training),
        check=check,
        what_was_counted=check and sentences.what_was_counted(card, check),
        check_table=check and card_tables.check_table(check),
        settings=card_tables.settings(card),
        licenses_of_bank=sentences.licenses_of_bank(card),
        license_of_dataset=sentences.license_of_dataset(card),
        unmeasured=sentences.unmeasured(card),
    )


def _metadata(card: Card, repo_id: str | None) -> ModelCardData:
    dataset, public = card.dataset, card.dataset.public_id
    own = [public] if card.outcome.training and public else []
    paper = ["arxiv:2507.01806"] if card.neighbors else []
    of_stages = [tag for record in card.outcome.records for tag in record.tags]
    return adapter_metadata(
        card.base_model,
        [card.base_license, *card.licenses],
        ["lora", "hf-lorameta", *paper, *of_stages],
        list(dict.fromkeys([*own, *card.source_datasets])),
        repo_id,
        dataset.languages,
        _scores_for_index(dataset, card.outcome.check),
    )


def _render(
    template: str,
    title: str,
    repo_id: str | None,
    metadata: Callable[[str | None], ModelCardData],
    **values: object,
) -> str:
    """Render a card; its title is the repo's name, or `title` if it is in a folder."""
    repo_id = clean(repo_id or "") or None
    folder = (repo_id or "").rpartition("/")[2] or "my-adapter"
    text = render(
        template,
        metadata=Markdown(metadata(repo_id).to_yaml()),
        title=folder if repo_id else title,
        repo_id=repo_id,
        adapter=repo_id or "path/to/this/folder",
        folder=folder,
        ollama_name=ollama_name(folder),
        **{"chat_kwargs": {}, **values},
    )
    return str(ModelCard(text))


def _title(card: Card) -> str:
    """Return the title of a card, with the base model, and with the dataset if it is public."""
    base, dataset = _name_of(card.base_model), card.dataset.public_id
    return f"LoRA adapter of {base} for {dataset}" if dataset else f"LoRA adapter for {base}"


def _name_of(base_model: str) -> str:
    return clean(base_model).rstrip("/").rpartition("/")[2]


def render_merge_card(
    record: MergeRecord,
    columns: Columns | None,
    repo_id: str | None,
    gguf: bool,
) -> str:
    """Render the README.md of a merged adapter.

    Args:
        record: content of ``recipe.json``.
        columns: how all adapters read rows; None if their prompts differ, or not all are known.
        repo_id: None for a local folder.
        gguf: whether the adapter is exported as GGUF, too.
    """
    named = (name for row in record.adapters for name in row.licenses)
    stated = [record.base_license, *(None if n == "unknown" else n for n in named)]
    base, tags = record.base_model, ("lora", "merge", "hf-lorameta")
    return _render(
        "merge_card.md.j2",
        f"Merged LoRA adapter for {_name_of(base.id)}",
        repo_id,
        lambda repo: adapter_metadata(base.id, stated, tags, repo_id=repo),
        base=base,
        base_license=stated[0],
        columns=columns,
        prompt_code=columns and Markdown(prompt_code(columns)),
        adapters=record.adapters,
        combine=record.merge.combine,
        combiner=COMBINERS[record.merge.combine].title,
        settings={k: v for k, v in record.merge.model_dump().items() if v is not None},
        rank=record.rank,
        kept=record.kept,
        warnings=record.remarks,
        library=record.library,
        gguf=gguf,
        unknown_license=not all(stated),
    )


def adapter_metadata(
    base_model: str,
    licenses: Sequence[str | None],
    tags: Sequence[str],
    datasets: Sequence[str] = (),
    repo_id: str | None = None,
    languages: Sequence[str] = (),
    scores: Sequence[EvalResult] = (),
) -> ModelCardData:
    """Return an adapter's metadata; the last tag is that of its base model.

    The licenses are those of the base model and the adapters used; that of the dataset does not
    count, since none of it is redistributed. If they have no common license that the Hub knows, its
    id is ``other``, the name lists each license (``unknown`` if the authors state none) and the
    link is to the base model. Of more licenses than fit into a name, the link is to the list on the
    card that is published in `repo_id`; a card in a local folder has no link then.
    """
    base = base_model if is_hub_id(base_model) else None
    license_id, license_name = combined_license(licenses)
    license_link = hub_url(base) if base and license_name else None
    if license_name == SEVERAL:
        license_link = f"{hub_url(repo_id)}#licenses" if repo_id else None
    return ModelCardData(
        base_model=base,
        base_model_relation="adapter" if base else None,
        datasets=list(datasets) or None,
        eval_results=list(scores) or None,
        model_name=(repo_id or "LoRA adapter") if scores else None,
        language=list(languages) or None,
        library_name="peft",
        license=license_id,
        license_name=license_name,
        license_link=license_link,
        pipeline_tag="text-generation",
        tags=[*tags, *([f"base_model:adapter:{base}"] if base else [])],
    )


def _scores_for_index(dataset: DatasetInfo, check: CheckResult | None) -> list[EvalResult]:
    """Return what a check measured, for ``model-index``; nothing of a dataset without public name.

    These are the share of right answers and, if all answers were graded, their score.
    """
    name = dataset.public_id
    if check is None or name is None:
        return []
    measured = [("exact_match", "Right answers", check.adapter.right / check.rows)]
    if (measure := check.measure) and (score := check.adapter.score) is not None:
        measured.append((_HUB_METRICS[measure], MEASURES[measure], score))
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=name,
            dataset_name=name,
            dataset_config=dataset.config,
            dataset_split=dataset.split,
            dataset_revision=dataset.revision,
            metric_type=kind,
            metric_name=f"{title}, of {plural(check.rows, 'row')}",
            metric_value=round(value, 4),
        )
        for kind, title, value in measured
        if math.isfinite(value)
    ]


# --- code and commands --------------------------------------------------------------------------


def _vllm_command(card: Card, repo_id: str | None) -> Markdown:
    """Return a command line that serves the base model, and resolves the adapter on the Hub."""
    rank = card.rank
    arguments = ["vllm", "serve", card.base_model, "--enable-lora"]
    if card.base_revision:
        arguments += ["--revision", card.base_revision]
    if kwargs := _chat_kwargs(card):
        arguments += ["--default-chat-template-kwargs", json.dumps(kwargs)]
    if rank > _VLLM_RANKS[0]:
        arguments += ["--max-lora-rank", str(min(r for r in _VLLM_RANKS if r >= rank))]
    variables = ("VLLM_ALLOW_RUNTIME_LORA_UPDATING=1", "VLLM_PLUGINS=lora_hf_hub_resolver")
    repos = f"VLLM_LORA_RESOLVER_HF_REPO_LIST={shell_word(repo_id or '')}"
    return Markdown(" ".join([*variables, repos, shell(*arguments)]))


def _chat_kwargs(card: Card) -> Mapping[str, object]:
    """Return what a server has to give the chat template."""
    chat = card.dataset.columns.chat
    return chat.chat_template_kwargs if chat else {}


def _reproduce_lines(card: Card) -> Markdown:
    """Return the command that makes the adapter again, each option on a line of its own."""
    lines = list[list[str]]([[]])
    for word in card.command:
        if word.startswith("--"):
            lines.append([])
        lines[-1].append(word)
    return Markdown(" \\\n    ".join(shell(*words) for words in lines))
