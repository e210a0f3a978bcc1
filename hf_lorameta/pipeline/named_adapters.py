"""Adapters that a user names: folders, Hub repos, and entries of a bank."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hf_lorameta.bank.adapter_repo import check_base_model, stated_license
from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.index import GeneralEntry
from hf_lorameta.cards.record import MergedAdapter, read_record
from hf_lorameta.errors import AdapterError, UsageError, sanitize
from hf_lorameta.files import sha256
from hf_lorameta.formats.lora_file import AdapterFile, check_adapter
from hf_lorameta.formats.lora_layout import Layout, Module, canonical_order
from hf_lorameta.formats.peft_config import CONFIG_FILE, LoraConfig
from hf_lorameta.hub.client import Hub
from hf_lorameta.hub.repo import is_repo_id
from hf_lorameta.paths import expanded
from hf_lorameta.pipeline.adapter_folder import (
    fetch_adapter,
    made_of,
    naming,
    similar_adapter,
)

UNKNOWN = "unknown"
"""Written for a license that is not stated."""

logger = logging.getLogger(__name__)


class NamedAdapter(NamedTuple):
    """A plain LoRA adapter, found by its name.

    Attributes:
        config: PEFT's settings.
        weights: its file, with factors in the sizes of the base model.
        facts: what the record of a merge says of it.
        of_four_bit: whether it was made with 4-bit weights of the base model, as it says itself.
    """

    config: LoraConfig
    weights: AdapterFile
    facts: MergedAdapter
    of_four_bit: bool = False


def open_named(name: str, hub: Hub, open_bank: Callable[[], Bank]) -> NamedAdapter:
    """Find an adapter by name, and check it.

    Args:
        name: a folder; a Hub id, ``user/adapter`` or ``user/adapter@revision``; or the name of an
            entry of the bank, ``local/task`` or ``local--task``.
        hub: client.
        open_bank: opens the bank, if the name needs it.

    Raises:
        UsageError: no adapter has that name.
        AdapterError: it is damaged, or not a plain LoRA of one rank.
        HubError: a repo does not exist or the Hub cannot be reached.
    """
    folder = expanded(name)
    if folder.is_dir():
        adapter = _in_folder(folder, name)
        called = adapter.facts.adapter
        logger.info("The card names %s as %s, since its own name may be private", name, called)
        return adapter
    repo_id, _, revision = name.partition("@")
    if not is_repo_id(repo_id) or repo_id.startswith("local/"):
        return _in_bank(name, open_bank())
    repo = hub.resolve(repo_id, "model", revision or None, blobs=True)
    adapter = _in_folder(fetch_adapter(repo, hub), name)
    facts = {
        "adapter": repo.repo_id,
        "revision": repo.sha,
        "licenses": (repo.license or UNKNOWN,),
        "private": repo.private,
        "published": not repo.private,
    }
    return adapter._replace(facts=adapter.facts.model_copy(update=facts))


def _in_folder(folder: Path, name: str) -> NamedAdapter:
    with naming(name):
        config, weights = check_adapter(folder)
    digest, record = sha256(weights.path), read_record(folder)
    facts = MergedAdapter(
        adapter=f"local adapter {digest[:8]}",  # folders may be named after private datasets
        revision=None,
        sha256=digest,
        licenses=(stated_license(folder) or UNKNOWN,),
        private=True,
        published=False,
        base_license=record.base_license if record else None,
        generated=made_of(record),
    )
    return NamedAdapter(config, weights, facts, record is not None and record.base_model.four_bit)


def _in_bank(name: str, bank: Bank) -> NamedAdapter:
    index = bank.index
    entries = [entry for entry in index.adapters if entry.name == name]
    entries += [entry for entry in index.entries if entry.adapter == name]
    if not entries:
        raise UsageError(
            f"{sanitize(name)} is neither a folder, nor a Hub id of the form user/adapter, nor an "
            f"adapter of the bank {bank.id}",
            code="adapter.not-found",
            hint=similar_adapter(expanded(name))
            or "hf-lorameta bank list shows the names of a bank's adapters",
        )
    entry = entries[0]
    if isinstance(entry, GeneralEntry):
        facts: dict[str, Any] = {
            "adapter": f"{bank.id}: {name}",
            "revision": bank.revision,
            "licenses": sorted({task.license or UNKNOWN for task in entry.tasks}),
            "private": bank.private,
            "published": False,
        }
    else:
        facts = {
            "adapter": entry.adapter,
            "revision": entry.adapter_revision,
            "licenses": [entry.license or UNKNOWN],
            "private": entry.private,
            "published": index.published,
        }
    merged = MergedAdapter(sha256=entry.sha256, base_license=index.base_license, **facts)
    base = index.base_model, entry.rank, entry.scaling, index.base_revision
    return NamedAdapter(LoraConfig(*base, task_type="CAUSAL_LM"), bank.unpacked(entry), merged)


def common_layout(adapters: Mapping[str, NamedAdapter]) -> Layout:
    """Return all modules that adapters of one base model change, in canonical order.

    Raises:
        AdapterError: base models differ, or the size of a module differs between adapters.
    """
    known: dict[str, Module] = {}
    base_model = next(iter(adapters.values())).config.base_model
    for name, adapter in adapters.items():
        with naming(name):
            check_base_model(adapter.config, base_model or f"its id in {CONFIG_FILE}")
            for module in adapter.weights.layout:
                other = known.setdefault(module.name, module)
                if module != other:
                    raise AdapterError(
                        f"{sanitize(module.name)} is {module.out_features} × {module.in_features}, "
                        f"in another adapter {other.out_features} × {other.in_features}",
                        code="adapter.other-shape",
                        hint="name adapters of one base model",
                    )
    return tuple(sorted(known.values(), key=lambda module: canonical_order(module.name)))
