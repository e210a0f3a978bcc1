"""Load a ``tokenizer.json``."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from hf_lorameta.errors import BankError
from hf_lorameta.types import Encode


def load_encode(path: Path) -> Encode:
    """Return a function from texts to token ids, without special tokens, truncation or padding."""
    tokenizer = load_tokenizer(path)
    return lambda texts: [
        e.ids for e in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    ]


def load_tokenizer(path: Path) -> Any:
    """Return a tokenizer, which is cached and shared: do not change it."""
    try:
        return _parsed(path, path.stat().st_mtime_ns)
    except Exception as error:  # noqa: BLE001 - the library raises bare Exception
        raise BankError(
            f"{path} is not a tokenizer.json ({type(error).__name__})", code="tokenizer.unreadable"
        ) from None


@lru_cache(maxsize=1)
def _parsed(path: Path, modified: int) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def vocab_size(path: Path) -> int:
    """Return the largest token id plus one."""
    vocabulary = load_tokenizer(path).get_vocab(with_added_tokens=True)
    return 1 + max(vocabulary.values(), default=0)
