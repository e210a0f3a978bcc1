"""How real files of public repositories are read: right, asked about, refused, or wrong.

The files are not in this repository. `readings.tsv` lists where they come from and what is right;
each is expected at ``FOLDER/<id>/<path>``, as `git archive` writes it.

    python -m tests.benchmarks.readings FOLDER --half build
"""

import argparse
import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hf_lorameta import open_dataset
from hf_lorameta.errors import ColumnsError, LoraMetaError, UnlabeledDatasetError

TABLE = Path(__file__).with_suffix(".tsv")


class Outcome(NamedTuple):
    """What became of a file.

    Attributes:
        kind: read, ask or refuse.
        columns: that are read, or proposed first; empty if none.
        said: the error; of what is read, the first row.
        options: that the error proposes.
    """

    kind: str
    columns: str
    said: str
    options: tuple[str, ...] = ()


def outcome(paths: Sequence[Path]) -> Outcome:
    """Open a dataset as the command line does."""
    try:
        names = [str(path) for path in paths]
        dataset = open_dataset(names if len(names) > 1 else names[0])
        first = json.dumps(dataset.head(1), ensure_ascii=False)
        return Outcome("read", str(dataset.columns), first)
    except LoraMetaError as error:
        columns = getattr(error, "columns", None)
        asks = isinstance(error, ColumnsError | UnlabeledDatasetError) and columns is not None
        asks = asks or error.code == "split.unknown"
        options = tuple(map(str, getattr(error, "options", ())))
        return Outcome("ask" if asks else "refuse", str(columns or ""), str(error), options)


def is_right(case: Mapping[str, str], found: Outcome) -> bool:
    """Whether an outcome is one of those that are right, with columns that are named so."""
    if found.kind not in (case["expected"], *case["also"].split(",")):
        return False
    roles = case["roles"]
    if found.kind == "refuse" or "input=" not in roles or "output=" not in roles:
        return True
    return all(part.rpartition("=")[2].partition(".")[0] in roles
               for part in found.columns.split(","))  # fmt: skip


def cases(half: str) -> Iterator[Mapping[str, str]]:
    """Yield the rows of the table that belong to a half."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        yield from (row for row in rows if row["half"] == half)


def main() -> None:
    """Read the files of a half, and print what became of each and how many are right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--half", choices=("build", "final"), default="build")
    parser.add_argument("--only", nargs="*", default=())
    parser.add_argument("--brief", action="store_true")
    given = parser.parse_args()
    counted = Counter[str]()
    for case in cases(given.half):
        folder = given.folder / case["id"]
        paths = [folder / part for part in case["path"].strip(".").split(";")]
        if given.only and case["id"] not in given.only:
            continue
        if not all(path.exists() for path in paths):
            counted["missing"] += 1
            continue
        found = outcome(paths)
        right = is_right(case, found)
        sure = not right and found.kind == "read"
        counted["right" if right else "confidently wrong" if sure else "wrong"] += 1
        grade = "right" if right else "SURE" if sure else "wrong"
        said = "" if given.brief and right else f" {found.said[:400]}"
        print(f"{grade:5} {case['id']} | {case['kind']} | {case['expected']}/{case['also']} "
              f"{case['roles']} || {found.kind} {found.columns}{said}", flush=True)  # fmt: skip
    print(dict(counted))


if __name__ == "__main__":
    main()
