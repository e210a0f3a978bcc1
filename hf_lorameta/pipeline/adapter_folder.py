"""An adapter folder: its file names, how to find it, and how to read what it holds."""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hf_lorameta.cards import gguf_usage, model_card
from hf_lorameta.cards.chart import CHART_FILE
from hf_lorameta.data.sources.files import is_local
from hf_lorameta.errors import AdapterError, Option, UsageError
from hf_lorameta.files import refuse_other_files, similar_name, writing
from hf_lorameta.formats.lora_file import WEIGHTS_FILE, check_adapter
from hf_lorameta.formats.peft_config import CONFIG_FILE, LoraConfig
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.repo import PinnedRepo, is_repo_id
from hf_lorameta.paths import expanded, resolved
from hf_lorameta.quoting import shell_word

RECIPE_FILE = "recipe.json"
COEFFICIENTS_FILE = "coefficients.json"
FILES = (
    CONFIG_FILE, WEIGHTS_FILE, RECIPE_FILE, COEFFICIENTS_FILE, model_card.CARD_FILE, CHART_FILE,
)  # fmt: skip
"""Every generated adapter has these; a merged one has neither coefficients nor chart."""
EXPORTS = (gguf_usage.GGUF_FILE, gguf_usage.MODELFILE)
"""Added by ``export="gguf"``."""

Export = Literal["gguf"]
_SCRATCH, _OTHER_FOLDER = ".lorameta-", "name another folder"


def is_own_file(name: str) -> bool:
    """Return whether a path in a folder or repo is that of a file this package writes.

    Example:
        >>> is_own_file("README.md"), is_own_file("notes.txt")
        (True, False)
    """
    return name in (*FILES, *EXPORTS)


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
        UsageError: a revision of a folder.
        HubError: the repo is missing or cannot be reached.
    """
    folder = expanded(name)
    if folder.is_dir() and str(name):
        if revision:
            leave_out = Option("revision", change="leave out")
            raise UsageError(
                f"{name} is a folder: it has no revision", code="folder.no-revision", hint=leave_out
            )
        return folder
    if folder.exists() or not is_repo_id(str(name)):
        data = shell_word(str(name)) if is_local(name) else "user/name"
        raise AdapterError(
            f"{str(name) or 'an empty name'} is neither a folder nor a Hub id of the form "
            "user/adapter",
            code="adapter.not-found",
            hint=similar_adapter(folder)
            or f"hf-lorameta generate --dataset {data} -o my-adapter generates one",
        )
    hub = hub or Hub()
    return fetch_adapter(hub.resolve(str(name), "model", revision, blobs=True), hub)


def similar_adapter(folder: Path) -> list[str]:
    """Return advice that suggests the adapter folder of a file, or one with a similar name."""
    if folder.is_file() and (folder.parent / CONFIG_FILE).is_file():
        return [f"name {folder.parent}"]
    return similar_name(folder, lambda path: (path / CONFIG_FILE).is_file())


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Start the message of an `AdapterError` with the adapter's name, unless it already does.

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


def base_model_of(
    name: str | Path, config: LoraConfig, base: str | Path | None = None
) -> tuple[str, str | None]:
    """Return the name and revision of the base model to use with an adapter.

    Args:
        name: of the adapter.
        config: of the adapter.
        base: folder, GGUF file or Hub id; None takes the one that the adapter names.

    Raises:
        UsageError: `base` is None, and the adapter names no base model.

    Example:
        >>> config = LoraConfig("org/model", rank=8, scaling=1.0, revision="c0ffee")
        >>> base_model_of("a", config), base_model_of("a", config, "folder")
        (('org/model', 'c0ffee'), ('folder', None))
    """
    if base:
        return str(base), None
    if not config.base_model:
        raise UsageError(
            f"{name} does not name its base model",
            code="adapter.no-base-model",
            hint=Option("base", "FOLDER_OR_REPO"),
        )
    return config.base_model, config.revision


def fetch_adapter(repo: PinnedRepo, hub: Hub) -> Path:
    """Fetch an adapter's files into the client's cache, and return their folder.

    Raises:
        AdapterError: the repo holds no safetensors adapter.
        HubError: the Hub cannot be reached.
    """
    names = [file for file in FILES if file in repo.files]
    missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if name not in names]
    if missing:
        raise AdapterError(
            f"{repo.repo_id} lacks {' and '.join(missing)}, so its adapter cannot be read",
            code="adapter.incomplete",
            hint="name a repo with a PEFT adapter; PEFT saves one from a pickle as safetensors",
        )
    paths = [hub.download(repo, file) for file in names]
    return paths[0].parent


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces the target when the block ends.

    If the block raises, the target is unchanged. If the target is a mount point, only its contents
    are replaced.

    Raises:
        AdapterError: the disk is full, or the folder cannot be written.
    """
    with writing(target, AdapterError, _OTHER_FOLDER):
        target.parent.mkdir(parents=True, exist_ok=True)
        parent = target if target.is_mount() else target.parent
        with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=parent) as scratch:
            new, replaced = Path(scratch) / "new", Path(scratch) / "replaced"
            new.mkdir()
            yield new
            moves = [(target, replaced), (new, target)]
            if parent == target:
                replaced.mkdir()
                moves = [(path, replaced / path.name) for path in _held(target)]
                moves += [(path, target / path.name) for path in new.iterdir()]
            done = []
            try:
                for source, place in moves:
                    if source.exists():
                        source.rename(place)
                        done.append((source, place))
            except BaseException:  # an interruption, too
                for source, place in reversed(done):
                    place.rename(source)
                raise


def _held(folder: Path) -> list[Path]:
    """List a folder, without ``lost+found`` and the scratch folders of killed commands."""
    paths = folder.iterdir()
    return [p for p in paths if p.name != "lost+found" and not p.name.startswith(_SCRATCH)]


def require_free_target(folder: Path, overwrite: bool) -> None:
    """Check that an adapter can be saved to a folder, before any work is done.

    Raises:
        UsageError: it is a file, it holds other files, or it holds an adapter and `overwrite` is
            false.
        AdapterError: no folder can be created there.
    """
    above = resolved(folder).parents
    parent = folder if folder.is_mount() else next(path for path in above if path.exists())
    with writing(folder, AdapterError, _OTHER_FOLDER):
        tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=parent).cleanup()
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(
            f"{folder} is a file, expected a folder", code="output.is-a-file", hint=_OTHER_FOLDER
        )
    names = {path.name for path in _held(folder)}
    refuse_other_files(folder, (name for name in names if not is_own_file(name)))
    if names and not overwrite:
        raise UsageError(
            f"{folder} already holds an adapter",
            code="output.holds-adapter",
            hint=Option("overwrite", True),
        )


class WithProvenance:
    """An adapter with the content of its ``recipe.json``; None if hf-lorameta did not make it."""

    provenance: Mapping[str, Any] | None

    @property
    def private(self) -> bool:
        """Whether a source of the adapter is private, so that its repo is private by default."""
        return bool((self.provenance or {}).get("private"))

    @property
    def proposed_instruction(self) -> bool:
        """Whether its files contain an instruction derived from rows that are not public."""
        adapters = generated_adapters(self.provenance)
        return any(adapter["dataset"].get("proposed_instruction") for adapter in adapters)


@dataclass(frozen=True)
class SavedAdapter(WithProvenance):
    """What an adapter folder holds, apart from the weights.

    Attributes:
        folder: path.
        config: PEFT's settings.
        modules: number of modules that the adapter changes.
        dtypes: of its tensors.
        provenance: content of ``recipe.json``; None if hf-lorameta did not write the adapter.
        coefficients: of the adapters that it was made from.
    """

    folder: Path
    config: LoraConfig
    modules: int
    dtypes: tuple[str, ...]
    provenance: Mapping[str, Any] | None
    coefficients: Sequence[Mapping[str, Any]]

    @property
    def is_merge(self) -> bool:
        """Whether the adapter is a weighted merge of other adapters."""
        return "merge" in (self.provenance or {})

    def require_provenance(self) -> "SavedAdapter":
        """Return this adapter, or raise AdapterError if hf-lorameta did not write it."""
        if self.provenance is None:
            raise AdapterError(
                f"{self.folder} holds an adapter, but no readable {RECIPE_FILE} and "
                f"{COEFFICIENTS_FILE}: it was not generated by hf-lorameta",
                code="adapter.not-generated",
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the path as JSON values, as ``inspect --json`` prints it."""
        return {
            "base_model_name_or_path": self.config.base_model,
            "rank": self.config.rank,
            "modules": self.modules,
            "dtypes": list(self.dtypes),
            "provenance": self.provenance,
            "coefficients": self.coefficients,
        }


def read_adapter(folder: Path) -> SavedAdapter:
    """Read the folder of any LoRA adapter.

    Raises:
        AdapterError: the folder holds no LoRA adapter.
    """
    config, weights = check_adapter(folder)
    provenance, coefficients = read_provenance(folder)
    dtypes = tuple(sorted(weights.dtypes))
    return SavedAdapter(folder, config, len(weights.layout), dtypes, provenance, coefficients)


def read_provenance(folder: Path) -> tuple[Mapping[str, Any] | None, Sequence[Mapping[str, Any]]]:
    """Return a folder's ``recipe.json`` and coefficients; (None, []) if one cannot be read."""
    try:
        provenance = json.loads((folder / RECIPE_FILE).read_bytes())
        if "merge" in (provenance or {}):
            coefficients = provenance["adapters"]
        else:
            coefficients = json.loads((folder / COEFFICIENTS_FILE).read_bytes())
        _check_provenance(provenance, coefficients)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None, []
    return provenance, coefficients


_ROW_FIELDS = {
    "recipe": dict, "dataset": dict, "training": dict | None, "check": dict | None,
    "rows": dict | None,
}  # fmt: skip
"""Fields of ``recipe.json`` that `hf_lorameta.pipeline.rows.rows_used` reads, with their types."""


def generated_adapters(provenance: Mapping[str, Any] | None) -> tuple[Mapping[str, Any], ...]:
    """Return which rows an adapter, or each generated adapter of a merge, was made with.

    Args:
        provenance: content of ``recipe.json``; None if hf-lorameta did not write the adapter.

    Returns:
        For each generated adapter, what `hf_lorameta.pipeline.rows.rows_used` needs.

    Example:
        >>> made = {"recipe": {"train": 8}, "dataset": {"id": "user/name"}, "rank": 16}
        >>> merged = {"merge": {}, "adapters": [{"generated": generated_adapters(made)}]}
        >>> generated_adapters(merged)  # doctest: +NORMALIZE_WHITESPACE
        ({'recipe': {'train': 8}, 'dataset': {'id': 'user/name'},
          'training': None, 'check': None, 'rows': None},)
    """
    if provenance is None:
        return ()
    if "merge" in provenance:
        return tuple(part for row in provenance["adapters"] for part in row["generated"])
    return ({name: provenance.get(name) for name in _ROW_FIELDS},)


_RECIPE_FIELDS = {"seed": int, "max_rows": int | None}
_DATASET_FIELDS = {
    "id": str | None, "private": bool, "revision": str | None, "config": str | None,
    "split": str, "columns": dict,
}  # fmt: skip
_REMARK_FIELDS = {"level": str, "text": str}
_COEFFICIENT_FIELDS = {"dataset": str, "adapter": str, "distance": float, "coefficient": float}
_WEIGHT_FIELDS = {"adapter": str, "weight": float}


def _check_provenance(provenance: Any, coefficients: Any) -> None:
    """Raise KeyError or TypeError unless both hold what is read from them, in these types."""
    _require(provenance, {"library": str, "private": bool})
    if not isinstance(provenance.get("base_license"), str | None):
        raise TypeError
    for part in generated_adapters(provenance):
        _require(part, _ROW_FIELDS)
        _require(part["recipe"], _RECIPE_FIELDS)
        _require(part["dataset"], _DATASET_FIELDS)
        _require(part["rows"] or {}, dict.fromkeys(part["rows"] or (), int))
    for remark in provenance.get("remarks", ()):
        _require(remark, _REMARK_FIELDS)
    for row in coefficients:
        _require(row, _WEIGHT_FIELDS if "merge" in provenance else _COEFFICIENT_FIELDS)


def _require(content: Any, fields: Mapping[str, Any]) -> None:
    if not all(isinstance(content[name], kind) for name, kind in fields.items()):
        raise TypeError
