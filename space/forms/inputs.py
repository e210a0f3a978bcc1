"""Inputs for the fields of a request, of the endpoints and on the page."""

from typing import Any

import gradio as gr

from hf_lorameta.data.reading import Reading
from hf_lorameta.data.sources.formats import ON_PAGE
from hf_lorameta.pipeline.request import Request
from work.planning import PageRequest

_OF_THE_SPACE = {"base", "base_revision", "bank", "bank_revision", "budget"}
"""Fields that a Space decides for all visitors."""
_HUB = {"revision"}
SETTINGS = [n for n in Request.model_fields.keys() - _OF_THE_SPACE if n not in Reading.model_fields]
SETTINGS.sort(key=list(Request.model_fields).index)
"""Fields that say how an adapter is made."""
DATASET = [n for n in PageRequest.model_fields if n in {*Reading.model_fields, "file"} - _HUB]
"""Fields that say what is read, and how."""


def settings_inputs() -> dict[str, Any]:
    """Return an input for each of `SETTINGS`; an empty one, or 0, is the default."""
    return {name: _input(name) for name in SETTINGS}


def dataset_inputs() -> dict[str, Any]:
    """Return an input for each of `DATASET`."""
    texts = {name: gr.Textbox("", label=name) for name in DATASET if name != "file"}
    return texts | {"file": gr.File(label="file", file_types=list(ON_PAGE))}


def described(names: list[str]) -> dict[str, str]:
    """Return what callers read of inputs, by name."""
    return {name: PageRequest.model_fields[name].description or "" for name in names}


def _input(name: str) -> Any:
    field, kind, label = Request.model_fields[name], Request.kind(name), name.replace("_", " ")
    info = field.description
    if isinstance(kind, tuple):
        return gr.Dropdown(list(kind), value=field.default, label=label, info=info)
    if kind is bool:
        return gr.Checkbox(field.default, label=label, info=info)
    if kind is str:
        return gr.Textbox(field.default or "", label=label, info=info)
    known = 0 if isinstance(field.default, bool) else field.default or 0
    return gr.Number(known, label=label, info=info, precision=0 if kind is int else None)
