"""Choose the form of prompts that lack an instruction or a cue, as people's datasets often do.

Adapters of a bank were trained on prompts that say what to do and end in a cue, such as
``Output:``. For other prompts they hardly give a right answer, see ``tests/benchmarks/README.md``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from hf_lorameta.data.dataset import Dataset
from hf_lorameta.data.instructions import propose_instruction, states_task
from hf_lorameta.data.prompt import as_option, shared_ends

QUESTION, TEXT = "Question: {input}\nAnswer:", "Input: {input}\nOutput:"
"""Templates of prompts that say what to do and lack a cue, and of others without an instruction.

Of five templates, the first had the lowest mean loss on three of the public tasks (`boolq`,
`bbh_navigate`, `bbh_sports_understanding`; quarters of their training rows): 0.57, ``{input}`` with
``Output:`` 0.75, with ``Answer:`` 0.80, as a chat of ``User:`` and ``Assistant:`` 0.76, Alpaca's
1.00; prompts as they are 2.11 on two of them.
"""
LEAST_INSTRUCTION = 15
"""Characters that different prompts share at an end, at least, if that is an instruction."""
_CUE, _CUE_ENDS = 24, ":>=|→："
"""Characters of a cue, at most, and those that it ends with."""


def with_known_form(dataset: Dataset, chat: str | None = None) -> Dataset:
    """Return a dataset with an instruction and a cue around prompts that lack them.

    What is added depends on the columns, on what the first prompts share, and on the outputs of a
    proposed instruction, see `hf_lorameta.data.instructions.propose_instruction`. The instruction
    is stored with the adapter, and may name the classes, as the adapter's answers do.

    Args:
        dataset: one that was opened with an instruction or a template stays as it is.
        chat: template of a chat format with ``{prompt}``, which is put around all prompts instead
            of a cue; None is no chat.

    Raises:
        DatasetError: the dataset cannot be read.
        HubError: as reading its rows raises.

    Example:
        >>> from hf_lorameta import open_dataset
        >>> rows = [{"text": f"{n} is a number", "label": "ab"[n % 2]} for n in range(9)]
        >>> print(with_known_form(open_dataset(rows)).head(1)[0][0])
        Classify the text as one of: a, b.
        <BLANKLINE>
        Input: 0 is a number
        Output:
    """
    columns, prompts = dataset.columns, [prompt for prompt, _ in dataset.first_rows]
    complete = bool(columns.messages or columns.instruction) or share_cue(prompts)
    given = columns.instruction_text or columns.template
    if given or not (columns.input or columns.messages) or (complete and chat is None):
        return dataset
    instruction: str | None = None
    template: str | None = QUESTION
    if not complete and not states_task(dataset) and not share_instruction(prompts):
        instruction = propose_instruction(dataset)
        template = None if instruction else TEXT
    formed = dataset.with_prompt(instruction, chat or template)
    notes = _notes(instruction, template, chat)
    proposed = instruction is not None and not dataset.public
    return replace(formed, notes=(*formed.notes, *notes), proposed=proposed)


def _notes(instruction: str | None, template: str | None, chat: str | None) -> Iterator[str]:
    """Say what is put around the prompts."""
    if instruction:
        what = "The rows have no instruction, so all get this one, which the card shows"
        yield f"{what}: {instruction}"
    if chat:
        yield "All prompts are put into the chat format that the bank's adapters know"
    elif template:
        yield f"The prompts end without a cue, so all get this form: {as_option(template)}"


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
