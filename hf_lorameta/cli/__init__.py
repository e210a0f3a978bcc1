"""The command line: thin commands around the package; results on stdout, progress on stderr."""

import sys


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit, see `hf_lorameta.cli.app.main`.

    Args:
        arguments: None uses ``sys.argv``.
    """
    try:
        from hf_lorameta.cli import app  # takes about a second, in which Ctrl-C may come
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted\n")
        sys.exit(130)
    app.main(arguments)
