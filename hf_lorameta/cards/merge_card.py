"""The model card of a merge of adapters."""

from collections.abc import Iterable, Mapping
from typing import Any

from huggingface_hub import ModelCard

from hf_lorameta.cards.markdown import Markdown, clean, render
from hf_lorameta.cards.model_card import adapter_metadata
from hf_lorameta.method.merging import COMBINERS


def render_merge_card(
    provenance: Mapping[str, Any],
    base_license: str | None,
    licenses: Iterable[str | None],
    repo_id: str | None,
    gguf: bool,
) -> str:
    """Render the README.md of a merged adapter.

    Args:
        provenance: content of ``recipe.json``.
        base_license: of the base model; None if its authors state none.
        licenses: of the adapters, likewise.
        repo_id: None for a local folder.
        gguf: whether the adapter is exported as GGUF, too.
    """
    repo_id = clean(repo_id or "") or None
    stated = [base_license, *licenses]
    base_model = provenance["base_model"]["id"]
    tags = ("lora", "merge", "hf-lorameta")
    metadata = adapter_metadata(base_model, stated, tags, repo_id=repo_id)
    text = render(
        "merge_card.md.j2",
        metadata=Markdown(metadata.to_yaml()),
        title=repo_id.rpartition("/")[2] if repo_id else "Merged LoRA adapter",
        repo_id=repo_id,
        base=provenance["base_model"],
        base_license=base_license,
        adapters=provenance["adapters"],
        combine=provenance["merge"]["combine"],
        combiner=COMBINERS[provenance["merge"]["combine"]].title,
        settings={k: v for k, v in provenance["merge"].items() if v is not None},
        rank=provenance["rank"],
        kept=provenance["kept"],
        library=provenance["library"],
        gguf=gguf,
        unknown_license=not all(stated),
    )
    return str(ModelCard(text))
