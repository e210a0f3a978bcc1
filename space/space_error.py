"""The errors of the Space itself, which all of its modules raise."""

from hf_lorameta.errors import LoraMetaError


class SpaceError(LoraMetaError):
    """An error of the Space itself; its advice is for visitors of the page."""

    code = "page.failed"
