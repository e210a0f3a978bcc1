"""The command line: thin commands around the package; results on stdout, progress on stderr."""

from hf_lorameta.cli.app import main

__all__ = ["main"]
