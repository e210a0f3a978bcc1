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
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, Field, ValidationError, field_validator

from hf_lorameta.bank.entries import StrictModel
from hf_lorameta.data.chat_form import CHAT
from hf_lorameta.data.columns.columns import Columns, check_columns
from hf_lorameta.data.dataset import Dataset, open_dataset
from hf_lorameta.errors import ManifestError, first_line, problem_of
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.repo import is_repo_id, on_hub
from hf_lorameta.paths import expanded

_FOLDER = re.compile(r"(?!.*(\.\.|--))[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_MAX_NAME, _MAX_ADAPTER = 90, 200
EXAMPLE = Path(__file__).with_name("manifest_example.yaml")
"""A valid manifest, with one entry on the Hub and a local one."""
_INVALID_VALUE = (ValueError, KeyError, AttributeError, RecursionError)
"""What PyYAML raises for 2024-99-99, ``!!int x``, deep nesting, and text that is not UTF-8."""
_HINT = f"see {EXAMPLE} for a valid manifest"


def is_path(value: str) -> bool:
    """Whether the name of an adapter or a dataset is a local path.

    Example:
        >>> is_path("./rows.jsonl"), is_path("/data/rows"), is_path("org/dataset")
        (True, True, False)
    """
    return value.startswith(("./", "../", "/", "~/"))


def repo_and_folder(adapter: str) -> tuple[str, str]:
    """Split an adapter's id on the Hub into the repo's id and the folder in it, empty for its root.

    Example:
        >>> repo_and_folder("org/adapter"), repo_and_folder("org/repo/flan/boolq")
        (('org/adapter', ''), ('org/repo', 'flan/boolq'))
    """
    namespace, _, rest = adapter.partition("/")
    name, _, folder = rest.partition("/")
    return f"{namespace}/{name}", folder


def is_adapter_id(value: str) -> bool:
    """Whether a text is a valid id of an adapter on the Hub.

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
_REVISION = re.compile(r"(?!.*(\.\.|--))[A-Za-z0-9][A-Za-z0-9._/-]*")
_Revision = Annotated[
    str, _valid("a commit, branch or tag", lambda v: bool(_REVISION.fullmatch(v)))
]


class EntrySettings(StrictModel):
    """How a dataset is read, and the license of its adapter; ``defaults`` states them for all."""

    config: str | None = None  # None is the only one, or the one called default
    split: str | None = None  # None is train, or the only one
    columns: Columns | None = None  # None detects them
    instruction: str | None = None  # put before every input
    template: str | None = None  # of the prompt, see `hf_lorameta.data.prompt.join_instruction`
    license: str | None = None  # of the adapter; None reads it from the repo's card

    def with_chat_template(self, form: str) -> Self:
        """Return a copy with a template in place of ``chat``."""
        return self.model_copy(update={"template": form}) if self.template == CHAT else self

    def open_dataset(self, name: str, revision: str | None, hub: Hub) -> Dataset:
        """Open a dataset at a revision; raises as `hf_lorameta.data.dataset.open_dataset` does."""
        return open_dataset(
            name if is_path(name) else on_hub(name),
            hub,
            config=self.config,
            split=self.split,
            revision=revision,
            columns=check_columns(self.columns) if self.columns else None,
            instruction=self.instruction,
            template=self.template,
        )


class BankEntry(EntrySettings):
    """An adapter of the bank and the dataset it was trained on, on the Hub or local."""

    adapter: _Adapter
    dataset: HubIdOrPath
    revision: _Revision | None = None
    dataset_revision: _Revision | None = None

    @field_validator("columns")
    @classmethod
    def _unambiguous(cls, columns: Columns | None) -> Columns | None:
        if columns is None:
            return None
        if bool(columns.messages) == bool(columns.output) or (columns.messages and columns.input):
            raise ValueError("expected output (with input), or messages")
        return columns

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
        """Return a copy with absolute paths; relative ones start from `folder`."""
        paths = {
            name: str((folder / expanded(value)).absolute())
            for name in ("adapter", "dataset")
            if is_path(value := getattr(self, name))
        }
        return self.model_copy(update=paths)


def _shown_id(source: str) -> str:
    """Return a Hub id unchanged, or an id made from the name of a local folder or file.

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


class Manifest(StrictModel):
    """A manifest, see this module's docstring, with the defaults applied to every entry."""

    version: Literal[1]
    base_model: RepoId
    tokenizer: RepoId | None = None
    published: bool = True
    defaults: EntrySettings = EntrySettings()
    entries: tuple[BankEntry, ...] = Field(min_length=1)

    @property
    def is_published(self) -> bool:
        """Whether all entries are on the public Hub, so that cards may link to them."""
        local = any(is_path(e.adapter) or is_path(e.dataset) for e in self.entries)
        return self.published and not local


_MODELS: dict[tuple[int | str, ...], type[BaseModel]] = {
    (): Manifest, ("defaults",): EntrySettings, ("columns",): Columns,
}  # fmt: skip
"""The model of a field's value, by the field; those in a list are `BankEntry`."""


def load(path: Path) -> Manifest:
    """Read and validate a manifest; a `ManifestError` names file and field."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(
            f"{path}: cannot be read: {error}",
            code="manifest.unreadable",
            hint=f"name a manifest, such as {EXAMPLE}",
        ) from None
    manifest = parse(text, str(path))
    entries = tuple(entry.relative_to(path.parent) for entry in manifest.entries)
    return manifest.model_copy(update={"entries": entries})


def parse(text: str, source: str = "manifest") -> Manifest:
    """Parse and validate a manifest; error messages name `source`. Raises as `load`.

    Example:
        >>> one = "version: 1\\nbase_model: o/m\\nentries: [{adapter: o/a, dataset: o/d}]"
        >>> parse(one).entries[0].dataset
        'o/d'
        >>> parse(one + "\\nrank: 3", "m.yaml")
        Traceback (most recent call last):
        hf_lorameta.errors.ManifestError: m.yaml: rank: unknown key, known are version, ...
    """
    try:
        data = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, *_INVALID_VALUE) as error:
        raise _syntax_error(error, source) from None
    if not isinstance(data, dict):
        raise ManifestError(
            f"{source}: expected a mapping with entries", code="manifest.not-a-mapping", hint=_HINT
        )
    try:
        manifest = Manifest.model_validate(_with_defaults(data))
    except ValidationError as error:
        raise _field_error(error, source) from None
    _refuse_duplicates(manifest, source)
    return manifest


class _Loader(yaml.CSafeLoader):
    """A YAML loader that refuses a key that is given twice; PyYAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = set[str]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in names:
                problem = f"{key.value} is given twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            names.add(str(key.value))
        return super().construct_mapping(node, deep)


def _with_defaults(data: dict[Any, Any]) -> dict[Any, Any]:
    entries, defaults = data.get("entries"), data.get("defaults")
    defaults = {} if defaults is None else defaults
    if not isinstance(defaults, dict) or not isinstance(entries, list):
        return data
    inherited = {key: value for key, value in defaults.items() if key in EntrySettings.model_fields}
    merged = [inherited | e if isinstance(e, dict) else e for e in entries]
    return data | {"entries": merged, "defaults": defaults}


def _syntax_error(error: Exception, source: str) -> ManifestError:
    mark = getattr(error, "problem_mark", None)
    where = f"{source}:{mark.line + 1}" if mark else source
    problem = getattr(error, "problem", None) or first_line(error)
    return ManifestError(
        f"{where}: not valid YAML: {problem}", code="manifest.not-yaml", hint=_HINT
    )


def _field_error(error: ValidationError, source: str) -> ManifestError:
    first = error.errors(include_url=False)[0]
    field = ".".join(map(str, first["loc"])) or "manifest"
    problem = f"{problem_of(first['msg'])}, got {reprlib.repr(first['input'])[:80]}"
    if first["type"] == "missing":
        problem = "is missing"
    elif first["type"] == "extra_forbidden":
        model = _MODELS.get(first["loc"][-2:-1], BankEntry)
        problem = f"unknown key, known are {', '.join(model.model_fields)}"
    return ManifestError(f"{source}: {field}: {problem}", code="manifest.invalid", hint=_HINT)


def _refuse_duplicates(manifest: Manifest, source: str) -> None:
    first: dict[str, int] = {}
    for index, entry in enumerate(manifest.entries):
        before = first.setdefault(entry.adapter_id.lower(), index)
        if before != index:
            raise ManifestError(
                f"{source}: entries.{index}.adapter: {entry.adapter_id} is already in "
                f"entries.{before}",
                code="manifest.same-adapter",
                hint="a bank holds an adapter at most once: delete one of the two entries",
            )
