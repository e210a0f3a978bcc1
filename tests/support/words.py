"""The words of synthetic datasets, and a tokenizer that knows nothing but words."""

from collections.abc import Sequence

TOPICS = ("sun rain wind snow", "bread milk egg salt", "red blue green grey", "one two three four")


def word_level(words: Sequence[str]) -> bytes:
    """Return a tokenizer of these words, one of which is ``[UNK]``, as ``tokenizer.json``."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    return str(tokenizer.to_str()).encode()
