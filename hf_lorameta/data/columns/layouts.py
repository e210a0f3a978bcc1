"""Find the columns to read: known layouts of the Hub, and rules for others.

`RULES` are tried in order. A rule returns columns if it is sure, returns None if it does not apply,
or raises an error with a proposal.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hf_lorameta.data.columns import names as known
from hf_lorameta.data.columns.cells import as_object, value_at
from hf_lorameta.data.columns.choices import multiple_choice
from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.data.columns.conversations import is_conversation, unknown_roles
from hf_lorameta.data.columns.judge import objection
from hf_lorameta.data.columns.roles import (
    guess_columns,
    input_columns,
    is_sure,
    numbered_outputs,
    output_columns,
    preferred_text,
)
from hf_lorameta.data.columns.table_view import IDS, TableView, normalized
from hf_lorameta.data.columns.unread_tables import (
    lists_of_questions,
    replies,
    spans_error,
    tagged_words,
    unclear,
    unreadable,
)
from hf_lorameta.errors import DatasetError, UnlabeledDatasetError

LAYOUTS: tuple[Columns, ...] = (
    Columns(instruction="instruction", input="input", output="output"),
    Columns(instruction="instruction", input="input", output="response"),
    Columns(input="input", output="output"),
    Columns(input="prompt", output="completion"),
    Columns(input="prompt", output="response"),
    Columns(input="question", output="answer"),
    Columns(input="q", output="a"),
    Columns(input="instruction", output="output"),
    Columns(input="instruction", output="response"),
    Columns(messages="messages"),
    Columns(messages="conversations"),
)
"""Known layouts. One whose columns are a subset of another fitting layout's is ignored."""
_MOST_PATHS = 10_000
"""Most fields inside objects that are gone through."""


def find_columns(table: TableView) -> Columns:
    """Return the columns to read.

    Raises:
        ColumnsError: no layout fits, or several do; its `columns` is a proposal.
        UnlabeledDatasetError: there are inputs and no outputs; its `columns` are the inputs.

    Example:
        >>> find_columns(TableView(["text"])).output
        'text'
        >>> str(find_columns(TableView(["id", "context", "question", "answers"])))
        'input=context,input=question,output=answers'
    """
    for rule in RULES:
        if found := rule(table):
            if objection(table, found):
                break
            return found
    raise ask(table)


def likely_columns(table: TableView) -> Columns | None:
    """Return the columns to read, or those that would be proposed; None if there are none."""
    try:
        return find_columns(table)
    except DatasetError as error:
        proposed: Columns | None = error.columns
        return proposed


def ask(table: TableView, problem: str = "") -> DatasetError:
    """Return an error that proposes the likeliest columns, and a reading without that output."""
    inputs, outputs = table.named(known.INPUTS), output_columns(table)
    guess = guess_columns(table)
    texts = [n for n in table.usable if table.kind(n) == "text"]
    for name in filter(table.is_by_language, table.usable):
        if table.kind(name) == "fields":
            continue
        one = table.text_field(name).replace(".", ".0.")
        problem = f"{name} has the same text in several languages, of which {one} is the first"
        return unclear(table, problem)
    if len(spoken := [n for n in texts if known.TWO_LETTERS.fullmatch(normalized(n))]) > 2:
        return unclear(table, f"{', '.join(spoken)} may be translated into each other")
    if len(spoken := [n for n in texts if normalized(n) in known.LANGUAGES]) > 1:
        first, second = (Columns(input=a, output=b) for a, b in (spoken[:2], spoken[1::-1]))
        problem = f"{', '.join(spoken)} may be translated into each other"
        return unclear(table, problem, first, second)
    if spans := spans_error(table, guess.answer if guess and guess.input else ""):
        return spans
    if len(texts) > 1 < len(table.sample) and len(set(map(str, table.sample))) == 1:
        guess = None  # equal rows do not tell what is asked and what is answered
    if not (guess and guess.input and texts):
        inside = _columns_inside(table)
        if inside and (pieces := _of_several(table, inside)):
            _, _, field = inside.answer.partition(".0.")
            joined = f"''.join(piece[{field!r}] for piece in row[{pieces!r}])"
            problem = f"each row has a list of pieces of text in {pieces}"
            return unreadable(table, problem, f"make one text of them first, such as {joined}")
        guesses = filter(None, (inside, guess))
        guess = max(guesses, key=lambda columns: len(columns.names()), default=None)
    if guess and guess.input and not guess.output:
        problem = f"the dataset has inputs ({', '.join(inputs)}) and no outputs"
        advice = f"name the output column: {guess},output=COLUMN"
        return unclear(table, problem, guess, advice=advice, kind=UnlabeledDatasetError)
    alone = None
    if "text" in table.by_key:
        alone = Columns(output="text")
    elif inputs and not outputs:
        alone = Columns(input=table.text_field(inputs[0]))
    if guess and (languages := guess.languages):
        alone = Columns(input=guess.output, output=guess.input)
        problem = f"{' and '.join(languages)} may be translated in either direction"
    if len(outputs) > 1:
        problem = f"the output may be {' or '.join(outputs)}"
    is_text = guess or texts
    unknown = "the columns fit no known layout" if is_text else "no column holds text"
    return unclear(table, problem or unknown, guess, alone, *_with_other_labels(guess, table))


def _with_other_labels(guess: Columns | None, table: TableView) -> Iterator[Columns]:
    """Yield a guess whose output are labels, or lists, with other columns of labels instead."""
    if not (guess and guess.input):
        return
    if table.repeats(guess.answer) or table.kind(guess.answer) == "list":
        for name in table.usable:
            if name not in guess.names() and table.repeats(name):
                yield guess.model_copy(update={"output": name})


def unread_columns(columns: Columns, table: TableView) -> list[str]:
    """Return the columns that are not read; last those that describe a row, such as ids or dates.

    Columns without a value are left out.
    """
    used = columns.names()
    unread = [
        name for name in table.names
        if not any(path == name or path.startswith(f"{name}.") for path in used)
        and table.kind(name) != "empty"
    ]  # fmt: skip
    return sorted(unread, key=table.is_about)


# --- rules --------------------------------------------------------------------------------------


def _conversation(table: TableView) -> Columns | None:
    """Chats: one column of turns, or a prompt and an answer that are lists of turns each."""
    for preferred in filter(table.is_transcripts, table.named(("chosen",))):
        return Columns(messages=preferred)
    turns = [n for n in table.names if table.kind(n) == "turns" and normalized(n) != "rejected"]
    best = table.named(known.CONVERSATIONS)
    prompts = table.named(("prompt", "question", "input"))
    for prompt in filter(turns.__contains__, (*prompts, *best)):
        for answer in table.named(("chosen", "completion", "response", "answer")):
            if (answer in turns and prompt in prompts) or table.is_turn(answer):
                return Columns(input=prompt, output=answer)
    named = [name for name in best if name in turns]
    if not named and not set(table.named(known.OUTPUTS)) - set(turns):
        lists = [n for n in best if table.kind(n) == "list" and table.has_answers(n)]
        named = [n for n in best if n in lists or _is_written_chat(table, n)]
    chosen = named or turns
    if len(chosen) != 1 or not (chosen[0] in best or table.has_answers(chosen[0])):
        return None
    for summary in table.named(known.SUMMARIES):
        if unknown_roles(table.values(chosen[0]))[1]:  # of people, not of an assistant
            return Columns(input=chosen[0], output=summary)
    unread = [n for n in table.named((*known.INPUTS, "context", "completion", "response"))
              if n not in chosen and n in table.usable]  # fmt: skip
    if all(table.is_within(name, chosen) for name in unread):
        system = _system(table)
        if system and table.is_within(system, chosen):
            system = None
        return Columns(instruction=system or _tools(table), messages=chosen[0])
    return None


def _is_written_chat(table: TableView, name: str) -> bool:
    """Whether a column holds conversations as texts: JSON lists, or transcripts."""
    values = table.values(name) if table.kind(name) == "text" else []
    listed = bool(values) and all(str(v).lstrip().startswith(("[{", '["')) for v in values)
    return listed or table.is_transcripts(name)


def _system(table: TableView) -> str | None:
    return next((n for n in table.named(known.SYSTEM) if table.kind(n) == "text"), None)


def _tools(table: TableView) -> str | None:
    """Return the column of the tools that answers may call, unless it lists none."""
    named = (n for n in table.named(("tools",)) if table.kind(n) in ("text", "list"))
    return next((n for n in named if set(map(str, table.values(n))) != {"[]"}), None)


def _known_layout(table: TableView) -> Columns | None:
    """The layouts of `LAYOUTS`, with context, and with an instruction of their own."""
    have = set(table.by_key)
    fitting = [layout for layout in LAYOUTS if set(layout.names()) <= have]
    best = [
        layout for layout in fitting
        if not any(set(layout.names()) < set(other.names()) for other in fitting)
    ]  # fmt: skip
    if not best or preferred_text(table):
        return None
    found = [layout.renamed(table.by_key.__getitem__) for layout in best]
    if len(found) > 1:
        raise unclear(table, "the columns fit several layouts", *found)
    columns = _with_context(found[0], table)
    start = f"{normalized(columns.answer)}_"
    verdicts = [
        name for name in table.names
        if ((key := normalized(name)) in known.VERDICTS
            or (key.startswith(start) and key.endswith("_label")))
        and name not in columns.names() and table.repeats(name)
    ]  # fmt: skip
    is_kto = normalized(columns.answer) == "completion" and all(
        isinstance(value, bool) for name in verdicts for value in table.values(name)
    )
    if verdicts and columns.answer and not is_kto:
        texts = (*columns.named("input"), columns.answer)
        judged = columns.model_copy(update={"input": texts, "output": verdicts[0]})
        problem = f"{verdicts[0]} may say whether {columns.answer} is right"
        raise unclear(table, problem, judged, columns)
    return columns


def _with_context(columns: Columns, table: TableView) -> Columns:
    """Add what a known layout would leave unread: a system prompt, and a context."""
    if columns.messages:
        return columns
    read = columns.names()
    others = table.named((*known.INPUTS, *known.CONTEXTS))
    others = [n for n in others if n not in read and n in table.usable]
    given = columns.input
    if isinstance(given, str) and columns.instruction is None:
        contexts = [name for name in others if name in table.named(known.CONTEXTS)]
        if not contexts:
            columns = columns.model_copy(update={"instruction": _system(table)})
        elif normalized(given) == "instruction" and len(contexts) == 1:
            columns = columns.model_copy(update={"instruction": given, "input": contexts[0]})
        else:
            paths = tuple(map(table.text_field, contexts))
            columns = columns.model_copy(update={"input": (*paths, given)})
    options = [n for n in table.named(known.CHOICES) if n not in read and table.kind(n) == "text"]
    if columns.instruction is None and options:
        columns = columns.model_copy(update={"input": (*columns.named("input"), options[0])})
    read = columns.names()
    held = {path.partition(".")[0] for path in read} | set(read)
    unread = [n for n in others if n not in held and not table.is_within(n, read)]
    unread = [n for n in unread if not table.is_rendered(n, read)]
    if unread:
        problem = f"{columns} would leave {', '.join(unread)} unread"
        raise unclear(table, problem, columns, advice="read one as the instruction too")
    return columns


def _columns_inside(table: TableView) -> Columns | None:
    """Propose columns that lead to texts inside objects, and inside the first object of lists.

    Example:
        >>> row = {"data": {"text": "a b"}, "marks": [{"value": {"label": "c"}}]}
        >>> str(_columns_inside(TableView(list(row), {}, [row])))
        'input=data.text,output=marks.0.value.label'
    """
    rows = [dict(_leaves(row)) for row in table.sample]
    paths: dict[str, str] = {}
    for path in sorted((path for row in rows for path in row), key=lambda path: path.count(".")):
        *above, last = [s for s in path.split(".") if not s.isdecimal()] or [path]
        held = last in ("text", "value") or path.endswith(".0.name")
        named = held and above and normalized(above[-1]) in known.OUTPUTS
        paths.setdefault(above[-1] if named else last, path)
    if list(paths) == list(paths.values()) or len(paths) > _MOST_PATHS:
        return None
    flat = TableView(list(paths), {}, [{n: row.get(p) for n, p in paths.items()} for row in rows])
    found = likely_columns(flat)
    return found and found.renamed(lambda name: paths.get(name, name))


def _of_several(table: TableView, columns: Columns) -> str:
    """Return the column of lists of objects of which columns would read only the first ones."""
    name, first, _ = columns.answer.partition(".0.")
    lists = (value_at(row, name) for row in table.sample if first and not columns.input)
    return name if any(isinstance(value, list) and len(value) > 1 for value in lists) else ""


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and value of all that is inside objects, and inside the first of lists."""
    items = isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], Mapping)
    if fields := as_object(value):
        for key, item in fields.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    elif items and not is_conversation(value):
        yield from _leaves(value[0], f"{path}.0")
    else:
        yield path, value


def _named_output(table: TableView) -> Columns | None:
    """An output that is known by its name or its class labels, and what is left as input."""
    outputs = output_columns(table)
    if not outputs:
        return None
    numbered = numbered_outputs(table)
    several = outputs == numbered[:1]
    inputs = input_columns(table, set(numbered if several else outputs))
    if len(outputs) == 1 and inputs and is_sure(table, inputs, outputs[0]):
        output: str | tuple[str, ...] = table.text_field(outputs[0], like=inputs)
        output = tuple(numbered) if several else output
        return Columns(instruction=_system(table), input=tuple(inputs), output=output)
    if "text" in table.by_key or inputs:
        raise ask(table)
    return None


def _flags(table: TableView) -> Columns | None:
    """A column of 0 and 1 for each of several labels of a text."""
    flags = table.flags
    inputs = input_columns(table, set(flags))
    return Columns(input=inputs[0], output=tuple(flags)) if flags and len(inputs) == 1 else None


def _plain_text(table: TableView) -> Columns | None:
    """Text without inputs: a column named text, or the only column that can be read."""
    named = None if table.named(known.OUTPUTS) else table.by_key.get("text")
    only = table.usable[0] if len(table.usable) == 1 else None
    text = named or (only if only and table.kind(only) == "text" else None)
    if text is None:
        return None
    if table.is_transcripts(text):
        return Columns(messages=text)
    if named:
        prompts = [n for n in table.named(("prompt", "instruction", "question")) if table.values(n)]
        if prompts and not table.is_within(prompts[0], [text]):
            raise ask(table, f"{text} alone would leave {prompts[0]} unread")
        if len(titles := table.named(known.TITLES)) > 1:
            problem = f"{text} alone would leave {' and '.join(titles)} unread"
            raise unclear(
                table, problem, advice=f"if that is meant, read it as it is: output={text}"
            )
        if others := _beside_text(table, text):
            guess = Columns(input=text, output=table.text_field(others[0]))
            problem = f"the output may be {' or '.join(others)}"
            raise unclear(table, problem, guess, Columns(output=text))
    elif len(table.names) > 1 or normalized(text) in known.INPUTS:
        return None
    if (values := table.values(text)) and all(map(as_object, values)):
        raise ask(table)
    if table.holds_single_words(text):
        problem = f"each row of {text} is a single word; if that is meant, read it as it is"
        raise unclear(table, problem, Columns(output=text))
    return Columns(output=text)


def _beside_text(table: TableView, text: str) -> list[str]:
    """Return the columns next to a text that may be its output."""
    lists = [n for n in table.usable if table.kind(n) == "list" and table.has_text(n)]
    titles = table.named(known.TITLES)
    others = [
        n for n in table.usable
        if n not in (text, *titles) and not table.is_same(n) and (
            (table.kind(n) == "text" and table.holds_words(n))
            or (table.repeats(n) and not table.holds_codes(n)))
    ]  # fmt: skip
    return list(dict.fromkeys([*lists, *table.ratings, *others]))


def _inputs_only(table: TableView) -> Columns | None:
    """Inputs without outputs, if no other column may hold outputs."""
    inputs = sorted(table.named(known.INPUTS))
    if not inputs or table.named((*known.OUTPUTS, "text")):
        return None
    if not table.labels and set(inputs) == {n for n in table.names if normalized(n) not in IDS}:
        if len(inputs) == 1:
            return Columns(input=inputs[0])
        if list(map(normalized, inputs)) == ["input", "instruction"]:
            return Columns(instruction=inputs[1], input=inputs[0])
    raise ask(table)


RULES: tuple[Callable[[TableView], Columns | None], ...] = (
    tagged_words,
    replies,
    lists_of_questions,
    _conversation,
    multiple_choice,
    _known_layout,
    _named_output,
    _flags,
    _plain_text,
    _inputs_only,
)
"""Rules for finding columns, in the order they are tried."""
