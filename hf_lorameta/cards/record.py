"""recipe.json: what an adapter was made of, and how. Nothing else writes or reads that file.

What code has to know is a field or a code here, never the words of a remark.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    field_serializer,
    field_validator,
    model_serializer,
)

from hf_lorameta.cards.results import CheckResult, Drawn, Training
from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.errors import AdapterError, RecipeError
from hf_lorameta.recipe import MergeRecipe, Recipe

RECIPE_FILE = "recipe.json"
SCHEMA_VERSION = 2


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; a number that is not finite is None."""
        values: dict[str, Any] = json.loads(self.model_dump_json())
        return values


class BaseModelRecord(_Part):
    """The base model.

    Attributes:
        id: Hub id, or a path that stands for that of a folder.
        revision: its commit; None if it is not known, or merged adapters state several.
        four_bit: whether it was run with quantized weights in place of its own.
    """

    id: str
    revision: str | None
    four_bit: bool = False


class BankRecord(_Part):
    """The bank: its id, commit, and the digest of its index."""

    id: str
    revision: str | None
    sha256: str


class DatasetRecord(_Part):
    """The dataset, without the name of a private one.

    Attributes:
        id: Hub id; None if it is not public.
        private: whether it is not public.
        proposed_instruction: whether an instruction was derived from rows that are not public.
        revision: commit; None if it is not public.
        config: configuration; None if it has none, or it is not public.
        split: with the slice that was read.
        columns: how rows are read.
        rows: number of rows whose tokens were counted.
        tokens: number of these.
    """

    id: str | None
    private: bool
    proposed_instruction: bool
    revision: str | None
    config: str | None
    split: str
    columns: Columns
    rows: int
    tokens: int


class RemarkRecord(_Part):
    """A remark that is not a mere note."""

    level: str
    text: str
    code: str
    option: str | None = None
    figures: Mapping[str, Any] | None = None

    @model_serializer(mode="wrap")
    def _as_stored(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is not set."""
        return {name: value for name, value in serialize(self).items() if value is not None}


class Made(_Part):
    """Which rows a generated adapter was made with.

    Attributes:
        recipe: the settings that make it again, those of stages included.
        dataset: that it was made for.
        training: how it was trained; None if it was not.
        check: what was counted; None if nothing was.
        rows: how many were drawn for each purpose; None if none were.
    """

    recipe: Mapping[str, Any]
    dataset: DatasetRecord
    training: Training | None = None
    check: CheckResult | None = None
    rows: Drawn | None = None

    @field_validator("recipe")
    @classmethod
    def _check_recipe(cls, recipe: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            Recipe.of(**{name: recipe[name] for name in Recipe.model_fields})
        except (KeyError, RecipeError) as error:
            raise ValueError(str(error)) from None
        return recipe

    @field_serializer("check")
    def _finite(self, check: CheckResult | None) -> Any:
        if check is None:
            return None
        counted = {
            method: {"right": one.right, "loss": _number(one.loss), "score": _number(one.score)}
            for method, one in check.counted.items()
        }
        return {"rows": check.rows, "counted": counted, "measure": check.measure}


class Record(Made):
    """What a generated adapter was made of, and how.

    Attributes:
        library: that wrote it, with its version.
        private: whether a source is private, so that its repo is private by default.
        base_model: that it is for.
        base_license: of that; None if none is stated.
        bank: whose adapters were combined; None without one.
        general_coefficient: of the bank's general adapter; None if it has none.
        output_prior: strength of the output prior; None if it does not take part.
        scale: factor by which all coefficients were multiplied.
        effective_number: of adapters.
        remarks: what to know before relying on it; the last is the verdict.
        interrupted: the stage that the user ended; None if none.
        stages: what stages other than training and check did, by their names.
        rank: of every module; None in a plan.
    """

    schema_version: Literal[2] = 2
    library: str
    private: bool
    base_model: BaseModelRecord
    base_license: str | None
    bank: BankRecord | None
    general_coefficient: float | None
    output_prior: float | None
    scale: float
    effective_number: float
    remarks: tuple[RemarkRecord, ...]
    interrupted: str | None = None
    stages: Mapping[str, Mapping[str, Any]] = {}
    rank: int | None = None

    @property
    def made(self) -> tuple[Made, ...]:
        """Which rows it was made with."""
        return (Made(**{name: getattr(self, name) for name in Made.model_fields}),)

    @property
    def dtype(self) -> str:
        """Of its tensors."""
        return str(self.recipe["dtype"])


class MergedAdapter(_Part):
    """An adapter that was merged.

    Attributes:
        adapter: its public name, with the first digits of `sha256` if it is a folder.
        revision: its commit; None if it is not in a repo.
        sha256: of its weights.
        licenses: that it states.
        private: whether it is.
        published: whether `adapter` is a name on the Hub.
        base_license: of the base model; None if it is not known.
        generated: which rows it was made with, for each generated adapter in it.
        weight: its factor; 1 before it is chosen.
    """

    adapter: str
    revision: str | None
    sha256: str
    licenses: tuple[str, ...]
    private: bool
    published: bool
    base_license: str | None
    generated: tuple[Made, ...] = ()
    weight: float = 1.0


class MergeRecord(_Part):
    """What a merge was made of, and how.

    Attributes:
        library: that wrote it, with its version.
        merge: the settings.
        base_model: that it is for.
        base_license: of that; None if none is stated, or several are.
        adapters: that were merged.
        columns: how all of them read rows; None if their prompts differ, or not all are known.
        private: whether one of them is private.
        remarks: what to know before relying on it.
        rank: of every module.
        kept: share of the weighted sum's squared norm; None if it was not computed.
    """

    schema_version: Literal[2] = 2
    library: str
    merge: MergeRecipe
    base_model: BaseModelRecord
    base_license: str | None
    adapters: tuple[MergedAdapter, ...]
    columns: Columns | None
    private: bool
    remarks: tuple[RemarkRecord, ...]
    rank: int
    kept: float | None

    @property
    def made(self) -> tuple[Made, ...]:
        """Which rows the generated adapters in it were made with."""
        return tuple(part for adapter in self.adapters for part in adapter.generated)

    @property
    def dtype(self) -> str:
        """Of its tensors."""
        return self.merge.dtype


def read_record(folder: Path) -> Record | MergeRecord | None:
    """Read a folder's ``recipe.json``; None if there is none, or it is not one of ours.

    Raises:
        AdapterError: another version of hf-lorameta wrote it.
    """
    try:
        content = json.loads((folder / RECIPE_FILE).read_bytes())
        version = content["schema_version"]
        if isinstance(version, int) and version != SCHEMA_VERSION:
            raise AdapterError(
                f"{RECIPE_FILE} is of version {version}, expected {SCHEMA_VERSION}: another "
                "version of hf-lorameta wrote it",
                code="record.other-version",
                hint="make the adapter again",
            )
        kind = MergeRecord if "merge" in content else Record
        return kind.model_validate(content)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ValidationError):
        return None


def schema() -> dict[str, Any]:
    """Return the JSON schema of ``recipe.json``, which recipe.schema.json has."""
    kinds: TypeAdapter[Record | MergeRecord] = TypeAdapter(Record | MergeRecord)
    return {"title": RECIPE_FILE} | kinds.json_schema()


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
