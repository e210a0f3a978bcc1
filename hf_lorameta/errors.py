"""The public errors of this package, as one tree; `hf_lorameta.hub.errors` has subclasses.

    LoraMetaError                 exit 1
    ├── UsageError                exit 2   an invalid option, setting or recipe
    │   ├── ManifestError                  bank_manifest.yaml: file, line and field
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

The message of an error says what happened, what was expected and what was got. Its ``hint`` is the
next command or action. No error contains a token.

Example:
    >>> error = ColumnsError("columns a, b fit no known layout", hint="--columns input=a,output=b")
    >>> str(error), error.hint, error.exit_code
    ('columns a, b fit no known layout', '--columns input=a,output=b', 3)
"""

from typing import Any


def sanitize(name: str) -> str:
    """Return at most 200 characters of an untrusted name, with what is not ASCII escaped."""
    return name[:200].encode("unicode_escape").decode("ascii")


class LoraMetaError(Exception):
    """Base class of this package's errors.

    Args:
        message: one line: what happened, what was expected, what was got.
        hint: one line: what to do next, often a command. Empty if there is nothing to do.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __reduce__(self) -> tuple[object, tuple[object, ...], dict[str, str]]:
        # keeps `hint` when an error crosses a process boundary (executors, Dask)
        return (type(self), self.args, vars(self))


class UsageError(LoraMetaError):
    """An option or setting is invalid."""

    exit_code = 2


class ManifestError(UsageError):
    """A manifest is invalid; the message names file, line and field."""


class RecipeError(UsageError):
    """A recipe names something unknown or combines settings that exclude each other."""


class DatasetError(LoraMetaError):
    """A dataset cannot be read as (input, output) rows.

    Attributes:
        columns: proposed columns, a `hf_lorameta.data.columns.Columns`; None if there are none.
        row: a row (input, output) as these columns read it, to be shown to the user and not stored.
        option: a proposed option of the command line, such as ``--split test``; empty if none.
    """

    exit_code = 3
    columns: Any = None
    row: tuple[str, str] | None = None
    option: str = ""


class ColumnsError(DatasetError):
    """The columns match no known layout, or several.

    Attributes:
        field: path of a column with several fields, and path of the field to propose instead.
    """

    field: tuple[str, str] | None = None


class DatasetTooLargeError(DatasetError):
    """A row is larger than the limit, or reading needs more memory than there is."""


class EmptyDatasetError(DatasetError):
    """The dataset or split has no usable row."""


class UnlabeledDatasetError(DatasetError):
    """The dataset has no outputs where they are required, or no known column has them."""


class BankError(LoraMetaError):
    """A folder or repo is not a usable bank."""

    exit_code = 4


class IntegrityError(BankError):
    """A file's checksum differs from the recorded one."""


class AdapterError(LoraMetaError):
    """An adapter is unusable; the bank's index records the message as the reason."""

    exit_code = 5


class HubError(LoraMetaError):
    """The Hub refused a request or failed."""

    exit_code = 6


class AuthError(HubError):
    """The token is missing, revoked, or lacks a permission."""


class NotFoundError(HubError):
    """The repo, revision or file does not exist, or is private to another account."""


class GatedError(HubError):
    """The repo is gated and this account has no access."""


class ConflictError(HubError):
    """The repo has changed meanwhile, or files in it would be overwritten."""


class ConnectionLostError(HubError):
    """The Hub did not answer, after retries."""


class ScriptDatasetError(HubError):
    """The dataset needs a loading script, which `datasets` no longer supports."""


class MissingExtraError(LoraMetaError):
    """An optional dependency is not installed."""

    exit_code = 7


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its class name if it has none.

    Example:
        >>> first_line(ValueError("bad\\nworse")), first_line(KeyError())
        ('bad', 'KeyError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]
