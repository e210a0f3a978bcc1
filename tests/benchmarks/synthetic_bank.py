"""Write synthetic banks of large adapters.

In every module most of an adapter is in a subspace that all adapters share, with decaying energy,
as in adapters trained on related tasks; the rest is its own.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.entries import IndexEntry
from hf_lorameta.bank.index import TOKENIZER_FILE, WORK_FOLDER, adapter_path, write_index
from hf_lorameta.data.counts.profile import LENGTHS, Histogram, Profile
from hf_lorameta.embedded import EMBEDDED
from hf_lorameta.formats.lora_file import write_tensors
from hf_lorameta.formats.lora_layout import Layout, Module
from hf_lorameta.hub.packaged_model import SMOLLM2
from hf_lorameta.types import FloatArray
from tests.support.bank_index import entry_of, index_of

OWN_SCALE = 0.05
"""Scale of the part of an adapter that is outside the shared subspace."""
_POOL = 1 << 22
"""Number of precomputed normal samples."""
VOCAB = 49152


@dataclass(frozen=True)
class Shape:
    """Shape of a bank, by default that of Mistral-7B.

    `shared` is the dimension of the shared subspaces.
    """

    layers: int = 32
    hidden: int = 4096
    narrow: int = 1024
    rank: int = 16
    adapters: int = 502
    shared: int = 96

    @property
    def layout(self) -> Layout:
        modules = (("k_proj", self.narrow), ("q_proj", self.hidden), ("v_proj", self.narrow))
        return tuple(
            Module(f"model.layers.{i}.self_attn.{name}", self.hidden, out)
            for i in range(self.layers)
            for name, out in modules
        )


def write_bank(folder: Path, shape: Shape, seed: int = 0) -> Bank:
    """Write a bank; the same seed gives the same bytes."""
    for name in ("adapters", WORK_FOLDER):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    pool = rng.standard_normal(_POOL, np.float32)
    spaces = [(_space(rng, shape.shared, m.in_features), _space(rng, shape.shared, m.out_features))
              for m in shape.layout]  # fmt: skip

    def write(i: int) -> IndexEntry:
        return _write_adapter(folder, shape, spaces, pool, seed, i)

    with ThreadPoolExecutor(2) as workers:
        entries = tuple(workers.map(write, range(shape.adapters)))
    (folder / TOKENIZER_FILE).write_bytes((EMBEDDED[SMOLLM2] / TOKENIZER_FILE).read_bytes())
    index = index_of(folder, "mistralai/Mistral-7B-Instruct-v0.2", shape.layout, entries,
                     profiles(shape.adapters, VOCAB, seed), VOCAB)  # fmt: skip
    write_index(folder, index)
    return Bank(folder)


def _space(rng: np.random.Generator, shared: int, dim: int) -> FloatArray:
    """(shared, dim) with rows of decreasing size."""
    size = 0.97 ** np.arange(shared, dtype=np.float32)[:, None]
    return (rng.standard_normal((shared, dim), np.float32) * size).astype(np.float32)


def _write_adapter(
    folder: Path,
    shape: Shape,
    spaces: list[tuple[FloatArray, FloatArray]],
    pool: FloatArray,
    seed: int,
    number: int,
) -> IndexEntry:
    rng = np.random.default_rng((seed, number))

    def factor(space: FloatArray) -> FloatArray:
        inside = (rng.standard_normal((shape.rank, len(space)), np.float32) / 8) @ space
        size = shape.rank * space.shape[1]
        start = int(rng.integers(0, _POOL - size))
        own = pool[start : start + size].reshape(inside.shape)
        return np.asarray(0.02 * (inside + OWN_SCALE * own), np.float32)

    path = folder / adapter_path(f"synthetic-{number:03d}")
    pairs = ((factor(V), factor(U).T) for V, U in spaces)
    write_tensors(path, shape.layout, shape.rank, "bfloat16", pairs)
    return entry_of(path, shape.rank, scaling=2.0, rows=1000)


def profiles(number: int, vocab: int, seed: int = 0) -> Iterator[Profile]:
    """Profiles of synthetic datasets over a vocabulary."""
    return (_profile(np.random.default_rng((seed, 7, i)), vocab) for i in range(number))


def _profile(rng: np.random.Generator, vocab: int) -> Profile:
    """About 3,000 distinct tokens of a Zipf distribution over a shuffled part of the vocabulary."""
    order = np.random.default_rng(0).permutation(vocab)
    order = np.roll(order, int(rng.integers(0, 400)))
    parts = []
    for tokens in (60_000, 9_000):
        ranks = rng.zipf(1.15, tokens)
        counts = np.bincount(order[ranks[ranks < vocab] - 1], minlength=vocab)
        parts.append(Histogram.from_dense(counts))
    answers = np.bincount(rng.integers(2, 10, 1000), minlength=LENGTHS)
    return Profile(parts[0], parts[1], 1000, Histogram.from_dense(answers))
