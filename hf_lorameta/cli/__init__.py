"""The command line: thin commands around the package; results on stdout, progress on stderr."""

import gc
import sys
import time

began = time.monotonic()
"""When the command began: its imports take seconds of a time limit on a busy machine."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit, see `hf_lorameta.cli.app.main`.

    Args:
        arguments: None uses ``sys.argv``.
    """
    global began
    began = time.monotonic()
    try:
        from hf_lorameta.cli import app  # takes about a second, in which Ctrl-C may come
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted\n")
        sys.exit(130)
    try:
        app.main(arguments)
    finally:
        gc.freeze()  # else the end goes through all objects three times, in a CPU second
