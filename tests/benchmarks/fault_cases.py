"""Everything that `tests.benchmarks.fault_injection` does to a command, found by watching it in peace."""

import random
import re
from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property
from typing import Any

from tests.benchmarks import fuzz
from tests.benchmarks.fault_scenarios import COMMANDS, RETRY_AFTER, Case, Seen, World


def some(items: list[Case], share: float) -> list[Case]:
    """An even part of a list, all of it for 1."""
    if not items:
        return []
    wanted = max(1, round(len(items) * share))
    return [items[i * len(items) // wanted] for i in range(wanted)]


class Cases:
    """Every case there is, for what the commands ask of the Hub.

    Args:
        world: where they are watched in peace.
        inputs: of the fuzz.
    """

    def __init__(self, world: World, inputs: int) -> None:
        self.world, self.inputs = world, inputs

    @cached_property
    def traces(self) -> dict[str, list[Seen]]:
        return {command: self.world.trace(command) for command in COMMANDS}

    def chosen(self, share: float = 1.0) -> Iterator[Case]:
        """A share of every row."""
        for make in (self.cuts, self.shrinking, self.bursts, self.outages, self.checksums,
                     self.swaps, self.kills, self.disks, self.at_once, self.fuzzes):  # fmt: skip
            found: dict[str, list[Case]] = {}
            for case in make():
                found.setdefault(case.row, []).append(case)
            for row in found.values():
                yield from some(row, share)

    def faults(self, row: str, command: str, faults: list[dict[str, Any]]) -> Iterator[Case]:
        for fault in faults:
            what = {k: v for k, v in fault.items() if k not in ("path", "method", "skip")}
            key = f"{fault['method']} {fault['path']} #{fault['skip']} {what}"
            yield Case(row, key, "fault", {"command": command, "fault": fault})

    def cuts(self) -> Iterator[Case]:
        """The connection breaks."""
        for command, trace in self.traces.items():
            down = [seen for seen in trace if seen.method != "HEAD" and seen.sent]
            cuts = [
                seen.fault(kind="cut", after_bytes=seen.sent * tenth // 10)
                for seen in down
                for tenth in range(10)
            ]
            row = f"{command}: connection cut at every tenth of {len(down)} answers"
            yield from self.faults(row, command, cuts)
            heads = [s.fault(kind="cut") for s in trace if s.method == "HEAD" or not s.sent]
            up = [s.fault(kind="cut", in_request=True, after_bytes=s.received // 2)
                  for s in trace if s.received]  # fmt: skip
            row = f"{command}: connection cut before an answer, or while something is sent"
            yield from self.faults(row, command, [*heads, *up])

    def files(self, command: str) -> list[Seen]:
        """Requests that fetch a file's content."""
        trace = self.traces[command]
        return [s for s in trace if s.method == "GET" and s.sent and not s.path.startswith("^/api")]

    def shrinking(self) -> Iterator[Case]:
        """A file is shorter than was said; once, and as long as the command runs."""
        for command in COMMANDS:
            half = [
                seen.fault(kind="truncate", after_bytes=seen.sent // 2, times=times)
                for seen in self.files(command)
                for times in (1, None)
            ]
            yield from self.faults(
                f"{command}: a file that shrinks while it is read", command, half
            )

    def bursts(self) -> Iterator[Case]:
        """The Hub is busy or broken for a while, at every request."""
        for command, trace in self.traces.items():
            first = [seen for seen in trace if seen.nth == 0]
            for status, told in ((429, f" with Retry-After: {RETRY_AFTER}"), (503, ""), (500, "")):
                row = f"{command}: {status}{told} three times, at each of {len(first)} requests"
                after = RETRY_AFTER if status == 429 else None
                refused = [s.fault(kind="status", status=status, retry_after=after, times=3)
                           for s in first]  # fmt: skip
                yield from self.faults(row, command, refused)

    def outages(self) -> Iterator[Case]:
        """From some request on the Hub answers nothing but 503, until the command is run again."""
        for command, trace in self.traces.items():
            down = [
                {"kind": "status", "status": 503, "path": "", "method": ".*", "times": None,
                 "skip": at}
                for at in range(len(trace))
            ]  # fmt: skip
            row = f"{command}: nothing but 503, from each of {len(trace)} requests on"
            yield from self.faults(row, command, down)

    def checksums(self) -> Iterator[Case]:
        """One bit of a file is another on its way."""
        for command in COMMANDS:
            flips = [
                seen.fault(kind="corrupt", bits=1, after_bytes=seen.sent * part // 4)
                for seen in self.files(command)
                if not seen.path.startswith("^/datasets/owner/e")  # rows are read as they come
                for part in (1, 3)
            ]
            flips += [
                s.fault(kind="corrupt", bits=1, in_request=True, after_bytes=s.received // 2)
                for s in self.traces[command]
                if s.method == "PUT"
            ]
            yield from self.faults(
                f"{command}: one bit of a file flipped on its way", command, flips
            )

    def swaps(self) -> Iterator[Case]:
        """A repo is another one, or gone, between two requests."""
        places = {
            "build": [("model", "owner/e1"), ("dataset", "owner/e1")],
            "pull": [("dataset", "owner/bank")],
            "plan": [("dataset", "owner/e1"), ("dataset", "owner/bank")],
            "push": [("dataset", "owner/e1"), ("dataset", "owner/bank")],
        }
        for command, repos in places.items():
            for what in ("changed", "deleted"):
                row = f"{command}: a repo {what} just before each request for it"
                for kind, repo_id in repos:
                    place = f"{kind}s/{repo_id}" if kind == "dataset" else repo_id
                    part = re.compile(rf"\^/(api/models/|api/)?{re.escape(place)}\b")
                    for seen in self.traces[command]:
                        if part.match(seen.path.replace("\\", "")):
                            told = {"command": command, "repo": (kind, repo_id), "what": what,
                                    "seen": asdict(seen)}  # fmt: skip
                            yield Case(row, f"{kind} {repo_id} {seen.key}", "swap", told)
        for what in ("changed", "deleted"):
            row = f"push: the target {what} by somebody else just before each request for it"
            for seen in self.traces["push"]:
                if "NAME" in seen.path:
                    told = {"what": what, "seen": asdict(seen)}
                    yield Case(row, seen.key, "target", told)

    def kills(self) -> Iterator[Case]:
        """kill -9 at 50 random moments, spread over the whole run."""
        rng = random.Random(0)
        for command in ("build all", "pull", "plan", "push"):
            row = f"{command.split()[0]}: kill -9 at 50 random moments, then resumed"
            for i in range(50):
                told = {"command": command, "share": (i + rng.random()) / 50}
                yield Case(row, f"moment {i}", "kill", told)

    def disks(self) -> Iterator[Case]:
        """A disk that is full, or read-only."""
        if not self.world.mounted:
            return
        for command in COMMANDS:
            pages = self.world.pages(command) + 8  # what it removes in the end
            row = f"{command}: disk full after 0 to {pages - 1} pages were written"
            for page in range(pages):
                yield Case(row, f"page {page}", "full", {"command": command, "pages": page})
        for command in (*COMMANDS, "pack", "generate"):
            row = "build, pull, plan, push, pack, generate: on a read-only disk"
            yield Case(row, command, "read_only", {"command": command})

    def at_once(self) -> Iterator[Case]:
        """Two at once."""
        for command in ("build", "pull"):
            for number in range(5):
                row = f"{command}: two into one folder at once"
                told = {"command": command, "number": number}
                yield Case(row, f"number {number}", "together", told)

    def fuzzes(self) -> Iterator[Case]:
        """Bad inputs."""
        for name, part in fuzz.shares(self.inputs).items():
            yield Case(f"fuzz: {name}", f"{part} inputs", "fuzz", {"name": name, "inputs": part})
