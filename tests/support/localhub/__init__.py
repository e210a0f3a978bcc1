"""A Hugging Face Hub on loopback, which `tests.support.full_hub` completes."""

from tests.support.localhub.server import LocalHub

__all__ = ["LocalHub"]
