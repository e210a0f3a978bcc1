"""Decide what is done for a dataset, once: after it is opened, and before it is read.

All that can be known from the request, the bank and the dataset's first rows is decided here, or
refused with one error that names everything that is wrong. The steps that follow rely on this.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from os import environ
from typing import Any

from hf_lorameta.bank.bank import Bank
from hf_lorameta.data.dataset import DatasetInfo
from hf_lorameta.engines.transformers.dtype import available_memory, memory_needed, parameters
from hf_lorameta.engines.transformers.evaluator import require_eval
from hf_lorameta.errors import (
    HubError,
    LoraMetaError,
    MissingExtraError,
    NotFoundError,
    Option,
    RecipeError,
    UnlabeledDatasetError,
    UsageError,
)
from hf_lorameta.hub.base_model import at_hand_or_downloaded
from hf_lorameta.pipeline.adapter_folder import Export
from hf_lorameta.pipeline.budget import DEFAULT_BUDGET
from hf_lorameta.pipeline.export import export_config
from hf_lorameta.pipeline.progress import duration
from hf_lorameta.pipeline.request import Request
from hf_lorameta.pipeline.rows import RowsAsked
from hf_lorameta.pipeline.session import Session
from hf_lorameta.pipeline.stages import Stage
from hf_lorameta.recipe import Recipe

NO_BASE = "HF_LORAMETA_NO_BASE"
"""Environment variable: if it is set, the base model is run only on request."""
_ALWAYS = {"dtype", "seed", "max_rows"}
"""Settings of a recipe that have a meaning without a bank's adapters."""


@dataclass(frozen=True)
class Resolved:
    """What will be done for a dataset.

    Attributes:
        request: what was asked for; its budget is a number of seconds, and `check` is false unless
            the base model is run.
        insisted: whether the caller asked for the base model to be run.
        obstacle: why the base model is not run although it would be by default; else None.
        missing: the extra that has to be installed first, if that was no reason to refuse.
    """

    request: Request
    insisted: bool = True
    obstacle: LoraMetaError | None = None
    missing: MissingExtraError | None = None

    @property
    def recipe(self) -> Recipe:
        """How adapters are combined."""
        return self.request.recipe

    @property
    def seconds(self) -> float:
        """Wall-clock time for all stages; 0 is no limit."""
        return self.request.seconds or 0.0

    @cached_property
    def stages(self) -> tuple[Stage[Any], ...]:
        """What is done with the base model after the adapters are combined."""
        return self.request.stages(self.insisted)

    @property
    def rows(self) -> RowsAsked:
        """Which rows are drawn."""
        request = self.request
        return RowsAsked(
            train=request.train,
            steps=request.steps is not None,
            check=request.rows_to_check,
            count=bool(request.check),
            all_rows=self.trains_on_all,
            seed=request.seed,
        )

    @property
    def trains_on_all(self) -> bool:
        """Whether all rows are trained on, not a stated number."""
        return self.seconds > 0 and self.request.train is None

    @property
    def counts(self) -> bool:
        """Whether right answers are counted although no number of rows was stated."""
        return self.request.check is True

    @property
    def uncounted(self) -> "Resolved":
        """The same, without a count of right answers that was not asked for."""
        return replace(self, request=self.request.but(check=False)) if self.counts else self

    def __str__(self) -> str:
        """What is done with the base model."""
        texts = [str(stage) for stage in self.stages]
        if self.seconds:
            texts[0] += f" for up to {duration(self.seconds)}"
        stages = ", then ".join(texts)
        if self.missing:
            return f"{stages}, once the extra that it needs is installed: {self.missing.hint}"
        if self.stages:
            return stages
        return "skip training on your rows" + (f": {self.obstacle}" if self.obstacle else "")


def resolve(
    dataset: DatasetInfo,
    session: Session,
    request: Request,
    *,
    export: Export | None = None,
    only_plan: bool = False,
) -> Resolved:
    """Decide what is done for a dataset.

    Args:
        dataset: an opened dataset.
        session: of the bank and the base model.
        request: what was asked for. Without a budget, it is `DEFAULT_BUDGET` if the base model is
            on this machine and fits into its memory.
        export: as in `hf_lorameta.pipeline.save.SavableAdapter.save_pretrained`.
        only_plan: whether to say what would be done, so that nothing has to be installed for it.

    Raises:
        UsageError: settings exclude each other; the base model's architecture cannot be
            exported; or there is no bank to make an adapter of, and nothing to train it on.
        RecipeError: a setting says how a bank's adapters are combined, and there are none.
        UnlabeledDatasetError: the request needs outputs, and the dataset has none.
        MissingExtraError: the request needs an extra that is not installed.
        HubError: the base model's ``config.json`` cannot be fetched for the export.

    Example:
        >>> from hf_lorameta import open_dataset
        >>> from hf_lorameta.demo import TRAIN_FILE
        >>> dataset = open_dataset(TRAIN_FILE)
        >>> print(resolve(dataset, Session(), Request(budget=60, check=False)))
        train on your rows for up to 60 s
    """
    bank, budget = session.bank, request.seconds
    obstacle = _obstacle(dataset, session) if budget is None else None
    if budget is not None:
        seconds = budget
    elif request.train or (obstacle and not bank.is_empty):
        seconds = 0.0
    else:
        seconds = DEFAULT_BUDGET
    runs = seconds > 0 or (budget is None and obstacle is None)
    decided = request.but(budget=seconds)
    if request.check is True and not runs:
        decided = decided.but(check=False)
    problems = list(_problems(dataset, bank, request))
    resolved = Resolved(decided, insisted=budget is not None or bank.is_empty)
    missing = missing_extra() if any(stage.needs_model for stage in resolved.stages) else None
    if missing and not only_plan:
        problems.append(missing)
    _refuse(problems)
    if export is not None:
        index = bank.index
        export_config(index.base_model, index.base_revision, export, session.hub.token)
    missed = None if resolved.stages or environ.get(NO_BASE) else obstacle
    return replace(resolved, obstacle=missed, missing=missing)


def require_compatible(request: Request, bank: Bank, dataset: DatasetInfo) -> None:
    """Raise an error for settings that a bank or a dataset rules out; `resolve` does so, too.

    Raises:
        RecipeError: a setting says how a bank's adapters are combined, and there are none.
        UnlabeledDatasetError: the request needs outputs, and the dataset has none.
    """
    _refuse(list(_incompatible(request, bank, dataset)))


def _refuse(problems: list[LoraMetaError]) -> None:
    """Raise one error for all problems, if there are any; its type and code are the first's."""
    if not problems:
        return
    first, *others = problems
    if not others:
        raise first
    text = "; and ".join(map(str, problems))
    advice = dict.fromkeys(part for problem in problems for part in problem.advice)
    error = type(first)(text, code=first.code, hint=list(advice))
    error.codes = tuple(problem.code for problem in problems)
    raise error


def _problems(dataset: DatasetInfo, bank: Bank, request: Request) -> Iterator[LoraMetaError]:
    """Yield what is wrong with a request."""
    budget = request.seconds
    without_budget = Option("budget", change="leave out")
    yield from _incompatible(request, bank, dataset)
    if budget is not None and request.train:
        yield UsageError(
            f"got both a time limit (budget) and a number of rows (train={request.train}), "
            "expected one",
            code="budget.and-train",
            hint=[without_budget, Option("train", change="leave out")],
        )
    if budget and dataset.prompts_only and not bank.is_empty:
        yield UnlabeledDatasetError(
            "the dataset has no outputs to train on",
            code="outputs.none",
            hint=[Option("columns", "input=COLUMN,output=COLUMN"), without_budget],
        )
    if bank.is_empty and budget == 0 and not dataset.prompts_only:
        yield UsageError(
            f"no bank is used for {bank.index.base_model}, so its adapter has to be trained on "
            "labeled rows",
            code="training.needed-without-bank", hint=[
                Option("budget", "2m"), Option("train", 100),
                *_bank_advice(bank), _train_a_bank(bank),
            ],
        )  # fmt: skip


def _incompatible(request: Request, bank: Bank, dataset: DatasetInfo) -> Iterator[LoraMetaError]:
    """Yield an error for each setting that needs what the bank or the dataset lacks."""
    index = bank.index
    if not bank.has_datasets:
        reason, allowed = f"{bank.id} has only one", {"rank", "scale"}
        if bank.is_empty:
            reason, allowed = f"none is used for {index.base_model}", {"rank"}
        allowed |= {"output_prior"} if index.output_prior else set()
        for name, value in request.recipe.model_dump(exclude_defaults=True).items():
            if name not in allowed | _ALWAYS:
                yield RecipeError(
                    f"{name}={value} is for the adapters of a bank, and {reason}",
                    code="recipe.needs-bank",
                    hint=[Option(name, change="leave out"), *_bank_advice(bank)],
                )
    columns = Option("columns", "input=COLUMN,output=COLUMN")
    if bank.is_empty and dataset.prompts_only:
        yield UnlabeledDatasetError(
            f"no bank is used for {index.base_model}, so its adapter has to learn from labeled "
            "rows, and the dataset has no outputs",
            code="outputs.needed-without-bank",
            hint=[columns, *_bank_advice(bank), _train_a_bank(bank)],
        )
    elif dataset.prompts_only and (numbers := Resolved(request).rows.numbers):
        name = next(iter(numbers))
        yield UnlabeledDatasetError(
            f"the setting {name} compares answers with outputs, and the dataset has none",
            code="outputs.none-to-compare",
            hint=[Option(name, change="leave out"), columns],
        )


def _bank_advice(bank: Bank) -> list[str | Option]:
    """Return the advice to name a bank: those that others have published, if there are any."""
    if not bank.is_empty:
        return ["name another bank"]
    return [Option("bank", listed.repo_id) for listed in bank.alternatives[:3]] or ["name a bank"]


def _train_a_bank(bank: Bank) -> str:
    return (
        "train a bank on datasets of your own, which takes hours: hf-lorameta bank train TASKS "
        f"-o my-bank --base {bank.index.base_model}"
    )


# --- is the base model on this machine? -----------------------------------------------------------


def missing_extra() -> MissingExtraError | None:
    """Return the error that the extra ``eval`` is missing, with advice; None if it is installed."""
    try:
        require_eval()
    except MissingExtraError as error:
        return error
    return None


def _obstacle(dataset: DatasetInfo, session: Session) -> LoraMetaError | None:
    """Return why the base model is not run by default, with advice; None if it can be."""
    index = session.bank.index
    if dataset.prompts_only:
        return UnlabeledDatasetError(
            "the dataset has no outputs",
            code="outputs.none",
            hint="where answers are labels, label 64 rows: without them the adapter rarely gives "
            "the right one",
        )
    if environ.get(NO_BASE):
        return UsageError(f"{NO_BASE} is set", code="base.off", hint="unset it")
    if missing := missing_extra():
        return missing
    if session.has_model:
        return None
    try:
        path = at_hand_or_downloaded(index.base_model, index.base_revision, session.hub.token)
    except HubError as error:  # where base models may be downloaded
        return error
    if path is None:
        return NotFoundError(
            "the base model is not on this machine",
            code="base.not-here",
            hint=f"hf download {index.base_model}",
        )
    needed = memory_needed(parameters(path))
    if needed > available_memory() / 2:
        return UsageError(
            f"the base model needs {needed / 1e9:.1f} GB, more than half of the free memory",
            code="base.too-large",
            hint=Option("budget", "2m"),
        )
    return None
