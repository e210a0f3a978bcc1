"""Convert the rows of a dataset to (input, output) pairs of text."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

from hf_lorameta.data.chat_form import SYSTEM, USER, Turn
from hf_lorameta.data.columns.cells import (
    as_texts,
    cell_text,
    is_alternatives,
    is_tokens,
    is_whole,
    value_at,
)
from hf_lorameta.data.columns.choices import Choices, show_choices
from hf_lorameta.data.columns.columns import Columns, split_path
from hf_lorameta.data.columns.conversations import (
    conversation_sides,
    conversation_text,
    conversation_turns,
    is_conversation,
    unknown_roles,
)
from hf_lorameta.data.columns.labels import NONE, Form, Labels, separator
from hf_lorameta.data.columns.names import JUDGED, JUDGMENTS, REFUSED, VERDICTS
from hf_lorameta.data.columns.table_view import TableView, are_flags, are_numbered
from hf_lorameta.data.sources.raw_dataset import RawDataset
from hf_lorameta.data.sources.reading_errors import refusing_deep_rows
from hf_lorameta.data.sources.reading_limits import cut
from hf_lorameta.errors import ColumnsError, Option, UsageError
from hf_lorameta.types import Output, Row, right_outputs

_MOST_RIGHT, _LONG = 20, 10_000
"""How many right outputs of a row are kept, and characters of each, at most."""
_NAME = re.compile(r"[^\W\d_]{2}")
_END = re.compile(
    r"(\s*(<\|(endoftext|im_end|eot_id|end_of_text|end|eot)\|>|</s>|<eos>|<EOS>|<end_of_turn>))+\s*$"
)
"""Tokens that end a text for some tokenizers; for others they are words to be learned."""
_UNKNOWN, _DASH = -1, "-"
"""The label of rows that have none, in datasets with labels from 0 to 2 or more, or with names."""


def read_rows(raw: RawDataset, columns: Columns) -> Iterator[Row]:
    """Yield the (input, output) pair of each row, with long texts cut.

    Numbers and booleans become text, class labels their names, and a missing value the empty
    string. Floats are written as integers in a column whose first rows hold whole numbers only, as
    a column of integers with a missing one is read from a CSV file. Lists are joined, but of a list
    of answers the first is read. Several inputs are labeled by the names of their columns. Of a
    conversation, the last answer is the output and all turns before it are the input. Tokens that
    end an output are left out, and so are rows that a column marks as bad.
    """
    reader = RowReader(raw, columns)
    with refusing_deep_rows():
        for row in raw.rows():
            if not reader.is_bad(row):
                prompt, output = reader.read(row)
                yield cut(prompt), cut(output)


class RowReader:
    """Converts rows of a dataset.

    Args:
        raw: the dataset; its first rows show how numbered answers count, which floats are integers,
            and which column says whether an answer is good.
        columns: what to read.

    Attributes:
        columns: what is read.
        verdict: the column that says whether a row's answer is good, as in KTO, if there is one.
        unknown: the label of rows that have none, if any.
    """

    def __init__(self, raw: RawDataset, columns: Columns) -> None:
        self.columns, self._classes, self._sample = columns, raw.labels, raw.sample
        table = TableView(raw.columns, raw.labels, raw.sample)
        found = {path: [value_at(row, path) for row in raw.sample] for path in columns.names()}
        self._whole = {
            path for path, values in found.items()
            if all(is_whole(v) for v in values if isinstance(v, float) and v == v)
        }  # fmt: skip
        self._choices: Choices | None = None
        path, named = columns.answer, columns.named("output")
        several = len(named) > 1
        self._alternatives = named if several and are_numbered(named) else ()
        self._flags = _flag_names(named, table) if several and not self._alternatives else {}
        given = ([v for v in found[name] if v is not None] for name in self._flags)
        if not (self._flags.keys().isdisjoint(raw.labels) and all(map(are_flags, given))):
            raise UsageError(
                f"several outputs are given, {' and '.join(named)}, and not all hold 0 and 1, or "
                "are called like ref1 and ref2",
                hint=Option("columns", str(columns.model_copy(update={"output": named[0]}))),
            )
        self._path = path = next(iter(self._alternatives), path)
        if columns.choices and path:
            self._choices = Choices(
                columns.named("choices"), path, self._names_of(path), raw.sample
            )
        numbers = {value for value in found.get(path, ()) if is_whole(value)}
        ordered = min(numbers, default=0) >= _UNKNOWN and max(numbers, default=0) > 1
        words = {value for value in found.get(path, ()) if isinstance(value, str)} - {_DASH}
        are_names = table.repeats(path) and bool(words) and all(map(_NAME.search, words))
        self.unknown: int | str | None = _DASH if are_names else None
        if numbers == {_UNKNOWN} or ordered:
            self.unknown = _UNKNOWN
        others = [name for name in table.named(VERDICTS) if name not in columns.names()]
        flags = (n for n in others if all(isinstance(v, bool) for v in table.values(n)))
        flags = (name for name in flags if table.kind(name) == "number")
        self.verdict = None if table.repeats(path) else next(flags, None)
        judged = (n for n in table.named(JUDGMENTS) if n not in columns.names())
        judged = (n for n in judged if (said := table.values(n)) and all(v in JUDGED for v in said))
        self.verdict = self.verdict or next(judged, None)

    @cached_property
    def _separator(self) -> str | None:
        """What separates several labels in an output; None if it is one text."""
        path = self._path
        if self._flags:
            return ""
        if not path or self._alternatives or self._choices or self._is_tagged:
            return None
        cells = [self._output_value(row, path) for row in self._sample]
        listed = any(isinstance(cell, (list, tuple)) for cell in cells)
        if listed and (is_alternatives(path) or self._names_of(path)):
            return "" if self._names_of(path) else None
        return separator(cells)

    @cached_property
    def labels(self) -> Labels:
        """The labels of the outputs, if they are labels."""
        cells = [self._labels_in(row) for row in self._sample] if self.columns.output else []
        return Labels([] if self._choices else cells, self.classes)

    @property
    def classes(self) -> tuple[str, ...]:
        """All labels, if their names are stated."""
        return tuple(self._flags.values() or self._names_of(self._path))

    @cached_property
    def _is_tagged(self) -> bool:
        """Whether outputs have a tag for each word of an input."""
        path = self._path
        return bool(path) and any(self._is_aligned(r, value_at(r, path)) for r in self._sample)

    @property
    def form(self) -> Form:
        """What outputs are."""
        if self._is_tagged:
            return "tags"
        return "several" if self._separator is not None and self.labels.several else "one"

    def unread_outputs(self) -> str:
        """Return why no output of the sample is read, although there may be some; empty if not."""
        columns = self.columns
        if columns.messages:
            _, roles = unknown_roles([value_at(row, columns.messages) for row in self._sample])
            return f"none of the roles {', '.join(sorted(roles))} is assistant" if roles else ""
        held = any(value_at(row, self._path) not in (None, "") for row in self._sample)
        return f"{self._path} names none of the choices" if self._choices and held else ""

    def is_bad(self, row: Mapping[str, Any]) -> bool:
        """Whether a row is an example of what a model should not answer."""
        return self.verdict is not None and row.get(self.verdict) in REFUSED

    def is_unknown(self, row: Mapping[str, Any]) -> bool:
        """Whether the label of a row is the number or the dash for no label, as in SNLI."""
        return self.unknown is not None and value_at(row, self._path) == self.unknown

    def read(self, row: Mapping[str, Any]) -> Row:
        """Return a row as text; both are empty if it should hold a conversation and does not."""
        columns = self.columns
        try:
            parts = self._parts(row)
        except ColumnsError as error:
            if error.field:
                path, field = error.field
                error.columns = columns.renamed(lambda name: field if name == path else name)
                error.advise(Option("columns", str(error.columns)))
            raise
        if parts is None:
            return "", ""
        instruction, turns, output = parts
        prompt = columns.prompt(instruction or columns.instruction_text or "", turns)
        return prompt, without_end_tokens(output)

    def _parts(self, row: Mapping[str, Any]) -> tuple[str, list[Turn], str] | None:
        """Return a row's own instruction, input as turns and output; None without its conversation.

        An input is one turn, unless it is a conversation.
        """
        columns = self.columns
        stated = self._stated(row) if columns.instruction else ""
        if not columns.messages:
            value = value_at(row, columns.input) if isinstance(columns.input, str) else None
            if isinstance(value, (list, tuple)) and is_conversation(value) and not columns.choices:
                return stated, conversation_sides(value), self._output(row)
            return stated, [(USER, self._input(row))], self._output(row)
        found = conversation_turns(value_at(row, columns.messages))
        return found and ("", [*([(SYSTEM, stated)] if stated else []), *found[0]], found[1])

    def _stated(self, row: Mapping[str, Any]) -> str:
        """Return a row's own instruction, such as the tools that its answer may call."""
        path = self.columns.instruction or ""
        value = value_at(row, path)
        if isinstance(value, (list, tuple)) and all(isinstance(item, Mapping) for item in value):
            return json.dumps(value, ensure_ascii=False, default=str) if value else ""
        return self._text(row, path)

    def has_input(self, row: Mapping[str, Any]) -> bool:
        """Whether a row says anything apart from its output and what all rows share."""
        parts = self._parts(row)
        return bool(parts and (parts[0].strip() or any(text.strip() for _, text in parts[1])))

    def ends_in_token(self, row: Mapping[str, Any]) -> bool:
        """Whether the output of a row ends in a token such as ``<|endoftext|>``."""
        parts = self._parts(row)
        return parts is not None and without_end_tokens(parts[2]) != parts[2]

    def choices(self, row: Mapping[str, Any]) -> list[str]:
        """Return the choices of a row; none if the columns have none."""
        return self._choices.texts(row) if self._choices else []

    def other_outputs(self, row: Mapping[str, Any]) -> list[str]:
        """Return the outputs of a row that are as right as the one that is read."""
        others = list(self._right_texts(row))[1:]
        return [text for text in others if len(text) <= _LONG]

    def _right_texts(self, row: Mapping[str, Any]) -> dict[str, None]:
        """Return the different right outputs of a row that has several; of others, none."""
        path, values = self._path, []
        if self._alternatives:
            values = [self._text(row, name) for name in self._alternatives]
        elif path and is_alternatives(path) and self._separator is None and not self._choices:
            value = self._output_value(row, path)
            value = value.get("text") if isinstance(value, Mapping) else value
            listed = value if isinstance(value, (list, tuple)) else ()
            if not (is_conversation(value) or self._names_of(path) or self._is_aligned(row, value)):
                single = (v for v in listed if isinstance(v, (str, int, float)))
                values = [cell_text(v, path) for v in islice(single, _MOST_RIGHT)]
        return dict.fromkeys(filter(str.strip, values))

    def _input(self, row: Mapping[str, Any]) -> str:
        names = self.columns.named("input")
        prompt = join_inputs(names, [self._text(row, name) for name in names])
        if self._choices:
            prompt = f"{prompt}\n{show_choices(self._choices.texts(row))}"
        return prompt

    def _output(self, row: Mapping[str, Any]) -> str:
        found = self._labels_in(row)
        if self._separator is None:
            others = self.other_outputs(row)
            spelled = self.labels.spelled(found[0])
            return Output(spelled, others) if others else spelled
        names = tuple(self._flags) or (self._path,)
        stated = any(value_at(row, name) not in (None, "") for name in names)
        return self.labels.joined([label for label in found if label]) or (NONE if stated else "")

    def _labels_in(self, row: Mapping[str, Any]) -> list[str]:
        """Return the labels of a row, or its output, as they are spelled there."""
        path = self._path
        if not path:
            return [name for path, name in self._flags.items() if value_at(row, path) == 1] or [""]
        if self._choices:
            return [self._choices.right(row)]
        if self._alternatives:
            return [next(iter(self._right_texts(row)), "")]
        value, names = self._output_value(row, path), self._names_of(path)
        if self.is_unknown(row):
            return [""]
        if is_conversation(value):
            return [conversation_text(value[-1:])]
        if self._separator is not None and isinstance(value, (list, tuple)):
            return [cell_text(item, path, names) for item in value]
        first = is_alternatives(path) and not names
        between = " " if self._is_aligned(row, value) else ""
        text = cell_text(value, path, names, first=first, separator=between)
        if self._separator is None:
            return [text]
        return [label.strip() for label in text.split(self._separator or None)]

    def _output_value(self, row: Mapping[str, Any], path: str) -> Any:
        """Return the value of an output; several, as ``solutions``, may be a list in JSON."""
        value, name = self._value(row, path), path.removesuffix(".*")
        return as_texts(value) if is_alternatives(name) and name.lower().endswith("s") else value

    def _is_aligned(self, row: Mapping[str, Any], value: Any) -> bool:
        """Whether a list has one word for each item of an input."""
        if not isinstance(value, (list, tuple)) or any(" " in str(item) for item in value):
            return False
        inputs = [value_at(row, name) for name in self.columns.named("input")]
        return any(
            isinstance(items, (list, tuple)) and len(items) == len(value) for items in inputs
        )

    def _value(self, row: Mapping[str, Any], path: str) -> Any:
        value = value_at(row, path)
        return int(value) if path in self._whole and is_whole(value) else value

    def _text(self, row: Mapping[str, Any], path: str) -> str:
        value = self._value(row, path)
        if isinstance(value, (list, tuple)) and is_conversation(value):
            return conversation_text(value)
        separator = ""
        if isinstance(value, (list, tuple)):
            separator = " " if is_tokens(value) else "\n"
        return cell_text(value, path, self._names_of(path), separator=separator)

    def _names_of(self, path: str) -> Sequence[str]:
        found = split_path(path, list(self._classes))
        return self._classes[found[0]] if found and set(found[1]) <= {"*"} else ()


def without_end_tokens(output: str) -> str:
    """Return an output, and others that are as right, without tokens that end a text.

    A struck text in HTML, which ``</s>`` ends as well, stays as it is.

    Example:
        >>> without_end_tokens("yes <|endoftext|>"), without_end_tokens("<s> yes </s></s>")
        ('yes', 'yes')
        >>> without_end_tokens("a <s>bad</s>"), without_end_tokens("no")
        ('a <s>bad</s>', 'no')
    """
    first, *others = map(_without_end, right_outputs(output))
    return Output(first, others) if others else first


def _without_end(text: str) -> str:
    inside = text.removeprefix("<s>").lstrip() if text.startswith("<s>") else text
    end = _END.search(inside)
    return inside[: end.start()] if end and "<s>" not in inside else text


def _flag_names(paths: Sequence[str], table: TableView) -> dict[str, str]:
    """Return the labels that columns of 0 and 1 stand for; of fields of one column, their names.

    Example:
        >>> _flag_names(["cats.spam", "cats.ham"], TableView(["cats"]))
        {'cats.spam': 'spam', 'cats.ham': 'ham'}
    """
    parts = [path.rpartition(".") for path in paths]
    inside = len({above for above, *_ in parts}) == 1 and set(table.names).isdisjoint(paths)
    return {path: last if inside else path for path, (*_, last) in zip(paths, parts, strict=True)}


def join_inputs(names: Sequence[str], texts: Sequence[str]) -> str:
    """Join the inputs of a row; if there are several columns, texts are labeled by their names.

    Example:
        >>> join_inputs(["question"], ["Why?"]), join_inputs(["text", "question"], ["So.", "Why?"])
        ('Why?', 'Text: So.\\nQuestion: Why?')
    """
    if len(names) == 1:
        return texts[0]
    shown = zip(_titles(names), texts, strict=True)
    return "\n".join(f"{title}: {text}" for title, text in shown if text)


def _titles(paths: Sequence[str]) -> list[str]:
    """Return names of columns, or of fields of the same column, as labels in the prompt.

    Example:
        >>> _titles(["context.text", "question_title"]), _titles(["pair.first", "pair.second"])
        (['Context', 'Question title'], ['First', 'Second'])
    """
    columns = [path.rpartition("[].")[2].partition(".")[0] for path in paths]
    if len(set(columns)) < len(paths):
        columns = [path.rpartition(".")[2] for path in paths]
    words = [name.replace("_", " ").strip() for name in columns]
    return [word[:1].upper() + word[1:] for word in words]
