"""Which of Gradio's routes are open: those that the page, clients of the API and MCP use.

Gradio has others, which store a session's state for whoever asks, fetch URLs, convert videos or
edit the app, and has no switch for most of them.
"""

import re
from typing import Literal

from starlette.types import Scope

Kind = Literal["file", "stream", "upload", "tool", "request"]
"""What a route costs: a file of the page; a stream of messages that stays open; an upload; a call
of the MCP tool, which waits for its answer; or an answer that is computed at once."""
_API = "/gradio_api"
_OPEN: tuple[tuple[Kind, str, str], ...] = (
    ("file", "GET HEAD", r"/(assets|static|svelte)/.+|/(theme\.css|robots\.txt|favicon\.ico)"),
    ("file", "GET HEAD", r"/(agents\.md|llms\.txt)"),
    ("file", "GET HEAD", rf"/manifest\.json|/pwa_icon(/\d+)?|{_API}/theme\.css"),
    ("file", "GET HEAD", rf"{_API}/file=(?!https?:).+"),
    ("stream", "GET", rf"{_API}/(queue/data|heartbeat/.+|call(/v2)?/\w+/\w+)"),
    ("stream", "GET DELETE", rf"{_API}/mcp(/.*)?"),
    ("tool", "POST", rf"{_API}/mcp(/.*)?"),
    ("upload", "POST", rf"{_API}/upload"),
    ("request", "GET HEAD", r"/|/config|/login/(huggingface|callback)|/logout"),
    ("request", "GET", "/monitoring/summary"),  # seconds that endpoints take, for the API's panel
    ("request", "GET", rf"{_API}/(info|startup-events|app_id|queue/status)"),
    ("request", "POST", rf"{_API}/(queue/join|run/\w+|call(/v2)?/\w+|component_server)"),
    ("request", "POST", rf"{_API}/(cancel|reset)"),
)
_ROUTES = [(kind, methods.split(), re.compile(path, re.DOTALL)) for kind, methods, path in _OPEN]


def route_kind(scope: Scope) -> Kind | None:
    """Return what a request asks for; None if its route is closed.

    Example:
        >>> route_kind({"method": "POST", "path": "/gradio_api/queue/join"})
        'request'
        >>> route_kind({"method": "GET", "path": "/gradio_api/deep_link"})
    """
    path = scope["path"].removeprefix(scope.get("root_path", "")).rstrip("/") or "/"
    for kind, methods, pattern in _ROUTES:
        if scope["method"] in methods and pattern.fullmatch(path):
            return kind
    return None
