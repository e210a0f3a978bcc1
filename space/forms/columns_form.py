"""The form of a dataset: configuration, split, and a role for each column of its first rows."""

from collections.abc import Mapping, Sequence
from html import escape

from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.errors import LoraMetaError, UsageError
from views.blocks import select
from work.dataset_request import (
    CHAT,
    TEXT_CHARACTERS,
    DatasetRequest,
    RequestError,
    Source,
    TemplateError,
    prompt_text,
)

ROLES = {
    "": "ignore",
    "input": "input",
    "output": "output",
    "instruction": "instruction",
    "choices": "answer choices",
    "messages": "chat",
}
"""Roles of a column, with their labels; `form.js` lets some of them belong to one column only."""
_SEVERAL = ("input", "choices")
_NEEDED = "Choose which column the model is given (input) and which it should answer (output)"


def columns_form(source: Source, number: int, request: DatasetRequest) -> str:
    """Return the form.

    Args:
        source: what the dataset offers.
        number: of the dataset, sent back with the form.
        request: its roles are shown, or those that were found, if it has none.
    """
    preview = source.preview
    shown = request.columns or preview.columns
    roles = {name: role for name, (role, _) in _roles(shown, preview.names).items()}
    heads = "".join(
        f'<th scope="col"><span>{escape(column)}</span>'
        + select(f"role-{i}", f"Role of {column}", ROLES, roles.get(column, ""))
        + "</th>"
        for i, column in enumerate(preview.names)
    )
    cells = "".join(
        "<tr>" + "".join(f"<td>{escape(row.get(n, ''))}</td>" for n in preview.names) + "</tr>"
        for row in preview.rows
    )
    choices = _choice("config", "Configuration", source.configs, preview.config)
    choices += _choice("split", "Split", source.splits, preview.split)
    return (
        f'<form data-live aria-label="Columns of the dataset" class="lm-columns-form">'
        f'<input type="hidden" name="dataset_number" value="{number}">'
        f'<p class="lm-soft">The first rows of <b>{escape(request.name)}</b>, shown only to you. '
        "Choose what each column is for.</p>"
        f'<div class="lm-choices">{choices}</div>'
        f'<div class="lm-table" role="region" aria-label="First rows" tabindex="0"><table>'
        f"<thead><tr>{heads}</tr></thead><tbody>{cells}</tbody></table></div>"
        + _text(
            "instruction", "One instruction for all rows, if they hold none", request.instruction,
            "Classify the note as positive or negative.",
        )
        + _text(
            "template", "Form of the prompt, if not the usual one: {instruction} and {input} where "
            "they belong, or the word chat for the base model's own chat form",
            request.template, "{instruction}\n\n{input}", "lm-template-error",
        )
        + '<button type="submit" class="lm-button">Read again</button></form>'
    )  # fmt: skip


def columns_from_form(
    values: Mapping[str, str], names: Sequence[str], found: Columns | None
) -> Columns:
    """Return the columns that a form gives roles to, after a look at its texts.

    Args:
        values: of the form.
        names: of the dataset's columns.
        found: columns that were found or proposed; a column that keeps its role keeps its path,
            such as ``answers.text``.

    Raises:
        RequestError: the roles cannot be combined.
        TemplateError: the form of the prompt does not fit them.
    """
    known = _roles(found, names)
    chosen: dict[str, list[str]] = {}
    for i, name in enumerate(names):
        role = values.get(f"role-{i}")
        if role and role in ROLES:
            known_role, path = known.get(name, ("", name))
            chosen.setdefault(role, []).append(path if role == known_role else name)
    if not chosen.keys() & {"input", "output", "messages"}:
        raise RequestError(_NEEDED)
    if "messages" in chosen and not chosen.keys() <= {"messages", "instruction"}:
        raise RequestError(
            "A column of chats already holds inputs and outputs: ignore the others, except for "
            "one with system prompts, which is an instruction"
        )
    roles = {r: tuple(listed) if r in _SEVERAL else listed[0] for r, listed in chosen.items()}
    instruction, template = prompt_from_form(values)
    columns = Columns.model_validate(roles)
    try:
        with_instruction = columns.with_prompt(instruction, None)
    except LoraMetaError:
        raise RequestError(
            "These roles do not go together: expected an input and an output, and an instruction "
            "either in a column or in the field below"
        ) from None
    try:
        with_instruction.with_prompt(None, None if template == CHAT else template)
    except UsageError as error:
        raise TemplateError(str(error)) from None
    return columns


def prompt_from_form(values: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Return the instruction and the template of a form; None for an empty one."""
    instruction = prompt_text((values.get("instruction") or "").strip())
    return instruction, prompt_text(values.get("template"))


def _text(name: str, label: str, value: str | None, example: str, error: str = "") -> str:
    """Return a labeled field for a text of several lines; `error` is the id of its error."""
    described = f' aria-describedby="{error}"' if error else ""
    return (
        f'<label class="lm-wide">{escape(label)} <textarea name="{name}" '
        f'maxlength="{TEXT_CHARACTERS}" rows="{max(2, len(example.splitlines()))}" '
        f'placeholder="{escape(example)}"{described}>\n{escape(value or "")}</textarea></label>'
    )


def _roles(columns: Columns | None, names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return the role of each column that has one, and its path."""
    paths = {
        path: role for role in ROLES if role and columns for path in columns.named(role)
    }  # fmt: skip
    return {
        name: (role, path)
        for path, role in paths.items()
        for name in names
        if name == path or path.startswith(f"{name}.")
    }


def _choice(name: str, label: str, values: Sequence[str], chosen: str | None) -> str:
    """Return a labeled list to choose from, or nothing if there is no choice."""
    if len(values) < 2:
        return ""
    options = select(name, "", {value: value for value in values}, chosen or values[0])
    return f"<label>{escape(label)} {options}</label>"
