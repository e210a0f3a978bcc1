"""What goes into a bank: a YAML list of adapters, each with the dataset it was trained on.

version: 1
base_model: org/model
tokenizer: org/model          # optional, the base model's otherwise
published: true               # the entries are on the public Hub: cards link to them
defaults: {config: null, split: train, columns: {input: input, output: output}, license: mit}
entries:
  - adapter: org/adapter
    dataset: org/dataset
    revision: main            # of the adapter; and below, all optional, what differs
    dataset_revision: main
    config: default
    split: train
    columns: {input: question, output: answer}
    license: mit
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from hf_lorameta.data.columns import Columns
from hf_lorameta.errors import ManifestError

SCHEMA_VERSION = 1

_NAMESPACE = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
REPO_ID = rf"^{_NAMESPACE}/[A-Za-z0-9](?:[A-Za-z0-9._-]{{0,94}}[A-Za-z0-9_])?$"
"""``namespace/name`` as the Hub allows it, the name up to 96 characters; ``..`` and ``--`` are
refused besides."""
_REVISION = r"^[A-Za-z0-9][A-Za-z0-9._/-]*$"

Path_ = tuple[str | int, ...]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Defaults(_Strict):
    """What every entry inherits unless it says otherwise."""

    config: str | None = None
    split: str | None = None
    columns: Columns | None = None
    license: str | None = None


class BankEntry(_Strict):
    """One adapter of the bank and the dataset it was trained on.

    Attributes:
        adapter: Hub id of the adapter.
        dataset: Hub id of its training dataset.
        revision: branch, tag or commit of the adapter; None is the default branch.
        dataset_revision: the same for the dataset.
        config: configuration of the dataset; None lets the dataset decide.
        split: None is the training split.
        columns: None finds them.
        license: of the adapter; None takes the repo's own word.
    """

    adapter: str = Field(pattern=REPO_ID)
    dataset: str = Field(pattern=REPO_ID)
    revision: str | None = Field(default=None, pattern=_REVISION)
    dataset_revision: str | None = Field(default=None, pattern=_REVISION)
    config: str | None = None
    split: str | None = None
    columns: Columns | None = None
    license: str | None = None

    @field_validator("adapter", "dataset", "revision", "dataset_revision")
    @classmethod
    def _no_tricks(cls, value: str | None) -> str | None:
        if value is not None and (".." in value or "--" in value):
            raise ValueError("'..' and '--' are not allowed in an id or a revision")
        return value

    @field_validator("columns")
    @classmethod
    def _one_reading(cls, columns: Columns | None) -> Columns | None:
        if columns is None:
            return None
        rows = columns.input or columns.output or columns.instruction
        if bool(columns.messages) == bool(columns.output) or (columns.messages and rows):
            raise ValueError("expected output (with input), or messages alone")
        return columns

    @property
    def name(self) -> str:
        """The entry's file name: the adapter's id with ``--`` for the slash, as in the Hub's cache.

        Example:
            >>> BankEntry(adapter="org/a", dataset="org/d").name
            'org--a'
        """
        return self.adapter.replace("/", "--")


class Manifest(_Strict):
    """A whole manifest, defaults already folded into every entry by `load`."""

    version: Literal[1]
    base_model: str = Field(pattern=REPO_ID)
    tokenizer: str | None = Field(default=None, pattern=REPO_ID)
    published: bool = True
    defaults: Defaults = Defaults()
    entries: tuple[BankEntry, ...] = Field(min_length=1)

    @property
    def tokenizer_repo(self) -> str:
        """Where ``tokenizer.json`` is read from."""
        return self.tokenizer or self.base_model


def load(path: Path) -> Manifest:
    """Read and validate a manifest.

    Args:
        path: a YAML file as in the module's docstring.

    Raises:
        ManifestError: the file is missing, is not YAML, has YAML aliases, or a field is wrong,
            unknown or given twice; the message names file, line and field.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read: {error}", hint=_HINT) from None
    return parse(text, str(path))


def parse(text: str, source: str = "manifest") -> Manifest:
    """Validate a manifest given as text.

    Args:
        text: YAML.
        source: name for error messages.

    Raises:
        ManifestError: as in `load`.

    Example:
        >>> one = "version: 1\\nbase_model: o/m\\nentries: [{adapter: o/a, dataset: o/d}]"
        >>> parse(one).entries[0].dataset
        'o/d'
        >>> parse(one + "\\nrank: 3", "m.yaml")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        hf_lorameta.errors.ManifestError: m.yaml:4: rank: unknown key, expected one of base_model...
    """
    try:
        root = yaml.compose(text, Loader=yaml.CSafeLoader)
        lines = dict(_walk(root, (), source, set()))
        data = yaml.load(text, Loader=yaml.CSafeLoader)
    except yaml.YAMLError as error:
        raise _syntax_error(error, source) from None
    except UnicodeError:
        raise ManifestError(f"{source}: not UTF-8 text", hint=_HINT) from None
    except RecursionError:
        raise ManifestError(f"{source}:1: nested too deeply", hint=_HINT) from None
    if not isinstance(data, dict):
        raise ManifestError(f"{source}:1: expected a mapping with entries", hint=_HINT)
    try:
        manifest = Manifest.model_validate(_with_defaults(data))
    except ValidationError as error:
        raise _field_error(error, lines, source) from None
    _refuse_duplicates(manifest, lines, source)
    return manifest


_HINT = "see bank_manifest.yaml for a valid manifest"


def _walk(
    node: yaml.Node | None, path: Path_, source: str, seen: set[int]
) -> Iterator[tuple[Path_, int]]:
    """Yield (path, line) of every node, and refuse what YAML would let pass.

    A key given twice is an error, where YAML keeps the last; so is an alias, as a few lines of
    aliases can stand for billions of nodes.
    """
    if node is None:
        return
    line = node.start_mark.line + 1
    field = ".".join(str(part) for part in path) or "manifest"
    if id(node) in seen:
        problem = f"{source}:{line}: {field}: YAML aliases (&, *) are not read"
        raise ManifestError(problem, hint="write shared settings under defaults")
    seen.add(id(node))
    yield path, line
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            name = _key(key, field, source)
            if name in keys:
                line = key.start_mark.line + 1
                raise ManifestError(f"{source}:{line}: {name}: given twice", hint=_HINT)
            keys.add(name)
            yield from _walk(value, (*path, name), source, seen)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _walk(item, (*path, index), source, seen)
    else:
        _check_scalar(node, field, source)


def _key(key: yaml.Node, field: str, source: str) -> str:
    if isinstance(key, yaml.ScalarNode):
        return str(key.value)
    line = key.start_mark.line + 1
    raise ManifestError(f"{source}:{line}: {field}: a key is not text", hint=_HINT)


def _check_scalar(node: yaml.Node, field: str, source: str) -> None:
    """Refuse ``2024-99-99`` and the like, which PyYAML's own constructors fall over."""
    try:
        yaml.constructor.SafeConstructor().construct_object(node)
    except (ValueError, KeyError, AttributeError):
        kind, line = node.tag.rpartition(":")[2], node.start_mark.line + 1
        raise ManifestError(
            f"{source}:{line}: {field}: {node.value[:80]!r} is not a valid {kind}", hint=_HINT
        ) from None


def _with_defaults(data: dict[Any, Any]) -> dict[Any, Any]:
    defaults, entries = data.get("defaults"), data.get("entries")
    defaults = {} if defaults is None else defaults
    if not isinstance(defaults, dict) or not isinstance(entries, list):
        return data
    inherited = {key: value for key, value in defaults.items() if key in Defaults.model_fields}
    merged = [inherited | e if isinstance(e, dict) else e for e in entries]
    return data | {"entries": merged, "defaults": defaults}


def _syntax_error(error: yaml.YAMLError, source: str) -> ManifestError:
    mark = getattr(error, "problem_mark", None)
    where = f"{source}:{mark.line + 1}" if mark else source
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return ManifestError(f"{where}: not valid YAML: {problem}", hint=_HINT)


def _field_error(error: ValidationError, lines: dict[Path_, int], source: str) -> ManifestError:
    first = error.errors(include_url=False)[0]
    path: Path_ = first["loc"]
    known = path
    while known not in lines and known:
        known = known[:-1]
    field = ".".join(str(part) for part in path) or "manifest"
    if first["type"] == "extra_forbidden":
        expected = ", ".join(sorted(_fields_at(path)))
        problem = f"unknown key, expected one of {expected}"
    elif first["type"] == "missing":
        problem = "is missing"
    else:
        problem = f"{first['msg']}, got {str(first['input'])[:80]!r}"
    return ManifestError(f"{source}:{lines.get(known, 1)}: {field}: {problem}", hint=_HINT)


def _fields_at(path: Path_) -> set[str]:
    model: type[BaseModel] = Manifest
    if "columns" in path[:-1]:
        model = Columns
    elif path[0] == "entries":
        model = BankEntry
    elif path[0] == "defaults" and len(path) > 1:
        model = Defaults
    return set(model.model_fields)


def _refuse_duplicates(manifest: Manifest, lines: dict[Path_, int], source: str) -> None:
    first: dict[str, int] = {}
    for index, entry in enumerate(manifest.entries):
        line, key = lines["entries", index], entry.adapter.lower()
        if key in first:
            raise ManifestError(
                f"{source}:{line}: entries.{index}.adapter: {entry.adapter} is already on "
                f"line {first[key]}",
                hint="an adapter may stand in a bank once: delete one of the two entries",
            )
        first[key] = line
