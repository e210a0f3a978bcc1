"""Forms of prompts for training: a form is drawn for each row of a task.

All rows of a task have the same form: an instruction, the text, and perhaps a cue. An adapter
trained on such rows alone answers best in that form. Here the instruction is separated from the
text, and each row gets a form of its own; half of the rows get the base model's chat template, the
form in which Instruct models are used.
"""

import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from hf_lorameta.data.chat_form import USER, ChatForm
from hf_lorameta.data.instruction_and_cue import LEAST_INSTRUCTION, classification
from hf_lorameta.data.prompt import fill, shared_ends
from hf_lorameta.engines.prompts import prompt_text
from hf_lorameta.types import Row

WITH_INSTRUCTION = (
    "{instruction}\n\nInput: {input}\nOutput:",
    "{instruction}\n\n{input}\n\nAnswer:",
    "{instruction}\n\n{input}",
    "{instruction}\n{input}",
    "{input}\n\n{instruction}",
    "{input}\n{instruction}\nAnswer:",
    "{instruction} {input}",
    "{instruction}: {input} =>",
    "{instruction}\n\nText: {input}\nLabel:",
    "Question: {instruction} {input}\nAnswer:",
    "Q: {instruction}\n{input}\nA:",
    "Instruction: {instruction}\nInput: {input}\nOutput:",
    "User: {instruction}\n{input}\nAssistant:",
    "Human: {input}\n\n{instruction}\n\nAI:",
    "[INST] {instruction}\n\n{input} [/INST]",
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n",
    "# Task\n{instruction}\n\n# Input\n{input}\n\n# Output\n",
    "<instruction>{instruction}</instruction>\n<input>{input}</input>\n<output>",
    '{"instruction": "{instruction}", "input": "{input}", "output": "',
    '"{input}"\n{instruction}\n->',
    '{instruction}\n\n"""\n{input}\n"""\n\nResult:',
    "{instruction} | {input} |",
)
"""Templates of rows whose task has an instruction."""
TEXT_ALONE = (
    "{input}", "{input}", "Input: {input}\nOutput:", "Question: {input}\nAnswer:",
    "Q: {input}\nA:", "{input} =>", "User: {input}\nAssistant:", "<input>{input}</input>\n<output>",
)  # fmt: skip
"""Templates of other rows."""
_IN_CHAT = (
    "{instruction}\n\n{input}", "{instruction}\n\n{input}", "{instruction}\n\n{input}",
    "{input}\n\n{instruction}", "{instruction} {input}", "{instruction}\n\nInput: {input}\nOutput:",
)  # fmt: skip
"""Templates of the user's turn in a chat."""
_LISTS = (
    "Options: {, }.", "Options: {, }.", "Choices: {; }", "Answer with one of: {, }.", "({ / })",
    "Possible answers:\n- {\n- }", "Labels: [{, }]", "Choose from {, }.", "{ or }?",
)  # fmt: skip
"""Lists of labels; the text in braces separates two labels."""
_MARKS = ("(A)", "A)", "A.", "1.", "1)", "(a)")
_CHAT, _OWN, _SHOTS, _CLASSES, _UNLISTED, _MARKED = 0.5, 0.1, 0.1, 0.3, 0.1, 0.25
"""Probabilities: the chat template, the row's own form, examples in the prompt, the instruction
that the package proposes for classes, labels that are not listed, options with marks."""
_MOST_CLASSES, _MOST_MARKS = 30, 26
_OPENING = re.compile(r"\A\s*(?:#+ *)?(?:Instruction|Question|Task|User|Q)\s*:\s*")
_FIELD = re.compile(r"\n+(?:#+ *)?(?:Input|Text|Question)\s*:\s*")
_CUE = re.compile(r"\n+(?:#+ *)?\w+:\s*\Z|\s*=>\s*\Z")
_LABELS = re.compile(r"(?:\A|(?<=[.?!。？！]))\s*[^.?!:。？！：]+[:：]\s*([^:：]+?)[.。]?\Z")
_OPTION = re.compile(r"^[ \t]*([A-E])\) (.+)$", re.MULTILINE)


class Example(NamedTuple):
    """A row whose instruction is separated from its text; `prompt` is its original prompt."""

    instruction: str
    text: str
    output: str
    prompt: str


class Forms:
    """Draws forms for the rows of a task. The same arguments draw the same forms.

    Args:
        rows: of the task, all in one form.
        chat: chat template of the base model, with ``{prompt}``; None draws none.

    Example:
        >>> rows = [(f"Is it even? Options: y, n: {n} =>", "yn"[n % 2]) for n in range(9)]
        >>> print(Forms(rows).drawn(rows[:1], "seed")[0][0])
        0
        <BLANKLINE>
        Is it even? Options: y, n.
    """

    def __init__(self, rows: Sequence[Row], chat: str | None = None) -> None:
        self._chat = chat
        self._instruction, texts = split_instruction([prompt for prompt, _ in rows])
        self._examples = {
            row: Example(self._instruction, text, row[1], row[0])
            for row, text in zip(rows, texts, strict=True)
        }
        outputs = sorted({output for _, output in rows})
        self._classes = outputs if 1 < len(outputs) <= min(_MOST_CLASSES, len(rows) / 4) else []
        found = _LABELS.search(self._instruction)
        labels = re.split(r", ?|; ?|، ?|、", found[1]) if found else []
        listed = found is not None and set(outputs) <= set(labels)
        self._labels = labels if listed else []
        self._question = self._instruction[: found.start()].strip() if found and listed else ""

    def drawn(self, rows: Sequence[Row], seed: str) -> list[Row]:
        """Return rows in drawn forms.

        Args:
            rows: some of the task's rows; examples in prompts are drawn from these.
            seed: of the draws; the draw for a row also depends on its place.
        """
        examples = [self._examples[row] for row in rows]
        return [
            self._drawn(row, examples, random.Random(f"{seed} {number}"))
            for number, row in enumerate(examples)
        ]

    def _drawn(self, row: Example, others: Sequence[Example], draw: random.Random) -> Row:
        if draw.random() < _OWN:
            return row.prompt, row.output
        in_chat = self._chat is not None and draw.random() < _CHAT
        shots = [row]
        if draw.random() < _SHOTS:
            count = draw.choice((1, 3))
            found = draw.sample(others, min(count + 1, len(others)))
            shots = [*[shot for shot in found if shot is not row][:count], row]
        change = self._change(draw)
        *examples, (instruction, text, output, _) = map(change, shots)
        templates = (_IN_CHAT if in_chat else WITH_INSTRUCTION) if instruction else TEXT_ALONE
        template = draw.choice(templates)
        if in_chat and (examples or not instruction):
            template = "{instruction}\n\nInput: {input}\nOutput:" if instruction else "{input}"
        shown = [(filled(template, shot.instruction, shot.text), shot.output) for shot in examples]
        if examples and draw.random() < 0.5:  # the instruction stands in the first example alone
            template = template.removeprefix("{instruction}\n\n")
            shown[1:] = [(filled(template, "", shot.text), shot.output) for shot in examples[1:]]
        prompt = prompt_text(filled(template, instruction, text), shown)
        if in_chat and self._chat:
            prompt = ChatForm(self._chat, None).prompt([(USER, prompt)])
        return prompt, output

    def _change(self, draw: random.Random) -> Callable[[Example], Example]:
        """Draw a change to instruction, labels and options; a row and its examples share it."""
        mark, style = draw.choice(_MARKS), draw.choice(("text", "mark", "mark", "both"))
        marked = draw.random() < _MARKED
        if self._classes and draw.random() < (_CLASSES if self._instruction else 0.7):
            instruction = classification(self._classes)
            return lambda row: row._replace(instruction=instruction)
        if not self._labels:
            return lambda row: with_marks(row, mark, style) if marked or style == "mark" else row
        labels, form = list(self._labels), draw.choice(_LISTS)
        if draw.random() < 0.5:
            draw.shuffle(labels)
        if draw.random() < _UNLISTED:
            return lambda row: row._replace(instruction=self._question or row.instruction)
        if not marked or len(labels) > _MOST_MARKS:
            before, between, after = re.split(r"[{}]", form)
            listed = before + between.join(labels) + after
            gap = "\n" if "\n" in form else " "
            return lambda row: row._replace(instruction=f"{self._question}{gap}{listed}".strip())
        options = "\n".join(f"{m} {label}" for m, label in zip(marks(mark), labels, strict=False))
        answers = _answers(labels, mark, style)
        instruction = f"{self._question}\n{options}".strip()
        return lambda row: row._replace(instruction=instruction, output=answers[row.output])


def filled(template: str, instruction: str, text: str) -> str:
    """Put an instruction and a text into a template, as JSON strings if the template is JSON."""
    if template.startswith('{"'):
        instruction, text = (
            json.dumps(value, ensure_ascii=False)[1:-1] for value in (instruction, text)
        )
    return fill(template, instruction, text)


def marks(first: str) -> Iterator[str]:
    """Yield the marks of options, starting with a given one.

    Example:
        >>> from itertools import islice
        >>> list(islice(marks("(A)"), 3)), list(islice(marks("1."), 2))
        (['(A)', '(B)', '(C)'], ['1.', '2.'])
    """
    sign = next(filter(str.isalnum, first))
    for number in range(_MOST_MARKS):
        following = str(number + 1) if sign.isdigit() else chr(ord(sign) + number)
        yield first.replace(sign, following)


def _answers(options: Sequence[str], mark: str, style: str) -> dict[str, str]:
    """Return the answer for each option: its text, its mark or both."""
    styles = {"text": "{1}", "mark": "{2}", "both": "{0} {1}"}
    pairs = zip(marks(mark), options, strict=False)
    return {
        option: styles[style].format(sign, option, sign if sign[0] == "(" else sign.strip(".)"))
        for sign, option in pairs
    }


def with_marks(row: Example, mark: str, style: str) -> Example:
    r"""Return a multiple-choice row with other marks, answered by text, mark or both.

    Other rows are returned unchanged.

    Example:
        >>> row = Example("Choose.", "Who meows?\nA) a cat\nB) a dog", "a cat", "")
        >>> with_marks(row, "1)", "mark")[1:3]
        ('Who meows?\n1) a cat\n2) a dog', '1')
    """
    options = [(found[1], found[2].strip()) for found in _OPTION.finditer(row.text)]
    texts = [text for _, text in options]
    right = [text for sign, text in options if row.output in (text, f"{sign}) {text}")]
    if len(right) != 1 or len(set(texts)) < max(len(texts), 2):
        return row
    signs = marks(mark)
    text = _OPTION.sub(lambda found: f"{next(signs)} {found[2].strip()}", row.text)
    return row._replace(text=text, output=_answers(texts, mark, style)[right[0]])


def split_instruction(prompts: Sequence[str]) -> tuple[str, list[str]]:
    """Return the instruction that prompts share at their beginning or end, and their inputs.

    If they share too little, the instruction is empty and the inputs are the prompts. Names of
    parts, such as ``Input:``, are left out.

    Example:
        >>> split_instruction([f"Name the color of it.\\n\\nInput: {x}\\nOutput:" for x in "ab"])
        ('Name the color of it.', ['a', 'b'])
        >>> split_instruction([f"{x}\\n\\nIs it a vowel? Options: yes, no." for x in "ab"])
        ('Is it a vowel? Options: yes, no.', ['a', 'b'])
        >>> split_instruction(["How are you?", "Who are you?"])
        ('', ['How are you?', 'Who are you?'])
    """
    start, end = shared_ends(prompts)
    cue = found[0] if (found := _CUE.search(end)) else ""
    if field := _FIELD.search(start):
        first, head = start[: field.start()], start[: field.end()]
    else:
        first = head = start[: _instruction_end(start)]
    first = _OPENING.sub("", first).strip(" \n:")
    last = end[_last_paragraph(end) :].removesuffix(cue)
    if len(set(prompts)) > 1 and len(first) >= LEAST_INSTRUCTION:
        instruction, tail = first, cue
    elif len(set(prompts)) > 1 and len(last.strip()) >= LEAST_INSTRUCTION:
        instruction, head, tail = last.strip(), "", last + cue
    else:
        return "", list(prompts)
    return instruction, [text[len(head) : len(text) - len(tail)].strip() for text in prompts]


def _instruction_end(start: str) -> int:
    """Return where the instruction ends in the shared start of prompts; 0 if nothing ends it."""
    at = start.find("\n", LEAST_INSTRUCTION)
    return at + 1 if at >= 0 else max(start.rfind(mark) for mark in (". ", ": ", "? ")) + 1


def _last_paragraph(end: str) -> int:
    """Return where the first paragraph or line begins in the shared end of prompts."""
    at = end.find("\n\n")
    at = at if at >= 0 else end.find("\n")
    return at if at >= 0 else len(end)
