"""What the exceptions of the Hub's clients mean: ours, each with the next command to run.

`huggingface_hub` and `datasets` raise; here it is told apart by type, status and the server's own
words. Tokens, headers and rows stay behind: no exception of ours has one of theirs as its cause.
"""

from collections.abc import Iterator
from contextlib import contextmanager

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

TRANSIENT = (429, 500, 502, 503, 504)
"""Statuses that are worth another try."""


class DamagedError(httpx2.RemoteProtocolError):
    """A file whose content is not what the Hub says it is."""


def damaged_error(what: str, path: str) -> ConnectionLostError:
    """For a file whose checksum is wrong."""
    return ConnectionLostError(
        f"{what}: {path} came damaged, its checksum is not the Hub's",
        hint="run the same command again; finished work is kept",
    )


# --- of huggingface_hub -------------------------------------------------------------------------


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn the client's exceptions into ours; tokens and headers stay behind.

    Args:
        what: repo id or action, for the message.

    Raises:
        HubError: or one of its kinds, see `hf_lorameta.errors`.
    """
    try:
        yield
    except hf.GatedRepoError:
        raise _gated_error(what) from None
    except hf.RevisionNotFoundError:
        raise NotFoundError(
            f"{what} has no such revision", hint="see its branches and tags on the Hub"
        ) from None
    except (hf.RemoteEntryNotFoundError, hf.LocalEntryNotFoundError) as error:
        raise _entry_error(what, error) from None
    except hf.RepositoryNotFoundError as error:
        if error.response.status_code == 401 and _invalid_token(error):
            raise _auth_error(what) from None
        raise NotFoundError(
            f"{what} was not found: it does not exist, or it is private to somebody else",
            hint="check the name, or log in with `hf auth login`",
        ) from None
    except hf.LocalTokenNotFoundError:
        raise AuthError(
            f"{what} needs a Hub token and none was found", hint="hf auth login"
        ) from None
    except hf.OfflineModeIsEnabled:
        raise _lost(what, "HF_HUB_OFFLINE is set") from None
    except hf.HFValidationError as error:
        raise UsageError(f"{what} is not a valid repo id: {str(error)[:200]}") from None
    except hf.HfHubHTTPError as error:
        raise _http_error(what, error) from None
    except DamagedError as error:
        raise damaged_error(what, str(error)) from None
    except (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError) as error:
        raise _lost(what, type(error).__name__) from None


def _gated_error(what: str) -> GatedError:
    return GatedError(
        f"{what} is gated and this account has no access",
        hint=f"ask for access on {constants.ENDPOINT}/{what}, then run the command again",
    )


def _entry_error(what: str, error: Exception) -> HubError:
    if isinstance(error, hf.LocalEntryNotFoundError):
        return _lost(what, "the Hub cannot be reached and the file is not in the cache")
    return NotFoundError(f"{what} lacks a file that was expected: {_server_words(error)}")


def _invalid_token(error: hf.HfHubHTTPError) -> bool:
    return "credential" in _server_words(error).lower() or "token" in _server_words(error).lower()


def _auth_error(what: str) -> AuthError:
    return AuthError(f"{what}: the Hub does not accept this token", hint="hf auth login")


def _lost(what: str, why: str) -> ConnectionLostError:
    return ConnectionLostError(
        f"{what}: no answer from {constants.ENDPOINT} ({why})",
        hint="check the connection and run the same command again; finished work is kept",
    )


def _server_words(error: Exception) -> str:
    return str(getattr(error, "server_message", None) or "")[:300]


def _http_error(what: str, error: hf.HfHubHTTPError) -> HubError:
    status, words = error.response.status_code, _server_words(error)
    if status == 401:
        return _auth_error(what)
    if status == 403:
        return AuthError(
            f"{what}: this account or token may not do that ({words or 'forbidden'})",
            hint="use a token with write access, or propose the files with --create-pr",
        )
    if status in (409, 412):
        return ConflictError(
            f"{what} changed while this was running ({words or status})",
            hint="run the same command again to start from its present state",
        )
    if status in TRANSIENT:
        return _lost(what, f"HTTP {status}")
    return HubError(f"{what}: HTTP {status}: {words or 'no reason given'}")


# --- of datasets --------------------------------------------------------------------------------


@contextmanager
def opening(name: str) -> Iterator[None]:
    """Around opening a dataset with `datasets`.

    Args:
        name: of the dataset, for the message.

    Raises:
        ScriptDatasetError: it needs a loading script.
        EmptyDatasetError: it holds no data files.
        DatasetError: no such configuration, or it cannot be read.
        HubError: it is gated, not found, or the Hub failed.
    """
    import datasets

    try:
        yield
    except ValueError as error:
        raise _config_error(name, error) from None
    except datasets.exceptions.DatasetNotFoundError as error:
        raise _closed_dataset(name, error) from None
    except (
        datasets.exceptions.DataFilesNotFoundError,
        datasets.data_files.EmptyDatasetError,
    ):
        raise EmptyDatasetError(f"{name} holds no data files") from None
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise _unreadable(name, error) from None
        raise ScriptDatasetError(
            f"{name} is a loading script, and scripts are no longer run",
            hint="name a revision with Parquet files: --revision refs/convert/parquet",
        ) from None
    except LoraMetaError:
        raise
    except Exception as error:  # noqa: BLE001 - readers raise whatever they like
        raise _unreadable(name, error) from None


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Around reading rows of a stream.

    Raises:
        HubError: the Hub failed.
        EmptyDatasetError: a data file is empty.
        DatasetError: a data file is malformed.
    """
    try:
        with translated(name):
            yield
    except LoraMetaError:
        raise
    except Exception as error:  # noqa: BLE001 - readers of foreign files raise whatever they like
        raise _unreadable(name, error) from None


def _closed_dataset(name: str, error: Exception) -> HubError:
    """What `datasets` calls not found, told apart by its words: it drops the client's exception."""
    if "gated" in str(error).replace(name, ""):
        return _gated_error(f"datasets/{name}")
    return NotFoundError(f"{name} cannot be opened as a dataset: {str(error)[:200]}")


def _unreadable(name: str, error: Exception) -> LoraMetaError:
    if isinstance(error, StopIteration):  # what an empty file makes of the json reader
        return EmptyDatasetError(f"{name} holds no rows", hint="name one that does")
    cause = error.__cause__ or error
    if isinstance(cause, (ConnectionError, TimeoutError)):
        return _lost(name, type(cause).__name__)
    # the type alone: what a reader says of a malformed row quotes the row
    return DatasetError(
        f"{name} cannot be read ({type(cause).__name__})",
        hint="check that its files are well-formed, or name others with --config and --split",
    )


def _config_error(name: str, error: ValueError) -> LoraMetaError:
    words = str(error)
    if "Config name is missing" in words or "BuilderConfig" in words:
        line = " ".join(words.split("Example of usage")[0].split())
        return DatasetError(f"{name}: {line[:500]}", hint="name one with --config")
    return _unreadable(name, error)
