"""A bank on disk: adapters for one base model, each with the profile of its dataset.

    BANK/
      bank.json               the index (`Index`): what is in it, pinned and with checksums
      tokenizer.json          the base model's
      profiles.safetensors    every profile, in the order of the index (`ProfileTable`)
      adapters/<name>.safetensors   canonical bf16 weights, one file an adapter
      basis.safetensors       of a pack: the space its adapters share, see `hf_lorameta.bank.packed`
      distances.safetensors   how far its datasets are from each other, for the rule kernel
      neural.safetensors      the fitted neural rule, if there is one
      origin.json             of a pulled bank: where files not here yet come from
      .build/                 finished entries of a build, so that it can resume; and which files
                              were found right, so that they are not hashed each time

A bank is never loaded whole: the index and the profiles first, adapters one tensor at a time.
"""

from pathlib import Path
from typing import Any

from hf_lorameta.errors import BankError
from hf_lorameta.types import Encode


def load_encode(path: Path) -> Encode:
    """A ``tokenizer.json`` as a function from texts to ids: no special tokens, never cut off.

    Raises:
        BankError: the file is not a tokenizer.
    """
    tokenizer = _load_tokenizer(path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda texts: [
        e.ids for e in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    ]


def _load_tokenizer(path: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - the library raises bare Exception
        raise BankError(f"{path} is not a tokenizer.json ({type(error).__name__})") from None


def vocab_size(path: Path) -> int:
    """One more than the largest id of a ``tokenizer.json``.

    Raises:
        BankError: the file is not a tokenizer.
    """
    vocabulary = _load_tokenizer(path).get_vocab(with_added_tokens=True)
    return 1 + max(vocabulary.values(), default=0)
