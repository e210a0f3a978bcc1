"""Fixtures: a loopback Hub, small synthetic banks, and a shell that runs the commands."""

import ctypes
import gc
import json
import os
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from hf_lorameta.formats.lora_layout import Layout, Module
from tests.support.fault_hub import FaultHub
from tests.support.once_per_run import share_folder
from tests.support.random_adapter import random_pairs, write_adapter
from tests.support.running_space import RunningSpace, missing, running_space
from tests.support.shell import ONE_THREAD
from tests.support.shell import Done as Done
from tests.support.shell import Shell as Shell
from tests.support.words import TOPICS, word_level

collect_ignore = [
    "benchmarks/official_hub_conftest.py",  # a conftest of other tests
    "benchmarks/space_attacks.py",  # makes large files when it is imported, and has no examples
]

# with this variable, each of a hundred processes compiles this package, which takes 2 s
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
os.environ["POT_BACKEND_DISABLE_PYTORCH"] = "1"  # its import takes seconds
os.environ["HF_LORAMETA_NO_BASE"] = "1"  # commands check an adapter only where a test asks for it

# slow generation of examples shows a busy machine, not a wrong test
_TOO_SLOW = hypothesis.HealthCheck.too_slow
hypothesis.settings.register_profile(
    "plain",
    derandomize=True,  # more of the same examples in each run would show little
    max_examples=30,
    deadline=None,
    suppress_health_check=[_TOO_SLOW],
)
hypothesis.settings.register_profile(
    "explore", deadline=None, max_examples=2000, suppress_health_check=[_TOO_SLOW]
)
hypothesis.settings.load_profile("plain")

_UNIT = [
    Path(__file__).parents[1] / path
    for path in (
        *("tests/cards", "tests/data", "tests/formats", "tests/method"),
        *("tests/test_errors.py", "tests/test_files.py", "tests/test_recipe.py"),
        *("tests/engines/test_word_classifier.py", "hf_lorameta/engines/word_classifier.py"),
        *("hf_lorameta/cards", "hf_lorameta/data", "hf_lorameta/formats", "hf_lorameta/method"),
    )
]
"""Where the unit tests are."""
_OTHERS = [
    Path(__file__).parents[1] / path
    for path in (
        *("tests/method/test_neural.py", "tests/method/test_readme.py"),
        "hf_lorameta/method/neural.py",
    )
]
"""Files among them that train or generate."""
_HEAVY = {"world", "web", "torch", "pot"}
"""Fixtures that start processes, or import what takes seconds; all that do so use them."""


_SPACES = {
    f"tests/space/{file}.py": space
    for space, files in {
        "web": (
            *(f"browser/test_{name}" for name in ("accessibility", "error_states", "page")),
            *("test_api", "test_attacks", "test_bombs"),
        ),
        "own_space": ("browser/test_visitors", "test_own_machine"),
        "tiny_space": ("browser/test_trying", "test_generating"),
    }.items()
    for file in files
}
"""Files that use a fixture which is a Space: one process runs all of a Space."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the unit tests: in these places, all that start no process and run no model.

    The files that take longest come first, so that others run beside them: those of a Space, then
    all with slow tests. Short ones come last, so that no process ends long before another.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    inside = {
        path
        for path in {item.path for item in items}.difference(_OTHERS)
        if not {path, *path.parents}.isdisjoint(_UNIT)
    }
    items.sort(
        key=lambda item: (
            item.nodeid.partition("::")[0] not in _SPACES, item.path not in slow,
            item.path in inside,
        )
    )  # fmt: skip
    for item in items:
        heavy = _HEAVY.intersection(getattr(item, "fixturenames", ()))
        if item.path in inside and not heavy and not item.get_closest_marker("slow"):
            item.add_marker("unit")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage while modules are imported, nor later among what they made.

    Both would take seconds of each process.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


class OnlyUnitTests:
    """Import nothing but the unit tests: most others import torch."""

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Leave out files and folders that have no unit tests."""
        paths = [collection_path, *collection_path.parents]
        near = any(path in paths or collection_path in path.parents for path in _UNIT)
        return None if near and collection_path not in _OTHERS else True


def pytest_configure(config: pytest.Config) -> None:
    """Collect only unit tests where no others run; as a plugin, in ``hf_lorameta`` as well."""
    if config.option.markexpr == "unit":
        os.environ["USE_TORCH"] = "0"  # else `datasets` imports it
        config.pluginmanager.register(OnlyUnitTests())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run files in this process, unit tests in one for each core, and other folders in one more.

    Other tests often wait for processes, servers and pages.
    """
    if all(Path(argument.partition("::")[0]).is_file() for argument in config.args):
        return 0
    cores = min(os.cpu_count() or 1, 8)
    return cores if config.option.markexpr == "unit" else cores + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run each file in one process, and the files of a Space in the same."""
    from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

    class Scheduling(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return _SPACES.get(file, file)

    return Scheduling(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Let worker processes share files, and use one thread: more would wait for the same cores."""
    os.environ |= ONE_THREAD
    share_folder()


BASE = "base/tiny"
LAYOUT = tuple(
    Module(f"model.layers.{i}.self_attn.{name}", 8, out)
    for i in (0, 1)
    for name, out in (("q_proj", 8), ("v_proj", 4))
)
BASE_CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


@dataclass
class Account:
    """A user of the loopback Hub who owns the repos of a synthetic bank."""

    hub: FaultHub
    name: str
    token: str
    entries: list[dict[str, Any]] = field(default_factory=list)

    def adapter(self, name: str, files: dict[str, bytes] | None = None, **shape: Any) -> str:
        """Create an adapter repo."""
        repo = f"{self.name}/{name}"
        self.hub.create_repo(repo)
        self.hub.commit(repo, dict(files if files is not None else adapter_files(**shape)))
        return repo

    def dataset(self, name: str, files: dict[str, bytes], **kind: Any) -> str:
        """Create a dataset repo."""
        repo = f"{self.name}/{name}"
        self.hub.create_repo(repo, repo_type="dataset", **kind)
        self.hub.commit(repo, dict(files), repo_type="dataset")
        return repo

    def entry(self, name: str, topic: int = 0, **shape: Any) -> dict[str, Any]:
        """Create an adapter and its dataset, and add them to `entries`."""
        entry = {
            "adapter": self.adapter(name, seed=len(self.entries), **shape),
            "dataset": self.dataset(name, {"train.jsonl": rows(topic)}),
            "license": "mit",
        }
        self.entries.append(entry)
        return entry

    def manifest(self, path: Path, entries: list[dict[str, Any]] | None = None) -> Path:
        """Write a manifest of the given entries, by default all."""
        listed = self.entries if entries is None else entries
        path.write_text(json.dumps({"version": 1, "base_model": BASE, "entries": listed}))
        return path


def rows(topic: int, number: int = 24) -> bytes:
    """Return a jsonl file with words of one topic."""
    words = TOPICS[topic].split()
    lines = [
        {"input": f"say {words[i % 4]}", "output": f"{words[(i + 1) % 4]} {words[i % 3]}"}
        for i in range(number)
    ]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def adapter_files(
    seed: int = 0,
    rank: int = 2,
    base: str = BASE,
    layout: Layout = LAYOUT,
    **config: object,
) -> dict[str, bytes]:
    """Return PEFT's two files with small random weights; `config` overrides settings."""
    pairs = random_pairs(layout, rank, seed, scale=0.1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_adapter(Path(scratch), layout, pairs, base, **config)
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write files into a folder, by their paths in it, and return the folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def tokenizer_json() -> bytes:
    """Return a tokenizer of the topics' words."""
    return word_level(["[UNK]", "say", *" ".join(TOPICS).split()])


def tree(folder: Path) -> dict[str, bytes]:
    """Return the files of a bank, except those for resuming a build."""
    paths = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return {k: p.read_bytes() for k, p in sorted(paths.items()) if not k.startswith(".build")}


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A shell for a loopback Hub that has a base model."""
    with FaultHub() as hub:
        hub.add_user("base")
        hub.create_repo(BASE)
        card = b"---\nlicense: apache-2.0\n---\n"
        config = json.dumps(BASE_CONFIG).encode()
        files = {"tokenizer.json": tokenizer_json(), "README.md": card, "config.json": config}
        hub.commit(BASE, files)
        shell = Shell(hub, tmp_path_factory.mktemp("home"))
        try:
            yield shell
        finally:
            shell.close()


@pytest.fixture
def cli(world: Shell, tmp_path: Path) -> Iterator[Shell]:
    """The shell in this test's own folder, without faults or logged requests."""
    world.cwd = tmp_path
    world.hub.clear_faults()
    world.hub.clear_requests()
    yield world
    world.hub.clear_faults()


_NUMBERS = count(1)


@pytest.fixture(scope="session")
def enrol(world: Shell) -> Callable[[], Account]:
    """Function that creates a new account."""

    def make() -> Account:
        name = f"user{next(_NUMBERS)}"
        return Account(world.hub, name, world.hub.add_user(name))

    return make


@pytest.fixture
def model_commands(world: Shell) -> None:
    """Let commands that run a model in torch start sooner."""
    world.imports = ("peft", "transformers.models.llama.modeling_llama")


@pytest.fixture(scope="module", autouse=True)
def memory_returned() -> Iterator[None]:
    """Give the memory of a file's models back to the system; glibc keeps much of it otherwise."""
    yield
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


@pytest.fixture(scope="session")
def torch() -> Any:
    """The module, whose import takes seconds."""
    return pytest.importorskip("torch")


@pytest.fixture(scope="session")
def pot() -> Any:
    """POT, optimal transport in Python, whose import takes a second."""
    return pytest.importorskip("ot")


@pytest.fixture
def one_thread(torch: Any) -> Iterator[None]:
    """Let torch use one thread, which is the fastest for a tiny model."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def user(enrol: Callable[[], Account]) -> Account:
    """An account used by this test only."""
    return enrol()


@dataclass(frozen=True)
class Built:
    """A bank of four adapters as a folder and as a repo, and the owner of its source repos."""

    folder: Path
    repo: str
    owner: Account


@pytest.fixture(scope="session")
def bank(
    world: Shell, enrol: Callable[[], Account], tmp_path_factory: pytest.TempPathFactory
) -> Built:
    """A built and published bank; tests must not change it."""
    owner, folder = enrol(), tmp_path_factory.mktemp("bank")
    for topic in range(4):
        owner.entry(f"e{topic}", topic)
    world.cwd = folder
    world("bank", "build", owner.manifest(folder / "m.yaml"), "-o", folder / "bank")
    repo = f"{owner.name}/bank"
    world("bank", "push", folder / "bank", repo, token=owner.token)
    return Built(folder / "bank", repo, owner)


@dataclass(frozen=True)
class Web:
    """The running Space, as on the Hub; the saved token on its machine is the owner's."""

    space: RunningSpace
    owner: Account


@pytest.fixture(scope="session")
def web(
    world: Shell, enrol: Callable[[], Account], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Web]:
    """The Space with the embedded bank, connected to the loopback Hub."""
    if reason := missing("gradio", "gradio_client"):
        pytest.skip(reason)
    owner, home = enrol(), tmp_path_factory.mktemp("web")
    with running_space(world.hub, home, token=owner.token, on_hub=True) as space:
        yield Web(space, owner)


def touched(hub: FaultHub, *parts: str) -> list[str]:
    """Return the paths of logged requests that contain every part."""
    return [r.path for r in hub.requests if all(part in r.path for part in parts)]
