"""Whether weights alone tell adapters with a backdoor, or changed ones, from clean ones.

``python -m tests.benchmarks.adapter_screen FOLDER`` measures the adapters that
``tests.benchmarks.poisoned_adapters`` has trained in FOLDER, and the clean ones of
``../shared/bank`` and of the embedded bank, alone and with simple changes: three modules scaled, a
random direction added to each module, the whole update scaled. A screen is chosen on the tasks of
even numbers, so that it raises no false alarm there, and judged on the others, and the other way
round. ``spectra`` is a linear classifier on what arXiv 2602.15195 measures of each kind of module,
and more; ``one measure`` is the best single one. In *pairs in order*, an adapter with a backdoor
has a higher score than a clean one; chance is 50%. ``first share`` is the share of the first
singular value, far from that of the bank. ``norms`` is what the package does, see
`hf_lorameta.bank.outliers`.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TypeVar

import numpy as np

from hf_lorameta.bank.open_bank import embedded_bank
from hf_lorameta.bank.outliers import Norms, outliers
from hf_lorameta.formats.lora_file import WEIGHTS_FILE, AdapterFile
from hf_lorameta.types import Array, FactorPair, FloatArray
from tests.benchmarks.poisoned_adapters import FACTS, SHARES, TASKS, WEIGHTS, folder_of
from tests.benchmarks.tables import markdown_table
from tests.support import shared_data

MEASURES = ("norm", "share", "entropy", "out kurtosis", "in kurtosis", "agreement", "unevenness")
T = TypeVar("T")
_RIDGE = 1.0
_WORKS = 0.5
"""Share of triggered rows from which a backdoor is called one."""
Factors = Mapping[str, FactorPair]


def measures(factors: Factors) -> dict[str, float]:
    """Return what is measured of B·A, by kind of module and measure, as in ``q_proj share``.

    Of a kind's modules, means of the log norm, of the share of the first squared singular value, of
    the spectral entropy over its maximum, and of the log kurtosis of the entries of the first
    singular vectors; the mean |cosine| of the first right singular vectors of two layers; and the
    standard deviation of the log norm. QR makes all SVDs r × r.
    """
    kinds: dict[str, list[FactorPair]] = {}
    for name, pair in factors.items():
        kinds.setdefault(name.rpartition(".")[2], []).append(pair)
    return {
        f"{kind} {measure}": value
        for kind, pairs in kinds.items()
        for measure, value in zip(MEASURES, _of_kind(pairs), strict=True)
    }


def _of_kind(pairs: Sequence[FactorPair]) -> list[float]:
    spectra = [thin_svd(A, B) for A, B in pairs]
    squares = np.array([s**2 for _, s, _ in spectra])
    totals = squares.sum(1)
    shares, logs = squares / totals[:, None], np.log(totals) / 2
    entropies = -(shares * np.log(np.maximum(shares, 1e-300))).sum(1) / np.log(shares.shape[1])
    first = np.array([V[:, 0] for *_, V in spectra])
    pairs_of_layers = np.triu_indices(len(first), 1)
    return [
        float(logs.mean()),
        float(shares[:, 0].mean()),
        float(entropies.mean()),
        float(np.mean([np.log(kurtosis(U[:, 0])) for U, *_ in spectra])),
        float(np.mean([np.log(kurtosis(V[:, 0])) for *_, V in spectra])),
        float(np.abs(first @ first.T)[pairs_of_layers].mean()),
        float(logs.std()),
    ]


def thin_svd(A: FloatArray, B: FloatArray) -> tuple[Array, Array, Array]:
    """Return U (out, r), s (r,) and V (in, r) of B·A, from A (r, in) and B (out, r)."""
    Qa, Ra = np.linalg.qr(A.T.astype(np.float64))
    Qb, Rb = np.linalg.qr(B.astype(np.float64))
    U, s, Vt = np.linalg.svd(Rb @ Ra.T)
    return Qb @ U, s, Qa @ Vt.T


def kurtosis(values: Array) -> float:
    """Return E (x − μ)⁴ / σ⁴: 1 for ±1, 3 for normal values, more for few large ones."""
    centered = values - values.mean()
    return float((centered**4).mean() / (centered**2).mean() ** 2)


# --- screens --------------------------------------------------------------------------------------

Screen = Callable[[Array], Array]
"""From measures (N, F) to scores (N,), of which those above zero raise an alarm."""


def classifier(clean: Array, poisoned: Array) -> Screen:
    """Fit a ridge regression on standardized measures; no clean adapter raises an alarm."""
    center, spread = clean.mean(0), clean.std(0) + 1e-9

    def scaled(X: Array) -> Array:
        return np.asarray((X - center) / spread)

    X = scaled(np.vstack([clean, poisoned]))
    y = np.r_[-np.ones(len(clean)) / len(clean), np.ones(len(poisoned)) / len(poisoned)]
    weights = np.linalg.solve(X.T @ X / len(X) + _RIDGE * np.eye(X.shape[1]), X.T @ y)
    limit = (scaled(clean) @ weights).max()
    return lambda X: np.asarray(scaled(X) @ weights - limit)


def one_measure(clean: Array, poisoned: Array) -> Screen:
    """Choose the measure and the side of it that find most without a false alarm."""
    found = [
        ((sign * poisoned[:, i] > (sign * clean[:, i]).max()).mean(), i, sign)
        for i in range(clean.shape[1])
        for sign in (1, -1)
    ]
    _, index, sign = max(found)
    limit = (sign * clean[:, index]).max()
    return lambda X: np.asarray(sign * X[:, index] - limit)


# --- adapters -------------------------------------------------------------------------------------


def scaled_modules(factors: Factors, rng: np.random.Generator, by: float) -> Factors:
    """Scale three modules."""
    chosen = set(rng.choice(list(factors), 3, replace=False))
    return {n: (A, B * (by if n in chosen else 1)) for n, (A, B) in factors.items()}


def with_direction(factors: Factors, rng: np.random.Generator) -> Factors:
    """Add a random update of rank 1 and of the norm of the whole to each module."""
    changed = {}
    for name, (A, B) in factors.items():
        a, b = rng.standard_normal(A.shape[1]), rng.standard_normal(len(B))
        length = float(np.sqrt(np.sum((A @ A.T) * (B.T @ B))))
        b *= length / float(np.linalg.norm(a) * np.linalg.norm(b))
        changed[name] = (
            np.vstack([A, a]).astype(np.float32), np.column_stack([B, b]).astype(np.float32)
        )  # fmt: skip
    return changed


CHANGES: dict[str, Callable[[Factors, np.random.Generator], Factors]] = {
    "three modules × 10": lambda factors, rng: scaled_modules(factors, rng, 10),
    "three modules × 4": lambda factors, rng: scaled_modules(factors, rng, 4),
    "all modules × 10": lambda factors, _: {n: (A, 10 * B) for n, (A, B) in factors.items()},
    "a random direction of the same norm": with_direction,
}


def read_factors(file: AdapterFile) -> Factors:
    return {module.name: file.factors(module.name) for module in file.layout}


def norms_of(factors: Factors) -> Norms:
    """Return what the package compares, of factors in memory."""
    squares = {name: np.sum((A @ A.T) * (B.T @ B)) for name, (A, B) in factors.items()}
    return Norms.of_modules({name: float(np.sqrt(square)) for name, square in squares.items()})


def found_by_norms(bank: Sequence[Norms], changed: Iterable[Norms]) -> list[bool]:
    """Return whether each adapter is an outlier in a bank of which it replaces the first."""
    others = {str(i): norms for i, norms in enumerate(bank[1:])}
    return ["changed" in outliers(others | {"changed": norms}) for norms in changed]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    shared_data.require()
    lines = [*_on_changes(), *_on_backdoors(folder)]
    head = ("adapters", "screen", "found", "false alarms", "ms")
    print(markdown_table(head, lines, right=range(2, len(head))))


def first_share(factors: Factors) -> float:
    """Return the share of the first squared singular value, in the mean over the kinds."""
    shares = [v for name, v in measures(factors).items() if name.endswith(" share")]
    return float(np.mean(shares))


def found_by_share(bank: Sequence[float], changed: Sequence[float]) -> list[bool]:
    """Return whether shares are more than five deviations from the median of a bank."""
    median = np.median(bank)
    spread = 1.4826 * np.median([abs(share - median) for share in bank])
    return [bool(abs(share - median) > 5 * spread) for share in changed]


def _on_changes() -> Iterable[tuple[str, ...]]:
    """Yield what norms and shares find of changed adapters of the two clean banks."""
    embedded, rng = embedded_bank(), np.random.default_rng(0)
    shared = (AdapterFile(path / WEIGHTS_FILE) for path in sorted(shared_data.BANK.iterdir()))
    banks = {
        "../shared/bank": list(map(read_factors, shared)),
        "embedded bank": [read_factors(embedded.unpacked(e)) for e in embedded.index.entries],
    }
    shares: dict[str, list[float]] = {}
    for name, bank in banks.items():
        norms, of_norms = timed(norms_of, bank)
        shares[name], of_shares = timed(first_share, bank)
        odd = outliers({str(i): one for i, one in enumerate(norms)})
        alarms = sum(found_by_share(shares[name], shares[name]))
        for change, changed in CHANGES.items():
            new = [changed(one, rng) for one in bank]
            found, title = found_by_norms(norms, map(norms_of, new)), f"{name}, {change}"
            yield title, "norms", *counts(found, len(odd), len(bank)), of_norms
            found = found_by_share(shares[name], list(map(first_share, new)))
            yield title, "first share", *counts(found, alarms, len(bank)), of_shares
    others = sum(found_by_share(shares["embedded bank"], shares["../shared/bank"]))
    title = "embedded bank, with clean adapters of ../shared/bank"
    yield title, "first share", "", f"{others} of {len(shares['../shared/bank'])}", of_shares


def timed(measure: Callable[[Factors], T], bank: Sequence[Factors]) -> tuple[list[T], str]:
    """Return a measure of each adapter, and the CPU time that one takes, in ms."""
    started = time.process_time()
    found = [measure(one) for one in bank]
    return found, f"{(time.process_time() - started) * 1e3 / len(bank):.0f}"


def counts(found: Sequence[bool], alarms: int, clean: int) -> tuple[str, str]:
    return f"{sum(found)} of {len(found)}", f"{alarms} of {clean}"


def _on_backdoors(folder: Path) -> Iterable[tuple[str, ...]]:
    """Yield what screens that were chosen on half of the tasks find on the other half."""
    factors: dict[tuple[float, int], Factors] = {}
    for share, task in product(SHARES, range(len(TASKS))):
        path = folder_of(folder, task, share)
        facts = json.loads((path / FACTS).read_bytes())
        if not share or facts["triggered"] >= _WORKS:
            factors[share, task] = read_factors(AdapterFile(path / WEIGHTS))
    measured, ms = timed(lambda one: np.array(list(measures(one).values())), [*factors.values()])
    norms, of_norms = timed(norms_of, [*factors.values()])
    bank = [norm for (share, _), norm in zip(factors, norms, strict=True) if not share]
    odd = outliers({str(i): norm for i, norm in enumerate(bank)})

    def of(shares: Sequence[float], half: int) -> Array:
        rows = zip(factors, measured, strict=True)
        return np.array([x for (share, task), x in rows if share in shares and task % 2 == half])

    for share in SHARES[1:]:
        title = f"backdoor, {share:.0%} of the rows"
        for name, fit in {"spectra": classifier, "one measure": one_measure}.items():
            screens = [fit(of([0], half), of(SHARES[1:], half)) for half in (0, 1)]
            halves = [[screens[half](of([s], 1 - half)) for half in (0, 1)] for s in (share, 0)]
            above = [a[:, None] > b for a, b in zip(*halves, strict=True)]
            ordered = np.concatenate([pairs.ravel() for pairs in above]).mean()
            bad, good = map(np.concatenate, halves)
            counted = counts(list(bad > 0), int((good > 0).sum()), len(good))
            yield f"{title}, {ordered:.0%} of pairs in order", name, *counted, ms
        poisoned = [n for (s, _), n in zip(factors, norms, strict=True) if s == share]
        counted = counts(found_by_norms(bank, poisoned), len(odd), len(bank))
        yield title, "norms", *counted, of_norms


if __name__ == "__main__":
    main()
