"""Map the exceptions of huggingface_hub and datasets to hf_lorameta errors.

They are distinguished by type, status and the server's message. Errors of ours never have one of
theirs as cause, since those hold tokens, headers or rows.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import httpx2
from huggingface_hub import constants
from huggingface_hub import errors as hf

from hf_lorameta.errors import (
    AuthError,
    ConflictError,
    ConnectionLostError,
    DatasetError,
    EmptyDatasetError,
    GatedError,
    HubError,
    LoraMetaError,
    NotFoundError,
    ScriptDatasetError,
    UsageError,
)

TRANSIENT_STATUSES = (429, 500, 502, 503, 504)
"""HTTP statuses after which a request is retried."""
_RERUN_HINT = "run the same command again; finished work is kept"


class DamagedError(httpx2.RemoteProtocolError):
    """The digest of a downloaded file differs from the one on the Hub; the message is its path."""


def damaged_error(what: str, path: str) -> ConnectionLostError:
    """Return the error for a file whose digest is wrong."""
    return ConnectionLostError(
        f"{what}: {path} was damaged in transfer: its checksum differs from the one on the Hub",
        hint=_RERUN_HINT,
    )


# --- huggingface_hub ----------------------------------------------------------------------------


@contextmanager
def translated(what: str, revision: str | None = None) -> Iterator[None]:
    """Raise the exceptions of `huggingface_hub` as `translate` returns them."""
    try:
        yield
    except Exception as error:
        ours = translate(what, error, revision)
        if ours is None:
            raise
        raise ours from None


def translate(what: str, error: BaseException, revision: str | None = None) -> LoraMetaError | None:
    """Return the error of ours that an exception of `huggingface_hub` stands for.

    Args:
        what: repo id or action, for the message.
        error: any exception.
        revision: requested revision, for the message.

    Returns:
        A `HubError`, a `UsageError` for an invalid repo id, or None for other exceptions.
    """
    match error:
        case hf.GatedRepoError():
            return _gated_error(what)
        case hf.RevisionNotFoundError():
            return NotFoundError(
                f"{what} has no revision {revision or 'main'}",
                hint="see its branches and tags on the Hub",
            )
        case hf.LocalEntryNotFoundError():
            return _lost(what, "the file is not in the cache")
        case hf.RemoteEntryNotFoundError():
            return NotFoundError(f"{what} lacks an expected file: {_server_message(error)}")
        case hf.RepositoryNotFoundError() if not _is_invalid_token(error):
            return NotFoundError(
                f"{what} was not found: it does not exist, or it is private",
                hint="check the name, or log in with `hf auth login`",
            )
        case hf.LocalTokenNotFoundError():
            return AuthError(f"{what} needs a Hub token, but none is saved", hint="hf auth login")
        case hf.OfflineModeIsEnabled():
            return ConnectionLostError(
                f"{what} was not requested: HF_HUB_OFFLINE is set", hint="unset HF_HUB_OFFLINE"
            )
        case hf.HFValidationError():
            return UsageError(f"{what} is not a valid repo id: {str(error)[:200]}")
        case hf.FileMetadataError():
            return HubError(
                f"{what}: {constants.ENDPOINT} does not answer like the Hub (no file metadata)",
                hint="check HF_ENDPOINT and the proxy settings",
            )
        case hf.HfHubHTTPError():
            return _http_error(what, error)
        case DamagedError():
            return damaged_error(what, str(error))
        case httpx2.HTTPError():
            return _lost(what, type(error).__name__)
    return None


def _gated_error(what: str) -> GatedError:
    return GatedError(
        f"{what} is gated, and this account has no access",
        hint=f"request access on {constants.ENDPOINT}/{what}, then run the command again",
    )


def _is_invalid_token(error: hf.HfHubHTTPError) -> bool:
    message = _server_message(error).lower()
    return error.response.status_code == 401 and ("credential" in message or "token" in message)


def _auth_error(what: str) -> AuthError:
    return AuthError(f"{what}: the Hub does not accept this token", hint="hf auth login")


def _lost(what: str, reason: str) -> ConnectionLostError:
    return ConnectionLostError(
        f"{what}: no answer from {constants.ENDPOINT} ({reason})",
        hint=f"check the connection and {_RERUN_HINT}",
    )


def _server_message(error: BaseException) -> str:
    return str(getattr(error, "server_message", None) or "")[:300]


def _http_error(what: str, error: hf.HfHubHTTPError) -> HubError:
    status, message = error.response.status_code, _server_message(error)
    if status == 401:
        return _auth_error(what)
    if status == 403:
        return AuthError(
            f"{what}: this account or token lacks the permission ({message or 'forbidden'})",
            hint="use a token with write access, or propose the files with --create-pr",
        )
    if status in (409, 412):
        return ConflictError(
            f"{what} changed in the meantime ({message or status})",
            hint="run the same command again to start from its current state",
        )
    if status in TRANSIENT_STATUSES:
        return _lost(what, f"HTTP {status}")
    return HubError(f"{what}: HTTP {status}: {message or 'no reason given'}")


# --- datasets -----------------------------------------------------------------------------------


def opening(name: str) -> AbstractContextManager[None]:
    """Translate exceptions while a dataset is opened with `datasets`.

    Args:
        name: name of the dataset, for the message.

    Raises:
        ScriptDatasetError: the dataset needs a loading script.
        EmptyDatasetError: it has no data files.
        DatasetError: there is no such configuration, or the files cannot be read.
        HubError: it is gated or not found, or the Hub failed.
    """
    return _translated_dataset(name, _opening_error)


def reading(name: str) -> AbstractContextManager[None]:
    """Translate exceptions while rows are read from a stream.

    Raises:
        HubError: the Hub failed.
        EmptyDatasetError: a data file is empty.
        DatasetError: a data file is malformed.
    """
    return _translated_dataset(name, _unreadable)


@contextmanager
def _translated_dataset(
    name: str, other: Callable[[str, Exception], LoraMetaError]
) -> Iterator[None]:
    try:
        with translated(name):
            yield
    except LoraMetaError:
        raise
    except Exception as error:  # noqa: BLE001 - readers raise any exception
        raise other(name, error) from None


def _opening_error(name: str, error: Exception) -> LoraMetaError:
    import datasets

    message = str(error)
    match error:
        case datasets.exceptions.DatasetNotFoundError():
            # `datasets` drops the client's exception: only its message tells gated from missing
            if "gated" in message.replace(name, ""):
                return _gated_error(f"datasets/{name}")
            return NotFoundError(f"{name} cannot be opened as a dataset: {message[:200]}")
        case datasets.exceptions.DataFilesNotFoundError() | datasets.data_files.EmptyDatasetError():
            return EmptyDatasetError(f"{name} has no data files")
        case RuntimeError() if "scripts are no longer supported" in message:
            return ScriptDatasetError(
                f"{name} needs a loading script, and scripts are no longer supported",
                hint="use the revision with Parquet files: --revision refs/convert/parquet",
            )
        case ValueError() if "Config name is missing" in message or "BuilderConfig" in message:
            line = " ".join(message.split("Example of usage")[0].split())
            return DatasetError(f"{name}: {line[:500]}", hint="choose one with --config")
    return _unreadable(name, error)


def _unreadable(name: str, error: Exception) -> LoraMetaError:
    if isinstance(error, StopIteration):  # raised by the JSON reader for an empty file
        return EmptyDatasetError(f"{name} has no rows", hint="choose another dataset or split")
    cause = error.__cause__ or error
    if ours := translate(name, cause):
        return ours
    if isinstance(cause, (ConnectionError, TimeoutError)):
        return _lost(name, type(cause).__name__)
    # only the type: the reader's message may quote the malformed row
    return DatasetError(
        f"{name} cannot be read ({type(cause).__name__})",
        hint="check that its files are well-formed, or choose others with --config and --split",
    )
