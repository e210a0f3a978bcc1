"""Plan an adapter: measure distances to the bank, and choose coefficients.

No adapter weights are read.
"""

import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from html import escape
from typing import Any

from hf_lorameta._version import __version__
from hf_lorameta.bank.bank import Bank
from hf_lorameta.cards.record import (
    BankRecord,
    BaseModelRecord,
    DatasetRecord,
    Record,
    RemarkRecord,
)
from hf_lorameta.pipeline.coefficients import choose_coefficients
from hf_lorameta.pipeline.plan_data import PlanData
from hf_lorameta.pipeline.read import ReadDataset
from hf_lorameta.pipeline.remarks import remarks_on
from hf_lorameta.pipeline.verdict import Verdict
from hf_lorameta.remarks import Remark
from hf_lorameta.tables import coefficient_table, plural

_HEAD = ["bank dataset", "distance", "coefficient", "license"]


class Plan(PlanData):
    """Which adapters of a bank are combined for a dataset; see `PlanData` for the values.

    It prints as text, and as HTML in a notebook; `to_dict` returns it as JSON values.

    Example:
        >>> import hf_lorameta
        >>> from hf_lorameta.demo import TRAIN_FILE
        >>> plan = hf_lorameta.plan(TRAIN_FILE)
        >>> plan.neighbors()[0].adapter
        'local/teachermove_mathdial'
    """

    @cached_property
    def remarks(self) -> tuple[*tuple[Remark, ...], Verdict]:
        """What a user should know before relying on the result; the last is the verdict."""
        return remarks_on(self)

    @property
    def verdict(self) -> Verdict:
        """That right answers decide; once they are counted, see `Generation.verdict`."""
        return self.remarks[-1]

    def __str__(self) -> str:
        """All figures, with a table of the adapters, as ``hf-lorameta plan`` prints them."""
        read, index, neighbors = self.profile.rows_read, self.bank.index, self.neighbors()
        if self.bank.is_empty:
            return f"{read}; no bank: the adapter starts from {index.base_model} alone"
        lines = [read]
        if neighbors:
            typical = self.nearest_in_bank
            lines = [
                coefficient_table(_HEAD, self._rows(), [n.coefficient for n in neighbors]),
                "",
                f"{read}; {plural(len(neighbors), 'adapter')}, effective number "
                f"{self.effective_number:.1f}; nearest bank dataset at distance "
                f"{self.distances.min():.3f}, typical within the bank: "
                f"{'unknown' if math.isnan(typical) else f'{typical:.3f}'}",
            ]
        if round(self.general_coefficient or 0, 3):
            besides = ", in addition to its part in each adapter" if neighbors else ""
            lines.append(f"general adapter of the bank: {self.general_coefficient:.1%}{besides}")
        if self.output_strength is not None:
            prior = "output prior, which makes the tokens of the outputs more likely"
            lines.append(f"{prior}: {self.output_strength:.2g}")
        if round(self.scale, 2) != 1:
            length = f"{self.profile.output_length:.0f} tokens are longer than the bank's"
            why = "" if self.recipe.scale else f": outputs of {length}"
            lines.append(f"all coefficients are scaled by {self.scale:.2f}{why}")
        return "\n".join([*lines, self.remarks[-1].text])

    def _repr_html_(self) -> str:
        def row(cells: Sequence[str], tag: str) -> str:
            return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"

        table = "".join([row(_HEAD, "th"), *(row(cells, "td") for cells in self._rows())])
        *others, verdict = self.remarks
        warnings = "".join(f"<li>{escape(str(r))}</li>" for r in others if r.level == "warning")
        texts = f"<p>{escape(repr(self))}</p><p>{escape(verdict.text)}</p>"
        return f"{texts}<table>{table}</table><ul>{warnings}</ul>"

    def _rows(self) -> list[list[str]]:
        """Return the cells of a table of the adapters, under `_HEAD`."""
        return [
            [n.label, f"{n.distance:.3f}", f"{n.coefficient:.1%}", n.license or "unknown"]
            for n in self.neighbors()
        ]

    @property
    def record(self) -> Record:
        """Content of ``recipe.json``, without a private dataset's name."""
        index, data = self.bank.index, self.dataset
        named, bank = data.public_id is not None, self.bank.reference
        return Record(
            library=f"hf-lorameta {__version__}",
            private=self.private,
            recipe=self.replay.model_dump(),
            base_model=BaseModelRecord(id=index.base_model, revision=index.base_revision),
            base_license=index.base_license,
            bank=BankRecord.model_validate(bank) if bank else None,
            dataset=DatasetRecord(
                id=data.public_id,
                private=not named,
                proposed_instruction=data.proposed,
                revision=data.revision if named else None,
                config=data.config if named else None,
                split=data.split,
                columns=data.columns,
                rows=self.profile.rows,
                tokens=self.profile.input.total + self.profile.output.total,
            ),
            general_coefficient=self.general_coefficient,
            output_prior=self.output_strength,
            scale=self.scale,
            effective_number=self.effective_number,
            remarks=recorded(self.remarks),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values, as ``plan --json`` prints it."""
        data, typical, content = self.dataset, self.nearest_in_bank, self.record.to_dict()
        name = {"id": data.id, "revision": data.revision, "config": data.config}
        read = {"ended_early": self.profile.ended_early, "total_rows": self.profile.total}
        return content | {
            "dataset": content["dataset"] | name | read,
            "remarks": [remark.to_dict() for remark in self.remarks],
            "nearest_in_bank": None if math.isnan(typical) else typical,  # JSON has no NaN
            "neighbors": [neighbor.to_dict() for neighbor in self.neighbors()],
        }


def recorded(remarks: Iterable[Remark]) -> tuple[RemarkRecord, ...]:
    """Return remarks as ``recipe.json`` has them, without notes."""
    kept = (remark.to_dict() for remark in remarks if remark.level != "note")
    return tuple(RemarkRecord.model_validate(remark) for remark in kept)


def plan_from_reading(reading: ReadDataset, bank: Bank) -> Plan:
    """Plan an adapter for a dataset that was read.

    Raises:
        BankError: the bank lacks the neural rule that was asked for.
        RecipeError: the method would read all profiles of a large bank.
    """
    distances, coefficients = choose_coefficients(
        bank, reading.recipe, reading.profile, reading.output_counts
    )
    return Plan(
        bank,
        reading.dataset,
        reading.recipe,
        reading.profile,
        distances,
        coefficients.adapters,
        coefficients.general,
        coefficients.output_prior,
        reading.output_counts,
        reading.example,
        reading.stopped_after,
    )
