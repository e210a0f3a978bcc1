"""Small files that unpack to far more than their size: a sentence, while others use the Space."""

import gzip
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Account, Web
from tests.space.datasets import TRAIN
from tests.space.forbidden_words import forbidden_words
from tests.support.running_space import missing

if why := missing("gradio", "gradio_client"):
    pytest.skip(why, allow_module_level=True)

from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

MB = 1_000_000


def write_text(path: Path) -> None:
    """Write one row with a cell of 1.6 GB, more than a reader's memory."""
    compressed = gzip.compress(b"a " * (MB // 2))
    head, tail = b'{"input": "q", "output": "', b'"}\n'
    path.write_bytes(gzip.compress(head) + compressed * 1600 + gzip.compress(tail))


@pytest.mark.slow
@pytest.mark.parametrize("on_hub", [False, True])
def test_a_bomb_ends_in_a_sentence_and_others_are_served(
    web: Web, user: Account, tmp_path: Path, on_hub: bool
) -> None:
    path = tmp_path / "train.jsonl.gz"
    write_text(path)
    assert path.stat().st_size < 10 * MB
    small = user.dataset("small", {"train.jsonl": TRAIN})
    arguments: dict[str, Any] = {"dataset": "", "file": handle_file(path)}
    if on_hub:
        arguments = {"dataset": user.dataset("bomb", {path.name: path.read_bytes()})}

    def plan(**given: Any) -> Any:
        return Client(web.space.url, verbose=False).predict(api_name="/plan", **given)

    with ThreadPoolExecutor() as pool:
        bomb, other = pool.submit(plan, **arguments), pool.submit(plan, dataset=small)
        with pytest.raises(AppError) as caught:
            bomb.result()
        assert other.result()["dataset"]["rows"] == 252
    ended = str(caught.value)
    assert "needs more memory" in ended
    assert "on your own machine" in ended
    assert forbidden_words(ended) == []
    assert web.space.memory(peak=True) < 1500 * MB
    assert web.space.settled() == []
