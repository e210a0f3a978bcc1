"""Give the Space files that unpack to far more than their size: ``python -m
tests.benchmarks.space_bombs FOLDER``.

Each file is planned by one visitor while another plans a small dataset. Prints how each plan ended,
when, and the peak memory of the server and of the process that read the file.
"""

import argparse
import gzip
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from gradio_client import Client, handle_file

from hf_lorameta.demo.run import DATA_FOLDER
from hf_lorameta.localhub import LocalHub
from tests.benchmarks.tables import markdown_table
from tests.support.running_space import running_space

MB = 1_000_000
HEAD = ("what", "file", "ended after", "with", "server", "reader", "other visitor")
SMALL = (DATA_FOLDER / "train.jsonl").read_bytes()


def write_text(path: Path, head: str, size: int, tail: str) -> Path:
    """Write a text file with one cell of `size` characters."""
    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt") as file:
        file.write(head)
        for _ in range(size // MB):
            file.write("a " * (MB // 2))
        file.write(tail)
    return path


def write_parquet(path: Path, size: int, rows: int = 1) -> Path:
    """Write a Parquet file whose rows all have the same output of `size` characters."""
    outputs = pa.DictionaryArray.from_arrays(
        pa.array([0] * rows, pa.int32()), pa.array(["a " * (size // 2)])
    )
    table = pa.table({"input": ["q"] * rows, "output": outputs})
    pq.write_table(table, path, compression="zstd", dictionary_pagesize_limit=1 << 30)
    return path


def write_bombs(folder: Path) -> Iterator[tuple[str, Path, bool]]:
    """Write the files; yield what each is, its path, and whether it goes on the Hub."""
    json, csv = ('{"input": "q", "output": "', '"}\n'), ('input,output\nq,"', '"\n')
    yield "Parquet, a cell of 500 MB", write_parquet(folder / "cell.parquet", 500 * MB), False
    yield (
        "Parquet, 5,000 cells of 1 MB",
        write_parquet(folder / "cells.parquet", MB, 5000),
        False,
    )
    yield "Parquet, a cell of 20 MB", write_parquet(folder / "cell20.parquet", 20 * MB), False
    for size in (500, 20):
        path = folder / f"line{size}.jsonl"
        yield f"jsonl, a line of {size} MB", write_text(path, json[0], size * MB, json[1]), False
        path = folder / f"cell{size}.csv"
        yield f"CSV, a cell of {size} MB", write_text(path, csv[0], size * MB, csv[1]), False
    yield (
        "Hub, Parquet, a cell of 500 MB",
        write_parquet(folder / "hub.parquet", 500 * MB),
        True,
    )
    path = folder / "hub.jsonl.gz"
    yield "Hub, jsonl.gz, a line of 500 MB", write_text(path, json[0], 500 * MB, json[1]), True


@dataclass
class Peak:
    """Peak memory of the server and of its largest other process, in bytes."""

    server: int = 0
    reader: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def watch(self, pid: int) -> None:
        """Sample until `ended`."""
        server = psutil.Process(pid)
        while not self.ended.wait(0.02):
            self.server = max(self.server, server.memory_info().rss)
            for child in server.children(recursive=True):
                try:
                    self.reader = max(self.reader, child.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue


@contextmanager
def watching(pid: int) -> Iterator[Peak]:
    """Watch a server's memory within a ``with`` block."""
    peak = Peak()
    thread = threading.Thread(target=peak.watch, args=(pid,))
    thread.start()
    try:
        yield peak
    finally:
        peak.ended.set()
        thread.join()


def plan(url: str, **arguments: Any) -> tuple[str, float]:
    """Plan as a new visitor; return how it ended and the seconds that it took, with the upload."""
    client = Client(url, verbose=False)
    if file := arguments.get("file"):
        arguments["file"] = handle_file(file)
    started = time.perf_counter()
    try:
        result = client.predict(api_name="/plan", **arguments)
        ended = f"a plan from {result['dataset']['rows']} rows"
    except Exception as error:  # noqa: BLE001 - what the visitor reads
        ended = str(error).splitlines()[0]
    return ended, time.perf_counter() - started


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    with LocalHub() as hub:
        hub.add_user("ann")
        hub.create_repo("ann/small", repo_type="dataset")
        hub.commit("ann/small", {"train.jsonl": SMALL}, repo_type="dataset")
        with running_space(hub, folder, HF_LORAMETA_MAX_UPLOAD_MB="600") as space:
            plan(space.url, dataset="ann/small")
            for number, (what, path, on_hub) in enumerate(write_bombs(folder)):
                arguments: dict[str, Any] = {"dataset": "", "file": path}
                if on_hub:
                    repo = f"ann/bomb{number}"
                    hub.create_repo(repo, repo_type="dataset")
                    name = f"train{''.join(path.suffixes)}"
                    hub.commit(repo, {name: path.read_bytes()}, repo_type="dataset")
                    arguments = {"dataset": repo}
                with watching(space.process.pid) as peak, ThreadPoolExecutor() as pool:
                    bomb = pool.submit(plan, space.url, **arguments)
                    other = pool.submit(plan, space.url, dataset="ann/small")
                    (ended, seconds), (seen, waited) = bomb.result(), other.result()
                size = f"{path.stat().st_size / 1000:,.0f} kB"
                memory = (f"{peak.server / MB:,.0f} MB", f"{peak.reader / MB:,.0f} MB")
                rows.append(
                    (what, size, f"{seconds:.1f} s", ended, *memory, f"{seen}, {waited:.1f} s")
                )
                print(*rows[-1], sep=" | ", flush=True)
                path.unlink()
    print(markdown_table(HEAD, rows, right=(1, 2, 4, 5)))


if __name__ == "__main__":
    main()
