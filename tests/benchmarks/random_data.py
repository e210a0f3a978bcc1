"""What adapters gain on random data: ``python -m tests.benchmarks.random_data``.

It is compared with what their plans predict. Nothing but the form of such rows can be learned.
"""

import argparse
import random
import string
import tempfile
from collections.abc import Callable
from pathlib import Path

from hf_lorameta import Plan, Trial, generate_from_plan, plan
from tests.benchmarks.tables import markdown_table

HEAD = ("input and output", "output tokens", "predicted", "gained")
ROWS = 200
Generator = Callable[[random.Random], str]


def digits(count: int) -> Generator:
    """Return a generator of whole numbers of so many digits."""
    return lambda r: str(r.randrange(10 ** (count - 1), 10**count))


def numbers(count: int) -> Generator:
    """Return a generator of lists of normally distributed numbers."""
    return lambda r: ", ".join(f"{r.gauss(0, 1):.3f}" for _ in range(count))


def letters(count: int, of: str = string.ascii_letters) -> Generator:
    """Return a generator of strings of so many letters."""
    return lambda r: "".join(r.choices(of, k=count))


KINDS: dict[str, tuple[Generator, Generator]] = {
    "3 digits": (digits(3), digits(3)),
    "6 digits": (digits(6), digits(6)),
    "6 numbers, 1 number": (numbers(6), numbers(1)),
    "letters": (letters(30), letters(8)),
    "DNA": (letters(40, "ACGT"), letters(10, "ACGT")),
}


def random_rows(kind: str) -> list[dict[str, str]]:
    """Return the rows of a kind of random data."""
    r = random.Random(kind)
    make_input, make_output = KINDS[kind]
    return [{"input": make_input(r), "output": make_output(r)} for _ in range(ROWS)]


def gained(planned: Plan, rows: list[tuple[str, str]]) -> float:
    """Generate the adapter of a plan and return its gain on rows."""
    generation = generate_from_plan(planned)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "adapter"
        generation.save_pretrained(folder)
        with Trial(folder, planned.bank.index.base_model) as trial:
            scores = trial.test(rows).scores
    return 1 - scores["generated"].loss / scores["base"].loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=16, help="rows to score on")
    options = parser.parse_args()
    cells = []
    for kind in KINDS:
        rows = random_rows(kind)
        planned = plan(rows)
        assert planned.expected
        scored = [(row["input"], row["output"]) for row in rows[: options.rows]]
        predicted = f"{planned.expected.mean:.2f} ± {planned.expected.spread:.2f}"
        length = f"{planned.profile.output_length:.1f}"
        cells.append((kind, length, predicted, f"{gained(planned, scored):.2f}"))
        print(*cells[-1], sep="\t", flush=True)
    print(markdown_table(HEAD, cells, right=(1, 2, 3)))


if __name__ == "__main__":
    main()
