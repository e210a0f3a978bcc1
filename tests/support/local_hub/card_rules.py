"""The Hub's rules for README metadata, which are checked before and at a commit."""

import re
from typing import Any

import yaml

from hf_lorameta.hub.licenses import HUB_LICENSES
from tests.support.local_hub.cards import SDKS, as_list, parse_card
from tests.support.local_hub.errors import HTTPError

_REPO_ID = re.compile(r"(?!\.)[\w.-]{1,96}(?:/[\w.-]{1,96})?")
_LANGUAGE = re.compile("[a-z]{2,3}|code|multilingual")
_RELATIONS = ("adapter", "finetune", "merge", "quantized")

LICENSES = HUB_LICENSES | {"other", "unknown"}


def check(text: str, repo_type: str) -> tuple[list[str], list[str]]:
    """Validate a README as the Hub does. Return (errors, warnings)."""
    try:
        data = parse_card(text)
    except yaml.YAMLError as error:
        return [f"Invalid YAML: {' '.join(str(error).split())}"], []
    if data is None:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(data, dict):
        return ["Metadata must be a mapping of names to values"], []
    errors = [*_field_errors(data), *_link_errors(data)]
    return (errors + _space_errors(data) if repo_type == "space" else errors), []


def validate(text: str, repo_type: str) -> dict[str, list[dict[str, str]]]:
    """Return the warnings for a README, or raise its errors, in the format of the API."""
    errors, warnings = check(text, repo_type)
    report = {
        "errors": [{"message": message} for message in errors],
        "warnings": [{"message": message} for message in warnings],
    }
    if errors:
        raise HTTPError(400, f"Invalid metadata in README.md. {errors[0]}", body=report)
    return report


def _field_errors(data: dict[str, Any]) -> list[str]:
    errors = []
    if not LICENSES.issuperset(as_list(data.get("license"))):
        errors.append(f'"license" must be one of [{", ".join(sorted(LICENSES))}]')
    for name in ("pipeline_tag", "library_name", "license_name", "license_link", "pretty_name"):
        if name in data and not isinstance(data[name], str):
            errors.append(f'"{name}" must be a string')
    tags = data.get("tags")
    if tags is not None and not (isinstance(tags, list) and all(isinstance(t, str) for t in tags)):
        errors.append('"tags" must be an array of strings')
    for code in as_list(data.get("language")):
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
        for at, value in enumerate(as_list(data.get(name))):
            if not (isinstance(value, str) and _REPO_ID.fullmatch(value)):
                field = f"{name}[{at}]" if isinstance(data[name], list) else name
                advice = f"Use a {page.removesuffix('s')} id from https://hf.co/{page}."
                errors.append(f'"{field}" with value "{value}" is not valid. {advice}')
    return errors


def _space_errors(data: dict[str, Any]) -> list[str]:
    errors = []
    if "sdk" in data and data["sdk"] not in SDKS:
        errors.append(f'"sdk" must be one of [{", ".join(SDKS)}]')
    if len(str(data.get("short_description", ""))) > 60:
        errors.append('"short_description" length must be less than or equal to 60 characters long')
    return errors
