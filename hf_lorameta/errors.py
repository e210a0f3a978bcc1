"""Everything that can go wrong, as one tree.

    LoraMetaError                 exit 1
    ├── UsageError                exit 2   an option, a setting or a recipe that cannot be followed
    │   ├── ManifestError                  bank_manifest.yaml: file, line and field
    │   └── RecipeError                    unknown metric, rank out of range, ...
    ├── DatasetError              exit 3   the user's (or a bank's) dataset
    │   ├── ColumnsError                   no layout fits the columns, or more than one
    │   ├── EmptyDatasetError              no usable row
    │   └── UnlabeledDatasetError         no outputs where they are needed, or none that is known
    ├── BankError                 exit 4   a bank folder or repo that cannot be used
    │   └── IntegrityError                 a checksum that does not match
    ├── AdapterError              exit 5   an adapter that cannot be used, with the reason
    ├── HubError                  exit 6   the Hub said no, or nothing
    │   ├── AuthError                      no token, a revoked one, or one without the right
    │   ├── NotFoundError                  no such repo, revision or file (or it is private)
    │   ├── GatedError                     access has to be asked for first
    │   ├── ConflictError                  the repo changed, or holds such files already
    │   ├── ConnectionLostError            the Hub did not answer, after retries
    │   └── ScriptDatasetError             a dataset that needs a loading script
    └── MissingExtraError         exit 7   an optional dependency is not installed

Every error carries what happened (with what was expected and what was got) and, as ``hint``, the
next thing to type. No error ever carries a token.

Example:
    >>> error = ColumnsError("columns a, b fit no known layout", hint="--columns input=a,output=b")
    >>> str(error), error.hint, error.exit_code
    ('columns a, b fit no known layout', '--columns input=a,output=b', 3)
"""


class LoraMetaError(Exception):
    """Base of all errors this package raises on purpose.

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
        return (type(self), self.args, {"hint": self.hint})


class UsageError(LoraMetaError):
    """An option or setting cannot be followed."""

    exit_code = 2


class ManifestError(UsageError):
    """A manifest is not valid; the message names file, line and field."""


class RecipeError(UsageError):
    """A recipe asks for something that does not exist or cannot be combined."""


class DatasetError(LoraMetaError):
    """A dataset cannot be read as (input, output) rows."""

    exit_code = 3


class ColumnsError(DatasetError):
    """The columns fit no known layout, or more than one."""


class EmptyDatasetError(DatasetError):
    """The dataset, or the split, holds no usable row."""


class UnlabeledDatasetError(DatasetError):
    """The dataset has no outputs where they are needed, or in no column that is known."""


class BankError(LoraMetaError):
    """A folder or repo is not a usable bank."""

    exit_code = 4


class IntegrityError(BankError):
    """A file's checksum differs from the one recorded."""


class AdapterError(LoraMetaError):
    """An adapter file or config cannot be used; the message is the reason kept in the bank."""

    exit_code = 5


class HubError(LoraMetaError):
    """The Hub refused or failed."""

    exit_code = 6


class AuthError(HubError):
    """No token, a revoked token, or one without the needed right."""


class NotFoundError(HubError):
    """No such repo, revision or file, or it is private to somebody else."""


class GatedError(HubError):
    """The repo is gated and access was not granted to this account."""


class ConflictError(HubError):
    """The repo changed meanwhile, or already holds what would be overwritten."""


class ConnectionLostError(HubError):
    """The Hub did not answer, after retries."""


class ScriptDatasetError(HubError):
    """The dataset needs a loading script, which `datasets` no longer runs."""


class MissingExtraError(LoraMetaError):
    """An optional dependency is not installed."""

    exit_code = 7
