"""Making and publishing an adapter on Hugging Face Jobs: the command, its work, and its log."""

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.index import EMBEDDED_BANK, NO_BANK
from hf_lorameta.cards.model_card import as_arguments, generation_options
from hf_lorameta.data.dataset import DatasetInfo
from hf_lorameta.errors import Option, UsageError
from hf_lorameta.hub.base_model import DOWNLOAD
from hf_lorameta.hub.repo import is_repo_id
from hf_lorameta.recipe import Recipe

VARIABLES = {DOWNLOAD: "1"}
"""Environment of a job, which has no base model yet."""


def push_arguments(dataset: DatasetInfo, bank: Bank, recipe: Recipe) -> list[str]:
    """Return the arguments of ``hf-lorameta`` to publish the same adapter from another machine.

    Args:
        dataset: is read at the same commit.
        bank: the embedded one, one on the Hub, or none.
        recipe: the settings.

    Raises:
        UsageError: dataset, bank or base model are on this machine.
    """
    base, none = bank.index.base_model, bank.id == NO_BANK
    if dataset.id is None:
        raise UsageError(
            "a job cannot access data on this machine",
            hint="publish it first: hf upload user/name FILE --repo-type dataset --private",
        )
    named = base if none else bank.id
    if named != EMBEDDED_BANK and not is_repo_id(named):
        raise UsageError(
            f"a job cannot access {'a base model' if none else 'a bank'} on this machine",
            hint=Option("base" if none else "bank", "user/name"),
        )
    revision = bank.index.base_revision if none else bank.revision
    options = generation_options(dataset, bank.id, recipe, revision, base)
    return ["push", *as_arguments(options)]
