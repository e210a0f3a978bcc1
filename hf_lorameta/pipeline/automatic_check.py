"""Decide whether an adapter is checked on rows of its dataset although no check was asked for.

Such a check reports and warns. It neither scales nor refuses the adapter, so that the same recipe
makes the same adapter on machines with and without the base model: the adapter's recipe has no
check, only its rows have some to check on.
"""

from os import environ

from hf_lorameta.data.dataset import DatasetInfo
from hf_lorameta.engines.transformers.evaluator import require_eval
from hf_lorameta.errors import MissingExtraError
from hf_lorameta.hub.base_model import find_at_hand
from hf_lorameta.pipeline.rows import pool_size
from hf_lorameta.pipeline.session import Session
from hf_lorameta.recipe import Recipe

ROWS = 16
"""Number of rows to check on."""
SWITCH = "HF_LORAMETA_NO_CHECK"
"""Environment variable that leaves the check out, whatever its value."""
_MAX_BYTES = 3e9
"""Larger base models take more than a minute on two cores, for loading and 16 rows."""


def with_check(recipe: Recipe, dataset: DatasetInfo, session: Session) -> Recipe:
    """Add a check to a recipe if packages and base model are at hand and it takes under a minute.

    Args:
        recipe: one with a check or with training, which compares with the base model itself, stays
            as it is, and so do one of a mixture, and one that would be fitted on other rows because
            of the check.
        dataset: that will be read.
        session: runs the base model.

    Returns:
        The recipe to draw rows for.
    """
    if recipe.check or recipe.train or recipe.is_mixture or dataset.prompts_only:
        return recipe
    if environ.get(SWITCH) or not _is_ready(session):
        return recipe
    checked = recipe.model_copy(update={"check": ROWS})
    return checked if pool_size(checked) == pool_size(recipe) else recipe


def _is_ready(session: Session) -> bool:
    """Whether packages and base model are on this machine, and the model is small."""
    index = session.bank.index
    try:
        require_eval()
    except MissingExtraError:
        return False
    if session.has_model:
        return True
    path = find_at_hand(index.base_model, index.base_revision)
    if path is None:
        return False
    files = path.glob("*.safetensors") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files) <= _MAX_BYTES
