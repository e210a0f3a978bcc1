"""What the owner of a Space can set, as variables; `README.md` explains each."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hf_lorameta import Hub, LoraMetaError

MOCK_TOKEN = "mock-oauth-token-for-local-dev"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Settings:
    """Limits, the bank, and where the page runs.

    Attributes:
        bank: folder or dataset repo of a bank; None is the bank inside the package.
        bank_revision: commit, tag or branch of a bank repo.
        base_model: the base model the bank must be for; None takes any.
        max_rows: rows read of a dataset, at most.
        max_upload_mb: size of an uploaded file, at most.
        concurrency: adapters made at once.
        queue: requests that may wait; more are turned away.
        time_limit: seconds a request may take.
        space_id: ``user/space`` on the Hub; None elsewhere.
        sign_in: ``oauth`` on the Hub, ``local`` with the saved token of this machine, or ``none``.
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
    sign_in: str = "none"


def read_settings(variables: Mapping[str, str] = os.environ) -> Settings:
    """Read the variables ``HF_LORAMETA_…`` and what the Hub sets.

    Raises:
        SystemExit: a limit is not a whole number above zero; says which.
    """
    variables = _defaults() | dict(variables)
    limits = {
        name: _limit(variables, name)
        for name in ("max_rows", "max_upload_mb", "concurrency", "queue", "time_limit")
        if _variable(variables, name)
    }
    return Settings(
        bank=_variable(variables, "bank"),
        bank_revision=_variable(variables, "bank_revision"),
        base_model=_variable(variables, "base_model"),
        space_id=variables.get("SPACE_ID") or None,
        sign_in=_sign_in(variables),
        **limits,
    )


def _defaults() -> dict[str, str]:
    """What ``hf-lorameta space build --bank`` wrote beside this file; variables come before it."""
    path = Path(__file__).parent / "defaults.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {f"HF_LORAMETA_{name.upper()}": str(value) for name, value in stored.items()}


def _variable(variables: Mapping[str, str], name: str) -> str | None:
    return variables.get(f"HF_LORAMETA_{name.upper()}", "").strip() or None


def _limit(variables: Mapping[str, str], name: str) -> int:
    value = _variable(variables, name) or ""
    if not value.isdecimal() or int(value) < 1:
        raise SystemExit(
            f"HF_LORAMETA_{name.upper()}={value}: expected a whole number of 1 or more"
        )
    return int(value)


def _sign_in(variables: Mapping[str, str]) -> str:
    """Gradio refuses to start where its own sign-in cannot work, so look first."""
    if variables.get("SPACE_ID"):
        return "oauth" if variables.get("OAUTH_CLIENT_ID") else "none"
    if variables.get("GRADIO_SERVER_NAME", LOOPBACK[0]) not in LOOPBACK:
        return "none"  # strangers would act with this machine's token
    try:
        Hub().user()
    except LoraMetaError:
        return "none"
    return "local"
