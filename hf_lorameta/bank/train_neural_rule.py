"""Train the neural coefficient rule on a bank and store it there."""

from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from hf_lorameta.bank.adapter_stack import AdapterStack
from hf_lorameta.bank.arrays import save_arrays
from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.index import NEURAL_FILE
from hf_lorameta.bank.maintain import require_local, update_index
from hf_lorameta.errors import AdapterError, BankError
from hf_lorameta.files import sha256
from hf_lorameta.method.metrics import pairwise_distances
from hf_lorameta.method.neural import TrainingReport, gram, train_neural
from hf_lorameta.method.registries import METRICS
from hf_lorameta.tables import plural
from hf_lorameta.types import FloatArray, StageProgress, no_progress


def train_neural_rule(
    bank: Bank,
    *,
    hidden: int = 256,
    steps: int = 40,
    seed: int = 0,
    progress: StageProgress = no_progress,
) -> dict[str, TrainingReport]:
    """Train the neural rule for every metric, store it in a local bank, and return the losses.

    All adapters are read once, one module at a time. The paper's experiment uses 4,000 `hidden`
    units. `progress` is called with (stage, done, total).

    Raises:
        MissingExtraError: torch is not installed.
        BankError: the bank has fewer than 3 adapters, or was fetched from the Hub.
        AdapterError: the adapters differ in rank.
    """
    require_local(bank)
    if len(bank) < 3:
        raise BankError(
            f"{bank.id} holds {plural(len(bank), 'adapter')} of single tasks, expected at least 3 "
            "to train the neural rule",
            code="bank.too-few-adapters",
        )
    profiles = bank.profiles  # raises now, rather than after the Gram matrix
    progress("Gram matrix", 0, 1)
    G = gram(weight_blocks(bank))
    progress("Gram matrix", 1, 1)
    arrays: dict[str, NDArray[np.float32]] = {}
    reports: dict[str, TrainingReport] = {}
    for metric, row in METRICS.items():
        D = pairwise_distances(profiles, bank.index.vocab_size, metric)
        model, reports[metric] = train_neural(
            D, G, hidden=hidden, steps=steps, seed=seed, progress=partial(progress, row.title)
        )
        arrays |= {f"{metric}.{name}": array for name, array in model.arrays.items()}
    path = bank.folder / NEURAL_FILE
    save_arrays(path, arrays)
    update_index(bank, files=bank.index.files | {NEURAL_FILE: sha256(path)})
    return reports


def weight_blocks(bank: Bank) -> Iterator[FloatArray]:
    """Yield the flattened factors of all N adapters, one factor of one module at a time.

    They are (N, r · in_features) and (N, out_features · r); in a pack, those of the small factors.

    Raises:
        AdapterError: the adapters differ in rank.
    """
    number, ranks = len(bank), {entry.rank for entry in bank.index.entries}
    if len(ranks) > 1:
        raise AdapterError(
            "the adapters differ in rank, expected one rank in the bank", code="adapter.other-rank"
        )
    stack = AdapterStack(bank.adapters(), [entry.scaling for entry in bank.index.entries])
    for module in bank.stored_layout:
        A, B = stack.read(module)
        yield A.reshape(number, -1)
        yield B.reshape(len(B), number, -1).swapaxes(0, 1).reshape(number, -1)
