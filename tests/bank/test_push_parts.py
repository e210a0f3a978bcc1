"""Banks of many adapters on the Hub: shards, commits of few files, resumed pushes, few requests."""

import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import snapshot_download

from hf_lorameta import Bank, Hub
from hf_lorameta.bank import adapter_shards, share, store_profiles
from hf_lorameta.bank.adapter_shards import AdapterShard
from hf_lorameta.bank.index import INDEX_FILE, TOKENIZER_FILE, adapter_path
from hf_lorameta.bank.maintain import update_index, verify
from hf_lorameta.bank.open_bank import embedded_bank, hub_bank
from hf_lorameta.bank.share import push_bank
from hf_lorameta.errors import BankError, HubError, IntegrityError
from tests.bank.test_large_banks import enlarged
from tests.conftest import Account, Built, Shell, touched, tree
from tests.hub.conftest import isolated_client, use_endpoint
from tests.support.codes import raises_code
from tests.support.fault_hub import Fault
from tests.support.running_space import SPACE

SIZE = 30
COMMIT = "/api/datasets/.*/commit/"
__all__ = ["isolated_client"]


@pytest.fixture(scope="module")
def copies(bank: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a bank of 30 adapters: copies of four."""
    source = Bank(bank.folder)
    target = tmp_path_factory.mktemp("copies") / "many"
    (target / "adapters").mkdir(parents=True)
    (target / ".build").mkdir()
    shutil.copy(bank.folder / TOKENIZER_FILE, target)
    shutil.copy(bank.folder / INDEX_FILE, target)
    entries = []
    for i in range(SIZE):
        of = source.index.entries[i % 4]
        entry = of.model_copy(update={"name": f"o--{i:02}", "adapter": f"o/{i:02}"})
        shutil.copy(bank.folder / adapter_path(of.name), target / adapter_path(entry.name))
        entries.append(entry)
    profiles = [source.profiles[i % 4] for i in range(SIZE)]
    stored = store_profiles.store_profiles(target, profiles, SIZE, source.index.vocab_size)
    files = stored.files | {TOKENIZER_FILE: source.index.files[TOKENIZER_FILE]}
    source.folder = target
    update_index(source, **stored._asdict() | {"files": files, "entries": tuple(entries)})
    return target


@pytest.fixture
def many(copies: Path, tmp_path: Path) -> Bank:
    """That bank, which a test may change."""
    return Bank(shutil.copytree(copies, tmp_path / "many"))


@pytest.fixture
def hub(cli: Shell, user: Account, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A client of the loopback Hub, where a bank has shards of three adapters."""
    use_endpoint(monkeypatch, cli.hub.url)
    monkeypatch.setattr(adapter_shards, "MOST_ALONE", 4)
    monkeypatch.setattr(adapter_shards, "SHARD_ADAPTERS", 3)
    return Hub(user.token)


@pytest.fixture
def repo(user: Account) -> str:
    return f"{user.name}/many"


@pytest.fixture
def pushed_large(
    hub: Hub, many: Bank, repo: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[int], Bank]:
    """Pushes a large bank of the same adapters, with so many profiles in a file."""

    def push(profiles: int) -> Bank:
        monkeypatch.setattr(store_profiles, "LARGE", 20)
        monkeypatch.setattr(store_profiles, "SHARD_ENTRIES", profiles)
        large = enlarged(many.folder, tmp_path / "large")
        push_bank(large.folder, repo, hub=hub)
        return large

    return push


@pytest.fixture
def listed(cli: Shell, repo: str) -> Callable[[], set[str]]:
    """Lists the files in the repo."""
    return lambda: set(cli.hub.files(repo, repo_type="dataset")) - {".gitattributes"}


def fetched(repo: str, hub: Hub, revision: str | None = None) -> Bank:
    """Open a bank with all its adapters."""
    bank = hub_bank(repo, revision=revision, hub=hub)
    assert len(bank.adapters()) == SIZE
    return bank


def downloaded(repo: str, folder: Path) -> Bank:
    """Download a bank as ``hf download --local-dir`` does."""
    return Bank(Path(snapshot_download(repo, repo_type="dataset", local_dir=folder)))


def few_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commit five files at a time, as a bank of 100,000 adapters does with 99."""
    monkeypatch.setattr(share, "COMMIT_FILES", 5)


def test_a_thousand_adapters_take_few_requests(
    cli: Shell, hub: Hub, many: Bank, repo: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Eight shards, as a bank of 1,000 adapters has."""
    monkeypatch.setattr(adapter_shards, "SHARD_ADAPTERS", 4)
    before = tree(many.folder)
    push_bank(many.folder, repo, hub=hub)
    sent = [r for r in cli.hub.requests if r.method != "PUT"]  # an upload is a PUT
    assert len(sent) <= 60
    assert tree(many.folder) == before
    cli.hub.clear_requests()
    opened = fetched(repo, hub)
    _ = opened.distances, opened.profiles, opened.encode
    assert len(cli.hub.requests) <= 40
    assert tree(opened.folder) == before
    assert verify(opened) == []


def test_shards_of_a_downloaded_folder_are_split(
    hub: Hub, many: Bank, repo: str, tmp_path: Path
) -> None:
    push_bank(many.folder, repo, hub=hub)
    bank = downloaded(repo, tmp_path / "b")
    entries, adapters = bank.index.entries, tmp_path / "b/adapters"
    assert {path.suffix for path in adapters.iterdir()} == {".records"}
    counts: list[int] = []
    bank.adapters(entries[2:4], lambda done, total: counts.append(done))
    assert counts == [1, 2, 1, 2]
    files = {path.name for path in adapters.glob("*.safetensors")}
    assert files == {f"{entry.name}.safetensors" for entry in entries[:6]}  # of two shards
    assert len(list(adapters.glob("*.records"))) == 8
    damaged = next(iter(sorted(adapters.glob("*.records"))))
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=r"adapters/o--08\.safetensors: .* differs"):
        verify(bank)
    damaged.write_bytes(content)
    assert verify(bank) == []
    expected = tree(many.folder)
    assert {name: raw for name, raw in tree(bank.folder).items() if name in expected} == expected
    assert not list(adapters.glob("*.records"))
    (bank.folder / adapter_path(entries[3].name)).write_bytes(b"of an earlier revision")
    again = downloaded(repo, tmp_path / "b")
    again.adapters(entries[3:4])
    assert verify(again) == []
    assert not list(adapters.glob("*.records"))
    (bank.folder / adapter_path(entries[7].name)).unlink()
    with pytest.raises(BankError, match=r"holds no adapters/o--07\.safetensors"):
        Bank(bank.folder).adapters()
    assert verify(Bank(bank.folder)) == ["adapters/o--07.safetensors: missing"]


def test_commits_have_few_files_and_the_index_is_in_the_last(
    cli: Shell, hub: Hub, many: Bank, repo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_files(monkeypatch)
    push_bank(many.folder, repo, hub=hub)
    commits = cli.hub.commits(repo, repo_type="dataset")[::-1]
    sizes = [set(after.tree) - set(before.tree) for before, after in pairwise(commits)]
    assert [len(files) for files in sizes] == [3, 3, 3, 3, 3]
    assert sizes[-1] >= {INDEX_FILE, "README.md"}
    assert sum(name.endswith(".records") for name in commits[-1].tree) == 10


def test_a_push_whose_answers_are_lost_makes_each_commit_once(
    cli: Shell, hub: Hub, many: Bank, repo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_files(monkeypatch)
    cli.hub.add_fault(Fault("cut", path=COMMIT))
    push_bank(many.folder, repo, hub=hub)
    assert len(cli.hub.commits(repo, repo_type="dataset")) == 6
    assert fetched(repo, hub).digest == many.digest


def test_a_push_that_failed_goes_on_where_it_ended(
    cli: Shell, hub: Hub, many: Bank, repo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_files(monkeypatch)
    cli.hub.add_fault(Fault("status", status=403, path=COMMIT, skip=2))
    with pytest.raises(HubError):
        push_bank(many.folder, repo, hub=hub)
    with raises_code("bank.not-a-bank"):
        hub_bank(repo, hub=hub)
    held = cli.hub.commits(repo, repo_type="dataset")[0].tree
    assert len(held) == 7
    cli.hub.clear_faults()
    push_bank(many.folder, repo, hub=hub)
    commits = cli.hub.commits(repo, repo_type="dataset")
    assert len(commits) == 6
    assert all(commits[0].tree[name] == entry for name, entry in held.items())
    assert fetched(repo, hub).digest == many.digest


def test_until_its_last_commit_a_push_leaves_the_bank_that_was_there(
    cli: Shell, hub: Hub, many: Bank, repo: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    push_bank(many.folder, repo, hub=hub)
    digest = many.digest
    few_files(monkeypatch)
    update_index(many, entries=many.index.entries[::-1])
    push_bank(many.folder, repo, hub=hub)
    *new, _ = cli.hub.commits(repo, repo_type="dataset")[:-1]
    digests = [fetched(repo, hub, commit.sha).digest for commit in new]
    assert len(new) > 4
    assert set(digests) == {digest, many.digest}
    assert digests == sorted(digests, key=lambda found: found == digest)


def test_without_room_in_the_last_commit_there_is_no_index_meanwhile(
    cli: Shell, hub: Hub, many: Bank, repo: str, pushed_large: Callable[[int], Bank],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    large = pushed_large(5)
    few_files(monkeypatch)
    profiles = [many.profiles[i] for i in reversed(range(SIZE))]
    stored = store_profiles.store_profiles(large.folder, profiles, SIZE, large.index.vocab_size)
    update_index(large, files=large.index.files | stored.files)
    push_bank(large.folder, repo, hub=hub)
    after, *between, _ = cli.hub.commits(repo, repo_type="dataset")[:-1]
    assert INDEX_FILE in after.tree
    assert len(between) == 3
    assert not any(INDEX_FILE in commit.tree for commit in between)
    assert verify(downloaded(repo, tmp_path / "p")) == []


def test_what_left_a_bank_is_deleted_after_its_index(
    cli: Shell, hub: Hub, many: Bank, bank: Built, repo: str, listed: Callable[[], set[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    push_bank(many.folder, repo, hub=hub)
    few_files(monkeypatch)
    push_bank(bank.folder, repo, hub=hub)
    assert listed() == {"README.md", *tree(bank.folder)}
    titles = cli.hub.commits(repo, repo_type="dataset")[0].title
    assert titles == "Bank of adapters for base/tiny"


def test_files_of_a_push_that_was_given_up_are_deleted_by_another(
    cli: Shell, hub: Hub, many: Bank, bank: Built, repo: str, listed: Callable[[], set[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with monkeypatch.context() as patch:
        few_files(patch)
        cli.hub.add_fault(Fault("status", status=403, path=COMMIT, skip=3))
        with pytest.raises(HubError):
            push_bank(many.folder, repo, hub=hub)
    cli.hub.clear_faults()
    cli.hub.commit(repo, {"adapters/notes.safetensors": b"mine"}, repo_type="dataset")
    push_bank(bank.folder, repo, hub=hub)
    assert listed() == {"README.md", "adapters/notes.safetensors", *tree(bank.folder)}


def test_few_adapters_are_read_from_their_shards(
    cli: Shell, hub: Hub, many: Bank, repo: str
) -> None:
    push_bank(many.folder, repo, hub=hub)
    opened = hub_bank(repo, hub=hub)
    cli.hub.clear_requests()
    chosen = [opened.index.entries[i] for i in (4, 29)]
    for file, entry in zip(opened.adapters(chosen), chosen, strict=True):
        assert file.path.read_bytes() == (many.folder / adapter_path(entry.name)).read_bytes()
    assert len(touched(cli.hub, "/resolve/", ".records")) == 2
    again = hub_bank(repo, hub=hub)
    again.adapters(chosen)
    assert len(touched(cli.hub, "/resolve/", ".records")) == 2
    name = adapter_shards.adapter_shards(many.index.entries)[1].name
    whole = touched(cli.hub, "/resolve/", name)
    again.adapters(again.index.entries[3:6])  # the two that are missing are most of it
    assert len(touched(cli.hub, "/resolve/", name)) == len(whole) + 1
    assert not list(again.folder.glob("adapters/*.records"))


def test_a_space_fetches_whole_shards(
    cli: Shell, hub: Hub, many: Bank, repo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SPACE))
    from settings import SpaceSettings
    from work.bank_loader import BankLoader

    push_bank(many.folder, repo, hub=hub)
    cli.hub.clear_requests()
    BankLoader(SpaceSettings(bank=repo))
    assert 10 <= len(touched(cli.hub, "/resolve/", ".records")) <= 20  # of 10 shards


def test_profiles_of_a_large_bank_are_read_from_their_shards(
    cli: Shell, hub: Hub, many: Bank, repo: str, pushed_large: Callable[[int], Bank]
) -> None:
    pushed_large(10)
    opened = hub_bank(repo, hub=hub)
    assert list(opened.index.entries) == list(many.index.entries)
    profiles = opened.stored_profiles
    cli.hub.clear_requests()
    found = profiles.take([3, 25])
    assert found.arrays.keys() == many.profiles.arrays.keys()
    for name, array in many.profiles.take([3, 25]).arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)
    assert {r.status for r in cli.hub.requests} <= {206, 302}
    assert len(touched(cli.hub, "/resolve/")) == 2
    assert not list(opened.folder.glob("profiles*"))


@pytest.mark.parametrize("number", [1, 3])
def test_a_damaged_shard_is_refused(
    cli: Shell, hub: Hub, many: Bank, repo: str, number: int
) -> None:
    push_bank(many.folder, repo, hub=hub)
    name = adapter_shards.adapter_shards(many.index.entries)[1].name
    raw = bytearray(cli.hub.read(repo, name, repo_type="dataset"))
    raw[many.index.entries[3].size - 1] ^= 1
    cli.hub.commit(repo, {name: bytes(raw)}, repo_type="dataset")
    opened = hub_bank(repo, hub=hub)
    for _ in range(2):
        with pytest.raises(IntegrityError, match=r"adapters/o--03\.safetensors: .* differs"):
            opened.adapters(opened.index.entries[3 : 3 + number])
    assert opened.adapter(opened.index.entries[4]).rank


def test_a_shard_of_another_size_is_refused(cli: Shell, hub: Hub, many: Bank, repo: str) -> None:
    push_bank(many.folder, repo, hub=hub)
    name = adapter_shards.adapter_shards(many.index.entries)[1].name
    raw = cli.hub.read(repo, name, repo_type="dataset")
    cli.hub.commit(repo, {name: raw[:-1]}, repo_type="dataset")
    opened = hub_bank(repo, hub=hub)
    with pytest.raises(IntegrityError, match=r"000003-000006-\w+\.records has \d+ bytes, expected"):
        opened.adapters(opened.index.entries[3:6])
    assert not list(opened.folder.glob("adapters/*"))


def test_two_pushes_of_one_folder_at_once_are_refused(hub: Hub, many: Bank, repo: str) -> None:
    from filelock import FileLock

    (many.folder / ".push").mkdir()
    with (
        FileLock(many.folder / ".push/lock"),
        raises_code("output.locked", match="push"),
    ):
        push_bank(many.folder, repo, hub=hub)
    push_bank(many.folder, repo, hub=hub)
    assert not (many.folder / ".push").exists()


def test_large_adapters_are_fewer_to_a_shard(many: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = many.index.entries
    assert adapter_shards.adapter_shards(entries) == []
    monkeypatch.setattr(adapter_shards, "MOST_ALONE", 29)
    (shard,) = adapter_shards.adapter_shards(entries)
    assert shard.name.startswith("adapters/000000-000030-")
    monkeypatch.setattr(adapter_shards, "SHARD_BYTES", 4 * entries[0].size)
    shards = adapter_shards.adapter_shards(entries)
    assert [len(shard.entries) for shard in shards] == [4] * 7 + [2]
    assert all(adapter_shards.is_shard(shard.name) for shard in shards)


def test_where_an_adapter_is_in_a_shard() -> None:
    sizes = (3, 5, 7)
    of = embedded_bank().index.entries[0]
    entries = tuple(
        of.model_copy(update={"name": f"a{size}", "size": size, "sha256": f"{size}"})
        for size in sizes
    )
    shard = AdapterShard(100, entries)
    assert [shard.bounds(entry) for entry in entries] == [(0, 3), (3, 8), (8, 15)]
    assert (shard.name[:23], shard.size) == ("adapters/000100-000103-", 15)
    assert AdapterShard(100, entries[::-1]).name != shard.name


def test_a_folder_that_was_uploaded_as_it_is_is_a_bank_too(
    many: Bank, hub: Hub, cli: Shell, repo: str, tmp_path: Path
) -> None:
    cli.hub.create_repo(repo, repo_type="dataset")
    files = {path: content for path, content in tree(many.folder).items() if path[0] != "."}
    cli.hub.commit(repo, files, repo_type="dataset")
    assert fetched(repo, hub).digest == many.digest
    assert verify(downloaded(repo, tmp_path / "b")) == []
