"""Answers to blocks of rows in a file beside the one that they will be in, as they come.

A command that was killed goes on with the blocks that the file has. Each line is one block; a line
that was not finished is dropped.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hf_lorameta.errors import UsageError
from hf_lorameta.files import hidden_sibling, writing


class Journal:
    """The answers so far.

    Args:
        target: the file that all answers will be in.
        digest: of all that the answers depend on; those of another digest are dropped.

    Attributes:
        path: of the journal.

    Raises:
        UsageError: it cannot be written.
    """

    def __init__(self, target: Path, digest: str) -> None:
        self.path, self._target = hidden_sibling(target, ".answers"), target
        self._places: dict[int, int] = {}
        with writing(target, UsageError, "name another file"):
            self._file = self.path.open("a+b", buffering=0)
            self._read(digest)

    def _read(self, digest: str) -> None:
        self._file.seek(0)
        end, head = 0, f"{digest}\n".encode()
        with self.path.open("rb") as lines:
            if lines.readline() == head:
                end = len(head)
                for line in lines:
                    number = _number(line)
                    if number is None:
                        break
                    self._places[number] = end
                    end += len(line)
        self._file.truncate(end)
        if not end:
            self._file.write(head)

    def __contains__(self, number: int) -> bool:
        return number in self._places

    def __len__(self) -> int:
        return len(self._places)

    def add(self, number: int, answers: Sequence[Any]) -> None:
        """Store the answers to a block; JSON values.

        Raises:
            UsageError: the disk is full.
        """
        line = f"{json.dumps([number, answers], ensure_ascii=False)}\n".encode()
        with writing(self._target, UsageError, "name another file"):
            place = self._file.seek(0, 2)
            self._file.write(line)
        self._places[number] = place

    def read(self, number: int) -> list[Any]:
        """Return the answers to a block."""
        with self.path.open("rb") as file:
            file.seek(self._places[number])
            answers: list[Any] = json.loads(file.readline())[1]
        return answers

    def close(self) -> None:
        """Close the file, and keep it."""
        self._file.close()

    def remove(self) -> None:
        """Delete the journal: all answers are in the target."""
        self.close()
        self.path.unlink(missing_ok=True)


def _number(line: bytes) -> int | None:
    """Return the number of the block in a line; None if the line is not whole."""
    with suppress(ValueError, TypeError, IndexError):
        if line.endswith(b"\n"):
            return int(json.loads(line)[0])
    return None
