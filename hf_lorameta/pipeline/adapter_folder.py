"""Where banks and adapters come from and go to: the embedded bank, folders, Hub repos, builds.

The default bank is ``HF_LORAMETA_BANK`` (a folder or a Hub dataset repo) if that is set, else the
bank embedded in this package.
"""

import json
from pathlib import Path
from typing import Any, Literal

from hf_lorameta.cards import gguf_usage, model_card
from hf_lorameta.cards.chart import CHART_FILE
from hf_lorameta.errors import (
    AdapterError,
    UsageError,
)
from hf_lorameta.formats.lora_file import WEIGHTS_FILE, check_adapter
from hf_lorameta.formats.peft_config import CONFIG_FILE
from hf_lorameta.hub.client import Hub


def locate_adapter(
    name: str | Path, *, revision: str | None = None, token: str | None = None
) -> Path:
    """A folder with an adapter's files: itself, or a repo's in the client's cache.

    Args:
        name: folder, or Hub id.
        revision: of a repo.
        token: None uses the saved one.

    Raises:
        AdapterError: the repo holds no safetensors adapter.
        HubError: the repo is missing or out of reach.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if len(folder.parts) != 2 or folder.is_absolute():
        raise AdapterError(
            f"{name} is neither a folder here nor a Hub id of the form user/adapter",
            hint="hf-lorameta generate --dataset user/name -o my-adapter makes one",
        )
    connection = Hub(token)
    repo = connection.resolve(str(name), "model", revision, blobs=True)
    wanted = [file for file in FILES if file in repo.files]
    if not {CONFIG_FILE, WEIGHTS_FILE} <= set(wanted):
        raise AdapterError(
            f"{name} lacks {CONFIG_FILE} or {WEIGHTS_FILE}: not a PEFT adapter",
            hint="name a repo that holds one",
        )
    paths = [connection.download(repo, file) for file in wanted]
    return paths[0].parent


RECIPE_FILE = "recipe.json"
COEFFICIENTS_FILE = "coefficients.json"
FILES = (
    CONFIG_FILE, WEIGHTS_FILE, RECIPE_FILE, COEFFICIENTS_FILE,
    model_card.CARD_FILE, CHART_FILE,
)  # fmt: skip
EXPORTS = (gguf_usage.GGUF_FILE, gguf_usage.MODELFILE)
"""What ``export="gguf"`` adds to the folder."""

Export = Literal["gguf"]


def check_target(target: Path, overwrite: bool) -> None:
    """Before any work: whether an adapter can be saved there.

    Raises:
        UsageError: it is a file, holds other files, or an adapter that is not to be replaced.
    """
    if not target.exists():
        return
    if not target.is_dir():
        raise UsageError(f"{target} is a file, expected a folder", hint="name another with -o")
    names = {path.name for path in target.iterdir()}
    strangers = sorted(names - {*FILES, *EXPORTS})
    if strangers:
        raise UsageError(
            f"{target} holds other files ({', '.join(strangers[:3])})",
            hint="name an empty or a new folder with -o",
        )
    if names and not overwrite:
        raise UsageError(f"{target} already holds an adapter", hint="add --overwrite to replace it")


_PROVENANCE = {"bank": ("id", "revision"), "dataset": ("id", "private", "revision"), "recipe": ()}
_COEFFICIENT_FIELDS = {"dataset": str, "adapter": str, "distance": float, "coefficient": float}


def _check_provenance(recipe: Any, coefficients: Any) -> None:
    """Raise unless both hold what readers of them rely on."""
    recipe["library"]
    for part, names in _PROVENANCE.items():
        for name in names:
            recipe[part][name]
        dict(recipe[part])
    for line in coefficients:
        if not all(isinstance(line[name], kind) for name, kind in _COEFFICIENT_FIELDS.items()):
            raise TypeError


def read_provenance(folder: Path) -> dict[str, Any]:
    """Recipe, coefficients and shape of a generated adapter.

    Raises:
        AdapterError: the folder holds no adapter, or one that was not made by this package.
    """
    config, weights = check_adapter(folder)
    try:
        recipe = json.loads((folder / RECIPE_FILE).read_bytes())
        coefficients = json.loads((folder / COEFFICIENTS_FILE).read_bytes())
        _check_provenance(recipe, coefficients)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise AdapterError(
            f"{folder} holds an adapter, but no readable {RECIPE_FILE} and {COEFFICIENTS_FILE}: "
            "it was not made by hf-lorameta"
        ) from None
    return {
        "base_model_name_or_path": config.base_model,
        "rank": config.rank,
        "modules": len(weights.layout),
        "dtypes": sorted(weights.dtypes),
        "provenance": recipe,
        "coefficients": coefficients,
    }
