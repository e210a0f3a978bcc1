"""What agents read: /agents.md, also at /llms.txt, which is a section of the README."""

import os
from pathlib import Path

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

_README = Path(__file__).parent / "README.md"
_SECTION = "\n## Use from a program\n"


def routes() -> list[Route]:
    """Return the routes of what agents read."""
    return [Route(path, _agents, methods=["GET"]) for path in ("/agents.md", "/llms.txt")]


def agents_text(address: str) -> str:
    """Return how programs use the Space at an address.

    Example:
        >>> print(agents_text("https://user-space.hf.space").partition("\\n")[0])
        # A LoRA adapter for your dataset
    """
    _, _, section = _README.read_text(encoding="utf-8").partition(_SECTION)
    section = section.partition("\n## ")[0].strip()
    return f"# A LoRA adapter for your dataset\n\n```bash\nSPACE={address}\n```\n\n{section}\n"


async def _agents(request: Request) -> PlainTextResponse:
    host = os.environ.get("SPACE_HOST")
    address = f"https://{host}" if host else str(request.base_url).rstrip("/")
    return PlainTextResponse(agents_text(address), media_type="text/markdown; charset=utf-8")
