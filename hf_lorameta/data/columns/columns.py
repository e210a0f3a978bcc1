"""Which columns of a dataset are read as input and output, and the text put around them."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import Any, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
)

from hf_lorameta.data.chat_form import SYSTEM, USER, ChatForm, ChatMode, Turn, one_text
from hf_lorameta.data.columns.names import LANGUAGE
from hf_lorameta.data.prompt import PROMPT, check_template, join_instruction
from hf_lorameta.errors import ColumnsError, Option, UsageError

ROLES = ("instruction", "input", "choices", "output", "messages")
"""Fields of `Columns` that name columns."""
MAX_COLUMNS = 100
"""Columns that may be named, in `MAX_CHARACTERS` altogether."""
MAX_CHARACTERS = 10_000
_SEVERAL = ("input", "choices", "output")
_EXAMPLE = Option("columns", "input=question,output=answer")
_LISTED = 100
"""How many columns of a dataset a message names, at most."""
NAME_CHARACTERS = 80
"""Characters of a name in such a list."""
_PART = re.compile(rf"(?:^|,)\s*({'|'.join(ROLES)})\s*=")


class Columns(BaseModel):
    """How a row is read: the columns of a dataset by role, and the text put around them.

    A name may be a path: ``answers.text`` is the field ``text`` of the column ``answers``,
    ``keywords.0`` the first item of a list, and ``keywords.*`` all its items.

    Attributes:
        input: prompts; several are labeled by their names and joined. None for plain text.
        output: answers; None if the dataset has only inputs. Several hold 0 or 1 each: the answer
            is the names of those with 1.
        instruction: put before the input; with messages, a system prompt, read as their first turn.
        messages: chat turns; input, output and choices are then None.
        choices: the possible answers, shown after the input: a list, or one column for each.
            The output is then the text of the right one, whether it is stored as a text, a letter
            or a number.
        instruction_text: an instruction that all rows share.
        template: text with ``{instruction}`` and ``{input}``, or with ``{prompt}``, which stands
            for both in the default format; None is that format, see
            `hf_lorameta.data.prompt.join_instruction`.
        chat: how the base model's chat template gave the template; None if it did not.

    Example:
        >>> Columns(input=["context", "question"], output="answers.text").names()
        ['context', 'question', 'answers.text']
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: str | tuple[str, ...] | None = None
    output: str | tuple[str, ...] | None = None
    instruction: str | None = None
    messages: str | None = None
    choices: str | tuple[str, ...] | None = None
    instruction_text: str | None = None
    template: str | None = None
    chat: ChatMode | None = None

    @field_validator(*_SEVERAL)
    @classmethod
    def _single_name(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        return value[0] if isinstance(value, tuple) and len(value) == 1 else value or None

    @model_serializer(mode="wrap")
    def _as_stored(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is not set; tuples are lists, as in JSON."""
        content = {name: value for name, value in serialize(self).items() if value is not None}
        return {n: list(v) if isinstance(v, tuple) else v for n, v in content.items()}

    @property
    def instruction_of_input(self) -> str | None:
        """The column of an instruction that the input is joined to; a chat has it among its turns.

        Example:
            >>> Columns(instruction="system", messages="turns").instruction_of_input
        """
        return None if self.messages else self.instruction

    @property
    def answer(self) -> str:
        """The column of the answers; empty if there is none, or several.

        Example:
            >>> Columns(input="a", output="b").answer, Columns(input="a").answer
            ('b', '')
        """
        return self.output if isinstance(self.output, str) else ""

    @property
    def languages(self) -> tuple[str, str] | None:
        """The codes of two languages, if the input and the output are named by them.

        Example:
            >>> Columns(input="translation.de", output="translation.en").languages
            ('de', 'en')
            >>> Columns(input="src", output="tgt").languages
        """
        if not isinstance(self.input, str) or not isinstance(self.output, str):
            return None
        (above, _, source), (beside, _, target) = (
            path.rpartition(".") for path in (self.input, self.output)
        )
        named = all(LANGUAGE.fullmatch(code.lower().replace("-", "_")) and (above or len(code) != 3)
                    for code in (source, target))  # fmt: skip
        return (source, target) if named and above == beside else None

    def named(self, role: str) -> tuple[str, ...]:
        """Return the columns of a role."""
        value: str | tuple[str, ...] | None = getattr(self, role)
        return (value,) if isinstance(value, str) else value or ()

    def __str__(self) -> str:
        """Return the columns as the command line states them, which `parse_columns` reads.

        Example:
            >>> str(Columns(input="question", output="answer"))
            'input=question,output=answer'
        """
        order = [role for role in Columns.model_fields if role in ROLES]
        return ",".join(f"{role}={name}" for role in order for name in self.named(role))

    def names(self) -> list[str]:
        """Return the columns to read: instruction, input, choices, output, messages."""
        return [name for role in ROLES for name in self.named(role)]

    def renamed(self, rename: Callable[[str], str]) -> "Columns":
        """Return a copy that reads other columns in the same roles.

        Example:
            >>> str(Columns(input=("a", "b"), output="c").renamed(str.upper))
            'input=A,input=B,output=C'
        """
        names = {role: tuple(map(rename, self.named(role))) for role in ROLES}
        update = {role: n if len(n) > 1 else next(iter(n), None) for role, n in names.items()}
        return self.model_copy(update=update)

    def prompt_of(self, text: str) -> str:
        """Put around an input what all rows share: instruction and template.

        An instruction that differs from row to row has to be part of the input, and so do the turns
        of a chat.

        Example:
            >>> Columns(input="text", instruction_text="Sort.").prompt_of("a")
            'Sort.\\n\\nInput: a\\nOutput:'
        """
        if self.instruction_of_input and PROMPT not in (self.template or ""):
            return text
        return self.prompt(self.instruction_text or "", [(USER, text)])

    def prompt(self, instruction: str, turns: Sequence[Turn]) -> str:
        """Return the prompt of a row: its turns, mostly one, with an instruction, in the template.

        Example:
            >>> turns = [("user", "Why?"), ("assistant", "So."), ("user", "Really?")]
            >>> Columns(messages="turns").prompt("Be brief.", turns)
            'Be brief.\\n\\nInput: Why?\\n\\nSo.\\n\\nReally?\\nOutput:'
        """
        if self.template and PROMPT in self.template:
            form = ChatForm(self.template, self.chat)
            return form.prompt(self.spoken(instruction, turns))
        return join_instruction(instruction, one_text(turns), self.template)

    def spoken(self, instruction: str, turns: Sequence[Turn]) -> list[Turn]:
        """Return the turns that the form of a chat is put around.

        An instruction is a system text or, in a single message, a part of it.
        """
        if self.chat and (self.messages or len(turns) > 1):
            return [(SYSTEM, instruction), *turns] if instruction else list(turns)
        return [(USER, join_instruction(instruction, one_text(turns)))]

    def with_prompt(self, instruction: str | None, template: str | ChatForm | None) -> "Columns":
        """Return a copy with an instruction and a template for every row; None keeps the old one.

        Raises:
            UsageError: the rows have an instruction of their own, or the template does not fit.
        """
        update: dict[str, Any] = {"instruction_text": instruction} if instruction else {}
        if template:
            form = template if isinstance(template, ChatForm) else ChatForm(template, None)
            update |= form._asdict()
        return check_columns(self.model_copy(update=update))


ColumnsLike: TypeAlias = Columns | Mapping[str, Any] | str
"""Columns, their names by role, or the form of the command line."""


def parse_columns(text: str) -> Columns:
    """Parse the command line's form ``input=question,output=answer``.

    ``input``, ``choices`` and ``output`` may be given several times. Only a comma before a role
    and ``=`` separates, so names may hold commas and ``=``.

    Raises:
        UsageError: a part is not of the form role=column, or the roles cannot be combined.

    Example:
        >>> parse_columns("input=Name, first,input=a=b,output=answers.text").names()
        ['Name, first', 'a=b', 'answers.text']
    """
    _check_size(0, len(text))
    start, *parts = _PART.split(text)
    given: dict[str, list[str]] = {}
    for role, name in zip(parts[::2], parts[1::2], strict=True):
        given.setdefault(role, []).append(name)
    twice = [role for role, names in given.items() if len(names) > 1 and role not in _SEVERAL]
    if start.strip() or not parts or twice or not all(map(str.strip, parts)):
        raise UsageError(
            f"columns {text}: expected role=column, roles are {', '.join(sorted(ROLES))}",
            hint=Option("columns", meant) if (meant := _columns_meant(text)) else _EXAMPLE,
        )
    return columns_of(given)


def _columns_meant(text: str) -> str:
    """Return the columns that were probably meant by ``column=role`` or two names; else "".

    Example:
        >>> _columns_meant("text=input,label=output"), _columns_meant("text, label")
        ('input=text,output=label', 'input=text,output=label')
    """
    parts = text.split(",")
    pairs = [part.rpartition("=")[::2] for part in parts]
    if len(parts) == 2 and "=" not in text:
        pairs = list(zip(parts, ("input", "output"), strict=True))
    pairs = [(name.strip(), role.strip()) for name, role in pairs]
    likely = all(name and role in ROLES for name, role in pairs)
    return ",".join(f"{role}={name}" for name, role in pairs) if likely else ""


def columns_of(given: Mapping[str, Sequence[str]]) -> Columns:
    """Return the columns with these roles, of which some belong to one column only.

    Raises:
        UsageError: the roles cannot be combined, or there are too many.

    Example:
        >>> print(columns_of({"input": ["title", "text"], "output": ["label"]}))
        input=title,input=text,output=label
    """
    roles = {role: names if role in _SEVERAL else names[0] for role, names in given.items()}
    return check_columns(Columns.model_validate(roles))


def as_columns(columns: ColumnsLike | None) -> Columns | None:
    """Return `Columns` from names by role, or from the form of the command line.

    Raises:
        UsageError: an unknown role, or roles that cannot be combined.

    Example:
        >>> as_columns({"input": "q", "output": "a"}) == as_columns("input=q,output=a")
        True
    """
    if columns is None or isinstance(columns, Columns):
        return columns
    if isinstance(columns, str):
        return parse_columns(columns)
    try:
        return check_columns(Columns.model_validate(dict(columns)))
    except ValidationError:
        raise UsageError(
            f"columns={dict(columns)!r}: expected names by role, roles are {', '.join(ROLES)}"
        ) from None


def check_columns(columns: Columns) -> Columns:
    """Return the columns; raise `UsageError` if they cannot be combined, or are too many."""
    names = columns.names()
    _check_size(len(names), sum(map(len, names)))
    if len(set(map(str.strip, names))) < len(names):
        raise UsageError(f"columns {columns}: expected each column once", hint=_EXAMPLE)
    texts = columns.input or columns.output or columns.choices
    if bool(columns.messages) == bool(texts):
        got = f"columns {columns}" if names else "no column has a role"
        raise UsageError(
            f"{got}: expected input and output, one of them, or messages; an instruction with "
            "either",
            hint=_EXAMPLE,
        )
    if columns.choices and not (columns.input and columns.answer):
        raise UsageError(
            f"columns {columns}: choices need an input and an output",
            hint=Option("columns", "input=question,choices=choices,output=answer"),
        )
    if columns.instruction_of_input and columns.instruction_text:
        raise UsageError(
            f"a fixed instruction is for rows without one, but column {columns.instruction} has "
            "theirs",
            hint=[Option("instruction", change="leave out"), "read other columns"],
        )
    if columns.template:
        has_instruction = bool(columns.instruction_of_input or columns.instruction_text)
        check_template(columns.template, has_instruction=has_instruction)
    return columns


def all_of(names: Collection[str]) -> str:
    """Return the names of a dataset's columns for a message; of many, the first.

    Example:
        >>> all_of(["a", "b"])
        'a, b'
    """
    shown = ", ".join(map(clipped_name, islice(names, _LISTED)))
    return f"{shown} and {len(names) - _LISTED:,} more" if len(names) > _LISTED else shown


def clipped_name(name: str) -> str:
    """Return the name of a column as a list of names shows it.

    Example:
        >>> clipped_name("text"), len(clipped_name("a" * 1500))
        ('text', 80)
    """
    return name if len(name) <= NAME_CHARACTERS else f"{name[: NAME_CHARACTERS - 1]}…"


def _check_size(names: int, characters: int) -> None:
    """Raise `UsageError` for more columns than anybody names, before they are looked up."""
    if names > MAX_COLUMNS or characters > MAX_CHARACTERS:
        got = f"{names:,} in {characters:,}" if names else f"{characters:,} characters"
        raise UsageError(
            f"expected at most {MAX_COLUMNS} columns in {MAX_CHARACTERS:,} characters, got {got}"
        )


def split_path(path: str, names: Collection[str]) -> tuple[str, tuple[str, ...]] | None:
    """Return the column and the fields in it that a path leads to; None if there is no column.

    A column of that very name comes first, and spaces around a name do not matter.

    Example:
        >>> split_path("answers.text", ["id", "answers"]), split_path("b", ["a"])
        (('answers', ('text',)), None)
        >>> split_path("v1.0", ["v1.0"]), split_path("label", [" label"])
        (('v1.0', ()), (' label', ()))
    """
    steps: tuple[str, ...] = ()
    while True:
        stripped = path.strip()
        same = [path] if path in names else [n for n in names if n.strip() == stripped]
        if same:
            return same[0], steps
        path, dot, last = path.rpartition(".")
        if not dot:
            return None
        steps = (last, *steps)


def require_columns(
    columns: Columns, names: Collection[str], likely: Callable[[], Columns | None]
) -> None:
    """Raise `ColumnsError` if a dataset lacks one of the columns to read.

    Args:
        columns: to read.
        names: of the dataset's columns.
        likely: finds columns to propose where no name is similar to a missing one.
    """
    missing = [name for name in columns.names() if split_path(name, names) is None]
    if missing:
        others = [name for name in islice(names, _LISTED) if name not in columns.names()]
        named: dict[str, str] = {}
        for name in missing:
            [named[name]] = get_close_matches(name, others, 1) or ["COLUMN"]
            others = [other for other in others if other != named[name]]  # has one role
        unknown = "COLUMN" in named.values()
        other = likely() if unknown else None
        meant = other or columns.renamed(lambda name: named.get(name, name))
        option = Option("columns", str(meant))
        all_columns = f"all columns: {all_of(names)}"
        error = ColumnsError(f"no column {', '.join(missing)}; {all_columns}", hint=option)
        error.option = option if other or not unknown else None
        raise error
