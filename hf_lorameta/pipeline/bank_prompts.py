"""Give a dataset's prompts the form of those that a bank's adapters were trained on."""

from collections import Counter
from collections.abc import Callable
from functools import partial

from hf_lorameta.bank.bank import Bank
from hf_lorameta.data.chat_form import ChatForm
from hf_lorameta.data.dataset import Dataset
from hf_lorameta.data.instruction_and_cue import shares_instruction, with_instruction_and_cue
from hf_lorameta.data.prompt import PROMPT

_COMPARED = 50
"""How many of a large bank's datasets are looked at, at least; never twice as many."""


def prompts_like(bank: Bank, form: ChatForm | None = None) -> Callable[[Dataset], Dataset]:
    """Return a function that gives a dataset's prompts the form of a bank's. It can be pickled.

    If the bank's prompts have no instructions, prompts stay as they are. For an empty bank, an
    instruction is added, since the model's state after a text alone says little about its class;
    and then `form` or, if it is None, a cue.

    Args:
        bank: may be empty.
        form: the form of the base model's chat template, for an empty bank.
    """
    chat = form or chat_format(bank)
    if chat is None and bank.has_datasets and not expects_instructions(bank):
        return _as_it_is
    return partial(with_instruction_and_cue, chat=chat)


def _as_it_is(dataset: Dataset) -> Dataset:
    return dataset


def expects_instructions(bank: Bank) -> bool:
    """Return whether the inputs of most bank datasets contain an instruction."""
    compared = _compared(bank)
    profiles = bank.stored_profiles.take(compared)
    with_instructions = sum(shares_instruction(profiles[i]) for i in range(len(compared)))
    return with_instructions > len(compared) / 2


def _compared(bank: Bank) -> range:
    """Return the indices of the datasets that are looked at, evenly over the bank."""
    return range(0, len(bank), max(1, len(bank) // _COMPARED))


def chat_format(bank: Bank) -> str | None:
    """Return the chat template of the general adapter or of most bank datasets; None if none has.

    It is put around whole prompts, so it contains ``{prompt}`` and more.
    """
    general = bank.index.general
    if general and general.template:
        return general.template
    compared = _compared(bank)
    templates = Counter(bank.index.entries[i].columns.template for i in compared)
    template, count = max(templates.items(), key=lambda item: item[1], default=(None, 0))
    is_chat = template is not None and PROMPT in template and template != PROMPT
    return template if is_chat and count > len(compared) / 2 else None
