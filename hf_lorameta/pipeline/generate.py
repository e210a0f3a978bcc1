"""Plan and generate: the steps from a dataset to an adapter, for Python and the command line."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_lorameta.bank.bank import Bank
from hf_lorameta.data.dataset import Dataset
from hf_lorameta.deadline import Deadline
from hf_lorameta.errors import Option, RecipeError
from hf_lorameta.pipeline.make import make_adapter
from hf_lorameta.pipeline.plan import Plan, plan_from_reading
from hf_lorameta.pipeline.progress import bars_unless
from hf_lorameta.pipeline.read import read_dataset, token_counting
from hf_lorameta.pipeline.request import Request
from hf_lorameta.pipeline.resolve import Resolved, require_compatible, resolve
from hf_lorameta.pipeline.rows import Rows, rows_for
from hf_lorameta.pipeline.save import Generation
from hf_lorameta.pipeline.session import LoadedModel, Session
from hf_lorameta.recipe import Recipe
from hf_lorameta.remarks import log_remarks
from hf_lorameta.types import StageProgress

_SHARE_TO_READ = 0.25
"""Share of the time in which rows are read, at most."""

logger = logging.getLogger(__name__)


def generate(
    dataset: Any,
    bank: Bank | str | Path | None = None,
    recipe: Recipe | Mapping[str, Any] | None = None,
    *,
    base: str | Path | None = None,
    budget: float | str | None = None,
    model: LoadedModel | None = None,
    token: str | None = None,
    progress: StageProgress | None = None,
    **asked: Any,
) -> Generation:
    """Generate an adapter for a dataset, and train it if the base model is on this machine.

    Warnings, losses and right answers are logged.

    Args:
        dataset: Hub id, local file, opened `Dataset`, list of dictionaries, `pandas.DataFrame`,
            or dataset of the library `datasets`.
        bank: an opened bank, a folder, a Hub id, or ``none`` for no bank. None is the default bank
            if it fits `base`, else the embedded one for it, else no bank.
        recipe: how the bank's adapters are combined, or a dictionary of any settings; None is
            ``Recipe()``.
        base: the base model: Hub id, folder or GGUF file; None is the bank's. Without a bank, the
            adapter is trained from scratch.
        budget: time for the whole call, in seconds or as a time such as ``"5m"``; training
            stops earlier if all steps are taken. 0 only combines adapters. None is two minutes if
            the extra ``eval`` is installed, the base model is on this machine and
            ``HF_LORAMETA_NO_BASE`` is not set, unless `train` says how many rows to train on.
        model: the base model in transformers, on the CPU, and its tokenizer; the model is left
            unchanged. None loads it if it is needed.
        token: of the Hub; None uses the saved one.
        progress: called with (stage, done, total), where total is 0 if unknown; None shows bars.
        asked: any other field of `hf_lorameta.Request`, such as `columns`,
            `instruction`, `train` or `check`.

    Returns:
        The adapter.

    Raises:
        DatasetError: as `plan` raises.
        BankError: as `plan` raises.
        UsageError: an argument is unknown or out of range; or as
            `hf_lorameta.pipeline.resolve.resolve` raises.
        LoraMetaError: as `hf_lorameta.pipeline.make.make_adapter` raises.
        KeyboardInterrupt: Ctrl-C, unless in a training after its first steps, or in the check after
            it: then the adapter so far is returned, with a warning.

    Example:
        >>> from hf_lorameta.demo import TRAIN_FILE
        >>> generate(TRAIN_FILE, recipe=Recipe(top_k=2), budget=0)
        Generation(rank 16 for a local dataset, of 2 adapters of embedded bank)
    """
    request = _request(recipe, base=base and str(base), budget=budget, **asked)
    with (
        bars_unless(progress) as shown,
        open_session(request, bank, token=token, model=model, progress=shown) as session,
    ):
        opened = session.open_dataset(dataset, **request.options)
        return make(opened, session, resolve(opened, session, request))


def plan(
    dataset: Any,
    bank: Bank | str | Path | None = None,
    recipe: Recipe | Mapping[str, Any] | None = None,
    *,
    base: str | Path | None = None,
    token: str | None = None,
    progress: StageProgress | None = None,
    **asked: Any,
) -> Plan:
    """Read a dataset, measure its distances to the bank, and choose coefficients.

    Args:
        dataset: Hub id, local file, opened `Dataset`, list of dictionaries, `pandas.DataFrame`,
            or dataset of the library `datasets`.
        bank: an opened bank, a folder, a Hub id, or ``none`` for no bank. None is the default bank
            if it fits `base`, else the embedded one for it, else no bank.
        recipe: the settings, or a dictionary of them; None is ``Recipe()``.
        base: the base model, a Hub id or a folder; None is the bank's.
        token: of the Hub; None uses the saved one.
        progress: called with (stage, done, total), where total is 0 if unknown; None shows bars.
        asked: any other field of `hf_lorameta.Request`, such as `columns`, `split`
            or `instruction`.

    Raises:
        DatasetError: the dataset cannot be read as labeled rows.
        BankError: the bank is empty or damaged, or lacks the neural rule that was asked for.
        UsageError: an argument is unknown or out of range; the base model cannot be used, or
            `base_revision` is given for a bank's base model.
        HubError: a repo is missing, private or gated, or the Hub cannot be reached.
    """
    request = _request(recipe, base=base and str(base), **asked)
    with (
        bars_unless(progress) as shown,
        open_session(request, bank, token=token, progress=shown) as session,
    ):
        opened = session.open_dataset(dataset, **request.options)
        require_compatible(request, session.bank, opened)
        return plan_dataset(opened, session.bank, request.recipe)


def _request(recipe: Recipe | Mapping[str, Any] | None, **asked: Any) -> Request:
    """Return the request of a call in Python; what is None was not asked for.

    Raises:
        RecipeError: a setting is unknown, out of range or given twice; or something else than
            settings was given as the recipe.
    """
    if not isinstance(recipe, Recipe | Mapping | None):
        raise RecipeError(
            f"a recipe is hf_lorameta.Recipe(…) or a dictionary of settings, got {recipe!r}",
            code="recipe.not-a-recipe",
        )
    if isinstance(recipe, Recipe):
        recipe = recipe.model_dump(exclude_defaults=True)
    settings = dict(recipe or {})
    given = {name: value for name, value in asked.items() if value is not None}
    if twice := sorted(settings.keys() & given.keys()):
        raise RecipeError(
            f"{twice[0]} was given twice, as an argument and in the recipe",
            code="recipe.given-twice",
            hint=Option(twice[0], change="leave out"),
        )
    return Request.of(**settings, **given)


def open_session(request: Request, bank: Bank | str | Path | None = None, **others: Any) -> Session:
    """Return the session of a request.

    Args:
        request: names the base model and the bank.
        bank: another one, perhaps opened.
        others: the other arguments of `Session`.
    """
    names = {n: getattr(request, n) for n in ("base", "base_revision", "bank_revision")}
    return Session(request.bank if bank is None else bank, **names, **others)


def plan_dataset(dataset: Dataset, bank: Bank, recipe: Recipe) -> Plan:
    """Plan an adapter for an opened dataset, with settings that suit it.

    Args:
        dataset: an opened dataset.
        bank: the bank.
        recipe: settings that `resolve` or `require_compatible` has checked.

    Raises:
        LoraMetaError: as `plan` raises.
    """
    return plan_from_reading(read_dataset(dataset, recipe, token_counting(bank)), bank)


def plan_with_rows(
    dataset: Dataset, session: Session, resolved: Resolved, end: Deadline | None = None
) -> tuple[Plan, Rows]:
    """Read a dataset once, until a deadline, plan, and draw the rows to train and check on.

    Raises:
        LoraMetaError: as `plan` and `hf_lorameta.pipeline.rows.rows_for` raise.
    """
    asked, counting = resolved.rows, token_counting(session.bank)
    read = read_dataset(dataset, resolved.recipe, counting, collect=asked.pool, end=end)
    return plan_from_reading(read, session.bank), rows_for(asked, read.pool)


@contextmanager
def _said_that_nothing_is_kept() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        error.add_note("Interrupted before an adapter was made: nothing was saved. Run it again")
        raise


@_said_that_nothing_is_kept()
def make(dataset: Dataset, session: Session, resolved: Resolved) -> Generation:
    """Read a dataset, plan, draw rows, and make the adapter; log what was done, and warnings.

    Args:
        dataset: an opened dataset.
        session: as for `hf_lorameta.pipeline.resolve.resolve`.
        resolved: what to do.

    Raises:
        LoraMetaError: as `plan` and `hf_lorameta.pipeline.make.make_adapter` raise.
    """
    log_remarks(dataset.remarks)
    deadline = session.deadline(resolved.seconds)
    plan, rows = plan_with_rows(dataset, session, resolved, deadline.part(_SHARE_TO_READ))
    told = plan.remarks[:-1]  # the verdict is that on the adapter, at the end
    log_remarks(told, without=dataset.remarks)
    if not rows.held_out:  # a recipe with steps may train on all of them
        resolved = resolved.uncounted
    if rows.train and (resolved.seconds or resolved.counts):
        sentences = [f"With the base model: {resolved}"]
        if resolved.seconds and not session.bank.is_empty:
            sentences.append("To skip this: --budget 0, in Python budget=0")
        if resolved.counts:
            sentences.append("To skip the count alone: --no-check, in Python check=False")
        logger.info(". ".join(sentences))
    if missed := resolved.obstacle:
        logger.warning("Not trained on your rows: %s. Next: %s", missed, missed.hint)
    adapter = make_adapter(plan, rows, session, resolved.stages, deadline=deadline)
    log_remarks(adapter.remarks, without=told)
    return adapter
