"""The public errors of this package, as one tree; `hf_lorameta.hub.errors` has subclasses.

    LoraMetaError                 exit 1
    ├── UsageError                exit 2   an invalid option, setting or recipe
    │   ├── ManifestError                  bank_manifest.yaml: file and field
    │   └── RecipeError                    unknown metric, rank out of range, ...
    ├── DatasetError              exit 3   the user's (or a bank's) dataset
    │   ├── ColumnsError                   the columns match no known layout, or several
    │   ├── DatasetTooLargeError           a row above the limit, or more than the memory holds
    │   ├── EmptyDatasetError              no usable row
    │   └── UnlabeledDatasetError          no outputs where they are required
    ├── BankError                 exit 4   an unusable bank folder or repo
    │   └── IntegrityError                 a checksum that does not match
    ├── AdapterError              exit 5   an unusable adapter, with the reason
    ├── HubError                  exit 6   the Hub refused a request or did not answer
    │   ├── AuthError                      no token, a revoked one, or one without the permission
    │   ├── NotFoundError                  no such repo, revision or file (or it is private)
    │   ├── GatedError                     a gated repo without access
    │   ├── ConflictError                  the repo has changed, or files would be overwritten
    │   ├── ConnectionLostError            no answer from the Hub, after retries
    │   └── ScriptDatasetError             a dataset that needs a loading script
    └── MissingExtraError         exit 7   an optional dependency is not installed

The message of an error says what happened, what was expected and what was got. Its advice is what
to do next: words, or an `Option`, which each front end spells in its own way. No error contains a
token.

Example:
    >>> error = UsageError("too few rows", hint=[Option("train", change="leave out"), "add rows"])
    >>> str(error), error.hint, error.exit_code
    ('too few rows', 'leave out --train, or add rows', 2)
    >>> error.__notes__
    ['leave out train=, or add rows']
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from hf_lorameta.quoting import option_words, python_literal, shell


def sanitize(name: str) -> str:
    """Return at most 200 characters of an untrusted name, with what is not ASCII escaped."""
    return name[:200].encode("unicode_escape").decode("ascii")


@dataclass(frozen=True)
class Option:
    """A setting to change, as a part of an error's advice.

    Attributes:
        name: as in Python, such as ``max_rows``.
        value: to give it; None names the setting alone, True and False are those of a switch.
        change: what to do with it.

    Example:
        >>> command_line(Option("max_rows", 500)), in_python(Option("max_rows", 500))
        ('add --max-rows 500', 'add max_rows=500')
    """

    name: str
    value: str | int | float | None = None
    change: Literal["add", "leave out", "lower", "raise", "name another", "generate with"] = "add"


Advice: TypeAlias = str | Option

_NOT_IN_PYTHON = frozenset({"dask", "general_steps", "targets"})
"""Options of commands that no function of the package's API has as an argument."""


def as_flag(option: Option) -> str:
    """Return an option as an argument of a command, with its value.

    Example:
        >>> as_flag(Option("columns", "input=the text,output=label"))
        "--columns 'input=the text,output=label'"
        >>> as_flag(Option("private", False))
        '--public'
    """
    value = True if option.value is None else option.value
    return shell(*option_words({option.name: value}))


def command_line(option: Option) -> str:
    """Spell an option for the command line."""
    return f"{option.change} {as_flag(option)}"


def in_python(option: Option) -> str:
    """Spell an option as an argument in Python."""
    value = python_literal(option.value) if isinstance(option.value, str) else repr(option.value)
    return f"{option.change} {option.name}={'' if option.value is None else value}"


def in_words(advice: Sequence[Advice], spell: Callable[[Option], str]) -> str:
    """Join alternatives, each spelled for a front end."""
    return ", or ".join(part if isinstance(part, str) else spell(part) for part in advice)


class LoraMetaError(Exception):
    """Base class of this package's errors.

    Args:
        message: one line: what happened, what was expected, what was got.
        code: of the cause, such as ``budget.not-a-time``; empty for that of the class.
        hint: what to do next: words, often a command, or an `Option`; several are alternatives.

    Attributes:
        code: of the cause. Code and tests compare it, never the message.
        codes: of all causes, where one error names several problems.
        advice: the alternatives of `hint`. In Python, tracebacks show those that it has.
    """

    exit_code = 1
    code = "error.unexpected"

    def __init__(
        self, message: str, *, code: str = "", hint: Advice | Sequence[Advice] = ()
    ) -> None:
        super().__init__(message)
        self.code = code or type(self).code
        self.codes: tuple[str, ...] = (self.code,)
        self.advice: tuple[Advice, ...] = ()
        self.advise(*((hint,) if isinstance(hint, str | Option) else hint))

    def advise(self, *more: Advice) -> None:
        """Add alternatives to the advice."""
        self.advice += tuple(filter(None, more))
        known = [p for p in self.advice if isinstance(p, str) or p.name not in _NOT_IN_PYTHON]
        self.__notes__ = [in_words(known, in_python)] if known else []

    @property
    def hint(self) -> str:
        """The advice as the command line spells it; empty if there is none."""
        return in_words(self.advice, command_line)

    def __reduce__(self) -> tuple[object, tuple[object, ...], dict[str, str]]:
        # keeps code and advice when an error crosses a process boundary (executors, Dask)
        return (type(self), self.args, vars(self))


class UsageError(LoraMetaError):
    """An option or setting is invalid."""

    exit_code = 2
    code = "usage.invalid"


class ManifestError(UsageError):
    """A manifest is invalid; the message names file and field."""

    code = "manifest.invalid"


class RecipeError(UsageError):
    """A recipe names something unknown or combines settings that exclude each other."""

    code = "recipe.invalid"


class DatasetError(LoraMetaError):
    """A dataset cannot be read as (input, output) rows.

    Attributes:
        columns: proposed columns, a `hf_lorameta.Columns`; None if there are none.
        row: a row (input, output) as these columns read it, to be shown to the user and not stored.
        rows: without a proposal, the first rows as the files have them, like `row`.
        option: one of the advice with which the command can be repeated; None if there is none.
        parts: the sheets, tables or lists of a file that none of them was named of, which are not
            called like splits.
    """

    exit_code = 3
    code = "dataset.unreadable"
    columns: Any = None
    row: tuple[str, str] | None = None
    rows: Sequence[Mapping[str, Any]] = ()
    option: Option | None = None
    parts: tuple[str, ...] = ()


class ColumnsError(DatasetError):
    """The columns match no known layout, or several.

    Attributes:
        field: path of a column with several fields, and path of the field to propose instead.
    """

    code = "columns.unclear"
    field: tuple[str, str] | None = None


class DatasetTooLargeError(DatasetError):
    """A row is larger than the limit, or reading needs more memory than there is."""

    code = "dataset.too-large"


class EmptyDatasetError(DatasetError):
    """The dataset or split has no usable row."""

    code = "dataset.empty"


class UnlabeledDatasetError(DatasetError):
    """The dataset has no outputs where they are required, or no known column has them."""

    code = "outputs.none"


class BankError(LoraMetaError):
    """A folder or repo is not a usable bank."""

    exit_code = 4
    code = "bank.unusable"


class IntegrityError(BankError):
    """A file's checksum differs from the recorded one."""

    code = "bank.damaged"


class AdapterError(LoraMetaError):
    """An adapter is unusable; the bank's index records the message as the reason."""

    exit_code = 5
    code = "adapter.unusable"


class HubError(LoraMetaError):
    """The Hub refused a request or failed."""

    exit_code = 6
    code = "hub.failed"


class AuthError(HubError):
    """The token is missing, revoked, or lacks a permission."""

    code = "token.refused"


class NotFoundError(HubError):
    """The repo, revision or file does not exist, or is private to another account."""

    code = "hub.not-found"


class GatedError(HubError):
    """The repo is gated and this account has no access."""

    code = "repo.gated"


class ConflictError(HubError):
    """The repo has changed meanwhile, or files in it would be overwritten."""

    code = "repo.conflict"


class ConnectionLostError(HubError):
    """The Hub did not answer, after retries."""

    code = "hub.no-answer"


class ScriptDatasetError(HubError):
    """The dataset needs a loading script, which `datasets` no longer supports."""

    code = "dataset.needs-script"


class MissingExtraError(LoraMetaError):
    """An optional dependency is not installed."""

    exit_code = 7
    code = "extra.missing"


def problem_of(message: str) -> str:
    """Return what pydantic says of a value in the words of our errors.

    Example:
        >>> problem_of("Input should be a valid integer"), problem_of("Value error, x is no name")
        ('must be a valid integer', 'x is no name')
    """
    return message.removeprefix("Value error, ").replace("Input should", "must", 1)


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its class name if it has none.

    Example:
        >>> first_line(ValueError("bad\\nworse")), first_line(KeyError())
        ('bad', 'KeyError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]
