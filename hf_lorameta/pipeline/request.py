"""All that a caller can ask for: one value, which each way in makes, and a command can repeat."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, field_validator

from hf_lorameta import quoting
from hf_lorameta.data.prompt import as_option
from hf_lorameta.data.reading import TEXTS, Reading
from hf_lorameta.pipeline.budget import SHARE_FOR_CHECK, budget_seconds
from hf_lorameta.pipeline.check import Check, CheckSettings
from hf_lorameta.pipeline.stages import Stage
from hf_lorameta.pipeline.train import Train, TrainSettings
from hf_lorameta.recipe import Recipe

STAGES: tuple[type[Stage[Any]], ...] = (Train, Check)
"""What may follow the combination, in this order."""


class Request(CheckSettings, TrainSettings, Recipe, Reading):
    """What is read, which bank and base model are used, the time, and all other settings.

    The command line has an option for each field, Python an argument, the endpoints of the Space an
    input, each with the field's description.

    Attributes:
        base: base model: Hub id, folder or GGUF file; None is that of the bank.
        base_revision: branch, tag or commit of the base model, if no bank is used.
        bank: folder or Hub id of a bank; ``none`` for no bank. None is the default bank if it fits
            `base`, else the embedded one for it, else no bank.
        bank_revision: branch, tag or commit of a bank repo.
        budget: time for the whole command, in seconds or as a time such as ``"5m"``; training
            stops earlier if all steps are taken. 0 only combines adapters. None is two minutes if
            the base model can be run here, unless `train` says how many rows to train on.

    Example:
        >>> request = Request(dataset="my rows.csv", top_k=3, budget="5m", check=False)
        >>> request.command("generate", output="a")
        "hf-lorameta generate --dataset 'my rows.csv' --top-k 3 --no-check --budget 5m --output a"
        >>> request.recipe.top_k, request.seconds
        (3, 300.0)
        >>> Request(split=("test", "dev")).command("plan")
        'hf-lorameta plan --split test,dev'
    """

    base: str | None = Field(
        default=None,
        description="Base model: Hub id, folder or .gguf file. Default: that of the bank.",
    )
    base_revision: str | None = Field(
        default=None, description="Revision of the base model, if no bank is used."
    )
    bank: str | None = Field(
        default=None,
        description="Folder or Hub repo of a bank, or none: train on the base model itself. "
        "Default: $HF_LORAMETA_BANK, else the bank that comes with this package; none for "
        "another base model.",
    )
    bank_revision: str | None = Field(default=None, description="Revision of a bank repo.")
    budget: float | str | None = Field(
        default=None,
        description="Time for the whole command, downloads not counted: after loading, it trains "
        f"on your rows and counts right answers (up to {SHARE_FOR_CHECK:.0%} of that time), e.g. "
        "10m or 30s; a number alone is seconds. 0: only combine adapters. Default: 2m if the base "
        "model is on this machine (extra: eval).",
    )

    @field_validator("budget")
    @classmethod
    def _check_budget(cls, budget: float | str | None) -> float | str | None:
        budget_seconds(budget)  # raises if it is not a time
        return budget

    @property
    def seconds(self) -> float | None:
        """The budget in seconds; None if it was not given."""
        return budget_seconds(self.budget)

    @property
    def recipe(self) -> Recipe:
        """How the dataset is compared with the bank, and adapters are combined."""
        return Recipe.of(**{name: getattr(self, name) for name in Recipe.model_fields})

    @property
    def reading(self) -> Reading:
        """Which dataset is read, and how."""
        return Reading.of(**{name: getattr(self, name) for name in Reading.model_fields})

    def settings_of(self, stage: type[Stage[Any]]) -> Any:
        """Return the settings of a stage."""
        kind = stage.Settings
        return kind.of(**{name: getattr(self, name) for name in kind.model_fields})

    def stages(self, insisted: bool = True) -> tuple[Stage[Any], ...]:
        """Return the stages that are asked for.

        Args:
            insisted: see `Stage`.

        Example:
            >>> [str(stage) for stage in Request(train=16, check=8).stages()]
            ['train on 16 rows', 'check on 8 other rows']
        """
        wanted = ((stage, self.settings_of(stage)) for stage in STAGES)
        seconds = self.seconds or 0.0
        return tuple(s(own, insisted) for s, own in wanted if s.wanted(own, seconds))

    def but(self, **changes: Any) -> Self:
        """Return a request with other values.

        Raises:
            RecipeError: a field is unknown or out of range, or two exclude each other.
        """
        given = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self).of(**given | changes)

    @property
    def changed(self) -> dict[str, Any]:
        """The values that are not the defaults, by the names of fields."""
        fields = type(self).model_fields.items()
        given = ((name, getattr(self, name), field.default) for name, field in fields)
        return {name: value for name, value, default in given if value != default}

    def command(self, verb: str, **options: Any) -> str:
        """Return the command that asks for the same.

        Args:
            verb: the command's name, such as ``generate``.
            options: more options of it, by their names in Python.
        """
        return quoting.shell("hf-lorameta", verb, *self.words(**options))

    def words(self, **options: Any) -> list[str]:
        """Return the words of `command` after the verb."""
        given = self.changed
        names = given.pop("dataset", ())
        files = [names] if isinstance(names, str) else names
        named = [word for name in files for word in ("--dataset", name)]
        return [*named, *quoting.option_words(_written(given) | options)]


def _written(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as options take them."""

    def text(name: str, value: Any) -> Any:
        if isinstance(value, bool):
            return value  # that of a switch
        if isinstance(value, tuple) and name == "split":
            return ",".join(value)
        shown = str(value).removesuffix(".0") if isinstance(value, float) else str(value)
        return as_option(shown) if name in TEXTS else shown

    return {name: text(name, value) for name, value in values.items()}
