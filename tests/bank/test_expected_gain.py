"""Expected gains from measured ones."""

import random

import numpy as np
import pytest

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.expected_gain import estimate
from hf_lorameta.bank.index import Gain
from hf_lorameta.data.counts.output_counts import OutputCounter
from hf_lorameta.data.counts.profile import profile_rows
from tests.benchmarks.growth import read
from tests.support import shared_data

LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 90, 128, 180)
GAINS = [
    Gain(distance=0.1, base=4.0, generated=4.0 * (i + 1) / 20, length=n, prompted=3.0)
    for i, n in enumerate(LENGTHS)
]


def test_the_third_with_the_most_similar_lengths_counts() -> None:
    shuffled = random.Random(0).sample(GAINS, len(GAINS))
    found = estimate(shuffled, 12.0)
    relative = [1 - (i + 1) / 20 for i in (4, 5, 6, 7, 8)]  # 6 to 24 tokens
    assert found is not None
    assert found.datasets == 5
    assert found.mean == pytest.approx(np.mean(relative))
    assert found.spread == pytest.approx(np.std(relative))
    assert found.prompted == pytest.approx(0.25)


def test_an_adapter_that_raises_the_loss_has_a_negative_gain() -> None:
    worse = [gain.model_copy(update={"generated": 5.0}) for gain in GAINS]
    found = estimate(worse, 3.0)
    assert found is not None
    assert found.mean == pytest.approx(-0.25)


def test_nothing_is_stated_without_enough_gains_or_prompts() -> None:
    assert estimate(GAINS[:4], 3.0) is None
    partly = [GAINS[0].model_copy(update={"prompted": None}), *GAINS[1:]]
    found = estimate(partly, 1.0)
    assert found is not None
    assert found.prompted is None


def test_the_embedded_bank_expects_more_of_short_outputs() -> None:
    gains = Bank.embedded().index.gains
    short, long = estimate(gains, 2.0), estimate(gains, 40.0)
    assert short is not None
    assert long is not None
    assert short.mean > long.mean
    assert short.prompted is not None


def test_labels_and_copies_are_told_apart_from_new_outputs_of_the_same_length() -> None:
    known = [
        Gain(distance=1, base=2, generated=2 - 2 * novelty, length=n, novelty=1 - novelty)
        for n in (2, 3, 4, 5, 6)
        for novelty in (0.25, 0.75)
    ]
    labels, new = estimate(known, 4.0, 0.2), estimate(known, 4.0, 0.8)
    assert labels is not None
    assert new is not None
    assert (labels.mean, new.mean) == (0.75, 0.25)
    alone = estimate(known, 4.0)
    assert alone is not None
    assert 0.25 < alone.mean < 0.75


@pytest.mark.skipif(not shared_data.SHARED.exists(), reason=shared_data.MISSING)
def test_the_embedded_bank_stores_how_new_the_outputs_of_its_gains_are() -> None:
    bank = Bank.embedded()
    assert bank.index.output_prior is not None
    stored = {(gain.length, gain.novelty) for gain in bank.index.gains}
    for task in ("sentiment_senti4sd", "temporal_torque", "emoji_gemoji"):
        counter = OutputCounter(bank.encode, bank.index.vocab_size, bank.index.output_prior.end)
        rows = read(task, "train")
        profile = profile_rows(rows, bank.encode, bank.index.vocab_size, also=counter.add)
        assert (round(profile.output_length, 4), round(counter.counts.novelty, 4)) in stored
