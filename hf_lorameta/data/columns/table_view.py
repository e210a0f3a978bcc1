"""What the columns of a dataset hold, judged by names, features and the first rows."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

from hf_lorameta.data.columns import names as known
from hf_lorameta.data.columns.cells import is_whole, texts_in, value_at
from hf_lorameta.data.columns.conversations import (
    conversation_turns,
    is_conversation,
    is_transcript,
)
from hf_lorameta.data.columns.other_languages import in_english
from hf_lorameta.data.sources.table_forms import DATE, are_codes

Kind = Literal["text", "number", "class", "list", "fields", "turns", "other", "empty"]

IDS = {"id", "idx", "index", "uid", "uuid", "guid", "qid", "key", "pid", "hash", "no", "nr", "eid"}
_ABOUT = {
    "url", "link", "date", "timestamp", "time", "created_at", "source", "language", "lang",
    "license", "split", "author", "meta", "metadata", "dataset", "dataset_name", "domain", "subset",
    "filename", "file_name", "path", "file_path", "token_count", "length", "version", "model",
    "dump", "language_score", "level", "difficulty", "subject", "task", "task_name", "locale",
    "annotator", "worker", "user_name", "num_turns", "data_source", "role", "turn", "language_code",
    "answer_start",
}  # fmt: skip
_WITH_SUBJECT = ("body", "message", "email", "mail")
_GOAL = re.compile(r"target|(ref|reference)s?_?[0-9]?")
_DATE_OR_URL = re.compile(rf"{DATE}|https?://\S+|\d{{2}}:\d{{2}}.{{0,6}}")
_NAME = re.compile(r"[^\W\d]+([ -][^\W\d]+){0,2}")
_SEVERAL_WORDS = re.compile(
    r"\s|[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]{6}"
)
"""A space, or as long as some words of a language without spaces, such as Chinese or Thai."""
LEAST_ROWS = 6
"""Fewest rows that show whether a column's values repeat."""
_RATINGS = 3
_SHORT = 60
_NAME_WORDS = 3
_LONG = 40


class TableView:
    """The columns of a dataset.

    Args:
        names: of the columns.
        labels: class names of each column with class labels.
        sample: the first rows; without any, columns are taken to hold text.
    """

    def __init__(
        self,
        names: Sequence[str],
        labels: Mapping[str, object] = {},
        sample: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.names, self.labels, self.sample = list(names), labels, sample

    @cached_property
    def by_key(self) -> dict[str, str]:
        """Column names by their normalized form; of two with the same, the exact one."""
        keys: dict[str, str] = {}
        for name in self.names:
            key = normalized(name)
            if key not in keys or name == key:
                keys[key] = name
        return keys

    def named(self, keys: Iterable[str]) -> list[str]:
        """Return the columns with one of these normalized names, in the order of the keys."""
        return [self.by_key[key] for key in keys if key in self.by_key]

    def values(self, name: str) -> list[Any]:
        """Return the column's values in the sample that are not missing."""
        values = [row.get(name) for row in self.sample]
        return [v for v in values if (v or isinstance(v, (bool, int, float))) and v == v]

    def kind(self, name: str) -> Kind:
        """Return what a column holds."""
        if name in self.labels:
            return "class"
        values = self.values(name)
        if not values:
            return "empty" if self.sample else "text"
        first = values[0]
        if isinstance(first, str):
            return "number" if are_codes(values) else "text"
        if isinstance(first, (bool, int, float)):
            return "number"
        if isinstance(first, Mapping):
            return "fields"
        if isinstance(first, (list, tuple)) and not _is_vector(first):
            return "turns" if is_conversation(first) else "list"
        return "other"

    def is_about(self, name: str) -> bool:
        """Whether a column only describes the row, such as an id, a date or a URL."""
        key = normalized(name)
        if key in IDS or key.endswith(("_id", "_ids")) or key.startswith(("unnamed", "__index_")):
            return True
        texts = [value for value in self.values(name) if isinstance(value, str)]
        if texts and all(map(_DATE_OR_URL.fullmatch, texts)):
            return True
        if key == "subject" and self.named(_WITH_SUBJECT):  # that of an email, not of a question
            return self.repeats(name)
        if key == "source" and any(map(_GOAL.fullmatch, self.by_key)) and self.holds_words(name):
            return self.repeats(name)
        return key in _ABOUT and not (self.mean_length(name) > _LONG and not self.repeats(name))

    @cached_property
    def usable(self) -> list[str]:
        """The columns that could be an input or output."""
        return [
            name for name in self.names
            if not self.is_about(name) and self.kind(name) not in ("empty", "other")
        ]  # fmt: skip

    def is_transcripts(self, name: str) -> bool:
        """Whether a column holds transcripts of conversations."""
        values = self.values(name)
        return bool(values) and all(is_transcript(value) for value in values)

    def has_answers(self, name: str) -> bool:
        """Whether a conversation in a column has an answer to something."""
        found = map(conversation_turns, self.values(name))
        return any(row is not None and row[0] and row[1] for row in found)

    def is_turn(self, name: str) -> bool:
        """Whether a column holds one turn of a conversation, such as an answer, in each row."""
        values = self.values(name) if self.kind(name) == "fields" else []
        return bool(values) and all(is_conversation([value]) for value in values)

    def repeats(self, name: str) -> bool:
        """Whether a column holds few different short values, as labels are."""
        if self.kind(name) == "class":
            return True
        values = self.values(name)
        labels = all(isinstance(v, (str, bool)) or is_whole(v) for v in values)
        return labels and are_labels(list(map(str, values)))

    def is_same(self, name: str) -> bool:
        """Whether a column has the same value in all rows of the sample."""
        values = self.values(name)
        return len(values) >= LEAST_ROWS and all(value == values[0] for value in values)

    def is_filled(self, name: str) -> bool:
        """Whether a column has a value in all rows of the sample."""
        return len(self.values(name)) == len(self.sample)

    def is_placeholder(self, name: str) -> bool:
        """Whether a column has the same word in all rows, such as NO_QUERY or completed."""
        return self.is_same(name) and self.holds_single_words(name)

    def holds_codes(self, name: str) -> bool:
        """Whether a column holds few different whole numbers, which may stand for classes.

        Numbers may be texts, or items of lists.
        """
        cells = (v if isinstance(v, (list, tuple)) else [v] for v in self.values(name))
        values = [item for items in cells for item in items]
        whole = all(map(_is_whole_number, values))
        return whole and name not in self.labels and are_labels(list(map(str, values)))

    def words_of(self, name: str) -> str | None:
        """Return the column that says in words what a column of whole numbers stands for.

        Each number has a word of its own there.

        Example:
            >>> rows = [{"target": i % 2, "label_desc": ["bad", "good"][i % 2]} for i in range(6)]
            >>> TableView(["target", "label_desc"], {}, rows).words_of("target")
            'label_desc'
        """
        if not self.sample or not self._holds_whole_numbers(name):
            return None
        for other in self.names:
            found = known.WORDED.fullmatch(normalized(other))
            stems = {*known.OUTPUTS, *known.WEAK_OUTPUTS, normalized(name)}
            if not found or found[1] not in stems or self.kind(other) != "text":
                continue
            pairs = {(str(row.get(name)), str(row.get(other))) for row in self.sample}
            if len(pairs) == len(dict(pairs)) == len({word for _, word in pairs}):
                return None if self._holds_whole_numbers(other) else other
        return None

    def _holds_whole_numbers(self, name: str) -> bool:
        values = self.values(name)
        return bool(values) and all(map(_is_whole_number, values))

    @property
    def flags(self) -> list[str]:
        """The columns of 0 and 1, or fields of one column, if there are several and they vary."""
        flags = [name for name in self.usable if self.is_flag(name)]
        held = any(1 in self.values(name) and not self.is_same(name) for name in flags)
        if held and len(flags) >= _RATINGS:
            return flags
        return next(filter(None, map(self._flags_in, self.usable)), [])

    def _flags_in(self, name: str) -> list[str]:
        """Return the paths of the fields in a column if each holds 0 or 1, as spaCy's ``cats``.

        Example:
            >>> rows = [{"cats": {"spam": 1.0, "ham": 0.0}}, {"cats": {"spam": 0.0, "ham": 1.0}}]
            >>> TableView(["cats"], {}, rows)._flags_in("cats")
            ['cats.spam', 'cats.ham']
        """
        cells = self.values(name) if self.kind(name) == "fields" else []
        alike = all(isinstance(cell, Mapping) and cell.keys() == cells[0].keys() for cell in cells)
        flags = [list(cell.values()) for cell in cells if alike and len(cell) > 1]
        varied = all(map(are_flags, flags)) and any(values != flags[0] for values in flags)
        return [f"{name}.{key}" for key in cells[0]] if varied else []

    def is_flag(self, name: str) -> bool:
        """Whether a column holds nothing but 0 and 1, or true and false."""
        return name not in self.labels and are_flags(self.values(name))

    @property
    def ratings(self) -> list[str]:
        """The columns that rate a text: stars, or several numbers from 0 to 1."""
        rated = [
            name for name in self.usable
            if all(isinstance(v, (int, float)) and 0 <= v <= 1 for v in self.values(name))
        ]  # fmt: skip
        stars = [name for name in self.named(known.STARS) if name in self.usable]
        return stars or (rated if len(rated) >= _RATINGS else [])

    def holds_words(self, name: str) -> bool:
        """Whether a column holds different texts of several words, not names or codes."""
        texts = (" ".join(texts_in(value)).strip() for value in self.values(name))
        return not self.is_same(name) and any(map(_SEVERAL_WORDS.search, texts))

    def holds_sentences(self, name: str) -> bool:
        """Whether most of a column's different texts have four words or more."""
        texts = {str(value) for value in self.values(name)}
        return 2 * sum(len(text.split()) > _NAME_WORDS for text in texts) > len(texts)

    def holds_names(self, name: str) -> bool:
        """Whether a column holds nothing but names of up to three words, as labels are."""
        values = self.values(name)
        return bool(values) and all(_NAME.fullmatch(str(value).strip()) for value in values)

    def holds_single_texts(self, path: str) -> bool:
        """Whether a path leads to one text in each row, and no lists of them."""
        return all(len(list(texts_in(value_at(row, path)))) < 2 for row in self.sample)

    def holds_single_words(self, name: str) -> bool:
        """Whether all of a column's texts are single words."""
        texts = [str(value).strip() for value in self.values(name)]
        return len(texts) >= LEAST_ROWS and not any(map(_SEVERAL_WORDS.search, texts))

    def has_text(self, name: str) -> bool:
        """Whether a column holds any text, also in lists or fields."""
        return any(texts_in(self.values(name)))

    def mean_length(self, name: str) -> float:
        """Return the mean number of characters of a column's values in the sample."""
        lengths = [len(str(value)) for value in self.values(name)]
        return sum(lengths) / max(len(lengths), 1)

    def text_field(self, name: str, like: Sequence[str] = ()) -> str:
        """Return the path of a column's text: of several fields, that with the longest texts.

        One that ends the paths of other columns, `like` which it is to be read, comes first.

        Example:
            >>> rows = [{"answers": {"answer_start": [3], "text": ["a"]}}]
            >>> TableView(["answers"], {}, rows).text_field("answers")
            'answers.text'
        """
        values = self.values(name)
        cells = (value if isinstance(value, (list, tuple)) else [value] for value in values)
        values = [item for items in cells for item in items if isinstance(item, Mapping)]
        if self.kind(name) not in ("fields", "list") or not values:
            return name
        lengths = {
            key: sum(len(text) for fields in values for text in texts_in(fields.get(key)))
            for key in values[0]
            if not any(_mixes_kinds(fields.get(key)) for fields in values)
        }
        same = {path.partition(".")[2] for path in like}
        best = max(
            lengths,
            key=lambda key: (
                key in same,
                key in ("text", "value"),
                key == "name" and self.kind(name) == "list" and normalized(name) in known.LABELS,
                not (key in IDS or key.endswith("_id")),
                all(_is_text(fields.get(key)) for fields in values),
                lengths[key],
            ),
            default="",
        )
        return f"{name}.{best}" if lengths.get(best) else name

    def numbered_fields(self, name: str) -> list[str]:
        """Return the paths of two texts in a column that are told apart by 1 and 2, such as spans.

        Example:
            >>> rows = [{"target": {"span2_text": "it", "span1_text": "Ann", "span1_index": 0}}]
            >>> TableView(["target"], {}, rows).numbered_fields("target")
            ['target.span1_text', 'target.span2_text']
        """
        fields = next(iter(self.values(name)), None) if self.kind(name) == "fields" else None
        texts = [key for key, text in (fields or {}).items() if isinstance(text, str)]
        pairs = ((key, key.replace("1", "2")) for key in texts if "1" in key)
        return [f"{name}.{key}" for pair in pairs if pair[1] in texts for key in pair]

    def is_by_language(self, name: str) -> bool:
        """Whether a column holds the same text in several languages, in fields or a list of them.

        Example:
            >>> rows = [{"name": [{"language": "en", "x": "a"}, {"language": "de", "x": "b"}]}]
            >>> TableView(["name"], {}, rows).is_by_language("name")
            True
        """
        first = next(iter(self.values(name)), None) if self.kind(name) in ("fields", "list") else ()
        codes = set(map(str, first)) if isinstance(first, Mapping) else set()
        if isinstance(first, (list, tuple)):
            codes = {str(item.get("language")) for item in first if isinstance(item, Mapping)}
        return len(codes) > 1 and all(map(known.LANGUAGE.fullmatch, codes))

    def is_within(self, name: str, others: Sequence[str]) -> bool:
        """Whether all texts of a column also appear in the other columns of their row."""
        rows = [row for row in self.sample if row.get(name)]
        return bool(rows) and all(
            str(row[name]).strip() in " ".join(texts_in([row.get(other) for other in others]))
            for row in rows
        )

    def is_rendered(self, name: str, others: Sequence[str]) -> bool:
        """Whether a column's texts contain those of the others, as rendered prompts do."""
        return all(self.is_within(other, [name]) for other in others if self.values(other))


def are_flags(values: Sequence[Any]) -> bool:
    """Whether values are nothing but 0 and 1, or true and false.

    Example:
        >>> are_flags([0, 1.0, True]), are_flags([0, 2]), are_flags([])
        (True, False, False)
    """
    return bool(values) and all(value in (0, 1) for value in values)


def are_labels(texts: Sequence[str]) -> bool:
    """Whether texts are few different short ones, whatever their case and surrounding space.

    Example:
        >>> are_labels(["Yes", "yes ", "no"] * 2), are_labels(["yes", "no", "perhaps"])
        (True, False)
    """
    different = {text.strip().casefold() for text in texts}
    few = len(texts) >= LEAST_ROWS and 1 < len(different) <= len(texts) / 2
    return few and all(len(text) <= _SHORT for text in different)


def are_numbered(names: Sequence[str]) -> bool:
    """Whether columns are called like several right outputs, such as ``ref1`` and ``ref2``.

    Example:
        >>> are_numbered(["ref1", "ref2"]), are_numbered(["ref1", "summary2"]), are_numbered(["a1"])
        (True, False, False)
    """
    keys = list(map(normalized, names))
    return (
        all(map(known.NUMBERED.fullmatch, keys))
        and len({key.rstrip("0123456789") for key in keys}) == 1
    )


def normalized(name: str) -> str:
    """Return a column's name as it is compared with known ones.

    Example:
        >>> [normalized(name) for name in (" Review Text", "answerKey", "Input.text", "question-1")]
        ['review_text', 'answer_key', 'input_text', 'question_1']
        >>> normalized("Pregunta"), normalized("답변"), normalized("pairs[].Answer")
        ('question', 'answer', 'answer')
    """
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.rpartition("[].")[2].strip())
    return in_english(re.sub(r"[\s\-.]+", "_", name).lower())


def _is_whole_number(value: object) -> bool:
    """Whether a cell is a whole number, which may be a text."""
    return value.strip().isdecimal() if isinstance(value, str) else is_whole(value)


def _is_text(value: object) -> bool:
    """Whether a value is a text, missing, or a list of such."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_text, value))
    return value is None or isinstance(value, str)


def _mixes_kinds(value: object) -> bool:
    """Whether a list, or one within it, holds texts beside numbers, as the parts of a parse do."""
    if not isinstance(value, (list, tuple)):
        return False
    kinds = {isinstance(item, str) for item in value if isinstance(item, (str, int, float))}
    return len(kinds) > 1 or any(map(_mixes_kinds, value))


def _is_vector(value: object) -> bool:
    """Whether a cell is a list of fractions, such as an embedding, or a list of such lists."""
    if not isinstance(value, (list, tuple)):
        return isinstance(value, float)
    return bool(value) and all(map(_is_vector, value))
