"""Serve the page: theme, limits, security headers and MCP."""

import importlib
import importlib.util
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agents import routes
from hf_lorameta.errors import LoraMetaError
from page import build_page
from settings import SpaceSettings
from visitors.lines import make_lines
from visitors.requests import VisitorLimits
from visitors.uploads import store_uploads_apart
from work.bank_loader import BankLoader

FOLDER = Path(__file__).parent
_THREADS = 64
"""Threads for requests that are answered or run."""
_SYSTEM = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]
THEME = gr.themes.Base(
    primary_hue="orange", neutral_hue="slate", radius_size="lg", font=_SYSTEM, font_mono=_MONO
).set(
    body_text_color_subdued="*neutral_600",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover_dark="*primary_600",
    input_border_width="1px",
    input_border_color="*neutral_400",
    input_border_color_dark="*neutral_500",
    checkbox_border_color="*neutral_500",
    checkbox_border_color_dark="*neutral_500",
)

_POLICY = "; ".join((
    "default-src 'self'",
    "script-src 'self' 'unsafe-inline' 'unsafe-eval'",  # Gradio's own page needs both
    "style-src 'self' 'unsafe-inline'",
    "img-src 'self' data: blob:",
    "font-src 'self' data:",
    "connect-src 'self' blob: data:",
    "worker-src 'self' blob:",
    "object-src 'none'",
    "base-uri 'self'",
    "frame-ancestors 'self' https://huggingface.co",
))  # fmt: skip
"""Content-Security-Policy of the page: the browser may contact this server only."""


def _unused_gpu_function() -> None:
    """ZeroGPU does not start a Space without a GPU function; this Space uses the CPU only."""


if importlib.util.find_spec("spaces"):  # installed on the Hub
    importlib.import_module("spaces").GPU(_unused_gpu_function)


def let_threads_take_turns() -> None:
    """Have a thread that runs Python let others do so after half a millisecond, instead of 5.

    A try is many short operations outside of Python, after each of which it waits that long.
    """
    sys.setswitchinterval(0.0005)


def serve(settings: SpaceSettings) -> None:
    """Serve the page until the process ends.

    Raises:
        SystemExit: the bank cannot be used.
    """
    try:
        bank_loader = BankLoader(settings)
    except LoraMetaError as error:
        raise SystemExit(f"The bank of this Space cannot be used: {error}") from None
    let_threads_take_turns()
    sys.tracebacklimit = 0  # those of malformed calls are long
    logging.getLogger().addFilter(_first_line)
    logging.getLogger("uvicorn.error").addFilter(Once())
    store_uploads_apart()
    lines = make_lines(settings)
    blocks = build_page(settings, bank_loader, lines)
    blocks.queue(api_open=False)
    max_upload = settings.max_upload_mb * 1_000_000
    on_hub = settings.space_id is not None
    limits = Middleware(
        VisitorLimits, on_hub=on_hub, max_upload=max_upload, own_machine=settings.own_machine
    )
    blocks.launch(
        theme=THEME,
        share=False,  # Gradio shares in notebooks
        css_paths=FOLDER / "style.css",
        js=(FOLDER / "page.js").read_text(encoding="utf-8"),
        footer_links=["api"],
        run_history=False,
        ssr_mode=False,
        max_file_size=max_upload,
        max_threads=len(lines) * settings.queue + _THREADS,  # those that wait count as well
        app_kwargs={"middleware": [Middleware(_security_headers), limits], "routes": routes()},
        mcp_server=True,
        prevent_thread_lock=True,
    )
    _set_up_mcp(blocks.mcp_server_obj)
    blocks.block_thread()


def _set_up_mcp(server: Any) -> None:
    """Have MCP tools answer JSON and addresses of files."""

    def answer(data: list[Any], root_url: str) -> list[Any]:
        outputs = data[0] if isinstance(data[0], list | tuple) else data
        texts = (
            f"{root_url}/gradio_api/file={output['path']}"
            if "meta" in output
            else json.dumps(output, ensure_ascii=False)
            for output in outputs
        )
        return [server.types.TextContent(type="text", text=text) for text in texts]

    def without_files(arguments: dict[str, Any], positions: object) -> dict[str, Any]:
        if arguments.get("file"):  # Gradio would keep the text of one on the disk, for good
            raise ValueError("Name a dataset on the Hub: MCP callers send no files")
        return arguments

    server.postprocess_output_data = answer
    server.convert_strings_to_filedata = without_files


def _first_line(record: logging.LogRecord) -> bool:
    """Cut a message of the MCP library, which quotes what a caller sent, to its first line."""
    record.msg, record.args = record.getMessage().partition("\n")[0], ()
    return True


class Once(logging.Filter):
    """Keeps each kind of message once a minute, such as that a request to upgrade is refused."""

    def __init__(self) -> None:
        super().__init__()
        self._logged: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is the first of its kind in a minute."""
        now, kind = time.monotonic(), str(record.msg)
        last = self._logged.get(kind, now - 61)
        if now - last > 60:
            self._logged[kind] = now
        return now - last > 60


def _security_headers(app: ASGIApp) -> ASGIApp:
    """Return an app that adds the security headers to every response of an app."""

    async def with_headers(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = _POLICY
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "strict-origin-when-cross-origin"
            await send(message)

        await app(scope, receive, send_with_headers if scope["type"] == "http" else send)

    return with_headers
