"""Seeded invalid inputs for every reader of others' data, which may raise only `LoraMetaError`.

``python -m tests.benchmarks.fuzz [KIND=NUMBER …]`` reads them in a process that cannot allocate
more than `CAP_MB` beyond what a few of the inputs needed, and prints a line of JSON for each kind.
"""

import argparse
import json
import logging
import random
import resource
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.pack_format import PackedFile
from hf_lorameta.data.columns.columns import Columns
from hf_lorameta.data.columns.layouts import find_columns
from hf_lorameta.data.columns.rows import read_rows
from hf_lorameta.data.columns.table_view import TableView
from hf_lorameta.data.sources.raw_dataset import RawDataset
from hf_lorameta.errors import LoraMetaError
from hf_lorameta.formats.lora_file import AdapterFile, canonical_header
from hf_lorameta.formats.lora_layout import Module
from hf_lorameta.formats.peft_config import parse_config, write_config

CAP_MB = 64
"""MB that a kind of input may allocate in addition; a header that claims 10 GB fails."""
INPUTS = 1000
"""Of each kind, unless stated."""
_WARM = 50
LAYOUT = (Module("h.0.q", 8, 6), Module("h.1.v", 8, 4))
Result = tuple[int, int, list[str]]
"""Number of inputs, number of rejected ones, and failures."""

UNEXPECTED: tuple[Any, ...] = (
    None, True, -1, 0, 1 << 40, 1 << 70, 1e308, "", "x" * 300, "\ud800", "F32", [], {}, [[]],
    [0, 10 << 30], {"a": {}}, "../../etc", "\x1b[2J",
)  # fmt: skip


def _run(number: int, one: Callable[[random.Random], object]) -> Result:
    rejected, failed = 0, []
    for seed in range(number):
        try:
            one(random.Random(seed))
        except LoraMetaError as error:
            rejected += 1
            str(error).encode()  # must be printable everywhere
        except Exception as error:  # noqa: BLE001 - any other error is a defect
            failed.append(f"seed {seed}: {type(error).__name__}: {error}"[:150])
    return number, rejected, failed


def mutate_bytes(rng: random.Random, raw: bytes) -> bytes:
    """Change, delete, repeat or insert some bytes."""
    content = bytearray(raw)
    for _ in range(rng.randrange(1, 6)):
        index = rng.randrange(len(content) + 1)
        match rng.randrange(4):
            case 0 if index < len(content):
                content[index] = rng.randrange(256)
            case 1:
                del content[index : index + rng.randrange(1, 20)]
            case 2:
                content[index:index] = content[: rng.randrange(1, 30)]
            case _:
                content[index:index] = rng.randbytes(rng.randrange(1, 9))
    return bytes(content)


def mutate_json(rng: random.Random, value: Any) -> Any:
    """Replace, drop or nest one part of a JSON value."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return value | {key: mutate_json(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.85:
        index = rng.randrange(len(value))
        return [*value[:index], mutate_json(rng, value[index]), *value[index + 1 :]]
    return rng.choice(UNEXPECTED)


def _header() -> tuple[dict[str, Any], bytes]:
    raw = canonical_header(LAYOUT, 2, "float32")
    header = json.loads(raw[8:])
    size = max(v["data_offsets"][1] for k, v in header.items() if k[0] != "_")
    return header, b"\0" * size


def _mutated_file(rng: random.Random, header: dict[str, Any], body: bytes) -> bytes:
    text = json.dumps(mutate_json(rng, header)).encode()
    length = rng.choice([len(text), len(text), len(text), 10 << 30, 0, 1 << 63, len(text) + 1])
    content = length.to_bytes(8, "little") + text + body
    return mutate_bytes(rng, content) if rng.random() < 0.5 else content


def configs(number: int) -> Result:
    """``adapter_config.json``."""
    good = json.loads(write_config("o/m", LAYOUT, 2))
    good |= {"use_dora": False, "rank_pattern": {}, "bias": "none", "init_lora_weights": True}
    return _run(number, lambda rng: parse_config(json.dumps(mutate_json(rng, good)).encode()))


def dataset_rows(number: int) -> Result:
    """Rows of a dataset, and its column names."""
    good = {"input": "a", "output": ["b"], "messages": [{"role": "user", "content": "x"},
            {"role": "assistant", "content": [{"text": "y"}]}], "label": 1}  # fmt: skip
    choices = [Columns(input="input", output="output"), Columns(messages="messages"),
               Columns(output="label"), Columns(instruction="input", output="output")]  # fmt: skip

    def one(rng: random.Random) -> None:
        row = mutate_json(rng, good)
        row = row if isinstance(row, dict) else good
        read = partial(iter, [row])
        raw = RawDataset(list(row), {"label": ["no", "yes"]}, None, "train", read, read)
        for prompt, answer in read_rows(raw, rng.choice(choices)):
            assert isinstance(prompt, str)
            assert isinstance(answer, str)
        names = rng.sample([*row, "text", "question", "answer"], rng.randrange(1, 4))
        find_columns(TableView(names))

    return _run(number, one)


def packs(number: int) -> Result:
    """The index and the files of a pack."""
    from hf_lorameta.bank.pack import pack
    from tests.bank.test_pack import make_bank, random_pairs

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "pack")
        bank = make_bank(Path(scratch, "bank"), random_pairs(2, 2))
        pack(bank, folder, basis=3)
        index = json.loads((folder / "bank.json").read_bytes())
        small = folder / "adapters" / "a0.safetensors"
        raw, mutated = small.read_bytes(), Path(scratch, "mutated")

        def one(rng: random.Random) -> None:
            if rng.random() < 0.5:
                (folder / "bank.json").write_text(json.dumps(mutate_json(rng, index)))
                opened = Bank(folder)
                for entry in opened.index.entries[:1]:
                    opened.adapter(entry)
                return
            mutated.write_bytes(mutate_bytes(rng, raw))
            file = PackedFile(mutated)
            for module in file.layout:
                assert np.asarray(file.tensor(module.name, "A")).ndim == 2
                file.tensor(module.name, "B")

        return _run(number, one)


def adapters(number: int) -> Result:
    """Adapter files, read tensor by tensor."""
    header, body = _header()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "a")

        def one(rng: random.Random, path: Path) -> None:
            path.write_bytes(_mutated_file(rng, header, body))
            file = AdapterFile(path)
            for module in file.layout:
                file.tensor(module.name, "A")

        return _run(number, partial(one, path=path))


def dataset_files(number: int) -> Result:
    """jsonl, json and csv files, opened as a user's dataset."""
    import datasets

    from hf_lorameta.data.dataset import open_dataset

    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # would send a request each time
    lines = [json.dumps({"input": f"say {i}", "output": f"{i} words"}) for i in range(4)]
    good = {
        "jsonl": "\n".join(lines),
        "json": f"[{','.join(lines)}]",
        "csv": "input,output\na,b\nc,d\n",
    }
    with tempfile.TemporaryDirectory() as scratch:

        def one(rng: random.Random) -> None:
            suffix = rng.choice(list(good))
            path = Path(scratch, f"rows.{suffix}")
            path.write_bytes(mutate_bytes(rng, good[suffix].encode()))
            for prompt, answer in open_dataset(path).head(8):
                assert isinstance(prompt, str)
                assert isinstance(answer, str)

        return _run(number, one)


KINDS: dict[str, Callable[[int], Result]] = {
    "adapter configs": configs,
    "dataset rows": dataset_rows,
    "packs": packs,
    "adapter files": adapters,
    "dataset files": dataset_files,
}


def _status(field: str) -> float:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if field in x)
    return int(line.split()[1]) / 1024


def main() -> None:
    """Read ``KIND=NUMBER …``; print a line of JSON for each kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    help_text = f"a kind of input, and how many of it: {', '.join(KINDS)}"
    parser.add_argument("inputs", nargs="*", metavar="KIND=NUMBER", type=_inputs, help=help_text)
    logging.disable(logging.CRITICAL)
    for name, number in parser.parse_args().inputs or [(name, INPUTS) for name in KINDS]:
        print(json.dumps(measured(name, number)), flush=True)


def _inputs(argument: str) -> tuple[str, int]:
    name, _, number = argument.partition("=")
    if name not in KINDS or not number.isdecimal():
        raise argparse.ArgumentTypeError(f"got {argument!r}, expected one such as 'packs=1000'")
    return name, int(number)


def measured(name: str, inputs: int) -> dict[str, Any]:
    """Read inputs of a kind, with a limit on the memory that this may add."""
    KINDS[name](_WARM)
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    resident, data = _status("VmRSS"), _status("VmData")
    before = resource.getrlimit(resource.RLIMIT_DATA)
    cap = int((data + CAP_MB) * (1 << 20))
    resource.setrlimit(resource.RLIMIT_DATA, (cap, before[1]))
    try:
        runs, rejected, failed = KINDS[name](inputs)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
    memory = _status("VmHWM") - resident
    return {"runs": runs, "rejected": rejected, "failed": failed, "memory": memory}


if __name__ == "__main__":
    main()
