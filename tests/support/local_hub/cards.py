"""What the metadata of a README say about a repo: its tags, library and base models."""

import json
import re
from collections.abc import Collection
from typing import Any

import yaml

SDKS = ("gradio", "docker", "static", "streamlit")


def as_list(value: Any) -> list[Any]:
    """Return a list as it is, no value as an empty one, and another value in one."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def parse_card(text: str) -> Any:
    """Return the YAML metadata of a README as JSON values; None if there are none."""
    block = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", text, re.DOTALL)
    return json.loads(json.dumps(yaml.safe_load(block[1]), default=str)) if block else None


def card_metadata(text: str) -> dict[str, Any]:
    """Return the metadata of a README; empty if they are missing or not valid."""
    try:
        data = parse_card(text)
    except yaml.YAMLError:
        return {}
    return data if isinstance(data, dict) else {}


def base_models(card: dict[str, Any], library: str | None) -> tuple[str | None, list[str]]:
    """Return (relation, base model ids) of a model card; (None, []) without a base model."""
    bases = [str(base) for base in as_list(card.get("base_model"))]
    if not bases:
        return None, []
    default = "adapter" if library == "peft" else "merge" if len(bases) > 1 else "finetune"
    return str(card.get("base_model_relation", default)), bases


def tags(card: dict[str, Any], repo_type: str, paths: Collection[str]) -> list[str]:
    """Return the tags of a repo, derived from its card and its file names."""
    library = library_name(card, paths) if repo_type == "model" else None
    relation, bases = base_models(card, library)
    names = [library] if library else []
    if any(path.endswith(".safetensors") for path in paths):
        names.append("safetensors")
    names += [*as_list(card.get("tags")), *as_list(card.get("pipeline_tag") or None)]
    if repo_type == "model":
        names += as_list(card.get("language"))
    names += [f"base_model:{base}" for base in bases]
    names += [f"base_model:{relation}:{base}" for base in bases]
    names += [f"dataset:{name}" for name in as_list(card.get("datasets"))]
    if repo_type == "dataset":
        for field in ("task_categories", "task_ids", "language", "size_categories"):
            names += [f"{field}:{value}" for value in as_list(card.get(field))]
    names += [f"license:{name}" for name in as_list(card.get("license"))]
    return list(dict.fromkeys(map(str, [*names, "region:us"])))


def library_name(card: dict[str, Any], paths: Collection[str]) -> str | None:
    """Return the library of a model: from the card, or peft if it has an adapter config."""
    name = card.get("library_name")
    if isinstance(name, str):
        return name
    return "peft" if "adapter_config.json" in paths else None
