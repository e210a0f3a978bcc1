"""Which dataset is read, and how: what every way in asks for."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import ConfigDict, Field, field_validator

from hf_lorameta.data.chat_form import ChatForm
from hf_lorameta.data.columns.columns import Columns, as_columns
from hf_lorameta.data.sources.split_names import Splits
from hf_lorameta.errors import UsageError
from hf_lorameta.settings import Settings

TEXTS = ("instruction", "template")
"""Fields that options state on one line, see `hf_lorameta.data.prompt.as_option`."""


class Reading(Settings):
    """Which dataset is read, and how.

    Attributes:
        dataset: Hub id, folder or file, or several files; None for rows in memory.
        config: configuration of a Hub dataset.
        split: None is train, or the only one; a slice is ``train[:1000]``. Of several, such as
            ``("test", "dev")`` or ``test,dev``, the first one that exists.
        revision: branch, tag or commit of a Hub dataset.
        columns: by role, such as ``{"input": "question", "output": "answer"}`` or
            ``input=question,output=answer``; None finds them, see
            `hf_lorameta.data.columns.layouts.find_columns`.
        instruction: put before every input, if the rows have none.
        template: text with ``{instruction}`` and ``{input}``, see
            `hf_lorameta.data.prompt.join_instruction`; ``chat`` is the chat template of the base
            model, if one is known.

    Example:
        >>> Reading(dataset="user/name", columns={"input": "q", "output": "a"}).columns.answer
        'a'
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    dataset: str | tuple[str, ...] | None = Field(
        default=None, description="Hub id, folder, or files; several files are one dataset."
    )
    config: str | None = Field(default=None, description="Configuration of a Hub dataset.")
    split: Splits = Field(
        default=None,
        description="Split; of several with commas, the first one that exists. Default: train, "
        "or the only one.",
    )
    revision: str | None = Field(default=None, description="Revision of a Hub dataset.")
    columns: Columns | None = Field(
        default=None,
        description="Columns to read: input=COLUMN,output=COLUMN; also instruction=, choices= and "
        "messages=.",
    )
    instruction: str | None = Field(
        default=None,
        description=r"Text to put before every input, for rows without an instruction; \n is a "
        r"line break, \t a tab, \\ a backslash.",
    )
    template: str | ChatForm | None = Field(
        default=None,
        description=r"Prompt of a row, such as '{instruction}\n\n{input}'; chat: the base model's "
        "own chat template, the default without a bank.",
    )

    @field_validator("columns", mode="before")
    @classmethod
    def _as_columns(cls, columns: Any) -> Columns | None:
        return as_columns(columns)

    @field_validator("split", mode="before")
    @classmethod
    def _as_splits(cls, split: Any) -> Any:
        is_list = isinstance(split, str) and "," in split
        return tuple(split.split(",")) if is_list else split

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of `hf_lorameta.open_dataset` besides the dataset."""
        return {name: getattr(self, name) for name in Reading.model_fields if name != "dataset"}


def reading_of(arguments: Mapping[str, Any]) -> Reading:
    """Return the reading that arguments of a public function ask for.

    Raises:
        UsageError: there is no such argument.
        RecipeError: a value has another type.
    """
    known = [name for name in Reading.model_fields if name != "dataset"]
    if unknown := set(arguments).difference(known):
        name = min(unknown)
        likely = [one for one in known if one[:5] in name] or get_close_matches(name, known, 1, 0.8)
        advice = [f"name it {option}=" for option in likely]
        raise UsageError(
            f"no argument is named {name}=; a dataset is read with {', '.join(known)}",
            code="dataset.unknown-argument",
            hint=[*advice, "give settings of the adapter as recipe=hf_lorameta.Recipe(…)"],
        )
    return Reading.of(**arguments)
