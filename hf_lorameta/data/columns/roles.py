"""Find the output columns, and the input columns of an output; guess if that is unclear."""

import re
from collections.abc import Callable, Sequence
from itertools import combinations

from hf_lorameta.data.columns import names as known
from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.data.columns.labels import separator
from hf_lorameta.data.columns.table_view import LEAST_ROWS, TableView, are_numbered, normalized

_FACTS = {"age", "gender", "accent", "accents", "segment", "variant", "up_votes", "down_votes"}
"""Facts about a speaker or a recording, by which texts are rarely classified."""
_CHOICE = re.compile(r"\(?[A-H][.)]")
_ANSWER = re.compile(r"(?<!incorrect)(?<!wrong)(?:^|_)(?:answer|solution)s?(?:_|$)")


def is_output(table: TableView, name: str) -> bool:
    """Whether a column that is named like an output holds text, and no spans of a text."""
    first = next(iter(table.values(name)), None)
    if isinstance(first, (list, tuple)) and first and isinstance(first[0], (list, tuple)):
        return False
    if table.kind(name) != "fields":
        return True
    return table.text_field(name) != name and not table.numbered_fields(name)


def output_columns(table: TableView) -> list[str]:
    """Return the columns that may be outputs, by the first of `OUTPUT_RULES` that applies."""
    return next((found for rule in OUTPUT_RULES if (found := rule(table)) is not None), [])


def _usable(table: TableView) -> list[str]:
    return [n for n in table.usable if table.kind(n) != "turns"]


def _texts(table: TableView) -> list[str]:
    return [n for n in table.usable if table.kind(n) in ("text", "list")]


def _longest(table: TableView) -> str:
    return max(_usable(table), key=table.mean_length, default="")


def _preferred(table: TableView) -> list[str] | None:
    preferred = preferred_text(table)
    return [preferred] if preferred else None


def _answers_to_questions(table: TableView) -> list[str] | None:
    if table.named(("answer", "answers", "solution", "solutions")):
        return None
    found = [n for n in _texts(table) if _ANSWER.search(normalized(n)) and not table.repeats(n)]
    return found if found and table.named(known.QUESTIONS) else None


def _named_outputs(table: TableView) -> list[str] | None:
    usable, longest = _usable(table), _longest(table)
    outputs = [n for n in table.named(known.OUTPUTS) if n in usable and is_output(table, n)]
    outputs = [n for n in outputs if n != longest or n not in table.named(known.CONTEXTS)]
    outputs += [n for n in usable if table.kind(n) == "class" and n not in outputs]
    outputs = list(dict.fromkeys(table.words_of(n) or n for n in outputs))
    for short, spelled in combinations(outputs[::-1], 2):
        if normalized(spelled) in (f"{normalized(short)}_text", f"{normalized(short)}_name"):
            outputs = [n for n in outputs if n != short]
    # one label in all rows of the sample: the dataset may be in the order of its labels
    likely = [n for n in outputs if not table.is_same(n) or normalized(n) in known.LABELS
              or table.is_placeholder(n)]  # fmt: skip
    outputs = likely or _labels(table) or outputs
    code = [n for n in table.named(known.CODE) if n in _texts(table)]
    if code and outputs == table.named(("intent",)) and not any(map(table.repeats, outputs)):
        return code[:1]  # an intent is what the code is to do
    return outputs or None


def _first_of_numbered(table: TableView) -> list[str] | None:
    return numbered_outputs(table)[:1] or None


def _code(table: TableView) -> list[str] | None:
    texts = _texts(table)
    code = table.named((*known.CODE, "query")[: None if "question" in table.by_key else -1])
    held = [n for n in code if (n in texts and len(texts) > 1) or table.text_field(n) != n]
    return sorted(held, key=lambda n: n not in texts)[:1] if held and texts != held else None


def _any_answers(table: TableView) -> list[str] | None:
    answers = [n for n in _usable(table) if _ANSWER.search(normalized(n))]
    return answers if answers and table.named(known.QUESTIONS) else None


def _labels(table: TableView) -> list[str] | None:
    usable = _usable(table)
    labels = [n for n in usable if normalized(n).endswith(known.LABEL_ENDINGS)]
    if any(map(table.repeats, usable)):  # others tell the rows apart
        labels = [n for n in labels if not table.is_same(n)]
    return labels + (_weak(table) or []) if labels else None


def _none_of_a_corpus(table: TableView) -> list[str] | None:
    """A corpus with facts about each text has no outputs."""
    return [] if "text" in table.by_key and len(_usable(table)) > 2 else None


def _flag(table: TableView) -> list[str] | None:
    flags = [n for n in _usable(table) if normalized(n).startswith("is_")]
    return flags if len(flags) == 1 and table.repeats(flags[0]) else None


def _undamaged(table: TableView) -> list[str] | None:
    usable = _usable(table)
    damaged = [n for n in usable if known.DAMAGED.fullmatch(normalized(n))]
    if len(damaged) == 1 and len(usable) == len(_texts(table)) == 2:
        return [n for n in usable if n not in damaged]
    return None


def _weak(table: TableView) -> list[str] | None:
    usable, longest = _usable(table), _longest(table)
    weak = [n for n in table.named(known.WEAK_OUTPUTS) if n in usable]
    return [n for n in weak if n != longest or n not in table.named(known.TITLES)] or None


def _other_than_inputs(table: TableView) -> list[str] | None:
    """The column beside one text or two that are compared, if it repeats or has names."""
    usable, texts = _usable(table), _texts(table)
    if len(table.sample) < LEAST_ROWS and len(usable) == 2 and "text" in table.by_key:
        inputs = table.named((*known.TEXTS, *known.TITLES, *known.INPUTS))
        return [n for n in texts if n not in inputs and table.holds_names(n)]
    repeated = [n for n in usable if table.repeats(n) and n not in table.named(known.TEXTS)]
    pair = compared_pair([n for n in texts if n not in repeated])
    return repeated if len(usable) == 2 or (pair and len(usable) == 3) else None


OUTPUT_RULES: tuple[Callable[[TableView], list[str] | None], ...] = (
    _preferred,
    _answers_to_questions,
    _named_outputs,
    _first_of_numbered,
    _code,
    _any_answers,
    _labels,
    _none_of_a_corpus,
    _flag,
    _undamaged,
    _weak,
    _other_than_inputs,
)
"""Rules in order; one that does not apply returns None."""


def numbered_outputs(table: TableView) -> list[str]:
    """Return the columns of several right outputs, such as ``ref1`` and ``ref2``."""
    texts = [n for n in table.usable if table.kind(n) in ("text", "list")]
    found = [n for n in texts if known.NUMBERED.fullmatch(normalized(n)) and table.holds_words(n)]
    return sorted(found) if 1 < len(found) < len(texts) and are_numbered(found) else []


def preferred_text(table: TableView) -> str | None:
    """Return the column of chosen answers, if others have the prompts and rejected answers."""
    pair = table.named(("chosen", "rejected"))
    if len(pair) < 2 or not table.named((*known.INPUTS, "query")):
        return None
    return pair[0] if table.kind(pair[0]) == "text" else None


def input_columns(table: TableView, outputs: set[str]) -> list[str]:
    """Return the columns that are read as the input of an output, in reading order."""
    texts = [
        n for n in table.usable
        if n not in outputs and table.kind(n) in ("text", "list")
        and (table.has_text(n) or not table.sample)  # not numbers of tokens
        and not known.NOT_MEANT.fullmatch(normalized(n)) and n not in table.named(known.SYSTEM)
    ]  # fmt: skip
    asking = table.named((*known.CONTEXTS, *known.QUESTIONS))
    nested = [n for n in (*asking, *table.named(("premise",))) if table.kind(n) == "fields"]
    texts += [n for n in nested if n not in outputs]
    spans = [path for n in table.usable for path in table.numbered_fields(n)]
    texts = [n for n in texts if not _is_fact(table, n)]
    if len(texts) == 1:
        return [*texts, *spans]
    pair = compared_pair(texts)
    if pair and not any(table.is_within(pair[0], [n]) for n in texts if n not in pair):
        others = [n for n in texts if n not in pair and not table.is_same(n)]
        before = [n for n in asking if n in others]
        return [table.text_field(n) for n in (*before, *pair)]
    texts = [n for n in texts if n in asking or not (table.repeats(n) or table.is_same(n))]
    texts = [n for n in texts if not table.is_placeholder(n)] or texts
    questions = [n for n in table.named(known.QUESTIONS) if n in texts][:1]
    contexts = [n for n in table.named(known.CONTEXTS) if n in texts]
    if questions and contexts:
        return [table.text_field(n) for n in (*contexts, *questions)]
    titles = [n for n in table.named(known.TITLES) if n in texts]
    main = [n for n in table.named((*known.TEXTS, *known.CONTEXTS)) if n in texts]
    main = list(dict.fromkeys([*main, *questions]))
    main = [n for n in main if normalized(n) not in ("user", "human")] or main
    if len(main) == 1 and titles and all(table.repeats(n) for n in outputs):
        return [*titles[:1], *main]
    return main


def _is_fact(table: TableView, name: str) -> bool:
    """Whether a column has the same word in all rows, such as completed, and no name of a text."""
    return table.is_placeholder(name) and normalized(name) not in (*known.TEXTS, *known.INPUTS)


def compared_pair(texts: Sequence[str]) -> list[str] | None:
    """Return two texts that are compared, such as premise and hypothesis, or sentence1 and 2."""
    keys = {normalized(name): name for name in texts}
    keys = {k: n for k, n in keys.items() if k[:-1].rstrip("_") not in known.WEAK_OUTPUTS}
    for first, second in known.PAIRS:
        if first in keys and second in keys:
            return [keys[first], keys[second]]
    for key, name in keys.items():
        other = re.sub(r"(^|_|#)1(?=_)", r"\g<1>2", key)
        if other != key and other in keys:
            return [name, keys[other]]
        if re.search(r"(?:[a-z]{3,}|_|^s)[1a]$", key):
            *others, second = (key[:-1] + end for end in ("032" if key[-1] == "1" else "cb"))
            if second in keys and keys.keys().isdisjoint(others):
                return [name, keys[second]]
    return None


def is_sure(table: TableView, inputs: Sequence[str], output: str) -> bool:
    """Whether these inputs are the only sensible ones for the output."""
    columns = [name.partition(".")[0] for name in inputs]
    listed = (path for path in inputs if normalized(path.partition(".")[0]) == "questions")
    if "questions" in table.by_key and not any(map(table.holds_single_texts, listed)):
        return False
    if any(map(table.is_by_language, (*columns, output))):
        return False
    if len(inputs) == 1:
        return True
    keys = list(map(normalized, columns))
    questions = set(keys) & set(known.QUESTIONS) - {"input", "prompt"}
    asked = bool(questions) and not set(keys).isdisjoint((*known.CONTEXTS, *known.TEXTS))
    titled = keys[0] in known.TITLES and len(keys) == 2
    return asked or titled or compared_pair(columns) is not None


# --- proposals if that is not clear ------------------------------------------------------------


def guess_columns(table: TableView) -> Columns | None:
    """Guess columns: outputs repeat or have a usual name, and the longest text is the input.

    Returns:
        None if no column holds text.
    """
    if lettered := _lettered(table):
        return lettered
    few = 0 < len(table.sample) < LEAST_ROWS
    usable = [n for n in table.usable if normalized(n) not in _FACTS]
    texts = [n for n in usable if table.kind(n) in ("text", "list", "turns")]
    if all(map(table.repeats, texts)):
        texts += [n for n in table.usable if table.text_field(n) != n]
    texts = [n for n in texts if not known.NOT_MEANT.fullmatch(normalized(n))] or texts
    texts = [n for n in texts if few or table.holds_words(n) or table.repeats(n)] or texts
    asking = table.named(known.INPUTS)
    outputs = table.named((*known.OUTPUTS, *known.CODE, *known.WEAK_OUTPUTS))
    outputs = [n for n in outputs if n in usable and is_output(table, n)]
    outputs = [*output_columns(table), *outputs]
    if asking and not outputs:
        contexts = table.named(known.CONTEXTS)
        output = long_text(table, [*asking, *contexts]) or long_text(table, asking)
        if not output:
            return Columns(input=table.text_field(asking[0]))
        return Columns(input=tuple(input_columns(table, {output})), output=output)
    repeated = [n for n in usable if table.repeats(n) or separator(table.values(n))]
    # filled ones first, and words before numbers
    outputs += sorted(repeated, key=lambda n: (not table.is_filled(n), table.holds_codes(n)))
    outputs = [n for n in outputs if table.kind(n) != "list" or table.has_text(n)]
    outputs = [n for n in outputs if not table.is_same(n)] or outputs
    scores = [n for n in usable if any(isinstance(v, float) and v % 1 for v in table.values(n))]
    scored = [n for n in scores if normalized(n).rpartition("_")[2] in known.WEAK_OUTPUTS]
    if not outputs and len(scores) == 1 and (len(texts) == 2 or (scored and len(texts) == 1)):
        return Columns(input=tuple(texts), output=scores[0])
    if len(texts) == 1 and not [n for n in outputs if n not in texts]:
        short = [n for n in usable if n not in texts and table.kind(n) == "text"]
        if len(short) != 1 or table.is_same(short[0]):
            return Columns(output=texts[0])
        outputs = short
    output = next((n for n in outputs if [t for t in texts if t != n]), None)
    if not output and few:
        output = min(texts, key=table.mean_length, default=None)
    elif not output:
        inputs = table.named((*known.TEXTS, *known.QUESTIONS, *known.CONTEXTS, *known.TITLES))
        others = [n for n in texts if n not in inputs] or texts
        output = others[-1] if 0 < len(others) <= 2 else None
    inputs = [n for n in texts if n != output]
    if not inputs or not output:
        return None
    known_inputs = input_columns(table, {output})
    longest = max(inputs, key=lambda n: (table.is_filled(n), table.mean_length(n)))
    read = known_inputs or compared_pair(inputs) or [longest]
    if not few and all(table.repeats(n) or _is_fact(table, n) for n in read):
        return None  # facts about a row, without any text
    paths = tuple(map(table.text_field, read))
    return Columns(input=paths, output=table.text_field(output))


def _lettered(table: TableView) -> Columns | None:
    """Return columns of multiple choice without known names: one has the letter of a choice."""
    for name in table.usable:
        values, letters = table.values(name), set("ABCDEFGH"[: len(table.usable) - 2])
        given = {str(value).upper() for value in values}
        if len(values) >= LEAST_ROWS and len(letters) > 1 and letters.issuperset(given):
            others = [n for n in table.usable if n != name]
            marked = [n for n in others if _CHOICE.match(next(iter(map(str, table.values(n))), ""))]
            choices = marked if len(marked) >= len(given) else others[1:]
            inputs = tuple(n for n in others if n not in choices)
            return Columns(input=inputs, choices=tuple(choices), output=name)
    return None


def long_text(table: TableView, others: Sequence[str]) -> str | None:
    """Return the text column that is likely the output of these inputs; None if there is none.

    That is one named like an output, such as ``response_1``, or else the one with the longest
    texts.
    """
    texts = [
        n for n in table.usable
        if n not in others and table.kind(n) == "text" and table.holds_words(n)
        and not table.repeats(n) and not known.NOT_MEANT.fullmatch(normalized(n))
    ]  # fmt: skip
    named = [n for n in texts if normalized(n).partition("_")[0] in known.OUTPUTS]
    return named[0] if named else max(texts, key=table.mean_length, default=None)
