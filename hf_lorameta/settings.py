"""Frozen settings of pydantic, refused with errors that a person can act on."""

from collections.abc import Sequence
from itertools import chain
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    Self,
    Union,
    cast,
    get_args,
    get_origin,
)

from pydantic import BaseModel, ConfigDict, ValidationError

from hf_lorameta.errors import Advice, Option, RecipeError, problem_of

_LIMITS = {"ge": "at least", "gt": "more than", "le": "at most"}
"""Limits of numbers, in the words of our errors."""


def _allowed(metadata: Sequence[object]) -> str:
    """Return which numbers a field takes.

    Example:
        >>> from hf_lorameta import Recipe
        >>> _allowed(Recipe.model_fields["scale"].metadata)
        'more than 0 and at most 4'
    """
    return " and ".join(
        f"{words} {getattr(limit, name)}"
        for limit in metadata
        for name, words in _LIMITS.items()
        if hasattr(limit, name)
    )


class Settings(BaseModel):
    """Base class of settings; a field's description is the help of its option.

    Attributes:
        verb: command whose help lists the settings.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    verb: ClassVar[str] = "generate"

    if not TYPE_CHECKING:  # type checkers know the fields

        def __init__(self, /, **settings: object) -> None:
            try:
                super().__init__(**settings)
            except ValidationError as error:
                raise self._error(error) from None

    @classmethod
    def of(cls, /, **settings: Any) -> Self:
        """Build from settings whose types are not known.

        Raises:
            RecipeError: a field is unknown or out of range, or two exclude each other.

        Example:
            >>> from hf_lorameta import Recipe
            >>> Recipe.of(rank=0)
            Traceback (most recent call last):
            hf_lorameta.errors.RecipeError: rank must be at least 1 and at most 512, got 0
        """
        return cls(**settings)

    @classmethod
    def kind(cls, name: str) -> type | tuple[str, ...]:
        """Return what an option or an input for a field takes: a type, or one of several texts.

        It is a number where numbers are among the field's types, and a text for types of our own.

        Example:
            >>> from hf_lorameta import Recipe
            >>> Recipe.kind("top_k"), Recipe.kind("combine")
            (<class 'int'>, ('factors', 'exact'))
        """
        field = cls.model_fields[name]
        if isinstance(extra := field.json_schema_extra, dict) and "enum" in extra:
            return tuple(map(str, cast("list[object]", extra["enum"])))
        types = cls._types(name)
        if get_origin(types[0]) is Literal:
            return get_args(types[0])
        if str in types or not {int, float, bool}.issuperset(types):
            return str
        return next((kind for kind in (int, float) if kind in types), bool)

    @classmethod
    def can_be_off(cls, name: str) -> bool:
        """Whether a field takes numbers, and False."""
        return bool in (types := cls._types(name)) and len(types) > 1

    @classmethod
    def _types(cls, name: str) -> list[Any]:
        """Return the types that a field takes, without None and bounds."""
        members = cls._members(name)
        bare = (get_args(m)[0] if get_origin(m) is Annotated else m for m in members)
        return [member for member in bare if member is not NoneType]

    @classmethod
    def _members(cls, name: str) -> Sequence[Any]:
        """Return the types that a field takes, as they are written."""
        annotation: Any = cls.model_fields[name].annotation
        is_union = get_origin(annotation) in (Union, UnionType)
        return get_args(annotation) if is_union else (annotation,)

    @classmethod
    def _metadata(cls, name: str) -> list[object]:
        """Return the bounds of a field, and of the types that it takes."""
        of_types = (m.__metadata__ for m in cls._members(name) if get_origin(m) is Annotated)
        infos = (getattr(one, "metadata", [one]) for one in chain.from_iterable(of_types))
        return [*cls.model_fields[name].metadata, *chain.from_iterable(infos)]

    @classmethod
    def _error(cls, error: ValidationError) -> RecipeError:
        errors = error.errors(include_url=False)
        field = str(errors[0]["loc"][0])
        first = [one for one in errors if one["loc"][0] == field][-1]  # of a union, its last type
        problem, kind = problem_of(first["msg"]), first["type"]
        hint: Advice = f"hf-lorameta {cls.verb} --help lists every setting"
        if kind == "extra_forbidden":
            problem = f"is not a setting, expected one of {', '.join(cls.model_fields)}"
        elif kind == "finite_number" or first.get("ctx", {}).keys() & _LIMITS:
            finite = "finite and " if kind == "finite_number" else ""
            limits, allowed = first.get("ctx", {}), _allowed(cls._metadata(field))
            problem = f"must be {finite}{allowed}" if allowed else problem
            hint = Option(field, change="leave out")
            if limits.keys() & {"ge", "le"}:
                hint = Option(field, change="raise" if "ge" in limits else "lower")
        return RecipeError(
            f"{field} {problem}, got {first['input']!r}", code="recipe.invalid", hint=hint
        )
