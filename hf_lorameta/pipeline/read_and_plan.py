"""Plan an adapter: read a dataset, measure its distances to the bank, choose coefficients.

No adapter weights are read.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from hf_lorameta.bank.bank import Bank
from hf_lorameta.data.dataset import Dataset, ReadingOptions
from hf_lorameta.pipeline.plan import Plan, make_plan
from hf_lorameta.pipeline.progress import bars_unless, with_progress
from hf_lorameta.pipeline.python_errors import python_errors
from hf_lorameta.pipeline.read_dataset import Reading, read_dataset, token_counting
from hf_lorameta.pipeline.session import Session
from hf_lorameta.recipe import Recipe
from hf_lorameta.types import Row, StageProgress


def plan(
    dataset: Any,
    bank: Bank | str | Path | None = None,
    recipe: Recipe | None = None,
    *,
    token: str | None = None,
    progress: StageProgress | None = None,
    **reading: Unpack[ReadingOptions],
) -> Plan:
    """Read a dataset, measure its distances to the bank, and choose coefficients.

    Args:
        dataset: Hub id, local file, opened `Dataset`, list of dictionaries, `pandas.DataFrame`,
            or dataset of the library `datasets`.
        bank: an opened bank, a folder or a Hub id; None opens the default bank.
        recipe: None is ``Recipe()``.
        token: of the Hub; None uses the saved one.
        progress: called with (stage, done, total, or 0 if it is not known); None shows bars.
        reading: `config`, `split`, `revision`, `columns`, `instruction` and `template` of
            `hf_lorameta.open_dataset`.

    Raises:
        DatasetError: the dataset cannot be read as labeled rows.
        BankError: the bank is empty or damaged, or lacks the neural rule that was asked for.
        HubError: a repo is missing, private or gated, or the Hub cannot be reached.
    """
    recipe = recipe or Recipe()
    with (
        python_errors(),
        bars_unless(progress) as show,
        Session(bank, token=token) as session,
    ):
        opened = session.open_dataset(dataset, **reading, limits=recipe.reading_limits)
        return plan_with_rows(with_progress(opened, show), session.bank, recipe)[0]


def plan_with_rows(dataset: Dataset, bank: Bank, recipe: Recipe) -> tuple[Plan, list[Row]]:
    """Plan, and collect in the same pass the labeled rows to fit, train and check on.

    Args:
        dataset: an opened dataset.
        bank: the bank.
        recipe: the settings.

    Returns:
        The plan, and the pool of labeled rows, see `PoolReader`; an empty one if the recipe
        neither fits, trains nor checks.

    Raises:
        LoraMetaError: as `plan` raises.
    """
    reading, pool = read_dataset(dataset, recipe, token_counting(bank), bank.encode)
    return plan_from_reading(reading, bank), pool


def plan_from_reading(reading: Reading, bank: Bank) -> Plan:
    """Plan from what was counted; raises as `plan` does."""
    planned = make_plan(
        bank, reading.dataset, reading.recipe, reading.profile, reading.output_counts
    )
    return replace(planned, example=reading.example)
