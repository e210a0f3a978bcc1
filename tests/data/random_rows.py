"""Random rows, of which nothing but the form can be learned."""

import random
import string
from collections.abc import Callable

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
