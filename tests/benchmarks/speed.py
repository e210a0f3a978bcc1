"""Speed and memory at full size: ``python -m tests.benchmarks.speed FOLDER [--size small]``.

A synthetic bank (9.5 GB at full size) and packs of it are written to FOLDER, once. Every
measurement runs in its own process; its peak memory is that process's VmHWM. Every peer runs in the
same call, on the same files. Whether a goal is reached is computed from the figures.

After each row, ``speed.md`` and ``speed.json`` in FOLDER are updated. ``--only NAME …`` measures
some rows.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks.synthetic_bank import SIZES, write_bank
from tests.benchmarks.tables import markdown_table

Figures = dict[str, Any]
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
        for name, shape in {self.size: self.shape, "small": SIZES["small"]}.items():
            if not (self.folder / name / "bank.json").exists():
                write_bank(self.folder / name, shape)

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


def exact_all(b: Benchmark) -> list[list[str]]:
    ours = b.run("combine", b.bank)
    return [row(
        f"`exact` to rank 16, {b.shape.adapters} adapters", "–",
        f"{ours['seconds']:.1f} s ({ours['cpu']:.0f} s of CPU), {ours['peak']:.0f} MB", "–",
        at_most(ours["seconds"], 60, " s"), at_most(ours["peak"], 1024, " MB"),
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
        ours = b.run("combine", target)
        rows.append(row(
            f"`exact`, {b.shape.adapters} adapters from a pack, R = 128, {dtype}", "–",
            f"{ours['seconds']:.2f} s ({ours['cpu']:.1f} s of CPU), {ours['peak']:.0f} MB; "
            f"pack {size['size'] / 1e6:.0f} MB keeps {size['retained']:.2%}", "–",
            at_most(ours["seconds"], 3, " s"), at_most(ours["peak"], 1536, " MB"),
            at_most(size["size"] / 1e6, 1000, " MB on disk"),
        ))  # fmt: skip
    return rows


ROWS: dict[str, Callable[[Benchmark], list[list[str]]]] = {
    f.__name__: f for f in (start, profiles, packs, exact_all)
}


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
    options = parser.parse_args()
    benchmark = Benchmark(options.folder.resolve(), options.size)
    benchmark.prepare()
    rows: list[list[str]] = []
    for name in options.only:
        rows += ROWS[name](benchmark)
        text = write(benchmark, rows)
    print(text)


if __name__ == "__main__":
    main()
