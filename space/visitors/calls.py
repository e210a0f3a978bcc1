"""Refuse calls of the API that name what does not exist, with what does."""

from functools import cache
from typing import Any

from starlette.types import Scope


class RefusedError(Exception):
    """A request is refused, with an HTTP status and a sentence for the visitor."""


def check_call(scope: Scope, inputs: dict[str, Any]) -> None:
    """Check that a call names an endpoint, and of ``/call/v2`` its inputs.

    Raises:
        RefusedError: it does not.
    """
    blocks, (before, _, name) = _blocks(scope), scope["path"].rstrip("/").rpartition("/")
    if blocks is None or not before.endswith(("/call", "/call/v2")):
        return
    endpoints = _endpoints(blocks)
    if f"/{name}" not in endpoints:
        known = ", ".join(sorted(endpoints))
        raise RefusedError(404, f"There is no endpoint /{name[:80]}: expected one of {known}.")
    if before.endswith("/v2"):
        names = [of["parameter_name"] for of in endpoints[f"/{name}"]["parameters"]]
        if unknown := sorted(inputs.keys() - {*names, "oauth_token"}):
            why = f"/{name} has no input {unknown[0][:80]!r}: expected some of {', '.join(names)}."
            raise RefusedError(400, why)


def check_event(scope: Scope, name: str, *, read_now: bool) -> None:
    """Check that the answer of a call can be read.

    Raises:
        RefusedError: it has ended, or somebody reads it.
    """
    blocks = _blocks(scope)
    if blocks is None or "/call/" not in scope["path"]:
        return
    queue = blocks._queue
    unread = (name in events for events in [*queue.pending_event_ids_session.values()])
    if name not in queue.event_ids_to_events and not any(unread):
        why = "This event is unknown or has ended, and an answer can be read once: call again."
        raise RefusedError(404, why)
    if read_now:
        why = "This event is read by another request: its answer goes to the first."
        raise RefusedError(409, why)


@cache
def _endpoints(blocks: Any) -> dict[str, Any]:
    return dict(blocks.get_api_info()["named_endpoints"])


def _blocks(scope: Scope) -> Any:
    """Return Gradio's page; None if another app is served."""
    get = getattr(scope.get("app"), "get_blocks", None)
    return get() if get else None
