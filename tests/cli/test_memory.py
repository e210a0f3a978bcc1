"""Peak memory of ``generate`` and ``merge`` on adapters that are larger than it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from hf_lorameta.bank.index import Index, IndexEntry, adapter_path
from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.data.counts.profile import Histogram, Profile, ProfileTable
from hf_lorameta.files import sha256
from hf_lorameta.formats.lora_file import write_tensors
from hf_lorameta.formats.lora_layout import Module
from tests.conftest import BASE, Shell, adapter_files, tokenizer_json

# ru_maxrss of a child counts its parent's memory at the fork; VmHWM does not
PRINT_PEAK = """
import atexit, sys
from hf_lorameta.cli import main
def print_peak():
    status = open("/proc/self/status").read()
    print(status.split("VmHWM:")[1].splitlines()[0], file=sys.stderr)
atexit.register(print_peak)
main(sys.argv[1:])
"""


def large_bank(folder: Path, count: int, megabytes: int) -> Path:
    """Write a bank of adapters of the given size; all but four are hard links."""
    width, rank = 4096, 2
    modules = megabytes * 1_000_000 // (2 * width * rank * 2)
    layout = tuple(Module(f"model.layers.{i}.q_proj", width, width) for i in range(modules))
    (folder / "adapters").mkdir(parents=True)
    (folder / "tokenizer.json").write_bytes(tokenizer_json())
    rng = np.random.default_rng(0)
    entries = []
    for i in range(count):
        path = folder / adapter_path(f"o--{i}")
        if i < 4:
            block = rng.normal(0, 0.01, (width, rank)).astype(np.float32)
            pairs = ((block.T, block) for _ in layout)
            write_tensors(path, layout, rank, "bfloat16", pairs)
        else:
            os.link(folder / adapter_path(f"o--{i % 4}"), path)
        entries.append(IndexEntry(
            name=f"o--{i}", adapter=f"o/{i}", adapter_revision="0" * 40, dataset=f"o/{i}",
            dataset_revision="0" * 40, config=None, split="train", columns=Columns(output="text"),
            license="mit", rank=rank, scaling=1.0, rows=9, size=path.stat().st_size,
            sha256=sha256(path),
        ))  # fmt: skip
    counts = [np.bincount([1 + i % 16], minlength=18) for i in range(count)]
    histograms = [Histogram.from_dense(c.astype(np.int64)) for c in counts]
    table = ProfileTable.from_profiles([Profile(h, h, 9) for h in histograms])
    (folder / "profiles.safetensors").write_bytes(safetensors.numpy.save(table.arrays))
    names = ("profiles.safetensors", "tokenizer.json")
    index = Index(
        base_model=BASE, base_revision=None, base_license=None, vocab_size=18, published=False,
        layout=tuple((m.name, m.in_features, m.out_features) for m in layout),
        entries=tuple(entries), skipped=(), typical_distances={},
        files={name: sha256(folder / name) for name in names},
    )  # fmt: skip
    (folder / "bank.json").write_bytes(index.to_bytes())
    return folder


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.slow
@pytest.mark.parametrize("combiner", ["factors", "exact"])
def test_memory_does_not_grow_with_the_bank(
    cli: Shell, data: Path, tmp_path: Path, combiner: str
) -> None:
    folder = large_bank(tmp_path / "bank", 20, 20)
    size = sum(p.stat().st_size for p in (folder / "adapters").iterdir())
    assert size > 390e6
    generate = ["generate", "-d", str(data), "-q", "--bank", str(folder)]
    # the bank's rank, so that the result has the size of one adapter
    generate += ["--combine", combiner, "--rank", "2", "-o", str(tmp_path / "a")]
    # `datasets` imports torch where it is installed, and the core does not need it
    env = cli.env() | {"USE_TORCH": "0"}
    done = subprocess.run(
        [sys.executable, "-c", PRINT_PEAK, *generate],
        env=env, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    peak = 1024 * int(done.stderr.split()[-2])
    assert peak < 400e6 + 2 * 21e6
    shutil.rmtree(folder)


NO_TORCH = """
import sys
sys.modules["torch"] = sys.modules["transformers"] = sys.modules["peft"] = None
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.slow
def test_merge_takes_the_memory_of_two_modules_and_no_torch(cli: Shell, tmp_path: Path) -> None:
    peaks = []
    for modules in (2, 40):
        layout = tuple(Module(f"model.layers.{i}.q_proj", 4096, 4096) for i in range(modules))
        weights = []
        for seed in (1, 2):
            folder = tmp_path / f"{modules}-{seed}"
            folder.mkdir()
            for name, content in adapter_files(seed, 16, layout=layout).items():
                (folder / name).write_bytes(content)
            weights.append(f"{folder}:0.5")
        done = subprocess.run(
            [sys.executable, "-c", NO_TORCH + PRINT_PEAK, "merge", *weights, "-q", "-o", "merged",
             "--overwrite"],
            env=cli.env(), cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        peaks.append(1024 * int(done.stderr.split()[-2]))
    assert (tmp_path / "merged" / "adapter_model.safetensors").stat().st_size > 10e6
    assert peaks[1] - peaks[0] < 10e6
