"""The tasks that adapters are trained on: a folder of JSONL files, a manifest, or Hub datasets."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_lorameta.bank.manifest import BankEntry, EntrySettings, clean_name, load
from hf_lorameta.data.chat_form import CHAT
from hf_lorameta.data.chat_template import find_chat_form, require_chat_form
from hf_lorameta.data.dataset import Dataset, open_dataset
from hf_lorameta.data.prompt import check_template
from hf_lorameta.data.sources.files import is_local
from hf_lorameta.data.sources.folders import digest_of
from hf_lorameta.errors import DatasetError, UsageError
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.repo import is_repo_id, on_hub
from hf_lorameta.paths import expanded

_TRAIN_SUFFIX = ".train.jsonl"
_VALIDATION_SUFFIX = ".validation.jsonl"
_META_FILE = "meta.json"
_MANIFEST_SUFFIXES = (".yaml", ".yml")


class Task(EntrySettings):
    """A dataset to train an adapter on, and how it is read; opened when its turn comes.

    Attributes:
        name: unique name, of letters, digits, dots, dashes and underscores.
        dataset: Hub id, or path of a local file.
        revision: branch, tag or commit of a Hub dataset.
        validation: local file with held-out rows; Hub datasets have a split.
        source: where the rows come from.
        source_revision: commit of the source.
        title: readable name of the dataset.
    """

    name: str
    dataset: str
    revision: str | None = None
    validation: Path | None = None
    source: str | None = None
    source_revision: str | None = None
    title: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether the dataset is a local file or folder, or should be one."""
        return not is_repo_id(self.dataset)

    @property
    def paths(self) -> list[Path]:
        """The local files or folders that the rows are read from."""
        files = [Path(self.dataset)] if self.is_local else []
        return [*files, self.validation] if self.validation else files

    @property
    def adapter(self) -> str:
        """Id of the adapter in the bank.

        Example:
            >>> Task(name="boolq", dataset="google/boolq").adapter
            'local/boolq'
        """
        return f"local/{self.name}"

    @property
    def entry_name(self) -> str:
        """File name of the bank's entry, see `BankEntry.name`."""
        return self.adapter.replace("/", "--")

    @property
    def public_id(self) -> str:
        """Id of the dataset in the bank, without a local path."""
        return self.adapter if self.is_local else self.dataset

    def pinned(self, hub: Hub) -> str:
        """Return what identifies the rows: digests of the files, or the commit of the repo.

        Raises:
            DatasetError: a file cannot be read.
            HubError: the repo is missing or the Hub failed.
        """
        if not self.is_local:
            return hub.resolve(self.dataset, "dataset", self.revision).sha
        try:
            return "sha256:" + ",".join(map(digest_of, self.paths))
        except OSError as error:
            raise DatasetError(
                f"{error.filename}: {error.strerror}", code="dataset.unreadable"
            ) from None

    def open(self, hub: Hub) -> Dataset:
        """Open the rows to train on; raises as `open_dataset` does."""
        return self.open_dataset(self.dataset, self.revision, hub)

    def open_validation(self, train: Dataset, hub: Hub) -> Dataset | None:
        """Open the validation split of an opened task; None if it has none."""
        if self.validation:
            return open_dataset(self.validation, hub, columns=train.columns)
        if self.is_local and not Path(self.dataset).is_dir():
            return None  # a file has no splits
        try:
            validation = open_dataset(
                self.dataset if self.is_local else on_hub(self.dataset), hub,
                config=self.config, split="validation",
                revision=None if self.is_local else train.revision,
                columns=train.columns,
            )  # fmt: skip
        except DatasetError:
            return None
        return validation if validation.split != train.split else None


def read_tasks(
    names: Sequence[str],
    template: str | None = None,
    instruction: str | None = None,
) -> tuple[Task, ...]:
    """Read the tasks that names refer to.

    Args:
        names: each a folder of ``<task>.train.jsonl`` files, a manifest (.yaml), a dataset file, or
            the Hub id of a dataset.
        template: prompt template of tasks that have none in a manifest.
        instruction: put before every input of tasks that have none in a manifest.

    A folder may have ``<task>.validation.jsonl`` files and a ``meta.json`` that maps tasks to their
    ``license``, ``source_repo`` and ``commit``.

    Raises:
        UsageError: a name is none of these, there are no tasks, two local ones have the same name,
            or the template has no input.
        ManifestError: a manifest is invalid.
    """
    tasks: list[Task] = []
    for name in names:
        path = expanded(name)
        if path.is_dir():
            tasks += _of_folder(path)
        elif path.suffix in _MANIFEST_SUFFIXES:
            tasks += _of_manifest(load(path).entries)
        elif is_local(path):
            if not path.is_file():
                raise UsageError(f"{path}: no such file", code="file.not-found")
            name = clean_name(path.name.split(".")[0])
            tasks.append(Task(name=name, dataset=str(path.absolute())))
        elif is_repo_id(name):
            tasks.append(Task(name=clean_name(name.split("/")[1]), dataset=name))
        else:
            raise UsageError(
                f"{name} is not a folder, a manifest, a dataset file or a Hub id",
                code="tasks.unknown-source",
                hint="hf-lorameta bank train FOLDER -o DIR --base MODEL",
            )
    tasks = _with_distinct_names(tasks)
    if not tasks:
        raise UsageError(
            f"no tasks in {', '.join(names)}",
            code="tasks.none",
            hint=f"a folder has files named TASK{_TRAIN_SUFFIX}",
        )
    if template not in (None, CHAT):
        check_template(template, has_instruction=bool(instruction) or "{instruction}" in template)
    return tuple(
        task.model_copy(
            update={
                "template": task.template or template,
                "instruction": task.instruction or instruction,
            }
        )
        for task in tasks
    )


def _of_folder(folder: Path) -> list[Task]:
    meta = _read_meta(folder / _META_FILE)
    tasks = []
    for path in sorted(folder.glob(f"*{_TRAIN_SUFFIX}")):
        name = path.name.removesuffix(_TRAIN_SUFFIX)
        validation = path.with_name(name + _VALIDATION_SUFFIX)
        facts = meta.get(name)
        facts = facts if isinstance(facts, Mapping) else {}
        tasks.append(
            Task(
                name=clean_name(name),
                dataset=str(path.absolute()),
                validation=validation.absolute() if validation.exists() else None,
                license=_text(facts, "license"),
                source=_text(facts, "source_repo") or _text(facts, "source"),
                source_revision=_text(facts, "commit"),
                title=_text(facts, "title"),
            )
        )
    return tasks


def _read_meta(path: Path) -> Mapping[str, Any]:
    try:
        meta = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}", code="tasks.unreadable") from None
    if not isinstance(meta, dict):
        raise UsageError(f"{path} is not a JSON object of tasks", code="tasks.not-an-object")
    return meta


def _text(facts: Mapping[str, Any], key: str) -> str | None:
    value = facts.get(key)
    return value if isinstance(value, str) and value else None


def with_chat_template(
    tasks: Sequence[Task], base: Path, tokenizer: Path
) -> tuple[list[Task], str | None]:
    """Return tasks with the chat template of the base model in place of the template ``chat``.

    Args:
        tasks: all of them.
        base: folder of the base model.
        tokenizer: its ``tokenizer.json``.

    Returns:
        The tasks, and the template with ``{prompt}``; None if the base model has none.

    Raises:
        UsageError: a task asks for it, and the base model has none.
    """
    form = find_chat_form(str(base), tokenizer)
    if any(task.template == CHAT for task in tasks):
        form = require_chat_form(form, str(base))
    template = form and form.template
    return [task.with_chat_template(template or "") for task in tasks], template


def _of_manifest(entries: Sequence[BankEntry]) -> list[Task]:
    """Return the datasets of a manifest as tasks; its adapters are ignored.

    If a dataset has several adapters whose licenses differ, its license is not stated.
    """
    tasks = [
        Task(
            name=entry.dataset_id.split("/")[1],
            dataset=entry.dataset,
            revision=entry.dataset_revision,
            **{name: getattr(entry, name) for name in EntrySettings.model_fields},
        )
        for entry in entries
    ]
    licenses: dict[Task, set[str | None]] = {}
    for task in tasks:
        licenses.setdefault(task.model_copy(update={"license": None}), set()).add(task.license)
    return [
        task.model_copy(update={"license": stated.pop() if len(stated) == 1 else None})
        for task, stated in licenses.items()
    ]


def _with_distinct_names(tasks: Sequence[Task]) -> list[Task]:
    """Drop repeated tasks, and give Hub datasets with the same name distinct names.

    Names get configurations, such as ``glue-sst2`` and ``glue-mnli``; if needed, owners, too.
    """
    distinct = list(dict.fromkeys(tasks))
    for by_owner in (False, True):
        taken = Counter(task.name.lower() for task in distinct)
        distinct = [
            task.model_copy(update={"name": _longer_name(task, by_owner)})
            if taken[task.name.lower()] > 1 and not task.is_local else task
            for task in distinct
        ]  # fmt: skip
    name, count = next(iter(Counter(t.name.lower() for t in distinct).most_common(1)), ("", 0))
    if count > 1:
        same = [task.dataset for task in distinct if task.name.lower() == name]
        raise UsageError(
            f"{count} tasks are called {name}: {', '.join(same)}",
            code="tasks.same-name",
            hint="rename a file or folder",
        )
    return distinct


def _longer_name(task: Task, by_owner: bool) -> str:
    owner, _, dataset = task.dataset.partition("/")
    parts = (owner if by_owner else None, dataset, task.config)
    return clean_name("-".join(part for part in parts if part))
