"""Read a dataset once, within its limits, and count its tokens.

It needs no bank, only the tokenizer of one, so it can run in a process of its own.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.index import TOKENIZER_FILE
from hf_lorameta.data.dataset import Dataset, DatasetInfo
from hf_lorameta.data.output_counts import OutputCounter, OutputCounts
from hf_lorameta.data.profile import Profile, profile_rows
from hf_lorameta.data.tokenizer import load_encode
from hf_lorameta.hub.reading_limits import DEFAULT_LIMITS
from hf_lorameta.pipeline.held_out_rows import PoolReader, labeled_pool, pool_size
from hf_lorameta.pipeline.plan import require_outputs
from hf_lorameta.recipe import Recipe
from hf_lorameta.types import Encode, Row

logger = logging.getLogger(__name__)

_FULL = "Only the first %s rows are read, which hold %s characters: --max-characters reads more"


@dataclass(frozen=True)
class TokenCounting:
    """How to count tokens for a bank.

    Attributes:
        tokenizer: path of its ``tokenizer.json``.
        vocab_size: above every token id.
        end: id of the end token, if the outputs are counted for an output prior.
    """

    tokenizer: Path
    vocab_size: int
    end: int | None


def token_counting(bank: Bank) -> TokenCounting:
    """Return how to count tokens for a bank.

    Raises:
        IntegrityError: the tokenizer is damaged.
    """
    prior = bank.index.output_prior
    tokenizer = bank.verified_file(TOKENIZER_FILE)
    return TokenCounting(tokenizer, bank.index.vocab_size, prior.end if prior else None)


@dataclass(frozen=True)
class Reading:
    """What a plan needs to know of a dataset. It can be pickled.

    Attributes:
        dataset: what was read.
        recipe: the settings; `max_rows` is the number of rows read if a limit ended the reading,
            `max_text` the dataset's limit of a text.
        profile: token counts.
        output_counts: of the outputs, if the bank has an output prior.
        example: of a public dataset, a row that suits a card, if there is any.
    """

    dataset: DatasetInfo
    recipe: Recipe
    profile: Profile
    output_counts: OutputCounts | None
    example: Row | None


def read_dataset(
    dataset: Dataset,
    recipe: Recipe,
    counting: TokenCounting,
    encode: Encode | None = None,
) -> tuple[Reading, list[Row]]:
    """Read a dataset once, within its limits, and count its tokens.

    Args:
        dataset: an opened dataset.
        recipe: the settings.
        counting: what to count, see `token_counting`.
        encode: the bank's tokenizer; None loads it.

    Returns:
        The counts, and the pool of labeled rows, see `PoolReader`; an empty one if the recipe
        neither fits, trains nor checks.

    Raises:
        DatasetError: the dataset cannot be read as labeled rows.
    """
    require_outputs(dataset, recipe)
    text = dataset.limits.text
    recipe = recipe.model_copy(update={"max_text": None if text == DEFAULT_LIMITS.text else text})
    encode = encode or load_encode(counting.tokenizer)
    limited = _LimitedRows(dataset)
    reader = PoolReader(limited, recipe)
    counter = None
    if counting.end is not None:
        counter = OutputCounter(encode, counting.vocab_size, counting.end)
    profile = profile_rows(
        reader.profiled(),
        encode,
        counting.vocab_size,
        labeled_only=not dataset.prompts_only,
        also=counter.add if counter else None,
    )
    if limited.reached or limited.count == recipe.max_rows:
        total = dataset.total() or 0
        profile = replace(
            profile,
            ended_early=limited.reached or total != limited.count,
            total=total if total > limited.count else None,
        )
    profile = replace(profile, cut=limited.cut)
    counts = counter.counts if counter and profile.output.total else None
    if limited.reached:
        recipe = recipe.model_copy(update={"max_rows": limited.count})
    example = reader.example if dataset.public else None
    pool = reader.pool()
    if limited.reached and recipe.uses_rows and limited.count < pool_size(recipe):
        pool = labeled_pool(dataset.rows(), recipe)  # as the recipe says, which has no such limit
    return Reading(dataset.info, recipe, profile, counts, example), pool


class _LimitedRows:
    """Iterates over the rows of a dataset until one of its limits is reached.

    Args:
        dataset: an opened dataset.

    Attributes:
        count: number of rows so far.
        cut: number of those with a text that was cut.
        reached: whether a limit came before the last row.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._rows, self._limits = dataset.rows(), dataset.limits
        self.count = self.cut = self._characters = 0
        self.reached = False

    def __iter__(self) -> Iterator[Row]:
        limits = self._limits
        for row in self._rows:
            full = self._characters >= limits.characters
            if full or self.count == limits.rows:
                self.reached = True
                if full:
                    logger.warning(_FULL, f"{self.count:,}", f"{self._characters:,}")
                return
            self.count += 1
            self.cut += max(map(len, row)) >= limits.text
            self._characters += sum(map(len, row))
            yield row
