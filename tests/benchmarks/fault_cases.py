"""Enumerate the faults of `tests.benchmarks.fault_injection` from traces of undisturbed runs."""

import random
import re
from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property
from typing import Any

from tests.benchmarks import fuzz
from tests.benchmarks.fault_scenarios import COMMANDS, RETRY_AFTER, Case, Request, World


def evenly_spaced(items: list[Case], share: float) -> list[Case]:
    """A share of a list, at least one; all of it for 1."""
    if not items:
        return []
    count = max(1, round(len(items) * share))
    return [items[i * len(items) // count] for i in range(count)]


class FaultCases:
    """All cases, for the requests that the commands make.

    Args:
        world: runs the undisturbed commands.
        inputs: number of fuzzed inputs.
    """

    def __init__(self, world: World, inputs: int) -> None:
        self.world, self.inputs = world, inputs

    @cached_property
    def traces(self) -> dict[str, list[Request]]:
        return {command: self.world.trace(command) for command in COMMANDS}

    def select(self, share: float = 1.0) -> Iterator[Case]:
        """A share of the cases of every row."""
        for family in (self.passing_faults, self.cuts, self.truncations, self.error_bursts,
                       self.places, self.outages, self.flipped_bits, self.repo_changes,
                       self.kills, self.disks, self.concurrent_runs,
                       self.fuzzed_inputs):  # fmt: skip
            rows: dict[str, list[Case]] = {}
            for case in family():
                rows.setdefault(case.row, []).append(case)
            for cases in rows.values():
                yield from evenly_spaced(cases, share)

    def faults(
        self, row: str, command: str, faults: list[dict[str, Any]], kind: str = "fault"
    ) -> Iterator[Case]:
        for fault in faults:
            settings = {k: v for k, v in fault.items() if k not in ("path", "method", "skip")}
            key = f"{fault['method']} {fault['path']} #{fault['skip']} {settings}"
            yield Case(row, key, kind, {"command": command, "fault": fault})

    def passing_faults(self) -> Iterator[Case]:
        """One fault at one request, which must not end the command."""
        for command, trace in self.traces.items():
            row = f"{command}: one error or cut that passes, on each of {len(trace)} requests"
            for seen in trace:
                faults = [seen.fault(kind="status", status=s) for s in (500, 502, 503, 504)]
                faults.append(seen.fault(kind="cut"))  # the answer is lost
                if seen.received:
                    faults.append(seen.fault(kind="cut", in_request=True))
                yield from self.faults(row, command, faults, kind="passing")

    def cuts(self) -> Iterator[Case]:
        """The connection breaks."""
        for command, trace in self.traces.items():
            answers = [seen for seen in trace if seen.method != "HEAD" and seen.sent]
            cuts = [
                seen.fault(kind="cut", after_bytes=seen.sent * tenth // 10)
                for seen in answers
                for tenth in range(10)
            ]
            row = f"{command}: connection cut at every tenth of {len(answers)} answers"
            yield from self.faults(row, command, cuts)
            heads = [s.fault(kind="cut") for s in trace if s.method == "HEAD" or not s.sent]
            uploads = [s.fault(kind="cut", in_request=True, after_bytes=s.received // 2)
                       for s in trace if s.received]  # fmt: skip
            row = f"{command}: connection cut before an answer, or while something is sent"
            yield from self.faults(row, command, [*heads, *uploads])

    def file_requests(self, command: str) -> list[Request]:
        """Requests that fetch a file's content."""
        trace = self.traces[command]
        return [s for s in trace if s.method == "GET" and s.sent and not s.path.startswith("^/api")]

    def truncations(self) -> Iterator[Case]:
        """A file is shorter than announced, once or at every request."""
        for command in COMMANDS:
            row = f"{command}: a file that shrinks while it is read"
            faults = [
                seen.fault(kind="truncate", after_bytes=seen.sent // 2, times=times)
                for seen in self.file_requests(command)
                for times in (1, None)
            ]
            yield from self.faults(row, command, faults)

    def error_bursts(self) -> Iterator[Case]:
        """The Hub answers with an error three times, at every request."""
        for command, trace in self.traces.items():
            first = [seen for seen in trace if seen.nth == 0]
            for status, header in ((429, f" with Retry-After: {RETRY_AFTER}"), (503, ""),
                                   (500, "")):  # fmt: skip
                row = f"{command}: {status}{header} three times, at each of {len(first)} requests"
                after = RETRY_AFTER if status == 429 else None
                errors = [s.fault(kind="status", status=status, retry_after=after, times=3)
                          for s in first]  # fmt: skip
                yield from self.faults(row, command, errors)

    def outages(self) -> Iterator[Case]:
        """The Hub answers 503 from some request on, until the command is run again."""
        for command, trace in self.traces.items():
            row = f"{command}: nothing but 503, from each of {len(trace)} requests on"
            faults = [
                {"kind": "status", "status": 503, "path": "", "method": ".*", "times": None,
                 "skip": index}
                for index in range(len(trace))
            ]  # fmt: skip
            yield from self.faults(row, command, faults)

    def flipped_bits(self) -> Iterator[Case]:
        """One bit of a file changes in transit."""
        for command in COMMANDS:
            row = f"{command}: one bit of a file flipped on its way"
            flips = [
                seen.fault(kind="corrupt", bits=1, after_bytes=seen.sent * part // 4)
                for seen in self.file_requests(command)
                if not seen.path.startswith("^/datasets/owner/e")  # streamed, without a checksum
                for part in (1, 3)
            ]
            flips += [
                s.fault(kind="corrupt", bits=1, in_request=True, after_bytes=s.received // 2)
                for s in self.traces[command]
                if s.method == "PUT"
            ]
            yield from self.faults(row, command, flips)

    def repo_changes(self) -> Iterator[Case]:
        """A repo changes or disappears between two requests."""
        read = {
            "build": [("model", "owner/e1"), ("dataset", "owner/e1")],
            "plan": [("dataset", "owner/e1"), ("dataset", "owner/bank")],
            "push": [("dataset", "owner/e1"), ("dataset", "owner/bank")],
        }
        for command, repos in read.items():
            for change in ("changed", "deleted"):
                row = f"{command}: a repo {change} just before each request for it"
                for kind, repo_id in repos:
                    path = f"{kind}s/{repo_id}" if kind == "dataset" else repo_id
                    pattern = re.compile(rf"\^/(api/models/|api/)?{re.escape(path)}\b")
                    for seen in self.traces[command]:
                        if pattern.match(seen.path.replace("\\", "")):
                            arguments = {"command": command, "repo": (kind, repo_id),
                                         "change": change, "request": asdict(seen)}  # fmt: skip
                            yield Case(row, f"{kind} {repo_id} {seen.key}", "repo", arguments)
        for change in ("changed", "deleted"):
            row = f"push: the target {change} by somebody else just before each request for it"
            for seen in self.traces["push"]:
                if "NAME" in seen.path:
                    yield Case(row, seen.key, "target", {"change": change, "request": asdict(seen)})

    def kills(self) -> Iterator[Case]:
        """SIGKILL at 50 random moments, spread over the duration of the command."""
        rng = random.Random(0)
        for command in ("build all", "plan", "push"):
            row = f"{command.split()[0]}: kill -9 at 50 random moments, then resumed"
            for i in range(50):
                share = (i + rng.random()) / 50
                yield Case(row, f"moment {i}", "kill", {"command": command, "share": share})

    def disks(self) -> Iterator[Case]:
        """The disk is full or read-only."""
        if not self.world.mounted:
            return
        for command in COMMANDS:
            pages = self.world.pages(command) + 8  # for files that it removes in the end
            row = f"{command}: disk full after 0 to {pages - 1} pages were written"
            for page in range(pages):
                yield Case(row, f"page {page}", "full_disk", {"command": command, "pages": page})
        for command in (*COMMANDS, "pack", "generate"):
            row = "build, plan, push, pack, generate: on a read-only disk"
            yield Case(row, command, "read_only_disk", {"command": command})

    def places(self) -> Iterator[Case]:
        """One folder cannot be written: the cache, the output, or that for temporary files."""
        if not self.world.mounted:
            return
        states = {"cache": ("missing", "read-only", "warm and read-only", "full"),
                  "tmp": ("full",), "output": ("full", "a mount point")}  # fmt: skip
        for place, found in states.items():
            commands = ("build", "generate") if place == "output" else (*COMMANDS, "generate")
            for state in found:
                row = f"{', '.join(commands)}: {place} {state}"
                for command in commands:
                    arguments = {"command": command, "place": place, "state": state}
                    yield Case(row, command, "place", arguments)

    def concurrent_runs(self) -> Iterator[Case]:
        """Two processes write into one folder at once."""
        for number in range(5):
            arguments = {"command": "build", "number": number}
            yield Case(
                "build: two into one folder at once", f"number {number}", "concurrent", arguments
            )

    def fuzzed_inputs(self) -> Iterator[Case]:
        """Invalid inputs."""
        for name, inputs in fuzz.distribute(self.inputs).items():
            arguments = {"name": name, "inputs": inputs}
            yield Case(f"fuzz: {name}", f"{inputs} inputs", "fuzz", arguments)
