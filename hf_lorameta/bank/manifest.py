"""The manifest of a bank: a YAML list of adapters, each with the dataset it was trained on.

version: 1
base_model: org/model
tokenizer: org/model    # optional; the base model's if left out
published: true         # the entries are on the public Hub, and model cards link to them
defaults: {config: null, split: train, columns: {input: input, output: output}, license: mit}
entries:
  - adapter: org/adapter    # or org/repo/folder, or ./folder, relative to the manifest's folder
    dataset: org/dataset    # or ./rows.jsonl
    # optional:
    revision: main      # of the adapter
    dataset_revision: main
    config: default
    split: train
    columns: {input: question, output: answer}
    instruction: Answer the question.  # put before every input
    template: "{instruction}\\n\\n{input}"  # chat: the base model's own chat template
    license: mit
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, Field, ValidationError, field_validator

from hf_lorameta.bank.entries import Stored
from hf_lorameta.data.chat_form import CHAT
from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.errors import ManifestError, problem_of
from hf_lorameta.hub.repo import is_repo_id

_REVISION = r"^[A-Za-z0-9][A-Za-z0-9._/-]*$"
_FOLDER = re.compile(r"(?!.*(\.\.|--))[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_MAX_NAME, _MAX_ADAPTER = 90, 200
EXAMPLE = Path(__file__).with_name("manifest_example.yaml")
"""A valid manifest, with an entry of the Hub and a local one."""
_HINT = f"see {EXAMPLE} for a valid manifest"

FieldPath = tuple[str | int, ...]
"""Keys and indices that lead to a field, such as ``("entries", 0, "adapter")``."""


def is_path(value: str) -> bool:
    """Whether an adapter or a dataset is a local one.

    Example:
        >>> is_path("./rows.jsonl"), is_path("/data/rows"), is_path("org/dataset")
        (True, True, False)
    """
    return value.startswith(("./", "../", "/", "~/"))


def repo_and_folder(adapter: str) -> tuple[str, str]:
    """Split the id of an adapter on the Hub into a repo's and a folder in it, empty for its root.

    Example:
        >>> repo_and_folder("org/adapter"), repo_and_folder("org/repo/flan/boolq")
        (('org/adapter', ''), ('org/repo', 'flan/boolq'))
    """
    namespace, _, rest = adapter.partition("/")
    name, _, folder = rest.partition("/")
    return f"{namespace}/{name}", folder


def is_adapter_id(value: str) -> bool:
    """Whether an adapter on the Hub can be named so.

    Example:
        >>> is_adapter_id("org/repo/flan/boolq"), is_adapter_id("org/repo/my lora")
        (True, False)
    """
    repo, folder = repo_and_folder(value)
    valid = is_repo_id(repo) and (value == repo or _FOLDER.fullmatch(folder))
    return bool(valid) and len(value) <= _MAX_ADAPTER


def _valid(expected: str, *checks: Callable[[str], bool]) -> AfterValidator:
    """Refuse a text for which all checks are false."""

    def check(value: str) -> str:
        if not any(check(value) for check in checks):
            raise ValueError(f"expected {expected}")
        return value

    return AfterValidator(check)


_ID = "a Hub id of the form namespace/name"
RepoId = Annotated[str, _valid(_ID, is_repo_id)]
HubIdOrPath = Annotated[str, _valid(f"{_ID}, or a path such as ./rows.jsonl", is_path, is_repo_id)]
"""A Hub id, or a path that starts with ``./``, ``../``, ``/`` or ``~/``."""
_Adapter = Annotated[
    str,
    _valid(f"{_ID} or namespace/name/folder, or a path such as ./lora", is_path, is_adapter_id),
]


class Defaults(Stored):
    """Values for entries that do not set them."""

    config: str | None = None  # None is the only one, or the one called default
    split: str | None = None  # None is train, or the only one
    columns: Columns | None = None  # None detects them
    instruction: str | None = None  # put before every input
    template: str | None = None  # of the prompt, see `hf_lorameta.data.prompt.join_instruction`
    license: str | None = None  # of the adapter; None reads it from the repo's card


class BankEntry(Defaults):
    """An adapter of the bank and the dataset it was trained on, on the Hub or local."""

    adapter: _Adapter
    dataset: HubIdOrPath
    revision: str | None = Field(default=None, pattern=_REVISION)
    dataset_revision: str | None = Field(default=None, pattern=_REVISION)
    left_out_if_none = ("instruction", "template")

    @field_validator("revision", "dataset_revision")
    @classmethod
    def _no_path_traversal(cls, value: str | None) -> str | None:
        if value is not None and (".." in value or "--" in value):
            raise ValueError("'..' and '--' are not allowed in a revision")
        return value

    @field_validator("columns")
    @classmethod
    def _unambiguous(cls, columns: Columns | None) -> Columns | None:
        if columns is None:
            return None
        if bool(columns.messages) == bool(columns.output) or (columns.messages and columns.input):
            raise ValueError("expected output (with input), or messages")
        return columns

    def with_chat_form(self, form: str) -> "BankEntry":
        """Return a copy with a template in place of ``chat``, see `hf_lorameta.data.chat_form`."""
        return self.model_copy(update={"template": form}) if self.template == CHAT else self

    @property
    def name(self) -> str:
        """File name of the entry: the adapter's id with ``--`` for each slash."""
        return self.adapter_id.replace("/", "--")

    @property
    def adapter_id(self) -> str:
        """Id of the adapter in the index, which shows no path."""
        return _shown_id(self.adapter)

    @property
    def dataset_id(self) -> str:
        """Id of the dataset in the index, which shows no path."""
        return _shown_id(self.dataset)

    def relative_to(self, folder: Path) -> "BankEntry":
        """Return a copy whose paths are absolute, those that were relative being in a folder."""
        paths = {
            name: str((folder / Path(value).expanduser()).absolute())
            for name in ("adapter", "dataset")
            if is_path(value := getattr(self, name))
        }
        return self.model_copy(update=paths)


def _shown_id(source: str) -> str:
    """Return a Hub id, or one that is made of the name of a folder or file.

    Example:
        >>> _shown_id("org/adapter"), _shown_id("../data/my rows.jsonl.gz")
        ('org/adapter', 'local/my-rows')
    """
    return f"local/{clean_name(Path(source).name.split('.')[0])}" if is_path(source) else source


def clean_name(name: str) -> str:
    """Return a name that can be part of a Hub id and of a file name.

    Example:
        >>> clean_name("what is it?"), clean_name("..")
        ('what-is-it', 'task')
    """
    name = re.sub(r"[^A-Za-z0-9._-]+|\.\.+|--+", "-", name)[:_MAX_NAME]
    return name.strip("-._") or "task"


class Manifest(Stored):
    """A manifest, see this module's docstring, with the defaults applied to every entry."""

    version: Literal[1]
    base_model: RepoId
    tokenizer: RepoId | None = None
    published: bool = True
    defaults: Defaults = Defaults()
    entries: tuple[BankEntry, ...] = Field(min_length=1)

    @property
    def is_published(self) -> bool:
        """Whether all entries are on the public Hub, so that cards may link to them."""
        local = any(is_path(e.adapter) or is_path(e.dataset) for e in self.entries)
        return self.published and not local

    @property
    def tokenizer_repo(self) -> str:
        """Repo that ``tokenizer.json`` is read from."""
        return self.tokenizer or self.base_model


def load(path: Path) -> Manifest:
    """Read and validate a manifest; a `ManifestError` names file, line and field."""
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError) as error:
        problem = "is a folder" if isinstance(error, IsADirectoryError) else "no such file"
        raise ManifestError(
            f"{path}: {problem}", hint=f"name a manifest, such as {EXAMPLE}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read: {error}", hint=_HINT) from None
    manifest = parse(text, str(path))
    entries = tuple(entry.relative_to(path.parent) for entry in manifest.entries)
    return manifest.model_copy(update={"entries": entries})


def parse(text: str, source: str = "manifest") -> Manifest:
    """Parse and validate a manifest; error messages name `source`. Raises as `load`.

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


def _error_at(
    node: yaml.Node, source: str, field: str, problem: str, hint: str = _HINT
) -> ManifestError:
    line = node.start_mark.line + 1
    return ManifestError(f"{source}:{line}: {field}: {problem}", hint=hint)


def _walk(
    node: yaml.Node | None, path: FieldPath, source: str, seen: set[int]
) -> Iterator[tuple[FieldPath, int]]:
    """Yield (path, line) of every node, and refuse duplicate keys and aliases.

    YAML would keep the last of several equal keys, and a few lines of aliases can expand to
    billions of nodes.
    """
    if node is None:
        return
    field = ".".join(map(str, path)) or "manifest"
    if id(node) in seen:
        problem = "YAML aliases (&, *) are not allowed"
        raise _error_at(node, source, field, problem, "put shared settings under `defaults`")
    seen.add(id(node))
    yield path, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _error_at(key, source, field, "a key is not a string")
            name = str(key.value)
            if name in keys:
                raise _error_at(key, source, name, "given twice")
            keys.add(name)
            yield from _walk(value, (*path, name), source, seen)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _walk(item, (*path, index), source, seen)
    else:
        try:
            yaml.constructor.SafeConstructor().construct_object(node)
        except (ValueError, KeyError, AttributeError):  # 2024-99-99, which PyYAML fails to load
            problem = f"{node.value[:80]!r} is not a valid {node.tag.rpartition(':')[2]}"
            raise _error_at(node, source, field, problem) from None


def _with_defaults(data: dict[Any, Any]) -> dict[Any, Any]:
    entries, defaults = data.get("entries"), data.get("defaults")
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


def _field_error(error: ValidationError, lines: dict[FieldPath, int], source: str) -> ManifestError:
    first = error.errors(include_url=False)[0]
    path: FieldPath = first["loc"]
    parent = path
    while parent not in lines and parent:
        parent = parent[:-1]
    field = ".".join(map(str, path)) or "manifest"
    if first["type"] == "extra_forbidden":
        expected = ", ".join(sorted(_fields_at(path)))
        problem = f"unknown key, expected one of {expected}"
    elif first["type"] == "missing":
        problem = "is missing"
    else:
        problem = f"{problem_of(first['msg'])}, got {str(first['input'])[:80]!r}"
    return ManifestError(f"{source}:{lines.get(parent, 1)}: {field}: {problem}", hint=_HINT)


def _fields_at(path: FieldPath) -> set[str]:
    model: type[BaseModel] = Manifest
    if "columns" in path[:-1]:
        model = Columns
    elif path[0] == "entries":
        model = BankEntry
    elif path[0] == "defaults" and len(path) > 1:
        model = Defaults
    return set(model.model_fields)


def _refuse_duplicates(manifest: Manifest, lines: dict[FieldPath, int], source: str) -> None:
    first: dict[str, int] = {}
    for index, entry in enumerate(manifest.entries):
        line, key = lines["entries", index], entry.adapter_id.lower()
        if key in first:
            raise ManifestError(
                f"{source}:{line}: entries.{index}.adapter: {entry.adapter_id} is already on "
                f"line {first[key]}",
                hint="a bank holds an adapter at most once: delete one of the two entries",
            )
        first[key] = line
