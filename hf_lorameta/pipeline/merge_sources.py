"""The adapters of a merge: found by name, checked, and read one module at a time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hf_lorameta.bank.adapter_repo import stated_license
from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.index import GeneralEntry
from hf_lorameta.errors import AdapterError, UsageError, sanitize
from hf_lorameta.files import sha256
from hf_lorameta.formats.lora_file import WEIGHTS_FILE, open_adapter
from hf_lorameta.formats.lora_layout import FACTORS, Layout, Module, canonical_order
from hf_lorameta.formats.peft_config import CONFIG_FILE
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.repo import is_repo_id
from hf_lorameta.pipeline.adapter_folder import (
    fetch_adapter,
    generated_parts,
    naming,
    read_provenance,
    similar_adapter,
)
from hf_lorameta.types import FloatArray

LOCAL = "local adapter"
"""Name of an adapter from a folder in provenance and card, which show no path."""


@dataclass(frozen=True)
class Source:
    """One adapter of a merge.

    Attributes:
        name: Hub id, the name in its bank, or `LOCAL`.
        revision: commit; None for a folder.
        base_model: Hub id of the base model.
        base_revision: commit of the base model, if stated.
        task_type: PEFT's, if stated.
        layout: its modules.
        rank: of every module.
        read: returns lora_A (r, in), lora_B (out, r) and scaling of a module.
        licenses: stated for its weights; None stands for one that is not stated.
        private: a private repo or a folder.
        published: whether the name is that of a public repo.
        sha256: of its weights file.
        generated: which rows it was made with, so that it is not scored on them; see
            `hf_lorameta.pipeline.adapter_folder.generated_parts`.
    """

    name: str
    revision: str | None
    base_model: str
    base_revision: str | None
    task_type: str | None
    layout: Layout
    rank: int
    read: Callable[[str], tuple[FloatArray, FloatArray, float]]
    licenses: tuple[str | None, ...]
    private: bool
    published: bool
    sha256: str
    generated: tuple[Mapping[str, Any], ...] = ()


def open_sources(names: Sequence[str], hub: Hub, bank: Callable[[], Bank]) -> list[Source]:
    """Find adapters by name, where several from folders are numbered.

    Args:
        names: each a folder; a Hub id, ``user/adapter`` or ``user/adapter@revision``; or the name
            of an entry of the bank, ``local/task`` or ``local--task``.
        hub: client.
        bank: opens the bank, if a name needs it.

    Raises:
        UsageError: no adapter has that name.
        AdapterError: one is damaged, or no plain LoRA of one rank.
        HubError: a repo does not exist or the Hub cannot be reached.
    """
    sources = [_open_source(name, hub, bank) for name in names]
    local = [i for i, source in enumerate(sources) if source.name == LOCAL]
    for number, i in enumerate(local if len(local) > 1 else (), 1):
        sources[i] = replace(sources[i], name=f"{LOCAL} {number}")
    return sources


def _open_source(name: str, hub: Hub, bank: Callable[[], Bank]) -> Source:
    """Find an adapter by name, see `open_sources`."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _from_folder(folder, name)
    repo_id, _, revision = name.partition("@")
    if not is_repo_id(repo_id) or repo_id.startswith("local/"):
        return _from_bank(name, bank())
    repo = hub.resolve(repo_id, "model", revision or None, blobs=True)
    return replace(
        _from_folder(fetch_adapter(repo, hub), name),
        name=repo.repo_id,
        revision=repo.sha,
        licenses=(repo.license,),
        private=repo.private,
        published=not repo.private,
    )


def _from_folder(folder: Path, name: str) -> Source:
    with naming(name):
        config, weights = open_adapter(folder)
    if not config.base_model:
        raise AdapterError(
            f"{name} does not state its base model",
            hint=f"set base_model_name_or_path in its {CONFIG_FILE}",
        )

    def read(module: str) -> tuple[FloatArray, FloatArray, float]:
        A, B = (weights.finite_tensor(module, factor) for factor in FACTORS)
        return A, B, config.scaling

    return Source(
        name=LOCAL,
        revision=None,
        base_model=config.base_model,
        base_revision=config.revision,
        task_type=config.task_type,
        layout=weights.layout,
        rank=weights.rank,
        read=read,
        licenses=(stated_license(folder),),
        private=True,
        published=False,
        sha256=sha256(folder / WEIGHTS_FILE),
        generated=generated_parts(read_provenance(folder)[0]),
    )


def _from_bank(name: str, bank: Bank) -> Source:
    found = [entry for entry in bank.index.adapters if entry.name == name]
    found += [entry for entry in bank.index.entries if entry.adapter == name]
    if not found:
        raise UsageError(
            f"{sanitize(name)} is neither a folder, nor a Hub id of the form user/adapter, nor an "
            f"adapter of the bank {bank.id}",
            hint=similar_adapter(Path(name).expanduser())
            or "hf-lorameta bank list shows the names of a bank's adapters",
        )
    entry, file = found[0], bank.adapter(found[0])

    def read(module: str) -> tuple[FloatArray, FloatArray, float]:
        return *bank.expand(module, *file.factors(module)), entry.scaling

    if isinstance(entry, GeneralEntry):
        shown, revision = f"{bank.id}: {name}", bank.revision
        licenses = tuple(task.license for task in entry.tasks)
        private = published = False
    else:
        shown, revision = entry.adapter, entry.adapter_revision
        licenses, private, published = (entry.license,), entry.private, bank.index.published
    return Source(
        name=shown,
        revision=revision,
        base_model=bank.index.base_model,
        base_revision=bank.index.base_revision,
        task_type="CAUSAL_LM",
        layout=bank.layout,
        rank=entry.rank,
        read=read,
        licenses=licenses,
        private=private,
        published=published,
        sha256=entry.sha256,
    )


def common_layout(names: Sequence[str], sources: Sequence[Source]) -> Layout:
    """Return all modules of the adapters, in canonical order.

    Raises:
        AdapterError: base models differ, or a module has other sizes in another adapter.
    """
    known: dict[str, tuple[Module, str]] = {}
    first = sources[0]
    for name, source in zip(names, sources, strict=True):
        if source.base_model.lower() != first.base_model.lower():
            raise AdapterError(
                f"{names[0]} was trained for {sanitize(first.base_model)}, {name} for "
                f"{sanitize(source.base_model)}: updates of different base models cannot be added",
                hint="name adapters of one base model",
            )
        for module in source.layout:
            other, owner = known.setdefault(module.name, (module, name))
            if module != other:
                raise AdapterError(
                    f"{sanitize(module.name)} is {module.out_features} × {module.in_features} in "
                    f"{name} and {other.out_features} × {other.in_features} in {owner}",
                    hint="name adapters of one base model",
                )
    return tuple(known[name][0] for name in sorted(known, key=canonical_order))
