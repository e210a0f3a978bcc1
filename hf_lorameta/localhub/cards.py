"""What the Hub reads from a README's YAML block: whether it is valid, and the repo's tags."""

import re
from collections.abc import Iterable
from typing import Any

import yaml

LONGEST = 5 << 20  # bytes of a README that are looked at

_BLOCK = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_REPO_ID = re.compile(r"[\w.-]{1,96}(?:/[\w.-]{1,96})?")
_LANGUAGE = re.compile(r"[a-z]{2,8}(?:[-_][A-Za-z0-9]+)*")
SDKS = ("gradio", "docker", "static", "streamlit")
_RELATIONS = ("adapter", "finetune", "merge", "quantized")

_LICENSE_NAMES = """
    afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m
    bigscience-bloom-rail-1.0 bigscience-openrail-m bsd bsd-2-clause bsd-3-clause
    bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0
    cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0
    cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0
    epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl
    gpl gpl-2.0 gpl-3.0 grok2-community h-research intel-research isc lgpl lgpl-2.1 lgpl-3.0
    lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl ncsa
    odbl odc-by ofl-1.1 openmdw-1.0 openrail openrail++ osl-3.0 other pddl postgresql unknown
    unlicense wtfpl zlib
"""
LICENSES = frozenset(_LICENSE_NAMES.split())


def metadata(text: str) -> dict[str, Any]:
    """Returns a README's YAML block as a dict; empty if there is none or it is not valid.

    Example:
        >>> metadata("---\\nlicense: mit\\n---\\n# Title")
        {'license': 'mit'}
    """
    block = _BLOCK.match(text)
    if block is None:
        return {}
    try:
        data = yaml.load(block[1], Loader=_TextDates)
    except yaml.YAMLError:
        return {}
    return data if isinstance(data, dict) else {}


class _TextDates(yaml.SafeLoader):
    """YAML without timestamps: they stay text, so that everything is JSON."""


_TextDates.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in rules if tag != "tag:yaml.org,2002:timestamp"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def as_items(messages: Iterable[str]) -> list[dict[str, str]]:
    """Returns messages as the API shows them: ``[{"message": ...}]``."""
    return [{"message": message} for message in messages]


def check(text: str, repo_type: str) -> tuple[list[str], list[str]]:
    """Returns the (errors, warnings) the Hub has about a README."""
    block = _BLOCK.match(text)
    if block is None:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        data = yaml.load(block[1], Loader=_TextDates)
    except yaml.YAMLError as error:
        return [f"Invalid YAML: {' '.join(str(error).split())}"], []
    if data is None:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(data, dict):
        return ["Metadata must be a mapping of names to values"], []
    errors = [*_field_errors(data), *_link_errors(data)]
    if repo_type == "space":
        errors += _space_errors(data)
    return errors, []


def _field_errors(data: dict[str, Any]) -> list[str]:
    errors = []
    for name in _listed(data.get("license")):
        if name not in LICENSES:
            errors.append(f'"license" must be one of [{", ".join(sorted(LICENSES))}]')
    for name in ("pipeline_tag", "library_name", "license_name", "license_link", "pretty_name"):
        if name in data and not isinstance(data[name], str):
            errors.append(f'"{name}" must be a string')
    tags = data.get("tags")
    if tags is not None and not (isinstance(tags, list) and all(isinstance(t, str) for t in tags)):
        errors.append('"tags" must be an array of strings')
    for code in _listed(data.get("language")):
        if not (isinstance(code, str) and _LANGUAGE.fullmatch(code)):
            errors.append(f'"language" with value "{code}" is not valid: use ISO 639 codes')
    if data.get("base_model_relation", "adapter") not in _RELATIONS:
        errors.append(f'"base_model_relation" must be one of [{", ".join(_RELATIONS)}]')
    index = data.get("model-index")
    if index is not None and not isinstance(index, list):
        errors.append('"model-index" must be an array')
    return errors


def _link_errors(data: dict[str, Any]) -> list[str]:
    errors = []
    for name, page in (("base_model", "models"), ("datasets", "datasets"), ("models", "models")):
        single = not isinstance(data.get(name), list)
        for at, value in enumerate(_listed(data.get(name))):
            if isinstance(value, str) and _REPO_ID.fullmatch(value) and not value.startswith("."):
                continue
            field = name if single else f"{name}[{at}]"
            errors.append(
                f'"{field}" with value "{value}" is not valid. '
                f"Use a {page.removesuffix('s')} id from https://hf.co/{page}."
            )
    return errors


def _space_errors(data: dict[str, Any]) -> list[str]:
    errors = []
    if "sdk" in data and data["sdk"] not in SDKS:
        errors.append(f'"sdk" must be one of [{", ".join(SDKS)}]')
    if len(str(data.get("short_description", ""))) > 60:
        errors.append('"short_description" length must be less than or equal to 60 characters long')
    return errors


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def base_models(card: dict[str, Any], library: str | None) -> tuple[str | None, list[str]]:
    """Returns (relation, base model ids) of a model card; (None, []) without a base model."""
    bases = [str(base) for base in _listed(card.get("base_model"))]
    if not bases:
        return None, []
    default = "adapter" if library == "peft" else "merge" if len(bases) > 1 else "finetune"
    return str(card.get("base_model_relation", default)), bases


def tags(card: dict[str, Any], repo_type: str, paths: Iterable[str]) -> list[str]:
    """Returns a repo's tags, from its card and the kinds of its files.

    Example:
        >>> card = {"license": "mit", "library_name": "peft", "base_model": "a/b"}
        >>> tags(card, "model", ["adapter_model.safetensors"])[:3]
        ['peft', 'safetensors', 'base_model:a/b']
    """
    paths = list(paths)
    library = library_name(card, paths) if repo_type == "model" else None
    found: list[str] = [library] if library else []
    if any(path.endswith(".safetensors") for path in paths):
        found.append("safetensors")
    found += [str(tag) for tag in _listed(card.get("tags"))]
    if card.get("pipeline_tag"):
        found.append(str(card["pipeline_tag"]))
    found += [str(code) for code in _listed(card.get("language"))] if repo_type == "model" else []
    relation, bases = base_models(card, library)
    found += [f"base_model:{base}" for base in bases]
    found += [f"base_model:{relation}:{base}" for base in bases if relation]
    found += [f"dataset:{name}" for name in _listed(card.get("datasets"))]
    for name in ("task_categories", "task_ids", "language", "size_categories"):
        if repo_type == "dataset":
            found += [f"{name}:{value}" for value in _listed(card.get(name))]
    found += [f"license:{name}" for name in _listed(card.get("license"))]
    return list(dict.fromkeys([*found, "region:us"]))


def library_name(card: dict[str, Any], paths: Iterable[str]) -> str | None:
    """Returns a model's library: from the card, or peft if it holds an adapter's config."""
    name = card.get("library_name")
    if isinstance(name, str):
        return name
    return "peft" if "adapter_config.json" in paths else None
