"""Speed and memory at real size: ``python -m tests.benchmarks.speed FOLDER [--size small]``.

FOLDER is scratch: a synthetic bank (9.5 GB at full size) and a pack of it are made there, once.
Every measurement runs in a process of its own; peak memory is that process's (VmHWM); every peer
runs in the same call, on the same files. Writes ``speed.json`` and ``speed.md`` into FOLDER.
Single rows: ``--only NAME …``.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks import measures
from tests.benchmarks.synthetic import SIZES, make

Figures = dict[str, Any]
ROOT = Path(__file__).parents[2]


class Bench:
    """Runs measurements on one synthetic bank."""

    def __init__(self, folder: Path, size: str) -> None:
        self.folder, self.size = folder, size
        self.bank, self.pack = folder / size, folder / f"{size}-pack"
        self.shape = SIZES[size]
        self.figures: dict[str, Figures] = {}

    def prepare(self) -> None:
        """Make what is not there yet."""
        wanted = {self.size: self.shape}
        if self.size == "full":
            wanted["middle"] = SIZES["middle"]
        for name, shape in wanted.items():
            if not (self.folder / name / "bank.json").exists():
                make(self.folder / name, shape)

    @property
    def middle(self) -> Path:
        return self.folder / ("middle" if self.size == "full" else self.size)

    def run(self, name: str, *arguments: object) -> Figures:
        """One measurement in a fresh process; its figures with wall time and peak memory."""
        command = [sys.executable, "-m", "tests.benchmarks.measures", name, *map(str, arguments)]
        env = {**os.environ, "OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2", "USE_TORCH": "0"}
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
        figures: Figures = json.loads(done.stdout.splitlines()[-1])
        figures["load"] = round(os.getloadavg()[0], 1)
        print(name, *arguments, figures, file=sys.stderr, flush=True)
        self.figures[" ".join([name, *(str(a).split("/")[-1] for a in arguments)])] = figures
        return figures


def factors_all(b: Bench) -> list[list[object]]:
    rows: list[list[object]] = []
    for state in ("cold", "warm"):
        read = max((b.run("read", b.bank, state) for _ in range(2)), key=lambda f: f["rate"])
        ours = max((b.run("combine", b.bank, "factors", 0, state) for _ in range(2)),
                   key=lambda f: f["rate"])  # fmt: skip
        rows.append([
            f"`factors`, {b.shape.adapters} adapters, {state} cache",
            f"numpy reading the same bytes: {read['rate']:.2f} GB/s",
            f"{ours['rate']:.2f} GB/s, {ours['peak']:.0f} MB",
            f"{ours['rate'] / read['rate']:.2f} of the bandwidth",
            "≥ 0.7, ≤ 400 MB",
        ])  # fmt: skip
    return rows


def factors_some(b: Bench) -> list[list[object]]:
    number = min(64, b.shape.adapters)
    ours = b.run("combine", b.bank, "factors", number, "warm")
    rows: list[list[object]] = []
    for name, title, goal in (
        ("published", "stack, `torch.matmul`", "≥ 2×, ≤ 1/10 of the memory"),
        ("peft_linear", "PEFT `linear`", "≥ 5×, ≤ 1/10 of the memory"),
    ):
        peer = b.run(name, b.bank, number)
        memory = peer["above"] / max(ours["above"], 1e-9)
        loading = f" (of it loading {peer['loading']:.1f} s)"
        rows.append([
            f"`factors`, {number} adapters", f"{title}: {peer['seconds']:.2f} s{loading}",
            f"{ours['seconds']:.2f} s",
            f"{peer['seconds'] / ours['seconds']:.1f}×, 1/{memory:.1f} of the memory above imports",
            goal,
        ])  # fmt: skip
    return rows


def exact_some(b: Bench) -> list[list[object]]:
    number = min(20, b.shape.adapters)
    ours, peer = b.run("exact_module", b.middle, number), b.run("peft_svd", b.middle, number)
    return [[
        f"`exact` to rank 16, {number} adapters, one q_proj",
        f"PEFT `svd`: {peer['seconds']:.1f} s",
        f"{ours['seconds']:.3f} s",
        f"{peer['seconds'] / ours['seconds']:.0f}×, error {ours['over']:.1e} above the optimum",
        "≥ 100×, within 1 %",
    ]]  # fmt: skip


def exact_all(b: Bench) -> list[list[object]]:
    ours = b.run("combine", b.bank, "exact", 0, "warm")
    return [[
        f"`exact` to rank 16, {b.shape.adapters} adapters", "–",
        f"{ours['seconds']:.1f} s ({ours['cpu']:.0f} s of CPU), {ours['peak']:.0f} MB", "–",
        "< 60 s, ≤ 1 GB",
    ]]  # fmt: skip


def distances(b: Bench) -> list[list[object]]:
    ours, peer = b.run("distances", b.shape.adapters), b.run("scipy_distances", b.shape.adapters)
    return [[
        f"four distances to {b.shape.adapters} profiles",
        f"scipy on samples, pair by pair: {peer['seconds']:.1f} s (from 10 pairs)",
        f"{ours['seconds']:.2f} s", f"{peer['seconds'] / ours['seconds']:.0f}×", "≥ 100×, < 0.5 s",
    ]]  # fmt: skip


def profiles(b: Bench) -> list[list[object]]:
    number = 100_000 if b.size == "full" else 2_000
    ours = b.run("profile", number)
    return [[
        f"profile of {number:,} rows", f"`encode_batch` alone: {ours['peer']:.1f} s",
        f"{ours['seconds']:.1f} s, {ours['grown']:.0f} MB more than for a tenth of the rows",
        f"{ours['peer'] / ours['seconds']:.2f} of its throughput",
        "≥ 0.85, memory independent of rows",
    ]]  # fmt: skip


def start(b: Bench) -> list[list[object]]:
    plan, usage = b.run("plan", b.bank), b.run("usage")
    return [
        ["`plan`, from process start", "–", f"{plan['seconds']:.2f} s", "–", "< 3 s"],
        ["`--help`", "–", f"{usage['seconds']:.2f} s", "–", "< 0.3 s"],
    ]


def packs(b: Bench) -> list[list[object]]:
    rows: list[list[object]] = []
    for dtype in ("bf16", "int8"):
        target = b.folder / f"{b.size}-pack-{dtype}"
        if not target.exists():
            b.run("make_pack", b.bank, target, min(128, b.shape.hidden), dtype)
        made = b.run("look", target)
        for combiner in ("exact", "factors"):
            ours = b.run("combine", target, combiner, 0, "warm")
            rows.append([
                f"`{combiner}`, {b.shape.adapters} adapters from a pack, R = 128, {dtype}", "–",
                f"{ours['seconds']:.2f} s, {ours['peak']:.0f} MB; pack {made['size'] / 1e6:.0f} MB "
                f"keeps {made['retained']:.2%}", "–", "≤ 3 s, ≤ 1.5 GB, ≤ 1 GB on disk",
            ])  # fmt: skip
    return rows


def growth(b: Bench) -> list[list[object]]:
    numbers = [n for n in (64, 128, 256, 502) if n <= b.shape.adapters] or [4, 8, 12]
    points = {}
    for combiner in ("factors", "exact"):
        points[combiner] = [
            (n, b.run("combine", b.bank, combiner, n, "warm")["cpu"]) for n in numbers
        ]
    ranks = (4, 8, 16, 32)
    points["exact, by rank"] = [(r, b.run("by_rank", r)["cpu"]) for r in ranks]
    (b.folder / "growth.svg").write_text(measures.plot(points), encoding="utf-8")
    return [
        [f"growth of CPU time, {name}", "–", ", ".join(f"{x}: {y:.2f} s" for x, y in line),
         f"{line[-1][1] / line[0][1]:.1f}× for {line[-1][0] / line[0][0]:.1f}×", "linear"]
        for name, line in points.items()
    ]  # fmt: skip


ROWS: dict[str, Callable[[Bench], list[list[object]]]] = {
    f.__name__: f
    for f in (start, distances, profiles, factors_some, exact_some, factors_all, packs, exact_all,
              growth)
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--only", nargs="*", choices=ROWS, default=list(ROWS))
    chosen = parser.parse_args()
    bench = Bench(chosen.folder.resolve(), chosen.size)
    bench.prepare()
    head = ["what", "peer", "ours", "ratio", "to reach"]
    lines = [head, ["---"] * len(head)]
    for name in chosen.only:
        lines += [[str(cell) for cell in row] for row in ROWS[name](bench)]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    (chosen.folder / "speed.md").write_text(text, encoding="utf-8")
    (chosen.folder / "speed.json").write_text(json.dumps(bench.figures, indent=1))
    print(text)


if __name__ == "__main__":
    main()
