"""What an adapter without a bank needs: labeled rows, and a fit or a training."""

from hf_lorameta.bank.bank import Bank
from hf_lorameta.data.dataset import DatasetInfo
from hf_lorameta.errors import Option, RecipeError, UnlabeledDatasetError, UsageError
from hf_lorameta.recipe import MethodSettings, Recipe


def refuse_without_adapters(bank: Bank, recipe: Recipe, dataset: DatasetInfo) -> None:
    """Refuse, if no bank is used or only its general adapter, what others make possible.

    Raises:
        UnlabeledDatasetError: no bank is used, and the dataset has no outputs.
        RecipeError: a setting says how a bank's adapters are combined.
    """
    if len(bank):
        return
    index = bank.index
    alone = not index.number
    reason = f"none is used for {index.base_model}" if alone else f"{bank.id} has only one"
    allowed = {"rank"} if alone else {"rank", "scale"}
    if index.output_prior:
        allowed.add("output_prior")
    for name, field in MethodSettings.model_fields.items():
        value = getattr(recipe, name)
        if name not in allowed and value != field.default:
            raise RecipeError(
                f"{name}={value} is for the adapters of a bank, and {reason}",
                hint=[Option(name, change="leave out"), *_named(bank)],
            )
    if alone and dataset.prompts_only:
        raise UnlabeledDatasetError(
            f"no bank is used for {bank.index.base_model}, so its adapter has to learn from "
            "labeled rows, and the dataset has no outputs",
            hint=[Option("columns", "input=COLUMN,output=COLUMN"), *_named(bank), _train(bank)],
        )


def require_source(bank: Bank, recipe: Recipe) -> None:
    """Refuse an adapter that would be made of nothing.

    Args:
        bank: with adapters, anything can be made.
        recipe: its `fit` and `train` count.

    Raises:
        UsageError: no bank is used, and the adapter neither fitted nor trained.
    """
    if bank.index.number or not {"fit", "train"}.isdisjoint(recipe.rows_asked):
        return
    raise UsageError(
        f"no bank is used for {bank.index.base_model}, so its adapter has to be fitted or trained "
        "on labeled rows",
        hint=[Option("train", 100), Option("fit", 300), *_named(bank), _train(bank)],
    )


def _named(bank: Bank) -> list[str | Option]:
    """Advice to name a bank: those that others have published, if there are any."""
    if bank.base is None:
        return ["name another bank"]
    return [Option("bank", found.repo_id) for found in bank.base.banks[:3]] or ["name a bank"]


def _train(bank: Bank) -> str:
    base = bank.index.base_model
    return (
        "train a bank on datasets of your own, which takes hours: hf-lorameta bank train TASKS "
        f"-o my-bank --base {base} --dry-run says how many"
    )
