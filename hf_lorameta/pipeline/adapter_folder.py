"""An adapter folder: its file names, how to find it, and how to read what it holds."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from hf_lorameta.cards import gguf_usage, model_card
from hf_lorameta.cards.card_data import WeightedAdapter
from hf_lorameta.cards.chart import CHART_FILE
from hf_lorameta.cards.confusion import CONFUSION_FILE
from hf_lorameta.cards.record import RECIPE_FILE, Made, MergeRecord, Record, read_record
from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.data.sources.files import is_local
from hf_lorameta.errors import AdapterError, Option, UsageError
from hf_lorameta.files import refuse_other_files, similar_name, writing
from hf_lorameta.formats.lora_file import WEIGHTS_FILE, check_adapter
from hf_lorameta.formats.peft_config import CONFIG_FILE, LoraConfig
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.repo import PinnedRepo, is_repo_id
from hf_lorameta.paths import expanded, resolved
from hf_lorameta.quoting import shell_word

COEFFICIENTS_FILE = "coefficients.json"
FILES = (
    CONFIG_FILE, WEIGHTS_FILE, RECIPE_FILE, COEFFICIENTS_FILE, model_card.CARD_FILE, CHART_FILE,
)  # fmt: skip
"""Every generated adapter has these; a merged one has neither coefficients nor chart."""
PICTURES = (CONFUSION_FILE,)
"""An adapter that knows labels has these, if it was checked."""
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
    return name in (*FILES, *PICTURES, *EXPORTS)


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


def require_free_target(
    folder: Path, overwrite: bool, is_own: Callable[[str], bool] = is_own_file
) -> None:
    """Check that an adapter can be saved to a folder, before any work is done.

    Args:
        folder: it may exist.
        overwrite: replace an adapter.
        is_own: whether a file is one of an adapter.

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
    refuse_other_files(folder, (name for name in names if not is_own(name)))
    if names and not overwrite:
        raise UsageError(
            f"{folder} already holds an adapter",
            code="output.holds-adapter",
            hint=Option("overwrite", True),
        )


class WithRecord:
    """An adapter with the content of its ``recipe.json``; None if hf-lorameta did not make it."""

    record: Record | MergeRecord | None

    @property
    def private(self) -> bool:
        """Whether a source of the adapter is private, so that its repo is private by default."""
        return self.record is not None and self.record.private

    @property
    def proposed_instruction(self) -> bool:
        """Whether its files contain an instruction derived from rows that are not public."""
        return any(made.dataset.proposed_instruction for made in made_of(self.record))


@dataclass(frozen=True)
class SavedAdapter(WithRecord):
    """What an adapter folder holds, apart from the weights.

    Attributes:
        folder: path.
        config: PEFT's settings.
        modules: number of modules that the adapter changes.
        dtypes: of its tensors.
        record: content of ``recipe.json``; None if hf-lorameta did not write the adapter.
        coefficients: of the adapters that it was made from.
    """

    folder: Path
    config: LoraConfig
    modules: int
    dtypes: tuple[str, ...]
    record: Record | MergeRecord | None
    coefficients: Sequence[WeightedAdapter]

    @property
    def columns(self) -> Columns | None:
        """How it reads rows; None if that is not known."""
        return columns_of(self.record)

    def require_record(self) -> "SavedAdapter":
        """Return this adapter, or raise AdapterError if hf-lorameta did not write it."""
        if self.record is None:
            raise AdapterError(
                f"{self.folder} holds an adapter, but no readable {RECIPE_FILE} and "
                f"{COEFFICIENTS_FILE}: it was not generated by hf-lorameta",
                code="adapter.not-ours",
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the path as JSON values, as ``inspect --json`` prints it."""
        return {
            "base_model_name_or_path": self.config.base_model,
            "rank": self.config.rank,
            "modules": self.modules,
            "dtypes": list(self.dtypes),
            "provenance": self.record and self.record.to_dict(),
            "coefficients": [one.to_dict() for one in self.coefficients],
        }


def read_adapter(folder: Path) -> SavedAdapter:
    """Read the folder of any LoRA adapter.

    Raises:
        AdapterError: the folder holds no LoRA adapter, or one of another version of hf-lorameta.
    """
    config, weights = check_adapter(folder)
    record = read_record(folder)
    coefficients = _read_coefficients(folder) if isinstance(record, Record) else ()
    if coefficients is None:
        record, coefficients = None, ()
    dtypes = tuple(sorted(weights.dtypes))
    return SavedAdapter(folder, config, len(weights.layout), dtypes, record, coefficients)


def _read_coefficients(folder: Path) -> tuple[WeightedAdapter, ...] | None:
    """Return a folder's coefficients; None if they cannot be read."""
    kind = TypeAdapter(tuple[WeightedAdapter, ...])
    with suppress(OSError, ValidationError):
        return kind.validate_json((folder / COEFFICIENTS_FILE).read_bytes())
    return None


def made_of(record: Record | MergeRecord | None) -> tuple[Made, ...]:
    """Return which rows an adapter, or each generated adapter of a merge, was made with."""
    return record.made if record else ()


def columns_of(record: Record | MergeRecord | None) -> Columns | None:
    """Return how an adapter reads rows; None if that is not known."""
    if isinstance(record, Record):
        return record.dataset.columns
    return record.columns if record else None
