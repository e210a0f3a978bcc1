"""Rows that are one word each, as in tables of tagged texts, become rows of sentences."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import groupby, islice
from typing import Any

from hf_lorameta.data.columns import names as known
from hf_lorameta.data.columns.table_view import TableView
from hf_lorameta.data.sources.raw_dataset import SAMPLE_ROWS, RawDataset

READ_AS = ["tokens", "tags"]


def in_sentences(raw: RawDataset) -> RawDataset:
    """Return a dataset of sentences with `READ_AS` as columns if each row is a tagged word.

    The rows of a sentence follow each other; all have its number, or only the first has it.
    """
    table = TableView(raw.columns, raw.labels, raw.sample)
    named = (table.named(keys) for keys in (known.SENTENCES, known.WORDS, known.WORD_TAGS))
    number, word, tag = (next(iter(names), "") for names in named)
    sentences = partial(_sentences, number=number, word=word, tag=tag)
    if not (number and tag and table.holds_single_words(word)):
        return raw
    if table.is_within(word, [number]):  # which is a sentence, and has a row for some of its words
        return raw
    if 2 * len(list(sentences(lambda: raw.sample))) > len(raw.sample):
        return raw
    note = f"Each row is a word: those with the same {number} are read as one sentence"
    unread = [n for n in table.usable if n not in (number, word, tag)]
    note += f", without {', '.join(unread)}." if unread else "."
    return replace(
        raw,
        columns=READ_AS,
        labels={"tags": raw.labels[tag]} if tag in raw.labels else {},
        rows=partial(sentences, raw.rows),
        whole=partial(sentences, raw.whole),
        sample=tuple(islice(sentences(raw.rows), SAMPLE_ROWS)),
        notes=(*raw.notes, note),
        total=None,
    )


def _sentences(
    read: Callable[[], Iterable[Mapping[str, Any]]], number: str, word: str, tag: str
) -> Iterator[dict[str, Any]]:
    current: Any = None

    def sentence_of(row: Mapping[str, Any]) -> Any:
        nonlocal current
        current = current if row.get(number) in (None, "") else row[number]
        return current

    for _, group in groupby(read(), key=sentence_of):
        words = list(group)
        yield {
            "tokens": [str(row.get(word) or "") for row in words],
            "tags": [row.get(tag) for row in words],
        }
