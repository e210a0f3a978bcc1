"""Whether an adapter can be exported: checked before any work, and again when it is saved."""

from typing import Any

from hf_lorameta.environment import require_extra
from hf_lorameta.formats.gguf_architecture import BaseArchitecture
from hf_lorameta.hub.base_model import config_json
from hf_lorameta.hub.repo import Token
from hf_lorameta.pipeline.adapter_folder import Export


def export_config(
    base_model: str, revision: str | None, export: Export | None, token: Token = None
) -> dict[str, Any] | None:
    """Return the base model's ``config.json`` if an export needs it, checked before any work.

    Raises:
        UsageError: the base model's architecture cannot be exported.
        HubError: the file cannot be fetched.
        MissingExtraError: the package `gguf` is not installed.
    """
    if export is None:
        return None
    require_extra("gguf", extra="gguf")
    config = config_json(base_model, revision, token)
    BaseArchitecture.from_config(config)
    return config
