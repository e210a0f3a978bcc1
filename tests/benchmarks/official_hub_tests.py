"""Run the tests of huggingface_hub against `tests.support.local_hub.LocalHub`; print what passes.

The tests are those of the installed version. They are downloaded with its source distribution and
nothing of them is kept. Tests of the production Hub, of Xet storage and of what the loopback Hub
does not have, since no command uses it, are out of scope, and so are tests whose files are not
distributed.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import huggingface_hub

from tests.benchmarks.tables import markdown_table
from tests.support.local_hub import LocalHub

FILES = {
    "hf_api": "test_hf_api.py",
    "commit_api": "test_commit_api.py",
    "repocard": "test_repocard.py",
    "file_download": "test_file_download.py",
    "snapshot_download": "test_snapshot_download.py",
    "file_system": "test_hf_file_system.py",
    "hub_mixin": "test_hub_mixin.py",
    "scheduler": "test_commit_scheduler.py",
    "cache_layout": "test_cache_layout.py",
}
OUT_OF_SCOPE = re.compile(
    "Bucket|bucket|Collection|Webhook|AccessRequest|Inference|Paper|SpaceAPI|Sandbox|Kernel|"
    "UserApi|whoami_with_passing_token|Largefiles|PermanentlyDeleteLFS|resource_group|private_by_default|xet|"
    "Discussion|Activity|ListGitCommits|DeleteFolder|[Ss]quash|delete_branch|delete_tag|invalid_tag|gitignore|"
    "branch_from_revision|against_branch|empty_commit_on_pr|push_and_create_pr|without_existing_files|"
    "copy_is_identical|commit_to_repo_in_background|modified_time|no_detail_then_with_detail|sync_local_folder"
)
CONFTEST = Path(__file__).with_name("official_hub_conftest.py")
PACKAGES = ("pytest-mock", "jedi", "parso")  # that the tests import


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=FILES, help="one file of tests")
    parser.add_argument("-k", default="", help="as of pytest")
    args = parser.parse_args()
    chosen = {args.only: FILES[args.only]} if args.only else FILES
    with tempfile.TemporaryDirectory() as scratch:
        tests = fetch(Path(scratch))
        report = run(tests, list(chosen.values()), args.k)
        counts, failures = read_report(report, chosen)
    rows = [[name, *map(str, counts[name])] for name in counts]
    total = [sum(column) for column in zip(*counts.values(), strict=True)]
    rows.append(["all", *map(str, total)])
    print(markdown_table(["tests", "pass", "fail", "out of scope"], rows, right=(1, 2, 3)))
    for failure in failures:
        print(failure)


def fetch(folder: Path) -> Path:
    """Download the source distribution of the installed version; return its folder of tests."""
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    name = f"huggingface_hub=={huggingface_hub.__version__}"
    no_binary = ["--no-deps", "--no-binary", ":all:", "-d", str(folder), name]
    subprocess.run([*pip, "download", *no_binary], check=True)
    subprocess.run(
        [*pip, "install", "--no-deps", "--target", str(folder / "packages"), *PACKAGES], check=True
    )
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (tests,) = folder.glob("huggingface_hub-*/tests")
    (tests / "__init__.py").touch()
    shutil.copyfile(CONFTEST, tests / "conftest.py")
    return tests


def run(tests: Path, files: list[str], select: str) -> Path:
    """Run test files against a loopback Hub that has the users of the tests."""
    constants = (tests / "testing_constants.py").read_text("utf-8")
    values = dict(re.findall(r'^(\w+) = "(.*)"$', constants, flags=re.M))
    with LocalHub(always_lfs=True) as hub:
        hub.add_user(values["USER"], values["TOKEN"], orgs=["valid_org"])
        hub.add_user(values["OTHER_USER"], values["OTHER_TOKEN"])
        hub.add_user(
            values["ENTERPRISE_USER"], values["ENTERPRISE_TOKEN"], orgs=[values["ENTERPRISE_ORG"]]
        )
        staging = constants.replace(values["ENDPOINT_STAGING"], hub.url)
        (tests / "testing_constants.py").write_text(staging, "utf-8")
        env = hub.env(home=tests.parent / "home")
        env["PYTHONPATH"] = str(tests.parent.parent / "packages")
        del env["HF_HUB_DISABLE_PROGRESS_BARS"]
        report = tests.parent / "report.xml"
        options = ["-v", "-c", "/dev/null", "--rootdir", ".", "-p", "no:cacheprovider"]
        options += ["-k", select, "-m", "not production and not xet", "-W", "ignore"]
        options += [f"--junit-xml={report}", *(f"tests/{name}" for name in files)]
        command = [sys.executable, "-m", "pytest", *options]
        subprocess.run(command, cwd=tests.parent, env=env, check=False, stdout=sys.stderr)
    return report


def read_report(report: Path, chosen: dict[str, str]) -> tuple[dict[str, list[int]], list[str]]:
    """Return for each file (pass, fail, out of scope), and one line per failure."""
    names = {Path(file).stem: name for name, file in chosen.items()}
    counts = {name: Counter[str]() for name in chosen}
    failures = []
    for case in ElementTree.parse(report).iter("testcase"):
        module = case.get("classname", "").split(".")
        test = f"{case.get('classname')}::{case.get('name')}"
        broken = case.find("failure") if case.find("failure") is not None else case.find("error")
        outcome = "pass" if broken is None else "fail"
        without_files = broken is not None and "/tests/fixtures/" in (broken.text or "")
        if case.find("skipped") is not None or OUT_OF_SCOPE.search(test) or without_files:
            outcome = "out of scope"
        counts[next(names[part] for part in module if part in names)][outcome] += 1
        if outcome == "fail" and broken is not None:
            failures.append(f"{test}: {broken.get('message', '')[:300]}")
    columns = ("pass", "fail", "out of scope")
    return {name: [found[c] for c in columns] for name, found in counts.items()}, failures


if __name__ == "__main__":
    main()
