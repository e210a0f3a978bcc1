"""Everything that can go wrong, on purpose: ``python -m tests.benchmarks.survival [--small]``.

Commands run as processes against the loopback Hub. Each case harms one command in one way and then
asks: did it end well at once, or did it say in two lines what is wrong and end well when it was
simply run again? And is the result byte for byte that of an undisturbed run? Prints Markdown.
"""

import argparse
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from hf_lorameta.localhub import Fault, LocalHub
from tests.benchmarks import fuzz
from tests.conftest import BASE, Account, Built, Done, Shell, rows, tokenizer_json, touched, tree

QUICK = """
import hf_lorameta.hub as h, huggingface_hub.utils._http as w, datasets.config as d
h.time = w.time = type("T", (), {"sleep": staticmethod(lambda s: None), "time": __import__("time").time,
                                 "perf_counter": __import__("time").perf_counter})
d.STREAMING_READ_RETRY_INTERVAL = d.STREAMING_READ_SERVER_UNAVAILABLE_RETRY_INTERVAL = 0
"""  # noqa: E501
FOLDER = "target"


@dataclass
class Tally:
    """One row of the table."""

    what: str
    runs: int = 0
    at_once: int = 0
    repeated: int = 0
    failed: list[str] = field(default_factory=list)

    def row(self) -> str:
        wrong = f"{len(self.failed)}: {'; '.join(self.failed)[:200]}" if self.failed else "0"
        return f"| {self.what} | {self.runs} | {self.at_once} | {self.repeated} | {wrong} |"


@dataclass
class World:
    """The Hub, an undisturbed bank, and the commands under test."""

    shell: Shell
    bank: Built
    scratch: Path
    said: list[str] = field(default_factory=list)
    expected: dict[str, dict[str, bytes]] = field(default_factory=dict)
    numbers: "count[int]" = field(default_factory=count)

    @property
    def hub(self) -> LocalHub:
        return self.shell.hub

    def commands(self) -> dict[str, Callable[[str], tuple[object, ...]]]:
        """Each makes its words for a fresh name."""
        owner, data = self.bank.owner.name, f"{self.bank.owner.name}/e1"
        self.bank.owner.manifest(self.scratch / "m.yaml")
        return {
            "build": lambda name: ("bank", "build", self.scratch / "m.yaml", "-o", name, "-q"),
            "pull": lambda name: ("bank", "pull", self.bank.repo, "-o", name, "--all", "-q"),
            "plan": lambda name: ("plan", "-d", data, "--bank", self.bank.repo, "-q", "--json"),
            "push": lambda name: ("push", "-d", data, "--bank", self.bank.folder, "-q", "--yes",
                                  "--repo-id", f"{owner}/{name}"),
        }  # fmt: skip

    def result(self, command: str, name: str, done: Done) -> dict[str, bytes]:
        """What a command made, without what is new each time."""
        if command == "plan":
            return {"out": done.out.encode()}
        if command == "push":
            repo = f"{self.bank.owner.name}/{name}"
            files = {f: self.hub.read(repo, f) for f in self.hub.files(repo)}
            return {k: v.replace(name.encode(), b"NAME") for k, v in files.items()}
        made = tree(self.shell.cwd / name)
        return {k: v for k, v in made.items() if k.startswith(("adapters/", "bank.json", "prof"))}

    def run(self, words: tuple[object, ...], code: int | None = 0, before: str = QUICK) -> Done:
        # the client's cache would hide a transfer from a second run
        shutil.rmtree(self.shell.home / "hub", ignore_errors=True)
        done = self.shell(*words, token=self.bank.owner.token, code=code, before=before)
        self.said += [done.out, done.err]
        return done

    def undisturbed(self, command: str) -> dict[str, int]:
        """Run once in peace: keeps the result; returns bytes of each GET, by path."""
        self.hub.clear_faults()
        self.hub.clear_requests()
        name = f"{FOLDER}{next(self.numbers)}"
        done = self.run(self.commands()[command](name))
        self.expected[command] = self.result(command, name, done)
        return {_pattern(r.path.replace(name, "NAME")): max(r.bytes_sent, 1)
                for r in self.hub.requests if r.method in ("GET", "POST")}  # fmt: skip

    def survive(self, tally: Tally, command: str, *faults: Fault, before: str = "") -> None:
        """One harmed run, and one more if it ended with an error."""
        name = f"{FOLDER}{next(self.numbers)}"
        words = self.commands()[command](name)
        self.hub.clear_faults()
        for fault in faults:
            fault.path = fault.path.replace("NAME", name)
            self.hub.add_fault(fault)
        tally.runs += 1
        try:
            harmed = self.run(words, None, QUICK + before)
            self.hub.clear_faults()
            if harmed.code not in (0, 3, 4, 5, 6):
                raise AssertionError(f"exit {harmed.code}: {harmed.err[-200:]}")
            if command == "build" and harmed.code == 0:
                harmed = self.run(words)  # takes up entries that had to be skipped
            done = self.run(words) if harmed.code else harmed
            if self.result(command, name, done) != self.expected[command]:
                raise AssertionError("other bytes")
        except AssertionError as error:
            tally.failed.append(f"{command} {[f.path for f in faults]}: {error}")
        else:
            tally.at_once += harmed.code == 0
            tally.repeated += harmed.code != 0
        shutil.rmtree(self.shell.cwd / name, ignore_errors=True)


def _pattern(path: str) -> str:
    import re

    return "^" + re.escape(path.split("?")[0])


# --- the cases ----------------------------------------------------------------------------------


def some(items: list[Any], share: float) -> list[Any]:
    """An even part of a list, all of it for 1."""
    if not items:
        return []
    wanted = max(1, round(len(items) * share))
    return [items[i * len(items) // wanted] for i in range(wanted)]


def cuts(world: World, command: str, share: float) -> Iterator[Tally]:
    """The connection breaks at every tenth of every transfer; a transfer ends early; bytes lie."""
    sizes = world.undisturbed(command)
    cases = [(path, size * tenth // 10) for path, size in sizes.items() for tenth in range(10)]
    tally = Tally(f"{command}: connection cut at every tenth of {len(sizes)} transfers")
    for path, at in some(cases, share):
        world.survive(tally, command, Fault("cut", path=path, after_bytes=at, times=1))
    yield tally
    files = [(path, size) for path, size in sizes.items() if "/api/" not in path]
    tally = Tally(f"{command}: a file that shrinks while it is read")
    for path, size in some(files, share):
        world.survive(tally, command, Fault("truncate", path=path, after_bytes=size // 2, times=1))
    yield tally


def bursts(world: World, command: str, share: float) -> Iterator[Tally]:
    """The Hub is busy or broken for a while, at every request."""
    sizes = world.undisturbed(command)
    for status in (429, 503, 500):
        tally = Tally(f"{command}: {status} three times, at each of {len(sizes)} requests")
        for path in some(list(sizes), share):
            retry = 0 if status == 429 else None
            world.survive(
                tally,
                command,
                Fault("status", status=status, retry_after=retry, path=path, times=3),
            )
        yield tally


def checksums(world: World, share: float) -> Iterator[Tally]:
    """A byte of every file of a bank is flipped on its way."""
    sizes = world.undisturbed("pull")
    tally = Tally("pull: a flipped byte (wrong checksum) in every file")
    listed = [(p, s) for p, s in sizes.items() if "/api/" not in p]
    for path, size in some(listed, share):
        world.survive(tally, "pull", Fault("corrupt", path=path, after_bytes=size // 2))
    yield tally


def changed(world: World, share: float) -> Iterator[Tally]:
    """A repo gets another commit, or is deleted, between its resolution and the fetch."""
    import huggingface_hub as hfh

    owner = world.bank.owner
    for what in ("changed", "deleted"):
        tally = Tally(f"build: an adapter's repo {what} between resolve and fetch")
        for number in range(max(1, round(4 * share))):
            made = Account(owner.hub, owner.name, owner.token)
            made.entries = list(owner.entries[:2])
            extra = made.entry(f"x{what}{number}{next(world.numbers)}", 2)
            manifest = made.manifest(world.scratch / "changed.yaml")
            repo = extra["adapter"]
            before = world.hub.repo(repo)
            world.hub.clear_faults()
            world.hub.add_fault(Fault("delay", path=f"{repo}/resolve", seconds=0.6, times=1))
            world.hub.clear_requests()
            api = hfh.HfApi(endpoint=world.hub.url, token=owner.token)

            def act(repo: str = repo, what: str = what, api: Any = api) -> None:
                if what == "changed":
                    world.hub.commit(repo, {"adapter_model.safetensors": b"other"})
                else:
                    api.delete_repo(repo)

            name = f"{FOLDER}{next(world.numbers)}"
            with meanwhile(world.hub, f"{repo}/resolve", act):
                done = world.run(("bank", "build", manifest, "-o", name, "-q", "--json"), None)
            tally.runs += 1
            listed = done.json if done.code == 0 else {"entries": [], "skipped": []}
            revisions = [e["adapter_revision"] for e in listed["entries"] if e["adapter"] == repo]
            pinned = before is not None and revisions == [before.sha]
            skipped = repo in [e["adapter"] for e in listed["skipped"]]
            good = pinned if what == "changed" else pinned or skipped
            tally.at_once += good
            if not good:
                tally.failed.append(f"{what}: {done.code} {done.err[-200:]}")
        yield tally


class meanwhile:  # noqa: N801 - a context manager
    """Does something as soon as a request for a path arrives."""

    def __init__(self, hub: LocalHub, part: str, act: Callable[[], object]) -> None:
        self._hub, self._part, self._act = hub, part, act
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if touched(self._hub, self._part):
                self._act()
                return
            time.sleep(0.01)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join()


def kills(world: World, share: float) -> Iterator[Tally]:
    """kill -9 at random moments of a build, then the same command again."""
    world.undisturbed("build")
    tally = Tally("build: kill -9 at random moments, then resumed")
    rng = random.Random(0)
    for _ in range(max(1, round(50 * share))):
        name = f"{FOLDER}{next(world.numbers)}"
        words = world.commands()["build"](name)
        world.hub.clear_faults()
        world.hub.clear_requests()
        world.hub.add_fault(Fault("delay", path="/resolve/", seconds=0.05))
        moment = rng.randrange(1, 40)
        build = world.shell.start(*words, token=world.bank.owner.token)
        deadline = time.monotonic() + 60
        while len(world.hub.requests) < moment and build.poll() is None:
            if time.monotonic() > deadline:
                break
            time.sleep(0.002)
        build.send_signal(signal.SIGKILL)
        out, err = build.communicate()
        world.said += [out, err]
        records = (world.shell.cwd / name / ".build").glob("*.json")
        finished = [p.stem.replace("--", "/") for p in records if p.stem != "seen"]
        world.hub.clear_faults()
        world.hub.clear_requests()
        done = world.run(words)
        tally.runs += 1
        again = [f for f in finished if touched(world.hub, f"/{f}/")]
        same = world.result("build", name, done) == world.expected["build"]
        if again or not same:
            tally.failed.append(f"fetched again: {again}" if again else "other bytes")
        else:
            tally.repeated += 1
        shutil.rmtree(world.shell.cwd / name, ignore_errors=True)
    yield tally


def disks(world: World, share: float) -> Iterator[Tally]:
    """The disk is full at every file that a command writes."""
    for command in ("build", "pull", "push"):
        world.undisturbed(command)
        sizes = sorted({len(content) for content in world.expected[command].values()})
        tally = Tally(f"{command}: disk full at every size of file it writes")
        for size in some(sizes, share):
            full = f"import resource as r\nr.setrlimit(r.RLIMIT_FSIZE, ({size - 1}, {size - 1}))\n"
            world.survive(tally, command, before=full)
        yield tally


def folders(world: World, share: float) -> Iterator[Tally]:
    """Two builds into one folder at once; folders that cannot be written."""
    world.undisturbed("build")
    tally = Tally("build: two into one folder at once")
    for _ in range(max(1, round(5 * share))):
        name = f"{FOLDER}{next(world.numbers)}"
        words = world.commands()["build"](name)
        world.hub.add_fault(Fault("delay", path="/resolve/", seconds=0.1))
        both = [world.shell.start(*words, token=world.bank.owner.token) for _ in range(2)]
        codes = [(b.communicate(), b.returncode)[1] for b in both]
        world.hub.clear_faults()
        tally.runs += 1
        same = world.result("build", name, world.run(words)) == world.expected["build"]
        if sorted(codes) in ([0, 0], [0, 4]) and same:
            tally.at_once += 1
        else:
            tally.failed.append(f"exit codes {codes}, same bytes: {same}")
    yield tally
    tally = Tally("build, pull, pack: into a file system that is read-only")
    place = world.scratch / "readonly"
    place.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        tally.what += " (skipped: needs the right to mount one)"
        yield tally
        return
    try:
        made = {name: world.commands()[name](str(place / name)) for name in ("build", "pull")}
        made["pack"] = ("bank", "pack", world.bank.folder, "-o", place / "pack", "-q")
        for name, words in made.items():
            done = world.run(words, None)
            tally.runs += 1
            if done.code == 4 and ("could not be" in done.err or "cannot be" in done.err):
                tally.repeated += 1
            else:
                tally.failed.append(f"{name}: exit {done.code} {done.err[-200:]}")
    finally:
        subprocess.run(["umount", str(place)], check=True)
    yield tally


def fuzzed(number: int) -> Iterator[Tally]:
    """Bad inputs of every kind: nothing but our own errors, and no more memory than stated."""
    for name, function in fuzz.KINDS.items():
        tally = Tally(f"fuzz: {name}")
        before = _peak()
        tally.runs, tally.repeated, tally.failed = function(number // len(fuzz.KINDS))
        tally.at_once = tally.runs - tally.repeated - len(tally.failed)
        grown = _peak() - before
        tally.what += f" (peak memory +{grown:.0f} MB)"
        if grown > fuzz.CAP_MB:
            tally.failed.append(f"memory grew by {grown:.0f} MB, cap {fuzz.CAP_MB}")
        yield tally


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def tokens(world: World) -> Iterator[Tally]:
    """The token in anything printed, written or asked for."""
    tally = Tally("the token in anything printed or written")
    secret = world.bank.owner.token
    for said in world.said:
        tally.runs += 1
        if secret in said:
            tally.failed.append("printed")
    for path in world.scratch.rglob("*"):
        if path.is_file():
            tally.runs += 1
            if secret.encode() in path.read_bytes():
                tally.failed.append(str(path.relative_to(world.scratch)))
    tally.at_once = tally.runs - len(tally.failed)
    yield tally


# --- all of it ----------------------------------------------------------------------------------


def make_world(scratch: Path, hub: LocalHub) -> World:
    """A Hub with a base model and a published bank of four adapters."""
    hub.add_user("base")
    hub.create_repo(BASE)
    hub.commit(BASE, {"tokenizer.json": tokenizer_json()})
    for name in ("home", "work"):
        (scratch / name).mkdir()
    shell = Shell(hub, scratch / "home")
    shell.cwd = scratch / "work"
    owner = Account(hub, "owner", hub.add_user("owner"))
    for topic in range(4):
        owner.entry(f"e{topic}", topic)
    folder = scratch / "work" / "bank"
    shell("bank", "build", owner.manifest(scratch / "m.yaml"), "-o", folder)
    shell("bank", "push", folder, "owner/bank", token=owner.token)
    return World(shell, Built(folder, "owner/bank", owner), scratch)


def suite(world: World, share: float, inputs: int) -> Iterator[Tally]:
    """Every case; a share of the full number of runs."""
    yield from checksums(world, share)
    for command in world.commands():
        yield from cuts(world, command, share)
        yield from bursts(world, command, share)
    yield from changed(world, share)
    yield from kills(world, share)
    yield from disks(world, share)
    yield from folders(world, share)
    yield from fuzzed(inputs)
    yield from tokens(world)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a twentieth of the runs")
    parser.add_argument("--share", type=float, help="of the runs; 1 is all")
    parser.add_argument("-o", "--output", type=Path, help="write the table there as JSON, too")
    chosen = parser.parse_args()
    share = chosen.share or (0.05 if chosen.small else 1.0)
    rows(0)
    tallies = []
    print("| what | runs | well at once | said so, then well | wrong |\n|---|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as scratch, LocalHub() as hub:
        Path(scratch).chmod(0o755)
        world = make_world(Path(scratch), hub)
        for tally in suite(world, share, max(2000, round(100_000 * share))):
            print(tally.row(), flush=True)
            tallies.append(tally)
        world.shell.close()
    if chosen.output:
        chosen.output.write_text(json.dumps([vars(t) for t in tallies], indent=1))
    sys.exit(any(t.failed for t in tallies))


if __name__ == "__main__":
    main()
