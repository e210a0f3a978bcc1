"""Builds with process pools, minimal executors and Dask, with workers killed: the same bytes."""

import importlib.util
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

from hf_lorameta.bank.build import build_bank
from hf_lorameta.bank.entry import BuildJob
from hf_lorameta.bank.executors import dask_executor
from hf_lorameta.bank.manifest import load
from hf_lorameta.errors import MissingExtraError
from hf_lorameta.hub.client import Hub
from tests.conftest import Account, Built, Shell, touched, tree
from tests.hub.conftest import isolated_client, use_endpoint
from tests.support.codes import raises_code
from tests.support.fault_hub import Fault

WEIGHTS, ROWS = "adapter_model.safetensors", "train.jsonl"
BUILD = """
from pathlib import Path
from hf_lorameta.bank import build, manifest
from tests.bank.test_build_executors import Inline
build.build_bank(manifest.load(Path("m.yaml")), Path("b"), executor=Inline())
raise SystemExit(0)
"""
needs_dask = pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason="distributed is not installed"
)


isolated = isolated_client
"""Used by all tests here: empty caches and no network."""


class Inline(Executor):
    """Can only submit: runs a job at once, or fails with an error."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    def submit(self, job: Any, /, *given: Any, **named: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        if self._error:
            future.set_exception(self._error)
        else:
            future.set_result(job(*given, **named))
        return future


def test_an_executor_that_can_only_submit_builds_the_same_bytes(
    cli: Shell, bank: Built, tmp_path: Path
) -> None:
    bank.owner.manifest(tmp_path / "m.yaml")
    cli(before=BUILD)
    assert tree(tmp_path / "b") == tree(bank.folder)


def test_dead_workers_fail_a_build(
    cli: Shell, bank: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_endpoint(monkeypatch, cli.hub.url)
    manifest = load(bank.owner.manifest(tmp_path / "m.yaml"))
    dead = Inline(BrokenProcessPool("a worker was killed"))
    with raises_code("workers.died"):
        build_bank(manifest, tmp_path / "b", executor=dead)
    assert not (tmp_path / "b/bank.json").exists()


def await_request(cli: Shell, ended: Callable[[], bool], *parts: str) -> None:
    """Wait until the Hub gets a request whose path contains every part."""
    deadline = time.monotonic() + 120  # imports take long on a busy machine
    while not touched(cli.hub, *parts):
        assert not ended(), "the build ended first"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_job_is_pickled_without_the_token() -> None:
    job = BuildJob(Path("b"), Hub("hf_" + "s" * 34), "base/tiny", 18, "0" * 64)
    pickled = pickle.dumps(job)
    assert b"hf_sss" not in pickled
    assert "Hub(" in repr(pickle.loads(pickled).hub)


class Cluster:
    """A Dask scheduler and workers, each in its own process."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.file, self._env, self._folder = folder / "scheduler.json", env, folder
        self.processes = {"scheduler": self._start("scheduler", "--port", "0")}
        self.address = self._wait_for_address()
        for name in ("w0", "w1"):
            options = ("--name", name, "--nthreads", "1", "--no-nanny")
            self.processes[name] = self._start("worker", *options)

    def _start(self, *args: str) -> "subprocess.Popen[bytes]":
        common = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(self.file)]
        command = [sys.executable, "-m", "dask", *args, *common]
        return subprocess.Popen(
            command, env=self._env, cwd=self._folder,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def _wait_for_address(self) -> str:
        deadline = time.monotonic() + 120  # imports take long on a busy machine
        while True:
            try:
                return str(json.loads(self.file.read_text())["address"])
            except (FileNotFoundError, ValueError):  # not written yet, or not all of it
                if time.monotonic() > deadline:
                    self.close()
                    raise
            time.sleep(0.05)

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def cluster(world: Shell, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers, of which a test kills one."""
    settings = {"USE_TORCH": "0", "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "5s"}
    started = Cluster(tmp_path_factory.mktemp("dask"), world.env() | settings)
    yield started
    started.close()


def kill_the_busy_worker(cluster: Cluster, finished: Path, others: int) -> None:
    """Kill the worker of the slow entry, once all others are finished."""
    import distributed

    with distributed.Client(cluster.address, set_as_default=False) as client:
        deadline = time.monotonic() + 120
        while True:
            busy = [w for w, keys in client.processing().items() if keys]
            done = len(list(finished.glob("user*--*.json")))
            if (len(busy) == 1 and done == others) or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        names = {w: i["name"] for w, i in client.scheduler_info(-1)["workers"].items()}
    assert (len(busy), done) == (1, others)
    os.kill(cluster.processes[names[busy[0]]].pid, signal.SIGKILL)


@needs_dask
@pytest.mark.slow
def test_dask_builds_the_same_bytes_after_a_worker_is_killed_that_profiled_rows(
    cli: Shell, bank: Built, cluster: Cluster, user: Account, tmp_path: Path
) -> None:
    manifest = bank.owner.manifest(tmp_path / "m.yaml")
    slow = bank.owner.entries[1]["adapter"]
    shutil.rmtree(cli.home / "hub", ignore_errors=True)  # weights of other builds
    cli.hub.add_fault(Fault("hold", path=f"/{slow}/resolve/.*{ROWS}", times=1))
    command = ("bank", "build", manifest, "-o", "b", "--dask", cluster.address)
    with ThreadPoolExecutor(1) as pool:
        build = pool.submit(cli, *command, token=user.token)
        await_request(cli, build.done, slow, "/resolve/", ROWS)
        kill_the_busy_worker(cluster, tmp_path / "b/.build", others=3)
        cli.hub.clear_faults()
        build.result(timeout=60)
    assert tree(tmp_path / "b") == tree(bank.folder)
    for entry in bank.owner.entries:  # what arrived whole is not fetched twice
        assert len(touched(cli.hub, f"/{entry['adapter']}/resolve/", WEIGHTS)) == 1


@needs_dask
def test_a_dask_address_without_a_scheduler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import distributed

    def refuse(*_: object, **__: object) -> None:
        raise OSError("timed out")

    monkeypatch.setattr(distributed, "Client", refuse)
    with raises_code("dask.no-answer"), dask_executor("tcp://x:1"):
        pass


def test_dask_executor_needs_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtraError, match="distributed"), dask_executor("tcp://x:1"):
        pass
