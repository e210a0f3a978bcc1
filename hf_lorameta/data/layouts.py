"""Find the columns to read: known layouts of the Hub, and rules for others.

`RULES` are tried in order. Each returns the columns that it is sure of, returns None if the dataset
is not of its kind, or raises an error with a proposal.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hf_lorameta.data.cells import as_object
from hf_lorameta.data.choice_columns import multiple_choice
from hf_lorameta.data.column_names import (
    CHOICES,
    CONTEXTS,
    CONVERSATIONS,
    INPUTS,
    LANGUAGE,
    OUTPUTS,
    SYSTEM,
    TITLES,
    VERDICTS,
)
from hf_lorameta.data.columns import Columns, columns_option, replace_path
from hf_lorameta.data.roles import input_columns, is_sure, output_columns
from hf_lorameta.data.table_view import TableView, normalized
from hf_lorameta.data.unclear_columns import first_question, guess_columns, long_text, unclear
from hf_lorameta.errors import DatasetError, UnlabeledDatasetError

LAYOUTS: tuple[Columns, ...] = (
    Columns(instruction="instruction", input="input", output="output"),
    Columns(instruction="instruction", input="input", output="response"),
    Columns(input="input", output="output"),
    Columns(input="prompt", output="completion"),
    Columns(input="prompt", output="response"),
    Columns(input="question", output="answer"),
    Columns(input="instruction", output="output"),
    Columns(input="instruction", output="response"),
    Columns(messages="messages"),
    Columns(messages="conversations"),
)
"""Known layouts. Of two that fit, one whose columns are a subset of the other's is dropped."""

INPUT_LAYOUTS: tuple[Columns, ...] = (
    Columns(instruction="instruction", input="input"),
    *(Columns(input=name) for name in ("input", "prompt", "question", "instruction")),
)
"""Layouts without outputs, used only if no other column may hold outputs."""


def find_columns(
    names: Sequence[str],
    labels: Mapping[str, object] = {},
    sample: Sequence[Mapping[str, Any]] = (),
) -> Columns:
    """Return the columns to read.

    Args:
        names: of all columns.
        labels: class names of each column with class labels.
        sample: the first rows.

    Raises:
        ColumnsError: no layout fits, or several do; its `columns` is a proposal.
        UnlabeledDatasetError: there is an input, no known output, and columns that may hold one.

    Example:
        >>> find_columns(["text"]).output
        'text'
        >>> str(find_columns(["id", "context", "question", "answers"]))
        'input=context,input=question,output=answers'
    """
    table = TableView(names, labels, sample)
    for rule in RULES:
        found = rule(table)
        if found:
            return found
    guess = guess_columns(table)
    problem = "the columns fit no known layout" if guess else "no column holds text"
    raise unclear(table, problem, guess)


def unread_columns(
    columns: Columns,
    names: Sequence[str],
    labels: Mapping[str, object] = {},
    sample: Sequence[Mapping[str, Any]] = (),
) -> list[str]:
    """Return the columns that are not read, without those that describe a row, such as ids.

    The arguments are those of `find_columns`.
    """
    table = TableView(names, labels, sample)
    used = columns.names()
    return [
        name for name in names
        if not any(path == name or path.startswith(f"{name}.") for path in used)
        and not table.is_about(name)
    ]  # fmt: skip


# --- rules --------------------------------------------------------------------------------------


def _conversation(table: TableView) -> Columns | None:
    """Chats: one column of turns, or a prompt and an answer that are lists of turns each."""
    turns = [n for n in table.names if table.kind(n) == "turns" and normalized(n) != "rejected"]
    best = table.named(CONVERSATIONS)
    prompts = table.named(("prompt", "question", "input"))
    for prompt in filter(turns.__contains__, (*prompts, *best)):
        for answer in table.named(("chosen", "completion", "response", "answer")):
            if (answer in turns and prompt in prompts) or table.is_turn(answer):
                return Columns(input=prompt, output=answer)
    named = [name for name in best if name in turns]
    if not named and not set(table.named(OUTPUTS)) - set(turns):
        named = [n for n in best if table.kind(n) == "list" or _is_written_chat(table, n)]
    chosen = named or turns
    if len(chosen) != 1 or not (chosen[0] in best or table.has_answers(chosen[0])):
        return None
    unread = [n for n in table.named((*INPUTS, "context", "completion", "response"))
              if n not in chosen and n in table.usable]  # fmt: skip
    if all(table.is_within(name, chosen) for name in unread):
        system = _system(table)
        if system and table.is_within(system, chosen):
            system = None
        return Columns(instruction=system, messages=chosen[0])
    return None


def _is_written_chat(table: TableView, name: str) -> bool:
    """Whether a column holds conversations as texts: JSON lists, or transcripts."""
    values = table.values(name)
    listed = bool(values) and all(str(v).lstrip().startswith(("[{", '["')) for v in values)
    return listed or table.is_transcripts(name)


def _preference(table: TableView) -> Columns | None:
    """Preferences: the chosen answer is read, the rejected one is not."""
    chosen = next(iter(table.named(("chosen",))), None)
    if chosen is None or (table.named(("messages",)) and table.kind(chosen) != "text"):
        return None
    inputs = table.named((*INPUTS, "query"))
    if table.is_transcripts(chosen):
        return Columns(messages=chosen)
    if len(inputs) == 1:
        return Columns(instruction=_system(table), input=inputs[0], output=chosen)
    return None


def _system(table: TableView) -> str | None:
    return next((n for n in table.named(SYSTEM) if table.kind(n) == "text"), None)


def _translation(table: TableView) -> Columns | None:
    """Translations: the direction is asked for."""
    if table.named(("label", "labels")):
        return None  # texts to compare
    for name in filter(table.is_by_language, table.names):
        values = table.values(name)
        if values:
            languages = [language for language in values[0] if isinstance(values[0][language], str)]
            if len(languages) > 1:
                raise _unclear_direction(table, [f"{name}.{language}" for language in languages])
    codes = [n for n in table.names if LANGUAGE.fullmatch(normalized(n)) and len(n) != 3]
    texts = [n for n in codes if n in table.usable and table.kind(n) == "text"]
    if len(texts) == 2 and set(texts) == set(table.usable) and not table.repeats(texts[1]):
        raise _unclear_direction(table, texts)
    return None


def _unclear_direction(table: TableView, texts: list[str]) -> DatasetError:
    pairs = [Columns(input=a, output=b) for a, b in (texts[:2], texts[1::-1])]
    shown = " or ".join(map(str, pairs))
    more = f", or others of {', '.join(texts)}" if len(texts) > 2 else ""
    problem = f"the direction of the translation is not known: {shown}{more}"
    return unclear(table, problem, pairs[0], advice="choose one")


def _known_layout(table: TableView) -> Columns | None:
    """The layouts of `LAYOUTS`, with context, and with an instruction of their own."""
    have = set(table.by_key)
    fitting = [layout for layout in LAYOUTS if set(layout.names()) <= have]
    best = [
        layout for layout in fitting
        if not any(set(layout.names()) < set(other.names()) for other in fitting)
    ]  # fmt: skip
    if not best:
        return None
    found = [_renamed(layout, table) for layout in best]
    if len(found) > 1:
        candidates = " or ".join(map(str, found))
        problem = f"the columns can be read as {candidates}"
        raise unclear(table, problem, found[0], advice="choose one")
    columns = _with_context(found[0], table)
    verdicts = [*table.named(VERDICTS), *_labels_of(table, columns.output)]
    verdicts = [n for n in verdicts if n not in columns.names() and table.repeats(n)]
    if verdicts and columns.output:
        problem = f"{verdicts[0]} may say whether {columns.output} is right"
        texts = (*columns.named("input"), columns.output)
        judged = columns.model_copy(update={"input": texts, "output": verdicts[0]})
        problem += f"; without it: {columns_option(columns)}"
        raise unclear(table, problem, judged)
    return columns


def _labels_of(table: TableView, output: str | None) -> list[str]:
    """Return the labels of an output, such as ``response_label``."""
    start = f"{normalized(output or '')}_"
    keys = {n: normalized(n) for n in table.usable}
    return [n for n, key in keys.items() if key.startswith(start) and key.endswith("_label")]


def _renamed(layout: Columns, table: TableView) -> Columns:
    roles = layout.model_dump(exclude_none=True)
    return Columns(**{role: table.by_key[key] for role, key in roles.items()})


def _with_context(columns: Columns, table: TableView) -> Columns:
    """Add what a known layout would leave unread: a system prompt, and a context."""
    if columns.messages:
        return columns
    read = columns.names()
    others = [n for n in table.named((*INPUTS, *CONTEXTS)) if n not in read and n in table.usable]
    given = columns.input
    if isinstance(given, str) and columns.instruction is None:
        contexts = [name for name in others if name in table.named(CONTEXTS)]
        if not contexts:
            columns = columns.model_copy(update={"instruction": _system(table)})
        elif normalized(given) == "instruction" and len(contexts) == 1:
            columns = columns.model_copy(update={"instruction": given, "input": contexts[0]})
        else:
            paths = tuple(map(table.text_field, contexts))
            columns = columns.model_copy(update={"input": (*paths, given)})
    options = [n for n in table.named(CHOICES) if n not in read and table.kind(n) == "text"]
    if columns.instruction is None and options:
        columns = columns.model_copy(update={"input": (*columns.named("input"), options[0])})
    read = columns.names()
    held = {path.partition(".")[0] for path in read} | set(read)
    unread = [n for n in others if n not in held and not table.is_within(n, read)]
    unread = [n for n in unread if not table.is_rendered(n, read)]
    if unread:
        problem = f"{columns} would leave {', '.join(unread)} unread"
        advice = "confirm, or add one as instruction="
        raise unclear(table, problem, columns, advice=advice)
    return columns


def _nested(table: TableView) -> Columns | None:
    """Rows that are objects in one column, also as JSON texts, or in a column for each side."""
    if len(table.usable) > 1:
        return _sides(table)
    name = next(iter(table.usable), "")
    inner = [found for value in table.values(name) if (found := as_object(value)) is not None]
    if not inner or len(inner) < len(table.values(name)):
        return None
    keys = list(dict.fromkeys(str(key) for row in inner for key in row))
    try:
        return _below(name, find_columns(keys, {}, inner))
    except DatasetError as error:
        proposal = _below(name, error.columns) if error.columns else None
        problem = f"{name} holds {', '.join(keys)}, which fit no known layout"
        raise unclear(table, problem, proposal, type(error)) from None


def _sides(table: TableView) -> Columns | None:
    """Columns that all hold objects, such as inputs and outputs, whose fields have known names."""
    rows = [{c: as_object(row.get(c)) for c in table.usable} for row in table.sample]
    if not rows or not all(all(row.values()) for row in rows):
        return None
    flat = [{k: v for fields in row.values() for k, v in (fields or {}).items()} for row in rows]
    place = {str(k): c for c, fields in rows[0].items() for k in fields or {}}
    if len(place) < sum(len(fields or {}) for fields in rows[0].values()):
        return None
    try:
        columns = find_columns(list(place), {}, flat)
    except DatasetError:
        return None
    for path in columns.names():
        columns = replace_path(columns, path, f"{place[path.partition('.')[0]]}.{path}")
    return columns


def _below(name: str, columns: Columns) -> Columns:
    """Return columns that are read as fields of one column."""
    for path in columns.names():
        columns = replace_path(columns, path, f"{name}.{path}")
    return columns


def _named_output(table: TableView) -> Columns | None:
    """An output that is known by its name or its class labels, and what is left as input."""
    outputs = output_columns(table)
    if not outputs:
        return None
    inputs = input_columns(table, set(outputs))
    if len(outputs) == 1 and inputs and is_sure(table, inputs, outputs[0]):
        output = table.text_field(outputs[0])
        return Columns(instruction=_system(table), input=tuple(inputs), output=output)
    if "text" in table.by_key or inputs:
        problem = "the columns fit no known layout"
        if len(outputs) > 1:
            problem = f"the output may be {' or '.join(outputs)}"
        guess = guess_columns(table)
        shown = inputs or list(guess.named("input") if guess else ())
        if shown:
            guess = Columns(input=tuple(shown), output=table.text_field(outputs[0]))
        if guess and (first := first_question(table, guess)):
            guess, problem = first, "each row holds several questions, of which the first is read"
        raise unclear(table, problem, guess)
    return None


def _plain_text(table: TableView) -> Columns | None:
    """Text without inputs: a column named text, or the only column that can be read."""
    have = set(table.by_key)
    if "text" in have and not table.labels and not have & set(OUTPUTS):
        text = table.by_key["text"]
        alone = Columns(output=text)
        if table.is_transcripts(text):
            return Columns(messages=text)
        prompts = [n for n in table.named(("prompt", "instruction")) if table.values(n)]
        if prompts and not table.is_within(prompts[0], [text]):
            problem = f"{text} alone would leave {prompts[0]} unread"
            raise unclear(table, problem, Columns(input=prompts[0], output=text))
        if rated := table.ratings:
            problem = f"the output may be one of {', '.join(rated)}"
            raise unclear(table, problem, Columns(input=text, output=rated[0]))
        others = [n for n in table.usable if table.kind(n) == "list" and table.has_text(n)]
        if len(table.usable) == 2:  # a text and another one
            titles = table.named(TITLES)
            others += [
                n for n in table.usable
                if n not in (text, *titles) and table.kind(n) == "text" and table.holds_words(n)
            ]  # fmt: skip
        if others:
            problem = f"{others[0]} may be the output; without it: {columns_option(alone)}"
            raise unclear(table, problem, Columns(input=text, output=others[0]))
        return alone
    usable = table.usable
    single = len(usable) == 1 and table.kind(usable[0]) == "text" and not table.labels
    if single and table.is_transcripts(usable[0]):
        return Columns(messages=usable[0])
    if single and normalized(usable[0]) not in INPUTS and len(table.names) == 1:
        return Columns(output=usable[0])
    return None


def _inputs_only(table: TableView) -> Columns | None:
    """Inputs without outputs, if no other column may hold outputs."""
    inputs = sorted(table.named(INPUTS))
    if not inputs or table.named((*OUTPUTS, "text")):
        return None
    for layout in INPUT_LAYOUTS:
        keys = {normalized(n) for n in table.names if not _is_id(n)}
        if set(layout.names()) == keys and not table.labels:
            return _renamed(layout, table)
    alone, held = Columns(input=table.text_field(inputs[0])), ", ".join(inputs)
    if output := long_text(table, inputs):
        problem = f"the dataset has inputs ({held}), and {output} may be the output"
        proposal = Columns(input=inputs[0], output=output)
        problem += f"; without it: {columns_option(alone)}"
        raise unclear(table, problem, proposal, UnlabeledDatasetError, "name the output column")
    problem = f"the dataset has inputs ({held}) and no outputs"
    advice = f"name the output column: --columns {alone},output=COLUMN; or if there is none"
    raise unclear(table, problem, alone, UnlabeledDatasetError, advice)


def _is_id(name: str) -> bool:
    return normalized(name) in {"id", "idx", "index", "uid", "uuid"}


RULES: tuple[Callable[[TableView], Columns | None], ...] = (
    _conversation,
    _preference,
    _translation,
    multiple_choice,
    _known_layout,
    _nested,
    _named_output,
    _plain_text,
    _inputs_only,
)
"""Rules for finding columns, in the order they are tried."""
