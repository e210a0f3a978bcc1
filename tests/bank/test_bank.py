"""Opening banks, and pickling opened ones."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hf_lorameta.bank.bank import Bank
from hf_lorameta.bank.index import EMBEDDED_BANK, parse_index
from hf_lorameta.bank.share import bank_card
from hf_lorameta.errors import IntegrityError
from tests.conftest import Account, Built, Shell

ROUND_TRIPS = """
import json, pickle, sys
from pathlib import Path
from hf_lorameta import Bank
from hf_lorameta.hub.client import Hub

names, token = json.loads(sys.argv[1]), sys.argv[2]
for name in names:
    bank = Bank.from_pretrained(name, hub=Hub(token))
    bank.adapters(), bank.profiles, bank.encode
    pickled = pickle.dumps(bank)
    again = pickle.loads(pickled)
    print(json.dumps({
        "size": len(pickled),
        "token": token.encode() in pickled,
        "same": (again.id, again.revision, again.digest) == (bank.id, bank.revision, bank.digest),
        "folder": str(again.folder) == str(bank.folder.absolute()),
        "adapters": len(again.adapters()),
        "id": again.id,
    }))
"""


def test_licenses_on_a_banks_card_start_no_markup() -> None:
    bank = Bank.embedded()
    first, *others = bank.index.entries
    odd = first.model_copy(update={"license": "mit` ![x](http://x.y/z) <img>\n# Title\n---"})
    bank.index = bank.index.model_copy(update={"entries": [odd, *others]})
    text = bank_card(bank, "user/bank")
    assert "`mit x (http //x.y/z) img Title ---`" in text
    assert "`public domain (NDT waiver)`" in text
    assert text.count("\n# ") == 1


def test_the_embedded_bank_survives_pickling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_LORAMETA_BANK", "/no/such/folder")
    bank = Bank.embedded()
    again = pickle.loads(pickle.dumps(bank))
    assert (again.id, again.digest) == (EMBEDDED_BANK, bank.digest)
    assert again.profiles.arrays.keys() == bank.profiles.arrays.keys()


def test_banks_from_folders_and_the_hub_survive_pickling_without_the_token(
    cli: Shell, bank: Built, user: Account, tmp_path: Path
) -> None:
    shutil.copytree(bank.folder, tmp_path / "local")
    command = [sys.executable, "-c", ROUND_TRIPS]
    names = ["local", bank.repo]
    done = subprocess.run(
        [*command, json.dumps(names), user.token],
        env=cli.env(), cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [result["id"] for result in results] == ["local bank", bank.repo]
    for result in results:
        assert result["size"] < 1000
        assert not result["token"]
        assert result["same"]
        assert result["folder"]
        assert result["adapters"] == 4


def test_a_pickled_bank_that_has_changed_since_is_refused(bank: Built, tmp_path: Path) -> None:
    copy = Bank(shutil.copytree(bank.folder, tmp_path / "b"))
    pickled = pickle.dumps(copy)
    copy.update_index(base_license="mit")
    with pytest.raises(IntegrityError, match="has changed since"):
        pickle.loads(pickled)


def test_the_embedded_index_is_written_as_it_was_read() -> None:
    bank = Bank.embedded()
    raw = (bank.folder / "bank.json").read_bytes()
    assert parse_index(raw, bank.folder).to_bytes() == raw
