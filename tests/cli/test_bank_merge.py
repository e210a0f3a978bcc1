"""``bank merge`` in child processes, against the loopback Hub."""

from pathlib import Path

from tests.conftest import Account, Built, Shell, rows


def test_a_folder_and_a_repo_merge_into_a_bank_that_verifies_and_generates(
    cli: Shell, bank: Built, user: Account, tmp_path: Path
) -> None:
    for topic in range(2):
        user.entry(f"mine{topic}", topic, rank=3)
    cli("bank", "build", user.manifest(tmp_path / "m.yaml"), "-o", "mine")
    done = cli("bank", "merge", "mine", bank.repo, "-o", "both")
    assert "6 adapters of 2 banks" in done.out
    assert cli("bank", "verify", "both").out == "6 adapters, all checksums match\n"
    listed = cli("bank", "list", "both", "--json").json
    theirs = cli("bank", "list", bank.folder, "--json").json["entries"]
    assert [e["adapter"] for e in listed["entries"][:2]] == [e["adapter"] for e in user.entries]
    assert listed["entries"][2:] == theirs  # commits, licenses and checksums
    revision = cli.hub.commits(bank.repo, repo_type="dataset")[0].sha
    assert [(m["id"], m["revision"]) for m in listed["merged"]] == [
        (None, None), (bank.repo, revision)
    ]  # fmt: skip
    twice = cli("bank", "merge", bank.folder, bank.repo, "-o", "twice").out
    assert [line for line in twice.splitlines() if "left out" in line] == [
        "left out: 4 adapters, with the reasons in hf-lorameta bank list twice"
    ]
    assert cli("bank", "list", "twice").out.count("one copy is kept") == 4
    (tmp_path / "rows.jsonl").write_bytes(rows(1))
    cli("generate", "--dataset", "rows.jsonl", "--bank", "both", "-o", "adapter")
    cli("bank", "push", "both", f"{user.name}/both", token=user.token)
    assert "exists" in cli("bank", "merge", "mine", bank.repo, "-o", "both", code=2).err
    cli("bank", "merge", "mine", "no/such", "-o", "c", code=6)
    cli("bank", "merge", "mine", "-o", "c", code=2)
