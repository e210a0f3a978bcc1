"""What is done with the base model although nobody asked for it: where it is here, and small.

For labels, the adapter is fitted on labeled rows, since one that counts tokens alone seldom tells
which input has which label. It is then compared with the base model on other rows. Both can be left
out.
"""

from os import environ
from typing import NamedTuple

from hf_lorameta.data.dataset import DatasetInfo
from hf_lorameta.engines.transformers.dtype import available_memory
from hf_lorameta.engines.transformers.evaluator import require_eval
from hf_lorameta.errors import LoraMetaError, MissingExtraError, NotFoundError
from hf_lorameta.hub.base_model import find_at_hand
from hf_lorameta.pipeline.session import Session
from hf_lorameta.quoting import shell
from hf_lorameta.recipe import Recipe

NO_BASE = "HF_LORAMETA_NO_BASE"
"""Environment variable that switches both off, whatever its value."""
_LARGEST = 3e9
"""Bytes. Larger base models take more than a minute on two cores, for loading and 16 rows."""
_UNPACKED = 4
"""Size of a GGUF's weights once they are dequantized from four bits, relative to the file."""


class Automatic(NamedTuple):
    """What is done where it is possible.

    Attributes:
        fit: fit the adapter on labeled rows, if the outputs are labels.
        check: check the adapter.
    """

    fit: bool = True
    check: bool = True


NOTHING = Automatic(fit=False, check=False)


def possible(
    wanted: Automatic, recipe: Recipe, dataset: DatasetInfo, session: Session
) -> Automatic:
    """Return what of `wanted` is possible for a recipe, if the outputs are labels.

    A recipe that fits, trains or checks gets nothing more, and that of a mixture gets nothing. A
    method of somebody's own choice is not fitted.

    Args:
        wanted: what was not switched off.
        recipe: the settings.
        dataset: that will be read.
        session: runs the base model.
    """
    if recipe.rows_asked or recipe.is_mixture or dataset.prompts_only:
        return NOTHING
    if not any(wanted) or environ.get(NO_BASE):
        return NOTHING
    if missing_extra() or not _is_small(session):
        return NOTHING
    return wanted._replace(fit=wanted.fit and recipe.is_default_method)


def obstacle_to_running(session: Session) -> LoraMetaError | None:
    """Return why the base model cannot be run here, with advice; None if it can."""
    if missing := missing_extra():
        return missing
    name, revision = session.bank.index.base_model, session.bank.index.base_revision
    if session.has_model or find_at_hand(name, revision):
        return None
    return NotFoundError(
        "the base model is not on this machine", hint=shell("hf", "download", name)
    )


def missing_extra() -> MissingExtraError | None:
    """Return the error that the extra ``eval`` is missing, with advice; None if it is installed."""
    try:
        require_eval()
    except MissingExtraError as error:
        return error
    return None


def _is_small(session: Session) -> bool:
    """Whether a base model that is here is small enough to be run unasked."""
    if session.has_model:
        return True
    index = session.bank.index
    path = find_at_hand(index.base_model, index.base_revision)
    if path is None:
        return False
    if path.is_dir():
        size = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    else:
        size = _UNPACKED * path.stat().st_size
    return size <= min(_LARGEST, available_memory() / 2)
