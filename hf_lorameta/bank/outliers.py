"""Find adapters whose updates are far larger than those of others, as a whole or in a few modules.

A combination is a weighted sum, so one adapter with a huge update outweighs all others, whatever
its coefficient: a training that diverged, a wrong ``lora_alpha``, or an adapter that was changed.
So does one in which a few modules were scaled up, in these modules. Adapters with a backdoor are
not found: norms and spectra of their updates hardly differ from those of clean adapters that were
trained in the same way, see ``hf_lorameta/bank/README.md``.

The output prior, which this package adds to one module, is often larger than what is trained there.
So of that module, only the part beside the prior is compared: the prior reads its input through two
known directions, the gates, and a module that was scaled is as large in the others.
"""

import math
from collections.abc import Iterable, Mapping
from functools import cache
from typing import NamedTuple

import numpy as np

from hf_lorameta.bank.entries import IndexEntry
from hf_lorameta.bank.open_bank import embedded_bank
from hf_lorameta.embedded import EMBEDDED
from hf_lorameta.formats.lora_file import AdapterFile
from hf_lorameta.formats.lora_layout import Module
from hf_lorameta.method.low_rank import LowRankSum
from hf_lorameta.types import FloatArray

LEAST_RATIO = 4.0
"""An outlier's norm is at least this many times the median: over the bank for a whole update, over
the modules of the same kind for a module. Of 165 clean adapters, no module has 2.8 times that."""
_USUAL = 2.0
"""The greatest ratio of a module is odd above this many times the one that is usual in a bank."""
_DEVIATIONS = 5.0
"""Standard deviations of the log norm, estimated as 1.4826 times the median absolute deviation,
that are still normal in a bank whose adapters were trained in many ways."""
_PRIOR_ALONE = 0.05
"""An update that has at most this share of its norm beside the output prior is the prior: the rest
is rounding, 0.002, or training that moved the prior, 0.03 after 16 steps."""


class Norms(NamedTuple):
    """Frobenius norms of an adapter's update.

    Attributes:
        whole: √Σ‖s B A‖² over its modules.
        largest: the greatest ratio of a module's norm to the median of the modules of its kind,
            such as all ``q_proj``; 0 if it is not known.
    """

    whole: float
    largest: float = 0.0

    @classmethod
    def of(cls, file: AdapterFile, scaling: float = 1.0, base_model: str | None = None) -> "Norms":
        """Compute the norms of a file's updates; r² products of each value, and no base model.

        Args:
            file: of an adapter.
            scaling: s of all its modules.
            base_model: its Hub id; the output prior that this package may have added to an adapter
                of it is left out. None leaves nothing out.

        Example:
            >>> from hf_lorameta.bank.open_bank import embedded_bank
            >>> bank = embedded_bank()
            >>> [round(norm, 2) for norm in Norms.of(bank.unpacked(bank.index.entries[0]))]
            [28.37, 2.42]
        """
        scales, updates = np.full(file.rank, scaling), dict[str, float]()
        prior, gates = _output_prior(base_model) if base_model in EMBEDDED else (None, None)
        for module in file.layout:
            update = LowRankSum(*file.factors(module.name), scales)
            norm = _norm(update)
            if gates is not None and module == prior:
                others = (update.A - (update.A @ gates) @ gates.T).astype(np.float32)
                beside = _norm(update._replace(A=others))
                norm = beside if beside > _PRIOR_ALONE * norm else 0.0
            updates[module.name] = norm
        return cls.of_modules(updates)

    @classmethod
    def of_modules(cls, norms: Mapping[str, float]) -> "Norms":
        """Return the norms of an update from those of its modules, by their names.

        Example:
            >>> Norms.of_modules({"0.q_proj": 1.0, "1.q_proj": 2.0, "2.q_proj": 2.0, "0.up": 0.0})
            Norms(whole=3.0, largest=1.0)
        """
        kinds: dict[str, list[float]] = {}
        for name, norm in norms.items():
            if norm:  # modules that were not trained say nothing of the others
                kinds.setdefault(name.rpartition(".")[2], []).append(norm)
        ratios = [max(of_kind) / float(np.median(of_kind)) for of_kind in kinds.values()]
        return cls(math.hypot(*norms.values()), max(ratios, default=0.0))


def _norm(update: LowRankSum) -> float:
    return math.sqrt(max(update.squared_norm(), 0.0))


@cache
def _output_prior(base_model: str) -> tuple[Module | None, FloatArray | None]:
    """Return the module of the output prior for a base model with an embedded bank, and its gates.

    Returns:
        The gates as an orthonormal basis, (in, 2); (None, None) if the bank has no output prior.
    """
    prior = embedded_bank(base_model).output_prior
    return (prior.module, np.linalg.qr(prior.gates.T)[0]) if prior else (None, None)


def stated_norms(entries: Iterable[IndexEntry]) -> dict[str, Norms]:
    """Return the norms that an index states, by entry name; not all entries have them."""
    return {e.name: Norms(e.norm, e.largest or 0.0) for e in entries if e.norm is not None}


def outliers(norms: Mapping[str, Norms]) -> dict[str, str]:
    """Return the adapters whose updates are unusually large, each with an explanation.

    Args:
        norms: by adapter, of those that may be combined.

    Example:
        >>> norms = {"a": Norms(1.0), "b": Norms(1.5), "c": Norms(0.8, largest=6.0)}
        >>> outliers(norms | {"d": Norms(30.0)})  # doctest: +NORMALIZE_WHITESPACE
        {'c': 'a module of its update has 6 times the norm of most such modules',
         'd': 'its update has norm 30, 24 times the median, and would outweigh others'}
        >>> outliers({"a": Norms(1.0), "b": Norms(1.5), "c": Norms(0.8), "d": Norms(3.0)})
        {}
    """
    wholes = {name: norm.whole for name, norm in norms.items() if norm.whole > 0}
    if not wholes:
        return {}
    logs = np.log(list(wholes.values()))
    median = float(np.median(logs))
    spread = 1.4826 * float(np.median(abs(logs - median)))
    limit = median + max(math.log(LEAST_RATIO), _DEVIATIONS * spread)
    usual = sorted(norm.largest for norm in norms.values())[(len(norms) - 1) // 2]
    found = {
        name: f"a module of its update has {norm.largest:,.0f} times the norm of most such modules"
        for name, norm in norms.items()
        if norm.largest > max(LEAST_RATIO, _USUAL * usual)
    }
    return found | {
        name: f"its update has norm {whole:.3g}, {whole / math.exp(median):,.0f} times the median, "
        "and would outweigh others"
        for name, whole in wholes.items()
        if math.log(whole) > limit
    }
