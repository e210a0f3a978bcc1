"""Add an instruction and a cue to prompts that lack them, as prompts in users' datasets often do.

Adapters of a bank were trained on prompts that say what to do and end in a cue, such as
``Output:``. Other prompts rarely get right answers, see ``tests/benchmarks/README.md``.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from hf_lorameta.data.chat_form import ChatForm
from hf_lorameta.data.columns import names as known
from hf_lorameta.data.columns.labels import JOINED, NONE
from hf_lorameta.data.columns.table_view import normalized
from hf_lorameta.data.counts.profile import Profile
from hf_lorameta.data.dataset import Dataset, DatasetInfo
from hf_lorameta.data.prompt import PROMPT, as_option, shared_ends
from hf_lorameta.errors import Option
from hf_lorameta.remarks import Remark
from hf_lorameta.types import Row

QUESTION, TEXT = "Question: {input}\nAnswer:", "Input: {input}\nOutput:"
LABELED = {QUESTION: "{input}\nAnswer:", TEXT: "{input}\nOutput:"}
"""Templates of prompts that say what to do but lack a cue, and of prompts without an instruction.

`LABELED` has those for several inputs, each of which follows the name of its column.

Of five templates, the first had the lowest mean loss on three of the public tasks (`boolq`,
`bbh_navigate`, `bbh_sports_understanding`; quarters of their training rows): 0.57, ``{input}`` with
``Output:`` 0.75, with ``Answer:`` 0.80, as a chat of ``User:`` and ``Assistant:`` 0.76, Alpaca's
1.00; prompts as they are 2.11 on two of them.
"""
LEAST_INSTRUCTION = 15
"""Fewest characters that prompts share at one end if they share an instruction."""
_CUE, _CUE_ENDS = 24, ":>=|→："
"""Most characters of a cue, and the characters that one ends with."""
_ROWS = 10_000
"""Largest number of rows whose outputs are read to find the classes."""
_MAX_CLASSES = 30
_MAX_LENGTH = 40
_PLAIN = re.compile(r"[a-z]{3,}( [a-z]{3,})?")
_UNSPOKEN = {
    "label", "labels", "classes", "categories", "topics", "tag", "tags", "target", "targets",
    "output", "outputs", "answer", "answers", "gold", "column",
}  # fmt: skip
"""A column's name that says what its labels are; and those that do not."""
_WORD = re.compile(r"[^\W\d_]{2}")
_SHARED_TOKENS = 3
_TOLERANCE = 1.05


def with_instruction_and_cue(dataset: Dataset, chat: str | ChatForm | None = None) -> Dataset:
    """Return a dataset with an instruction and a cue around prompts that lack them.

    What is added depends on the columns and on what the first prompts share. An instruction is
    proposed from columns and outputs, see `propose_instruction`. It is stored with the adapter, and
    may name the classes, as the adapter's answers do.

    Args:
        dataset: returned as it is if it was opened with a template, or with an instruction and
            without `chat`.
        chat: the chat form of the base model, or of a bank's prompts, which is put around all
            prompts instead of a cue; None is no chat.

    Raises:
        DatasetError: the dataset cannot be read.
        HubError: as reading its rows raises.

    Example:
        >>> from hf_lorameta import open_dataset
        >>> rows = [{"text": f"{n} is a number", "label": "ab"[n % 2]} for n in range(9)]
        >>> print(with_instruction_and_cue(open_dataset(rows)).head(1)[0][0])
        Classify the text as one of: a, b.
        <BLANKLINE>
        Input: 0 is a number
        Output:
    """
    columns, prompts = dataset.columns, [prompt for prompt, _ in dataset.first_rows]
    stated = columns.messages or columns.instruction or columns.instruction_text
    complete = bool(stated) or share_cue(prompts) or are_continued(dataset.first_rows)
    if columns.template or not (columns.input or columns.messages) or (complete and chat is None):
        return dataset
    instruction: str | None = None
    template: str | None = QUESTION
    if not complete and not states_task(dataset) and not share_instruction(prompts):
        instruction = propose_instruction(dataset)
        template = None if instruction else TEXT
    if template and len(columns.named("input")) > 1:
        template = LABELED[template]
    formed = dataset.with_prompt(instruction, chat or template)
    proposed = instruction is not None and not dataset.has_public_rows
    remarks = (*formed.remarks, *_remarks(instruction, template, chat))
    return replace(formed, remarks=remarks, proposed=proposed)


def _remarks(
    instruction: str | None, template: str | None, chat: str | ChatForm | None
) -> Iterator[Remark]:
    """Yield remarks on what is put around the prompts."""
    leave = Option("template", PROMPT), "To leave prompts as they are"
    around: Remark | None = None
    if isinstance(chat, ChatForm):
        text = f"All prompts get the base model's chat form{_mode(chat)}."
        around = Remark("note", text, *leave, code="prompt.chat-template")
    elif chat:
        text = "All prompts get the chat format that the bank's adapters know."
        around = Remark("note", text, *leave, code="prompt.chat-format-of-bank")
    elif template:
        text = f"All prompts get the form {as_option(template)}, since they end without a cue."
        around = Remark("note", text, *leave, code="prompt.cue-added")
    if instruction:
        what = "The rows have no instruction, so all get this one, which the card shows"
        option = () if around else leave
        yield Remark("note", f"{what}: {instruction}", *option, code="instruction.proposed")
    if around:
        yield around


def _mode(form: ChatForm) -> str:
    """Return how a base model's chat template was run, as a phrase that follows its name."""
    kwargs = form.chat.chat_template_kwargs if form.chat else {}
    return f", with {', '.join(f'{k}={v}' for k, v in kwargs.items())}" if kwargs else ""


def share_instruction(prompts: Sequence[str]) -> bool:
    """Whether different prompts share so much at their beginning or end that it is an instruction.

    Example:
        >>> share_instruction(["Is it plausible? He ran.", "Is it plausible? It flew."])
        True
        >>> share_instruction(["He ran.", "It flew."])
        False
    """
    longest = max(len(end.strip()) for end in shared_ends(prompts))
    return len(set(prompts)) > 1 and longest >= LEAST_INSTRUCTION


def share_cue(prompts: Sequence[str]) -> bool:
    r"""Whether different prompts end in the same short line or mark, such as ``Answer:``.

    Example:
        >>> share_cue(["a\nAnswer:", "b\nAnswer:"]), share_cue(["a =>", "b =>"])
        (True, True)
        >>> share_cue(["Who is it?", "What is it?"])
        False
    """
    _, end = shared_ends([prompt.rstrip() for prompt in prompts])
    line = end.rpartition("\n")[2].strip()
    return len(set(prompts)) > 1 and 0 < len(line) <= _CUE and line[-1] in _CUE_ENDS


def are_continued(rows: Sequence[Row]) -> bool:
    r"""Whether outputs continue their prompts, as code does: whitespace is between all of them.

    Example:
        >>> are_continued([("def f():\n", "    return 1")]), are_continued([("Who is it?", "Ann")])
        (True, False)
    """
    return bool(rows) and all((prompt[-1:] + output[:1]).isspace() for prompt, output in rows)


# --- instructions ---------------------------------------------------------------------------------


def shares_instruction(profile: Profile) -> bool:
    """Whether the inputs of a dataset share an instruction, judged by their token counts.

    A token of an instruction that every row has is counted once per row, which is rare for tokens
    of running text: 3 different tokens with counts from 1 to 1.05 times the number of rows are
    taken for an instruction. On the 259 tasks of ``shared/suite`` and ``shared/everyday``, compared
    with a prefix or suffix of 15 characters that 64 rows share, it misses 5 of 237 instructions and
    finds one in 4 of the 22 datasets without.
    """
    counts = profile.input.counts
    once = (counts >= profile.rows) & (counts <= _TOLERANCE * profile.rows)
    return int(once.sum()) >= _SHARED_TOKENS


def states_task(dataset: DatasetInfo) -> bool:
    """Whether a dataset is read so that each row says what to do: chats, questions, instructions.

    Datasets without inputs count, too: nothing can be put before them.
    """
    columns = dataset.columns
    if columns.instruction or columns.instruction_text or columns.messages or not columns.input:
        return True
    fields = (name.rpartition(".")[2] for name in columns.named("input"))
    return any(normalized(field) in known.STATED for field in fields)


def propose_instruction(dataset: Dataset) -> str | None:
    """Return an instruction for a dataset with inputs, if its columns or outputs reveal the task.

    Raises:
        DatasetError: the dataset cannot be read.
        HubError: as reading its rows raises.
    """
    columns = dataset.columns
    if normalized(columns.answer.rpartition(".")[2]) in known.SUMMARIES:
        return "Summarize the text."
    if columns.choices:
        return "Choose the right answer."
    if languages := columns.languages:
        return f"Translate from {languages[0]} to {languages[1]}."
    outputs, mark = [row[1] for row in dataset.first_rows if row[1]], JOINED[dataset.form]
    classes = dataset.classes
    if not classes:
        outputs = [row[1] for row in dataset.head(_ROWS) if row[1]]
        labels = [label for output in outputs for label in output.split(mark)]
        classes = _classes([label for label in labels if label != NONE or dataset.form == "one"])
    what = "the text" if len(columns.named("input")) == 1 else "the texts"
    kind, count = normalized(columns.answer.rpartition(".")[2]), 0
    if not classes:
        named = kind in known.LABEL_NAMES or kind.endswith(known.LABEL_ENDINGS)
        words = all(_is_name(output) and _WORD.search(output) for output in outputs)
        return choosing(kind, what) if named and words and dataset.form == "one" else None
    if len(classes) > _MAX_CLASSES:
        count, classes = len(classes), ()
    if dataset.form == "tags":
        return listing(f"Tag each word of {what} as one of", classes)
    if dataset.form == "several":
        none = f", or {NONE}" if NONE in outputs else ""
        some = f"of {count} " if count else ""
        return listing(f"Name all {some}that apply to {what}{none}", classes)
    return classification(classes, what) if classes else choosing(kind, what, count)


def choosing(kind: str, what: str, count: int = 0) -> str:
    """Return the instruction for labels that are not listed.

    Args:
        kind: the normalized name of their column.
        what: what they are labels of.
        count: how many there are; 0 if that is not known.

    Example:
        >>> choosing("intent", "the text", 77), choosing("label_2", "the texts")
        ('Name the intent of the text, one of 77.', 'Name the class of the texts.')
    """
    name = re.sub(r"(_(label|class|name|text|id))+$", "", kind).replace("_", " ")
    said = _PLAIN.fullmatch(name) and name not in _UNSPOKEN
    task = f"Name the {name if said else 'class'} of {what}"
    return f"{task}, one of {count}." if count else f"{task}."


def listing(task: str, names: Sequence[str]) -> str:
    """Return an instruction that ends in names, if any are given.

    Example:
        >>> listing("Tag each word as one of", ["O", "PER"]), listing("Tag each word as one of", [])
        ('Tag each word as one of: O, PER.', 'Tag each word.')
    """
    mark = "; " if any("," in name for name in names) else ", "
    return f"{task}: {mark.join(names)}." if names else f"{task.removesuffix(' as one of')}."


def classification(classes: Sequence[str], what: str = "the text") -> str:
    """Return the instruction that is proposed for classes.

    Example:
        >>> classification(["ham", "spam"])
        'Classify the text as one of: ham, spam.'
    """
    return listing(f"Classify {what} as one of", classes)


def _classes(outputs: list[str]) -> tuple[str, ...]:
    """Return the different outputs if they repeat and are short, as class names are.

    Example:
        >>> _classes(["pos", "neg", "pos", "neg"]), _classes(["pos", "pos", "pos"])
        (('neg', 'pos'), ())
    """
    classes = sorted(set(outputs))
    short = all(map(_is_name, classes))
    return tuple(classes) if short and 1 < len(classes) <= len(outputs) / 2 else ()


def _is_name(output: str) -> bool:
    return len(output) <= _MAX_LENGTH and "\n" not in output
