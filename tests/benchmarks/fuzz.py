"""Seeded bad inputs for every reader of foreign data; only `LoraMetaError` may come out."""

import json
import random
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hf_lorameta import adapter, manifest
from hf_lorameta.adapter import AdapterFile, Module, read_config, read_header, read_layout
from hf_lorameta.bank import Bank
from hf_lorameta.dataset import find_columns, read_rows
from hf_lorameta.errors import LoraMetaError
from hf_lorameta.hub import RawDataset
from hf_lorameta.manifest import Columns
from hf_lorameta.pack import PackedFile, small_header

CAP_MB = 64
"""No kind of input may make the process hold so much more."""
LAYOUT = (Module("h.0.q", 8, 6), Module("h.1.v", 8, 4))
Result = tuple[int, int, list[str]]

ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1 << 40, 1 << 70, 1e308, "", "x" * 300, "\ud800", "F32", [], {}, [[]],
    [0, 10 << 30], {"a": {}}, "../../etc", "\x1b[2J",
)  # fmt: skip


def _run(number: int, one: Callable[[random.Random], object]) -> Result:
    """(inputs, refused, what went wrong)."""
    refused, wrong = 0, []
    for seed in range(number):
        try:
            one(random.Random(seed))
        except LoraMetaError as error:
            refused += 1
            str(error).encode()  # must be printable anywhere
        except Exception as error:  # noqa: BLE001 - what this is looking for
            wrong.append(f"seed {seed}: {type(error).__name__}: {error}"[:150])
    return number, refused, wrong


def flipped(rng: random.Random, raw: bytes) -> bytes:
    """Bytes with some changed, cut out, doubled or added."""
    content = bytearray(raw)
    for _ in range(rng.randrange(1, 6)):
        place = rng.randrange(len(content) + 1)
        match rng.randrange(4):
            case 0 if place < len(content):
                content[place] = rng.randrange(256)
            case 1:
                del content[place : place + rng.randrange(1, 20)]
            case 2:
                content[place:place] = content[: rng.randrange(1, 30)]
            case _:
                content[place:place] = rng.randbytes(rng.randrange(1, 9))
    return bytes(content)


def twisted(rng: random.Random, value: Any) -> Any:
    """A JSON value with one part of it replaced, dropped or nested deep."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return value | {key: twisted(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.85:
        place = rng.randrange(len(value))
        return [*value[:place], twisted(rng, value[place]), *value[place + 1 :]]
    return rng.choice(ODD)


def _header() -> tuple[dict[str, Any], bytes]:
    raw = small_header(LAYOUT, 2, "f32")
    header = json.loads(raw[8:])
    size = max(v["data_offsets"][1] for k, v in header.items() if k[0] != "_")
    return header, b"\0" * size


def _lying(rng: random.Random, header: dict[str, Any], body: bytes) -> bytes:
    text = json.dumps(twisted(rng, header)).encode()
    length = rng.choice([len(text), len(text), len(text), 10 << 30, 0, 1 << 63, len(text) + 1])
    content = length.to_bytes(8, "little") + text + body
    return flipped(rng, content) if rng.random() < 0.5 else content


def headers(number: int) -> Result:
    """safetensors headers."""
    header, body = _header()

    def one(rng: random.Random) -> None:
        raw = _lying(rng, header, body)
        read_layout(read_header(lambda start, stop: raw[start:stop], len(raw)))

    return _run(number, one)


def configs(number: int) -> Result:
    """``adapter_config.json``."""
    good = json.loads(adapter.write_config("o/m", LAYOUT, 2))
    good |= {"use_dora": False, "rank_pattern": {}, "bias": "none", "init_lora_weights": True}
    return _run(number, lambda rng: read_config(twisted(rng, good)))


def manifests(number: int) -> Result:
    """Manifests, as YAML."""
    entry = {"adapter": "o/a", "dataset": "o/d", "license": "mit", "split": "train",
             "columns": {"input": "q", "output": "a"}}  # fmt: skip
    good = {"version": 1, "base_model": "o/m", "entries": [entry, entry | {"adapter": "o/b"}]}

    def one(rng: random.Random) -> None:
        text = json.dumps(twisted(rng, good))
        if rng.random() < 0.5:
            text = flipped(rng, text.encode()).decode("utf-8", "replace")
        manifest.parse(text)

    return _run(number, one)


def dataset_rows(number: int) -> Result:
    """Rows of a dataset, and its column names."""
    good = {"input": "a", "output": ["b"], "messages": [{"role": "user", "content": "x"},
            {"role": "assistant", "content": [{"text": "y"}]}], "label": 1}  # fmt: skip
    choices = [Columns(input="input", output="output"), Columns(messages="messages"),
               Columns(output="label"), Columns(instruction="input", output="output")]  # fmt: skip

    def one(rng: random.Random) -> None:
        row = twisted(rng, good)
        row = row if isinstance(row, dict) else good
        raw = RawDataset(list(row), {"label": ["no", "yes"]}, None, "train", lambda: iter([row]))
        for prompt, answer in read_rows(raw, rng.choice(choices)):
            assert isinstance(prompt, str)
            assert isinstance(answer, str)
        find_columns(rng.sample([*row, "text", "question", "answer"], rng.randrange(1, 4)))

    return _run(number, one)


def packs(number: int) -> Result:
    """The index and the files of a pack."""
    from hf_lorameta.packing import pack
    from tests.test_pack import make_bank, random_pairs

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "pack")
        bank = make_bank(Path(scratch, "bank"), random_pairs(2, 2))
        pack(bank, folder, basis=3, dtype="int8")
        index = json.loads((folder / "bank.json").read_bytes())
        small = folder / "adapters" / "a0.safetensors"
        raw, victim = small.read_bytes(), Path(scratch, "victim")

        def one(rng: random.Random) -> None:
            if rng.random() < 0.5:
                (folder / "bank.json").write_text(json.dumps(twisted(rng, index)))
                opened = Bank(folder)
                for entry in opened.index.entries[:1]:
                    opened.adapter(entry)
                return
            victim.write_bytes(flipped(rng, raw))
            file = PackedFile(victim)
            for module in file.layout:
                assert np.asarray(file.tensor(module.name, "A")).ndim == 2
                file.tensor(module.name, "B")

        return _run(number, one)


def adapters(number: int) -> Result:
    """Files of weights, read tensor by tensor."""
    header, body = _header()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "a")

        def one(rng: random.Random, path: Path) -> None:
            path.write_bytes(_lying(rng, header, body))
            file = AdapterFile(path)
            for module in file.layout:
                file.tensor(module.name, "A")

        return _run(number, partial(one, path=path))


KINDS: dict[str, Callable[[int], Result]] = {
    "safetensors headers": headers,
    "adapter configs": configs,
    "manifests": manifests,
    "dataset rows": dataset_rows,
    "packs": packs,
    "adapter files": adapters,
}
