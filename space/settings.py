"""Settings of a Space, read from environment variables; `README.md` explains each."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import gradio as gr

from hf_lorameta.environment import DISTRIBUTION, remote_requirement
from hf_lorameta.hub.repo import Token
from hf_lorameta.quoting import shell
from visitors.callers import LOOPBACK


@dataclass(frozen=True)
class SpaceSettings:
    """Bank, limits and sign-in of a Space.

    Attributes:
        bank: folder or dataset repo of a bank; None is the bank in the package.
        bank_revision: commit, tag or branch of a bank repo.
        base_model: base model that the bank must be for; None accepts any.
        max_rows: maximum number of rows read from a dataset.
        max_upload_mb: maximum size of an uploaded file, in MB.
        concurrency: number of adapters generated at the same time.
        queue: number of requests that may wait in each line; further ones are rejected.
        time_limit: seconds a request may take.
        space_id: ``user/space`` on the Hub; None elsewhere.
        sign_in: whether visitors can sign in, which needs the Hub.
        reads_private: whether who signs in lets it read private datasets, by its OAuth scopes.
        own_machine: whether only this machine reaches the page.
    """

    bank: str | None = None
    bank_revision: str | None = None
    base_model: str | None = None
    max_rows: int = 20_000
    max_upload_mb: int = 100
    concurrency: int = 2
    queue: int = 32
    time_limit: int = 300
    space_id: str | None = None
    sign_in: bool = False
    reads_private: bool = False
    own_machine: bool = False


_READING = {"read-repos", "write-repos", "manage-repos"}
"""OAuth scopes with which private datasets can be read."""


def credential_of(token: gr.OAuthToken | None) -> Token:
    """Return a visitor's own token; False without one, never the one saved on this machine."""
    return token.token if token else False


def read_settings(variables: Mapping[str, str] = os.environ) -> SpaceSettings:
    """Read ``HF_LORAMETA_*`` and the variables that the Hub sets.

    Raises:
        SystemExit: a limit is not a positive integer.
    """
    defaults, chosen = _build_defaults(), variables.get("HF_LORAMETA_BANK")
    if not chosen or chosen == defaults.get("HF_LORAMETA_BANK"):  # else they pin another bank
        variables = defaults | dict(variables)
    values: dict[str, Any] = {}
    for of in fields(SpaceSettings):
        name = f"HF_LORAMETA_{of.name.upper()}"
        if text := variables.get(name, "").strip():
            values[of.name] = _positive_int(name, text) if of.type is int else text
    space_id, name = variables.get("SPACE_ID"), variables.get("GRADIO_SERVER_NAME", LOOPBACK[0])
    values["space_id"] = space_id or None
    values["sign_in"] = bool(space_id and variables.get("OAUTH_CLIENT_ID"))
    values["reads_private"] = bool(_READING.intersection(variables.get("OAUTH_SCOPES", "").split()))
    values["own_machine"] = not space_id and name in LOOPBACK
    return SpaceSettings(**values)


def install_command(extra: str, settings: SpaceSettings) -> str:
    """Return the command with which a visitor can install this package with an extra.

    A Space on the Hub offers the package as a wheel among its own files. Without a URL, the command
    is for a clone: the package's name alone may belong to somebody else on PyPI.
    """
    wheel = next(Path(__file__).parent.glob("hf_lorameta-*.whl"), None)
    requirement = remote_requirement(extra)
    if settings.space_id is not None and wheel is not None:
        url = f"https://huggingface.co/spaces/{settings.space_id}/resolve/main/{wheel.name}"
        requirement = f"{DISTRIBUTION}[{extra}] @ {url}"
    if requirement is None:
        return f"pip install '.[{extra}]'  # in a clone of {DISTRIBUTION}"
    return shell("pip", "install", requirement)


def _build_defaults() -> dict[str, str]:
    """Return what ``hf-lorameta space build --bank`` stored; variables override it."""
    path = Path(__file__).parent / "defaults.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {f"HF_LORAMETA_{name.upper()}": str(value) for name, value in stored.items()}


def _positive_int(name: str, value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise SystemExit(f"{name}={value}: expected an integer of 1 or more")
    return int(value)
