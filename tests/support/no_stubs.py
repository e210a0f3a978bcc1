"""Run before Gradio is imported: it then writes no stubs of its components, half of its import."""

import inspect
from typing import Any

_getfile = inspect.getfile


def _of_no_file(thing: Any) -> str:
    """Say of Gradio's classes that no file has them, which Gradio allows."""
    if str(getattr(thing, "__module__", "")).startswith("gradio."):
        raise OSError("as if it were in no file")
    return _getfile(thing)


inspect.getfile = _of_no_file  # type: ignore[assignment]
