"""Parse the tokenizer of the bank in the package, half of the work of reading a small dataset.

Processes forked from one that has imported this module need not parse it again.
"""

from contextlib import suppress

from hf_lorameta.bank.open_bank import embedded_bank
from hf_lorameta.errors import LoraMetaError

with suppress(LoraMetaError):  # the bank is damaged: the page says so
    TOKENIZER = embedded_bank().encode
