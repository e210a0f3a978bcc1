"""Peak memory of ``generate`` and ``merge`` on adapters that are larger than it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hf_lorameta.formats.lora_layout import Module
from tests.benchmarks.synthetic_bank import Shape, write_bank
from tests.conftest import Shell, adapter_files, write_files

# ru_maxrss of a child counts its parent's memory at the fork; VmHWM does not
PRINT_PEAK = """
import atexit, json, sys
from hf_lorameta.cli import main
def print_peak():
    status = open("/proc/self/status").read()
    print(status.split("VmHWM:")[1].splitlines()[0], file=sys.stderr)
atexit.register(print_peak)
for command in json.loads(sys.argv[1]):
    try:
        main(command)
    except SystemExit as end:
        if end.code:
            raise
"""


@pytest.fixture(scope="module")
def large_bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A bank of fifteen adapters, 300 MB in all."""
    folder = tmp_path_factory.mktemp("large") / "bank"
    write_bank(folder, Shape(layers=204, narrow=4096, rank=2, adapters=15, shared=4))
    assert sum(p.stat().st_size for p in (folder / "adapters").iterdir()) > 290e6
    yield folder
    shutil.rmtree(folder)


def peak(cli: Shell, *commands: list[str], before: str = "", **env: str) -> int:
    """Run commands in one process, and return the most bytes that it had."""
    done = subprocess.run(
        [sys.executable, "-c", before + PRINT_PEAK, json.dumps(commands)],
        env=cli.env() | env, cwd=cli.cwd, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return 1024 * int(done.stderr.split()[-2])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.slow
def test_memory_does_not_grow_with_the_bank(cli: Shell, data: Path, large_bank: Path) -> None:
    # the bank's rank, so that the result has the size of one adapter
    generate = ["generate", "-d", str(data), "-q", "--bank", str(large_bank), "--rank", "2"]
    commands = [[*generate, "--combine", name, "-o", name] for name in ("factors", "exact")]
    # `datasets` imports torch where it is installed, and the core does not need it
    assert peak(cli, *commands, USE_TORCH="0") < 400e6 + 2 * 21e6


NO_TORCH = """
import sys
sys.modules["torch"] = sys.modules["transformers"] = sys.modules["peft"] = None
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.slow
def test_merge_takes_the_memory_of_its_result_and_no_torch(cli: Shell, tmp_path: Path) -> None:
    peaks = []
    for modules in (2, 40):
        layout = tuple(Module(f"model.layers.{i}.q_proj", 4096, 4096) for i in range(modules))
        weights = []
        for seed in (1, 2):
            folder = tmp_path / f"{modules}-{seed}"
            write_files(folder, adapter_files(seed, 16, layout=layout))
            weights.append(f"{folder}:0.5")
        merge = ["merge", *weights, "-q", "-o", "merged", "--overwrite"]
        peaks.append(peak(cli, merge, before=NO_TORCH))
    size = (tmp_path / "merged" / "adapter_model.safetensors").stat().st_size  # in bfloat16
    assert size > 10e6
    assert peaks[1] - peaks[0] < 2.5 * size
