"""The adapters of one evaluation: their names in its table, their files and their recipes."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hf_lorameta.data.sources.files import is_local
from hf_lorameta.engines.scoring import CHAT_METHOD
from hf_lorameta.errors import AdapterError, Option, UsageError
from hf_lorameta.formats.lora_file import check_adapter
from hf_lorameta.formats.peft_config import CONFIG_FILE, LoraConfig
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.repo import PinnedRepo
from hf_lorameta.pipeline.adapter_folder import locate_adapter, naming, read_adapter

ONLY = "generated"
"""Name of the adapter where there is only one."""
_OTHER_METHODS = re.compile(rf"base|{CHAT_METHOD}|reference|{ONLY}|\d+-shot")


class AdaptersToScore(NamedTuple):
    """Adapters for the same base model.

    Attributes:
        folders: of each adapter, by its name in the table.
        base: the first adapter's config that names a base model, if one does.
        recipes: ``recipe.json`` of those that were generated for a dataset.
    """

    folders: dict[str, Path]
    base: LoraConfig
    recipes: tuple[Mapping[str, Any], ...]

    def recipe_for(self, name: Any = None) -> Mapping[str, Any] | None:
        """Return the recipe that says how to read a dataset; None if there are no recipes.

        Args:
            name: of the dataset; None is the one that all adapters were generated for.

        Raises:
            UsageError: no name, and the recipes have different datasets.
        """
        ids = {str(r["dataset"]["id"] or "a local or private one") for r in self.recipes}
        if name is None and len(ids) > 1:
            raise UsageError(
                f"the adapters were generated for different datasets: {', '.join(sorted(ids))}",
                hint=Option("dataset", "user/name"),
            )
        named = isinstance(name, str | Path)
        same = [r for r in self.recipes if named and r["dataset"]["id"] == str(name)]
        return next(iter([*same, *self.recipes]), None)


def separate_dataset(
    names: Sequence[str], dataset: str | None, hub: Hub
) -> tuple[list[str], str | None]:
    """Separate the names of adapters from that of a dataset that follows them.

    The last of several names is a dataset unless another one is given, or the name is that of a
    folder with an adapter, or of a model repo and not also of a dataset repo.

    Args:
        names: of adapters, and possibly of a dataset.
        dataset: the one that was named otherwise, if any.
        hub: the client.

    Returns:
        The adapters' names, and the dataset's.
    """
    *others, last = names
    if not others or dataset is not None or _is_adapter(last, hub):
        return list(names), dataset
    return others, last


def _is_adapter(name: str, hub: Hub) -> bool:
    folder = Path(name).expanduser()
    if folder.exists() or is_local(name) or len(folder.parts) != 2:
        return (folder / CONFIG_FILE).is_file()
    return hub.existing(name, "dataset") is None and hub.existing(name) is not None


def locate_adapters(
    names: Sequence[str | Path], hub: Hub, repos: Sequence[PinnedRepo | None] = ()
) -> AdaptersToScore:
    """Find the files of adapters and read their recipes.

    A single adapter is called ``generated``; several have their own names.

    Args:
        names: folders or Hub ids, at least one.
        hub: the client.
        repos: the Hub repos among them at the commit to score, one for each name; () is the latest.

    Raises:
        UsageError: no adapter is named, or one twice, or like another method.
        AdapterError: an adapter is missing or broken, or for another base model than the first.
        HubError: the Hub cannot be reached.
    """
    if not names:
        raise UsageError("no adapter is named", hint="name a folder or a Hub id")
    labels = [ONLY] if len(names) == 1 else [str(name) for name in names]
    for label in labels if len(labels) > 1 else ():
        if labels.count(label) > 1:
            raise UsageError(f"{label} is named twice", hint="name each adapter once")
        if _OTHER_METHODS.fullmatch(label):
            raise UsageError(f"{label} is the name of a method", hint=f"name it ./{label}")
    folders = {
        label: locate_adapter(name, revision=repo.sha if repo else None, hub=hub)
        for label, name, repo in zip(labels, names, repos or [None] * len(names), strict=True)
    }
    configs = []
    for name, folder in zip(names, folders.values(), strict=True):
        with naming(str(name)):
            configs.append(check_adapter(folder)[0])
    stated = [i for i, config in enumerate(configs) if config.base_model]
    first = stated[0] if stated else 0
    for i in stated:
        if configs[i].base_model.lower() != configs[first].base_model.lower():
            raise AdapterError(
                f"{names[i]} is for {configs[i].base_model}, and {names[first]} for "
                f"{configs[first].base_model}",
                hint="score adapters of one base model at a time",
            )
    recipes = (read_adapter(folder).generation for folder in folders.values())
    return AdaptersToScore(folders, configs[first], tuple(recipe for recipe in recipes if recipe))
