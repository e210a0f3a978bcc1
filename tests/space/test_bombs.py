"""Small files that unpack to hundreds of megabytes: a sentence, while others use the Space."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import Account, Web
from tests.space.datasets import TRAIN
from tests.support.running_space import missing

if why := missing("gradio", "gradio_client", "psutil"):
    pytest.skip(why, allow_module_level=True)

from tests.benchmarks.space_bombs import MB, plan, watching, write_parquet, write_text

BOMBS = {
    "train.parquet": ("", 500 * MB, ""),
    "train.jsonl.gz": ('{"input": "q", "output": "', 200 * MB, '"}\n'),
    "train.csv.gz": ('input,output\nq,"', 200 * MB, '"\n'),
}


@pytest.mark.slow
@pytest.mark.parametrize(  # compressed texts are not accepted as uploads
    ("name", "on_hub"), [("train.parquet", False), *((n, True) for n in BOMBS)]
)
def test_a_bomb_ends_in_a_sentence_and_others_are_served(
    web: Web, user: Account, tmp_path: Path, name: str, on_hub: bool
) -> None:
    head, size, tail = BOMBS[name]
    path = tmp_path / name
    if name.endswith("parquet"):
        write_parquet(path, size)
    else:
        write_text(path, head, size, tail)
    assert path.stat().st_size < MB
    small = user.dataset("small", {"train.jsonl": TRAIN})
    arguments = {"dataset": "", "file": path}
    if on_hub:
        arguments = {"dataset": user.dataset("bomb", {name: path.read_bytes()})}
    with watching(web.space.process.pid) as peak, ThreadPoolExecutor() as pool:
        bomb = pool.submit(plan, web.space.url, **arguments)
        other = pool.submit(plan, web.space.url, dataset=small)
        ended, seen = bomb.result()[0], other.result()[0]
    assert "has a row of" in ended or "needs more memory" in ended
    assert "the limits can be raised" in ended
    assert seen == "a plan from 180 rows"
    assert peak.server < 1500 * MB
    assert web.space.settled() == []
