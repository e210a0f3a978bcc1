"""The folder of a generated adapter: its file names, where to find it, and how to read it back."""

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from hf_lorameta.cards import gguf_usage, model_card
from hf_lorameta.cards.chart import CHART_FILE
from hf_lorameta.errors import AdapterError, UsageError
from hf_lorameta.files import refuse_other_files, write_hint
from hf_lorameta.formats.lora_file import WEIGHTS_FILE, check_adapter
from hf_lorameta.formats.peft_config import CONFIG_FILE
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.repo import PinnedRepo

RECIPE_FILE = "recipe.json"
COEFFICIENTS_FILE = "coefficients.json"
FILES = (
    CONFIG_FILE, WEIGHTS_FILE, RECIPE_FILE, COEFFICIENTS_FILE, model_card.CARD_FILE, CHART_FILE,
)  # fmt: skip
"""Every generated adapter has these; a merged one has neither coefficients nor chart."""
EXPORTS = (gguf_usage.GGUF_FILE, gguf_usage.MODELFILE)
"""Added by ``export="gguf"``."""
OLD_FILES = ("neighbours.svg",)
"""Written by earlier versions, and deleted when an adapter is replaced."""

EXPERTS, SHARED = "experts", "shared"
"""Folders of a mixture: one with a folder for each adapter, and that of what all of them share."""
ROUTING_FILE, PROTOTYPES_FILE = "routing.json", "prototypes.safetensors"
"""A folder that has the first is a mixture: it has them instead of PEFT's two files."""
_MIXTURE_FILE = re.compile(
    rf"({EXPERTS}/[^/]+|{SHARED})/({CONFIG_FILE}|{WEIGHTS_FILE})|{ROUTING_FILE}|{PROTOTYPES_FILE}"
)

Export = Literal["gguf"]


def is_own_file(name: str) -> bool:
    """Return whether a path in a folder or repo is one that this package writes there.

    Example:
        >>> is_own_file("README.md"), is_own_file("experts/a/adapter_config.json")
        (True, True)
        >>> is_own_file("experts/notes.txt")
        False
    """
    return name in (*FILES, *EXPORTS) or is_adapter_file(name)


def is_adapter_file(name: str) -> bool:
    """Return whether a path is one of PEFT's two files, or of those that a mixture has instead."""
    return name in (CONFIG_FILE, WEIGHTS_FILE) or _MIXTURE_FILE.fullmatch(name) is not None


def locate_adapter(
    name: str | Path, *, revision: str | None = None, hub: Hub | None = None
) -> Path:
    """Return a folder that holds an adapter's files.

    Args:
        name: a folder, which is returned as it is, or a Hub id, whose files are fetched into the
            client's cache.
        revision: branch, tag or commit of a repo.
        hub: None makes a client with the saved token.

    Raises:
        AdapterError: the repo holds no safetensors adapter.
        HubError: the repo is missing or cannot be reached.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if len(folder.parts) != 2 or folder.is_absolute():
        raise AdapterError(
            f"{name} is neither a folder nor a Hub id of the form user/adapter",
            hint="hf-lorameta generate --dataset user/name -o my-adapter generates one",
        )
    hub = hub or Hub()
    return fetch_adapter(hub.resolve(str(name), "model", revision, blobs=True), hub)


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Put the name of one of several adapters before an `AdapterError` that does not begin with it.

    Example:
        >>> with naming("user/b"):
        ...     raise AdapterError("use_dora is set")
        Traceback (most recent call last):
        hf_lorameta.errors.AdapterError: user/b: use_dora is set
    """
    try:
        yield
    except AdapterError as error:
        if not str(error).startswith(name):
            error.args = (f"{name}: {error}",)
        raise


def fetch_adapter(repo: PinnedRepo, hub: Hub) -> Path:
    """Fetch an adapter's files into the client's cache, and return their folder.

    Raises:
        AdapterError: the repo holds no safetensors adapter.
        HubError: the Hub cannot be reached.
    """
    names = [file for file in FILES if file in repo.files]
    if ROUTING_FILE in repo.files:
        names += [file for file in repo.files if _MIXTURE_FILE.fullmatch(file)]
    elif missing := [name for name in (CONFIG_FILE, WEIGHTS_FILE) if name not in names]:
        raise AdapterError(
            f"{repo.repo_id} lacks {' and '.join(missing)}, so its adapter cannot be read",
            hint="name a repo with a PEFT adapter; PEFT saves one from a pickle as safetensors",
        )
    paths = {file: hub.download(repo, file) for file in names}
    return next(path.parent for file, path in paths.items() if "/" not in file)


def write_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Write a folder completely or not at all, replacing an existing one.

    Args:
        target: the folder.
        write: writes the files into the empty folder that it is given.

    Raises:
        AdapterError: the disk is full, or the folder cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".lorameta-", dir=target.parent) as scratch:
            new = Path(scratch) / "new"
            new.mkdir()
            write(new)
            replaced = Path(scratch) / "replaced"
            if target.exists():
                target.rename(replaced)
            try:
                new.rename(target)
            except OSError:
                if replaced.exists():
                    replaced.rename(target)
                raise
    except OSError as error:
        raise AdapterError(
            f"{target} could not be written: {error.strerror}",
            hint=write_hint(error, target, "name another folder with -o"),
        ) from None


def check_target(folder: Path, overwrite: bool) -> None:
    """Check that an adapter can be saved to a folder, before any work is done.

    Raises:
        UsageError: it is a file, it holds other files, or it holds an adapter and `overwrite` is
            false.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file, expected a folder", hint="name another with -o")
    names = {path.name for path in folder.iterdir()} - {EXPERTS, SHARED}
    for part in (EXPERTS, SHARED):
        inside = (path for path in (folder / part).rglob("*") if path.is_file())
        names |= {path.relative_to(folder).as_posix() for path in inside}
    refuse_other_files(folder, (n for n in names - {*OLD_FILES} if not is_own_file(n)))
    if names and not overwrite:
        raise UsageError(f"{folder} already holds an adapter", hint="add --overwrite to replace it")


_PROVENANCE = {"bank": ("id", "revision"), "dataset": ("id", "private", "revision"), "recipe": ()}
_COEFFICIENT_FIELDS = {"dataset": str, "adapter": str, "distance": float, "coefficient": float}


def is_merge(recipe: Mapping[str, Any]) -> bool:
    """Return whether the content of a ``recipe.json`` is that of a merge."""
    return "merge" in recipe


def is_private(recipe: Mapping[str, Any]) -> bool:
    """Return whether an adapter's sources are private, from the content of its ``recipe.json``."""
    return bool(recipe["private"] if "private" in recipe else recipe["dataset"]["private"])


def _check_provenance(recipe: Any, coefficients: Any) -> None:
    """Raise KeyError or TypeError unless both hold the fields that are read from them."""
    recipe["library"]
    if is_merge(recipe):
        recipe["private"]
        dict(recipe["merge"])
        recipe["rank"]
        for row in coefficients:
            if not (isinstance(row["adapter"], str) and isinstance(row["weight"], float)):
                raise TypeError
        return
    for part, names in _PROVENANCE.items():
        for name in names:
            recipe[part][name]
        dict(recipe[part])
    for row in coefficients:
        if not all(isinstance(row[name], kind) for name, kind in _COEFFICIENT_FIELDS.items()):
            raise TypeError


def read_provenance(folder: Path) -> dict[str, Any]:
    """Read recipe, coefficients and shape of a generated adapter.

    Raises:
        AdapterError: the folder holds no adapter, or one that hf-lorameta did not generate.
    """
    contents = read_contents(folder)
    if contents["provenance"] is None:
        raise AdapterError(
            f"{folder} holds an adapter, but no readable {RECIPE_FILE} and {COEFFICIENTS_FILE}: "
            "it was not generated by hf-lorameta"
        )
    return contents


def read_generation(folder: Path) -> dict[str, Any] | None:
    """Return ``recipe.json`` of an adapter that was generated for a dataset; else None.

    Raises:
        AdapterError: the folder holds no LoRA adapter.
    """
    recipe: dict[str, Any] | None = read_contents(folder)["provenance"]
    return None if recipe is None or is_merge(recipe) else recipe


def read_contents(folder: Path) -> dict[str, Any]:
    """Read base model and shape of any LoRA adapter, and its recipe if it was generated.

    Returns:
        ``base_model_name_or_path``, ``rank``, ``modules`` (their number), ``dtypes``,
        ``provenance`` (content of ``recipe.json``, or None) and ``coefficients`` (a list). Of a
        mixture, rank, modules and dtypes are those of each of its adapters.

    Raises:
        AdapterError: the folder holds no LoRA adapter, or a mixture that lacks one.
    """
    (config, weights), *_ = (check_adapter(path) for path in _adapter_folders(folder))
    try:
        recipe = json.loads((folder / RECIPE_FILE).read_bytes())
        if is_merge(recipe):
            coefficients = recipe["adapters"]
        else:
            coefficients = json.loads((folder / COEFFICIENTS_FILE).read_bytes())
        _check_provenance(recipe, coefficients)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        recipe, coefficients = None, []
    return {
        "base_model_name_or_path": config.base_model,
        "rank": config.rank,
        "modules": len(weights.layout),
        "dtypes": sorted(weights.dtypes),
        "provenance": recipe,
        "coefficients": coefficients,
    }


def _adapter_folders(folder: Path) -> list[Path]:
    """Return the folder itself, or those of a mixture's adapters."""
    if not (folder / ROUTING_FILE).exists():
        return [folder]
    try:
        routing = json.loads((folder / ROUTING_FILE).read_bytes())
        names = [str(adapter["name"]) for adapter in routing["adapters"]]
        shared = [folder / SHARED] if routing["shared"] else []
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        names, shared = [], []
    if not names or any(Path(name).name != name or name in ("", "..") for name in names):
        raise AdapterError(f"{folder / ROUTING_FILE} lists no adapters, or is damaged")
    return [*(folder / EXPERTS / name for name in names), *shared]
