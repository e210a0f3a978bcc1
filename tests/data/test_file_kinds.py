"""Files of many kinds: read right, asked about with commands that work, or refused."""

import json
import pathlib
import re
import subprocess
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import pytest
import yaml

from hf_lorameta.data.dataset import open_dataset
from hf_lorameta.errors import DatasetError, Option
from hf_lorameta.hub.client import Hub
from tests.conftest import write_files
from tests.data.file_kinds import KINDS, Kind

_MAKES_ROWS = re.compile(r"(\(printf|sed|awk) .*?> (rows\.(tsv|conll))")


def asked_about(name: str, options: dict[str, Any]) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        open_dataset(name, **options)
    return caught.value


def followed(error: DatasetError, name: str, options: dict[str, Any]) -> str:
    """Do what an error proposes, and return the name of the file to read then."""
    if made := _MAKES_ROWS.search(error.hint):
        subprocess.run(["bash", "-c", made[0]], check=True)
        options.clear()
        return made[2]
    option = next(part for part in error.advice if isinstance(part, Option))
    options[option.name] = option.value
    return name


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_kind_is_read_or_asked_about_or_refused_without_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    monkeypatch.setattr(Hub, "resolve", lambda *_: pytest.fail("a name was sent to the Hub"))
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path, kind.files)
    name, options = kind.named, dict[str, Any]()
    for _ in range(kind.asks):
        name = followed(asked_about(name, options), name, options)
    if kind.refused:
        error = asked_about(name, options)
        assert kind.refused in f"{error}: {error.hint}"
        statement = error.hint.partition("rows = ")[2].partition("; then ")[0]
        names = {"json": json, "yaml": yaml, "xml": xml, "pathlib": pathlib}
        assert not kind.made or eval(statement, names) == kind.made
        return
    dataset = open_dataset(name, **options)
    prompt, output = dataset.first_rows[0]
    assert str(dataset.columns) == kind.columns
    assert output.startswith(kind.output)
    assert bool(prompt) == bool(dataset.columns.input or dataset.columns.messages)


def test_decimal_commas_of_one_file_are_none_in_texts_of_another(tmp_path: Path) -> None:
    (tmp_path / "train-0.csv").write_text("text;score\nso, good;4,5\nbad;1,5\n")
    (tmp_path / "train-1.csv").write_text("score;text\n3,5;so, so\n")
    dataset = open_dataset(tmp_path, columns="input=text,output=score")
    assert [text for text, _ in dataset.head(9)] == ["so, good", "bad", "so, so"]


def test_codes_of_a_second_file_keep_their_zeros(tmp_path: Path) -> None:
    (tmp_path / "train-0.csv").write_text("text,label\nso good,107\nbad,12\n")
    (tmp_path / "train-1.csv").write_text("text,label\nso so,007\nwell,42\n")
    dataset = open_dataset(tmp_path, columns="input=text,output=label")
    assert [label for _, label in dataset.head(9)] == ["107", "12", "007", "42"]
