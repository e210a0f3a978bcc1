"""Read a dataset once, within its limits: count its tokens, and collect rows to draw from.

It needs no bank, only a bank's tokenizer, so it can run in a process of its own.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.index import TOKENIZER_FILE
from hf_lorameta.cards.prompt_code import is_example
from hf_lorameta.data.counts.output_counts import OutputCounter, OutputCounts
from hf_lorameta.data.counts.profile import Profile, profile_rows
from hf_lorameta.data.counts.row_counts import RowCounter
from hf_lorameta.data.counts.tokenizer import load_encode
from hf_lorameta.data.dataset import Dataset, DatasetInfo
from hf_lorameta.data.sources.reading_limits import cut
from hf_lorameta.deadline import Deadline
from hf_lorameta.pipeline.rows import is_sampled, row_sample, rows_to_read
from hf_lorameta.recipe import Recipe
from hf_lorameta.types import Row

logger = logging.getLogger(__name__)

_FIRST = 512
"""Rows that are read whatever time is left."""
_FULL = "Only the first %s rows are read: with %s characters, they reach the limit"


@dataclass(frozen=True)
class TokenCounting:
    """How to count tokens for a bank.

    Attributes:
        tokenizer: path of its ``tokenizer.json``.
        vocab_size: larger than every token id.
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
    tokenizer = bank.verified_file(TOKENIZER_FILE)
    return TokenCounting(tokenizer, bank.index.vocab_size, bank.end_token)


@dataclass(frozen=True)
class ReadDataset:
    """What was read from a dataset. It can be pickled.

    Attributes:
        dataset: what was read.
        recipe: the settings, as they were asked for.
        profile: token counts.
        output_counts: of the outputs, if the bank states the end token.
        example: a row of a public dataset that suits a card; None if there is none.
        pool: distinct labeled rows, from which `hf_lorameta.pipeline.rows.draw_rows` draws; empty
            unless rows are asked for.
        stopped_after: number of rows after which a limit ended the reading; None if none did.
    """

    dataset: DatasetInfo
    recipe: Recipe
    profile: Profile
    output_counts: OutputCounts | None
    example: Row | None
    pool: tuple[Row, ...] = ()
    stopped_after: int | None = None


def read_dataset(
    dataset: Dataset,
    recipe: Recipe,
    counting: TokenCounting,
    *,
    collect: int = 0,
    end: Deadline | None = None,
) -> ReadDataset:
    """Read a dataset once, within its limits.

    Args:
        dataset: an opened dataset.
        recipe: the settings.
        counting: what to count, see `token_counting`.
        collect: size of the pool, at most, see `hf_lorameta.pipeline.rows.RowsAsked.pool`.
        end: no more rows are read after it, as after any other limit.

    Raises:
        DatasetError: the dataset cannot be read as labeled rows.
    """
    encode = load_encode(counting.tokenizer)
    sampled = is_sampled(dataset, recipe.max_rows)
    end = Deadline() if sampled or end is None else end  # a part of it would be no sample
    rows = _RowsToCount(dataset, recipe.max_rows, end)
    sample = row_sample(recipe.seed, collect)
    counter = None
    if counting.end is not None:
        counter = OutputCounter(encode, counting.vocab_size, counting.end)
    profile = profile_rows(
        sample.of(rows) if collect else rows,
        encode,
        counting.vocab_size,
        labeled_only=not dataset.prompts_only,
        also=counter.add if counter else None,
    )
    profile = replace(profile, row_counts=rows.counter.counts(sample.repeated))
    if sampled or rows.reached or rows.count == recipe.max_rows:
        total = dataset.total or 0
        more = total if total > rows.count else None
        early = sampled or rows.reached or total != rows.count
        profile = replace(profile, ended_early=early, total=more, sampled=sampled)
    return ReadDataset(
        dataset.info,
        recipe,
        profile,
        counter.counts if counter and profile.output.total else None,
        rows.example if dataset.has_public_rows else None,
        tuple(sample.rows),
        rows.count if rows.reached else None,
    )


class _RowsToCount:
    """Yields the rows of a dataset until one of its limits is reached.

    Args:
        dataset: an opened dataset.
        most: as `max_rows` of a recipe.
        end: after it, no more than the first part is read.

    Attributes:
        count: number of rows so far.
        counter: of these, for remarks.
        reached: whether a limit came before the last row.
        example: the first row that suits a card.
    """

    def __init__(self, dataset: Dataset, most: int | None, end: Deadline) -> None:
        self._rows, self._limits = rows_to_read(dataset, most), dataset.limits
        self._end = end
        self.count, self.counter = 0, RowCounter(dataset.limits.text)
        self.reached = False
        self.example: Row | None = None

    def __iter__(self) -> Iterator[Row]:
        limits, characters = self._limits, 0
        end = time.process_time() + limits.seconds
        for prompt, output in self._rows:
            full = characters >= limits.characters
            late = time.process_time() > end or (self.count >= _FIRST and self._end.passed)
            if full or late or self.count == limits.rows:
                if full:
                    logger.warning(_FULL, f"{self.count:,}", f"{characters:,}")
                self.reached = True
                return
            self.count += 1
            row = cut(prompt, limits.text), cut(output, limits.text)
            self.counter.add(row)
            characters += sum(map(len, row))
            if self.example is None and is_example(row):
                self.example = row
            yield row
