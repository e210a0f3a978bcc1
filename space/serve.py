"""The server: Gradio's settings, the look, the one tool for models."""

import importlib.util
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from bank_loader import BankLoader
from endpoints import MCP_TOOL
from page import Page
from policy import ContentPolicy
from settings import Settings

try:
    import spaces
except ImportError:
    pass
else:

    @spaces.GPU
    def _zero() -> None:
        """ZeroGPU refuses a Space without such a function; the work itself needs no GPU."""


HERE = Path(__file__).parent
_SYSTEM = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]
THEME = gr.themes.Base(
    primary_hue="orange", neutral_hue="slate", radius_size="lg", font=_SYSTEM, font_mono=_MONO
).set(
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_400",
    block_info_text_color="*neutral_600",
    block_info_text_color_dark="*neutral_400",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover_dark="*primary_600",
    button_primary_text_color="white",
)


def serve(settings: Settings) -> None:
    """Serve the page until the process is ended."""
    page = Page(settings, BankLoader(settings).start())
    page.blocks.queue(max_size=settings.queue, default_concurrency_limit=8)
    page.blocks.launch(
        theme=THEME,
        css_paths=HERE / "style.css",
        js=(HERE / "page.js").read_text(encoding="utf-8"),
        footer_links=["api", "settings"],
        run_history=False,
        ssr_mode=False,
        max_file_size=settings.max_upload_mb * 1_000_000,
        app_kwargs={"middleware": [Middleware(ContentPolicy)]},
        mcp_server=importlib.util.find_spec("mcp") is not None,
        prevent_thread_lock=True,
    )
    _only_one_tool(page.blocks)
    page.blocks.block_thread()


def _only_one_tool(blocks: Any) -> None:
    """Of the endpoints, the one that changes nothing is a tool for models."""
    server = blocks.mcp_server_obj
    if server is not None:
        listed = server.tool_to_endpoint
        server.tool_to_endpoint = {k: v for k, v in listed.items() if v == f"/{MCP_TOOL}"}
