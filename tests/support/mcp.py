"""Calls of a Space's MCP server."""

import json
import urllib.request
from typing import Any


def mcp(url: str, method: str, **params: Any) -> dict[str, Any]:
    """Return the result of a request to the MCP server of a Space."""
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
    }
    request = urllib.request.Request(f"{url}/gradio_api/mcp/", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=120) as answer:
        text = answer.read().decode()
    line = next(line for line in text.splitlines() if line.startswith("data: "))
    return dict(json.loads(line.removeprefix("data: "))["result"])
