"""What users are told besides figures: a list of remarks, which the front ends only render.

A dataset, a plan and an adapter each hold one. A new remark is one ``Remark`` where its cause is
known: in `hf_lorameta.data.first_rows` for how a dataset is read, in
`hf_lorameta.data.counts.row_counts` for its rows, else in `hf_lorameta.pipeline.remarks`.
"""

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from hf_lorameta.errors import Option, as_flag, in_python

logger = logging.getLogger(__name__)

Level: TypeAlias = Literal["note", "warning", "doubt", "likely", "unsure", "unlikely"]

_LEVELS = {"note": logging.INFO, "likely": logging.INFO, "doubt": logging.DEBUG}
"""How a remark is logged, if not as a warning; a doubt is a part of the verdict."""


@dataclass(frozen=True)
class Remark:
    """One thing that a user should know.

    Attributes:
        level: where it is shown.
            ``note``: in the log and in JSON; what was read, trained or counted.
            ``warning``: in the log and in JSON, on the Space's page and on the card; what to know
            before relying on the adapter.
            ``doubt``: in the verdict; why inputs may not hold what an answer needs.
            ``likely``, ``unsure``, ``unlikely``: the verdict on whether the adapter helps,
            everywhere.
        text: one or more sentences.
        option: a setting to change.
        purpose: what the option is for, as ``To …``; needed with one.
        code: of the cause, such as ``rows.few``. Code and tests compare it, never the text.

    Example:
        >>> option = Option("check", 16)
        >>> remark = Remark("note", "Nothing was counted.", option, "To count", code="check.none")
        >>> print(remark)
        Nothing was counted. To count, add check=16.
    """

    level: Level
    text: str
    option: Option | None = None
    purpose: str = ""
    code: str = field(kw_only=True)

    def spelled(self, spell: Callable[[Option], str]) -> str:
        """Return the text with the option as a front end spells it."""
        return f"{self.text} {self.purpose}, {spell(self.option)}." if self.option else self.text

    def __str__(self) -> str:
        return self.spelled(in_python)

    @property
    def title(self) -> str:
        """The first sentence, without its period."""
        return self.text.partition(". ")[0].removesuffix(".")

    @property
    def reason(self) -> str:
        """The other sentences."""
        return self.text.partition(". ")[2]

    def to_dict(self) -> dict[str, str]:
        """Return code, level, text, and the option as the command line takes it, for JSON."""
        option = {"option": as_flag(self.option)} if self.option else {}
        return {"code": self.code, "level": self.level, "text": self.text} | option


def log_remarks(remarks: Iterable[Remark], without: Collection[Remark] = ()) -> None:
    """Log remarks, except those in `without`: they are logged already, or printed."""
    for remark in remarks:
        if remark not in without:
            logger.log(_LEVELS.get(remark.level, logging.WARNING), remark)
