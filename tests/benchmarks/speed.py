"""Speed and memory at full size: ``python -m tests.benchmarks.speed FOLDER [--size small]``.

A synthetic bank (9.5 GB at full size) and packs of it are written to FOLDER, once. Every
measurement runs in its own process; its peak memory is that process's VmHWM. Every peer runs in the
same call, on the same files. Whether a goal is reached is computed from the figures.

After each row, ``speed.md``, ``speed.json`` and ``cpu_time_growth.svg`` in FOLDER are updated.
``--only NAME …`` measures some rows, ``--picture PATH`` copies the picture.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks import measurements
from tests.benchmarks.synthetic_bank import SIZES, write_bank
from tests.benchmarks.tables import markdown_table

Figures = dict[str, Any]
PICTURE = "cpu_time_growth.svg"
HEAD = ["what", "other tool", "hf-lorameta", "ratio", "goal"]
ROOT = Path(__file__).parents[2]


class Benchmark:
    """Runs measurements on one synthetic bank."""

    def __init__(self, folder: Path, size: str) -> None:
        self.folder, self.size = folder, size
        self.bank, self.pack = folder / size, folder / f"{size}-pack"
        self.shape = SIZES[size]
        self.figures: dict[str, Figures] = {}

    def prepare(self) -> None:
        """Write the banks that are missing."""
        banks = {self.size: self.shape, "small": SIZES["small"]}
        if self.size == "full":
            banks["pair"] = SIZES["pair"]
        for name, shape in banks.items():
            if not (self.folder / name / "bank.json").exists():
                write_bank(self.folder / name, shape)

    @property
    def pair(self) -> Path:
        return self.folder / ("pair" if self.size == "full" else self.size)

    @property
    def small(self) -> Path:
        return self.folder / "small"

    def run(self, name: str, *arguments: object) -> Figures:
        """Run a measurement in a new process; return its figures."""
        command = [
            sys.executable,
            "-m",
            "tests.benchmarks.measurements",
            name,
            *map(str, arguments),
        ]
        env = {**os.environ, "OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2", "USE_TORCH": "0"}
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
        figures: Figures = json.loads(done.stdout.splitlines()[-1])
        figures["load"] = round(os.getloadavg()[0], 1)
        print(name, *arguments, figures, file=sys.stderr, flush=True)
        self.figures[" ".join([name, *(str(a).split("/")[-1] for a in arguments)])] = figures
        return figures


class Goal(NamedTuple):
    """A bound, and whether the figure reaches it.

    >>> str(at_most(2.5, 3, " s")), str(at_least(44, 100, "×"))
    ('≤ 3 s: reached', '≥ 100×: **not reached**')
    """

    text: str
    reached: bool

    def __str__(self) -> str:
        return f"{self.text}: {'reached' if self.reached else '**not reached**'}"


def at_least(figure: float, bound: float, unit: str = "") -> Goal:
    return Goal(f"≥ {bound:g}{unit}", figure >= bound)


def at_most(figure: float, bound: float, unit: str = "") -> Goal:
    return Goal(f"≤ {bound:g}{unit}", figure <= bound)


def row(what: str, peer: str, ours: str, ratio: str, *goals: Goal) -> list[str]:
    return [what, peer, ours, ratio, "; ".join(map(str, goals)) or "–"]


def factors_all(b: Benchmark) -> list[list[str]]:
    rows = []
    for state in ("cold", "warm"):
        read = max((b.run("read", b.bank, state) for _ in range(2)), key=lambda f: f["rate"])
        ours = max((b.run("combine", b.bank, "factors", 0, state) for _ in range(2)),
                   key=lambda f: f["rate"])  # fmt: skip
        share = ours["rate"] / read["rate"]
        rows.append(row(
            f"`factors`, {b.shape.adapters} adapters, {state} cache",
            f"numpy reading the same bytes: {read['rate']:.2f} GB/s",
            f"{ours['rate']:.2f} GB/s ({ours['cpu']:.1f} s of CPU), {ours['peak']:.0f} MB",
            f"{share:.2f} of the bandwidth",
            at_least(share, 0.7), at_most(ours["peak"], 400, " MB"),
        ))  # fmt: skip
    return rows


def factors_some(b: Benchmark) -> list[list[str]]:
    number = min(64, b.shape.adapters)
    ours = b.run("combine", b.bank, "factors", number, "warm")
    rows = []
    for name, title, goal in (
        ("published", "stack, `torch.matmul`", 2), ("peft_linear", "PEFT `linear`", 5),
    ):  # fmt: skip
        peer = b.run(name, b.bank, number)
        times, memory = peer["seconds"] / ours["seconds"], peer["above"] / max(ours["above"], 1e-9)
        rows.append(row(
            f"`factors`, {number} adapters",
            f"{title}: {peer['seconds']:.2f} s (of it loading {peer['loading']:.1f} s)",
            f"{ours['seconds']:.2f} s, {ours['peak']:.0f} MB",
            f"{times:.1f}×, 1/{memory:.1f} of the memory above imports",
            at_least(times, goal, "×"), Goal("memory ≤ 1/10", memory >= 10),
        ))  # fmt: skip
    return rows


def exact_some(b: Benchmark) -> list[list[str]]:
    number = min(20, b.shape.adapters)
    one, ours = b.run("exact_module", b.pair, number), b.run("combine", b.pair, "exact", 0, "warm")
    peer = b.run("peft_svd", b.pair, number)
    times = peer["seconds"] / ours["seconds"]
    return [row(
        f"`exact` to rank 16, {number} adapters, 2 layers", f"PEFT `svd`: {peer['seconds']:.1f} s",
        f"{ours['seconds']:.2f} s, reading them included; one q_proj alone {one['seconds']:.2f} s "
        "on one thread",
        f"{times:.0f}×, error {one['over']:.1e} above the optimum",
        at_least(times, 100, "×"), Goal("within 1 %", one["over"] <= 0.01),
    )]  # fmt: skip


def exact_all(b: Benchmark) -> list[list[str]]:
    ours = b.run("combine", b.bank, "exact", 0, "warm")
    return [row(
        f"`exact` to rank 16, {b.shape.adapters} adapters", "–",
        f"{ours['seconds']:.1f} s ({ours['cpu']:.0f} s of CPU), {ours['peak']:.0f} MB", "–",
        at_most(ours["seconds"], 60, " s"), at_most(ours["peak"], 1024, " MB"),
    )]  # fmt: skip


def distances(b: Benchmark) -> list[list[str]]:
    ours, peer = b.run("distances", b.shape.adapters), b.run("scipy_distances", b.shape.adapters)
    times = peer["seconds"] / ours["seconds"]
    return [row(
        f"the paper's four distances to {b.shape.adapters} profiles",
        f"scipy on samples, pair by pair: {peer['seconds']:.1f} s (from 10 pairs)",
        f"{ours['seconds']:.2f} s ({ours['cpu']:.2f} s of CPU)", f"{times:.0f}×",
        at_least(times, 100, "×"), at_most(ours["seconds"], 0.5, " s"),
    )]  # fmt: skip


def profiles(b: Benchmark) -> list[list[str]]:
    number = 100_000 if b.size == "full" else 2_000
    ours = b.run("profile", number)
    share = ours["peer"] / ours["seconds"]
    return [row(
        f"profile of {number:,} rows", f"`encode_batch` alone: {ours['peer']:.1f} s",
        f"{ours['seconds']:.1f} s, {ours['grown']:.0f} MB more than for a tenth of the rows",
        f"{share:.2f} of its throughput",
        at_least(share, 0.85), Goal("memory independent of rows", ours["grown"] <= 16),
    )]  # fmt: skip


def start(b: Benchmark) -> list[list[str]]:
    plan, pulled, usage = b.run("plan", b.bank), b.run("plan_pulled", b.small), b.run("usage")
    return [
        row("`plan`, from process start", "–", f"{plan['seconds']:.2f} s", "–",
            at_most(plan["seconds"], 3, " s")),
        row(f"`plan` with a bank of {SIZES['small'].adapters} pulled from a Hub on loopback", "–",
            f"{pulled['seconds']:.2f} s; the pull {pulled['pull']:.2f} s", "–",
            at_most(pulled["seconds"], 3, " s")),
        row("`--help`", "–", f"{usage['seconds']:.2f} s", "–",
            at_most(usage["seconds"], 0.3, " s")),
    ]  # fmt: skip


def packs(b: Benchmark) -> list[list[str]]:
    rows = []
    for dtype in ("bf16", "int8"):
        target = b.folder / f"{b.size}-pack-{dtype}"
        if not target.exists():
            work = b.run("make_pack", b.bank, target, min(128, b.shape.hidden), dtype)
            rows.append(row(
                f"making the pack, R = 128, {dtype}", "–",
                f"{work['seconds']:.0f} s ({work['cpu']:.0f} s of CPU), {work['peak']:.0f} MB", "–",
            ))  # fmt: skip
        size = b.run("pack_size", target)
        for combiner in ("exact", "factors"):
            ours = b.run("combine", target, combiner, 0, "warm")
            rows.append(row(
                f"`{combiner}`, {b.shape.adapters} adapters from a pack, R = 128, {dtype}", "–",
                f"{ours['seconds']:.2f} s ({ours['cpu']:.1f} s of CPU), {ours['peak']:.0f} MB; "
                f"pack {size['size'] / 1e6:.0f} MB keeps {size['retained']:.2%}", "–",
                at_most(ours["seconds"], 3, " s"), at_most(ours["peak"], 1536, " MB"),
                at_most(size["size"] / 1e6, 1000, " MB on disk"),
            ))  # fmt: skip
    return rows


def growth(b: Benchmark) -> list[list[str]]:
    numbers = [n for n in (64, 128, 256, 502) if n <= b.shape.adapters] or [4, 8, 12]
    points = {}
    for combiner in ("factors", "exact"):
        points[combiner] = [
            (n, b.run("combine", b.bank, combiner, n, "warm")["cpu"]) for n in numbers
        ]
    points["exact, by rank"] = [(r, b.run("by_rank", r)["cpu"]) for r in (4, 8, 16, 32)]
    (b.folder / PICTURE).write_text(measurements.plot(points), encoding="utf-8")
    rows = []
    for name, line in points.items():
        slower, larger = line[-1][1] / line[0][1], line[-1][0] / line[0][0]
        rows.append(row(
            f"growth of CPU time, {name}", "–", ", ".join(f"{x}: {y:.2f} s" for x, y in line),
            f"{slower:.1f}× for {larger:.1f}×",
            Goal("linear, within a tenth", slower <= 1.1 * larger),
        ))  # fmt: skip
    return rows


ROWS: dict[str, Callable[[Benchmark], list[list[str]]]] = {
    f.__name__: f
    for f in (start, distances, profiles, factors_some, exact_some, factors_all, packs, exact_all,
              growth)
}  # fmt: skip


def write(benchmark: Benchmark, rows: list[list[str]]) -> str:
    """Write the table so far and all figures; return the table."""
    text = markdown_table(HEAD, rows) + "\n"
    (benchmark.folder / "speed.md").write_text(text, encoding="utf-8")
    (benchmark.folder / "speed.json").write_text(json.dumps(benchmark.figures, indent=1))
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--only", nargs="*", choices=ROWS, default=list(ROWS))
    parser.add_argument("--picture", type=Path, help="copy the SVG there too")
    options = parser.parse_args()
    benchmark = Benchmark(options.folder.resolve(), options.size)
    benchmark.prepare()
    rows: list[list[str]] = []
    for name in options.only:
        rows += ROWS[name](benchmark)
        text = write(benchmark, rows)
    print(text)
    if options.picture and "growth" in options.only:
        shutil.copyfile(benchmark.folder / PICTURE, options.picture)


if __name__ == "__main__":
    main()
